"""A client that is generated from the OpenAPI document."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from project.tests.conftest import ROOT
from project.tests.test_members import LEAST, NULLABLE, VALUES, whole

#: Adds and changes users, and answers with what callers choose of each, as the generated client gives it back.
MEMBERS = """
import json, sys
from users_client import Client
from users_client.api.users import create_user, get_user, update_user
from users_client.models import UserChanges, UserIn

client = Client(sys.argv[1])
payloads, changes = json.loads(sys.argv[2])
for payload in payloads:
    user = create_user.sync(client=client, body=UserIn.from_dict(payload)).data
    assert payload.items() <= user.to_dict().items(), (payload, user)
for change in changes:
    changed = update_user.sync(user.id, client=client, body=UserChanges.from_dict(change)).data
    assert changed.to_dict() == {**changed.to_dict(), **change} == get_user.sync(user.id, client=client).data.to_dict()
"""


@pytest.mark.slow
def test_generated_client_lists_and_writes_users(gunicorn: str, open_database: str, tmp_path: Path) -> None:
    generate = ["generate", "--url", f"{gunicorn}/openapi.json", "--meta", "none", "--output-path", "users_client"]
    generate += ["--config", str(ROOT / "docs/client.yml"), "--fail-on-warning"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    made = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", *generate], cwd=tmp_path, capture_output=True, text=True
    )
    used = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "docs/client.py", gunicorn],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    changes = [{name: value} for name, values in VALUES.items() for value in reversed(values)]
    changes += [{member.name: None} for member in NULLABLE]
    tried = subprocess.run(
        [sys.executable, "-W", "error", "-c", MEMBERS, gunicorn, json.dumps([[LEAST, whole()], changes])],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert made.returncode == 0, made.stdout + made.stderr
    assert used.returncode == 0, used.stderr
    assert tried.returncode == 0, tried.stderr
    lines = used.stdout.splitlines()
    assert lines[1] == "listed them in 3 pages"
    assert "was updated! Somebody has written this in between." in lines[2]
    assert len(lines) == 10 and all(line.endswith(" was removed!") for line in lines[3:])
