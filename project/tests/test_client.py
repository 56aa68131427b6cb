"""A client that is generated from the OpenAPI document."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from project.tests.conftest import ROOT


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

    assert made.returncode == 0, made.stdout + made.stderr
    assert used.returncode == 0, used.stderr
    lines = used.stdout.splitlines()
    assert lines[1] == "listed them in 3 pages"
    assert "was updated! Somebody has written this in between." in lines[2]
    assert len(lines) == 10 and all(line.endswith(" was removed!") for line in lines[3:])
