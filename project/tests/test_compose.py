"""The command compose, with programs in the place of Docker's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import manage
from project.cli.commands import cli
from project.cli.development import compose_program
from project.tests.conftest import ROOT

#: A program that says how it was called, and whether it has the subcommand "compose".
PROGRAM = """#!/bin/sh
[ "$*" != "compose version" ] || exit {status}
echo "$(basename "$0") $* APP_SETTINGS=$APP_SETTINGS"
exit 7
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, empty at first, in which alone programs are looked for."""
    monkeypatch.setenv("PATH", f"{tmp_path}")
    return tmp_path


@pytest.mark.parametrize("file", ["docker-compose.yml", "docker-compose.prod.yml"])
def test_compose_files_have_a_worker_that_summarises(file: str) -> None:
    services = yaml.safe_load((ROOT / file).read_text())["services"]

    assert services["worker"]["command"] == ["python", "manage.py", "summarize"]
    assert services["worker"]["environment"] == services["users"]["environment"]


def install(folder: Path, name: str, status: int = 0) -> None:
    """Put a program there."""
    (folder / name).write_text(PROGRAM.format(status=status))
    (folder / name).chmod(0o755)


def test_the_plugin_comes_first(programs: Path) -> None:
    install(programs, "docker")
    install(programs, "docker-compose")

    assert compose_program() == ["docker", "compose"]


def test_the_older_program_serves_where_docker_has_no_plugin(programs: Path) -> None:
    install(programs, "docker", status=1)
    install(programs, "docker-compose")

    assert compose_program() == ["docker-compose"]


def manage_compose(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run manage.py compose with the profile "testing" and the programs of the folder before all others."""
    path = {**os.environ, "PATH": f"{folder}:/usr/bin:/bin", "APPLICATION_CONFIG": "testing"}
    path.pop("APP_SETTINGS", None)
    command = [sys.executable, "manage.py", "compose", *arguments]
    return subprocess.run(command, cwd=ROOT, env=path, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
def test_compose_runs_with_the_profile_and_gives_its_exit_status(tmp_path: Path) -> None:
    install(tmp_path, "docker")

    done = manage_compose(tmp_path, "--help", "up", "-d")

    assert done.stdout == "docker compose --help up -d APP_SETTINGS=project.config.TestingConfig\n"
    assert done.returncode == 7


def test_compose_takes_the_place_of_the_command(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(programs, "docker-compose")
    called = []
    monkeypatch.setattr(os, "execvp", lambda *arguments: called.append(arguments))

    result = manage.app.test_cli_runner().invoke(cli, ["compose", "ps", "--all"])

    assert result.exit_code == 0
    assert called == [("docker-compose", ["docker-compose", "ps", "--all"])]


def test_compose_says_that_there_is_none(programs: Path) -> None:
    result = manage.app.test_cli_runner().invoke(cli, ["compose", "ps"])

    assert result.exit_code == 1
    assert result.stderr == "Error: Neither docker compose nor docker-compose is installed here.\n"
