"""The README's commands, run as they stand there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from project.tests.conftest import ROOT, execute, start_manage

README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
#: A command and the answer printed below it.
CALLS = re.findall(r"^\$ (curl .+)\n(.+)$", README, re.MULTILINE)
VARYING = [
    (r'"(created_date|created_at)":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"', r'"\1":"…"'),
    (r'"request_id":"[0-9a-f]{32}"', '"request_id":"…"'),
    (r'"next":"[\w.-]+"', '"next":"…"'),
]


needs_curl = pytest.mark.skipif(
    not shutil.which("curl"), reason="the README's calls are curl's, which is missing here"
)


def settled(answer: str) -> str:
    """Return an answer without what differs from run to run."""
    for pattern, replacement in VARYING:
        answer = re.sub(pattern, replacement, answer)
    return answer


@needs_curl
def test_curl_lines_give_the_answers_that_the_readme_shows(gunicorn: str, open_database: str) -> None:
    seed = start_manage("seed_db", DATABASE_URL=open_database)
    assert seed.communicate(timeout=30)[0] == "Added 2 example users.\n"

    for command, answer in CALLS:
        here = command.replace("localhost:5001", gunicorn.removeprefix("http://"))
        said = subprocess.run(here, shell=True, capture_output=True, text=True, timeout=30, check=True).stdout
        assert settled(said.strip()) == settled(answer), command


@needs_curl
def test_second_writer_of_a_version_is_refused_as_the_readme_says(gunicorn: str, open_database: str) -> None:
    execute(open_database, "INSERT INTO users (username, email) VALUES ('michael', 'hermanmu@gmail.com')")
    (script,) = re.findall(r"^```sh\n(etag=.+?)```", README, re.MULTILINE | re.DOTALL)

    here = script.replace("localhost:5001", gunicorn.removeprefix("http://"))
    said = subprocess.run(here, shell=True, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()

    assert [json.loads(line).get("code", "") for line in said] == ["", "version_conflict"]


@pytest.mark.slow
@needs_curl
def test_files_come_in_and_go_out_as_the_readme_shows(gunicorn: str, open_database: str, tmp_path: Path) -> None:
    execute(open_database, "INSERT INTO users (username, email) VALUES ('michael', 'a@b.test'), ('mike', 'b@b.test')")
    section = README.partition("### Users in bulk\n")[2].partition("\n### ")[0]
    console, script = re.findall(r"^```\w+\n(.+?)^```", section, re.MULTILINE | re.DOTALL)

    def run(command: str) -> str:
        """Run what stands there in a folder of its own, and return all that it says."""
        here = command.replace(".venv/bin/python manage.py", shlex.join([sys.executable, f"{ROOT}/manage.py"]))
        here = here.replace("localhost:5001", gunicorn.removeprefix("http://"))
        environment = {**os.environ, "DATABASE_URL": open_database}
        result = subprocess.run(
            here, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        return result.stdout + result.stderr

    for call in console.removeprefix("$ ").split("\n$ "):
        command, _, said = call.partition("\n")
        assert run(command).strip() == said.strip(), command
    assert json.loads(run(script))["data"]["skipped"] == 2
    assert len((tmp_path / "everybody.csv").read_text().splitlines()) == 5


def test_readme_shows_every_method() -> None:
    commands = " ".join(command for command, _ in CALLS)
    assert all(part in commands for part in ("-X PUT", "-X PATCH", "-X DELETE", "-d ", "/ping", "/users/"))
    assert all(json.loads(answer) for _, answer in CALLS)


@pytest.mark.parametrize("command", re.findall(r"^make ([a-z-]+)", README, re.MULTILINE))
def test_make_targets_of_the_readme_exist(command: str) -> None:
    assert re.search(f"^{command}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!https?:)[^)#]+)", README + CONTRIBUTING))
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / Path(path)).exists()


def test_worked_example_is_the_module_of_the_notes() -> None:
    example = dedent(re.findall(r"^   ```python\n(.+?)^   ```", CONTRIBUTING, re.MULTILINE | re.DOTALL)[0])

    assert (ROOT / "project" / "api" / "notes.py").read_text().endswith(example)
    assert all(part in example for part in ("Blueprint(", "Rows(", "(RowList", "(RowDetail", "api.add_resource("))


#: The steps of "Add a member to users", each with its file and its diff.
MEMBER = CONTRIBUTING.partition("## Add a member to users")[2].partition("\n## ")[0]
STEPS = re.findall(r"\((project/[\w/]+\.py)\)[^`]*?(?:`[^`]+`[^`]*?)*```diff\n(.+?)```", MEMBER, re.DOTALL)


def test_lines_around_the_worked_diffs_are_there() -> None:
    assert [path.rpartition("/")[2] for path, _ in STEPS] == [
        "test_members.py",
        "models.py",
        "representations.py",
        "payloads.py",
    ]
    for path, diff in STEPS:
        code = [line.strip() for line in (ROOT / path).read_text().splitlines()]
        context = [line.strip() for line in diff.splitlines() if line.strip() and not line.strip().startswith("+")]
        assert context and all(line in code for line in context), path
