"""The entrypoint of the images: wait for the database, then become the command."""

import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import psycopg2
import pytest
from sqlalchemy import make_url

from project import config
from project.storage import wait
from project.tests.conftest import ROOT, free_port

DONE = "the command runs"


def enter(url: str | None, seconds: str = "1", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the entrypoint as a container of that DATABASE_URL does."""
    environment = {
        **os.environ,
        "APP_SETTINGS": "project.config.ProductionConfig",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DATABASE_WAIT": seconds,
        **environment,
    }
    environment.pop("DATABASE_URL", None)
    if url is not None:
        environment["DATABASE_URL"] = url
    command = ["./entrypoint.sh", "/bin/sh", "-c", f"echo {DONE}; exit 7"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def assert_it_becomes_the_command(done: subprocess.CompletedProcess[str]) -> None:
    """Check that the command ran, and that its exit status is the entrypoint's."""
    assert (done.stdout, done.stderr, done.returncode) == (f"{DONE}\n", "", 7)


def test_database_that_answers_is_not_waited_for(server_url: str) -> None:
    assert_it_becomes_the_command(enter(server_url))


def test_waiting_can_be_turned_off() -> None:
    assert_it_becomes_the_command(enter(f"postgresql://127.0.0.1:{free_port()}/users", "0"))


@pytest.mark.slow
def test_database_that_never_answers_ends_the_container_with_two_lines() -> None:
    done = enter(f"postgresql://me:se%2Fcret@127.0.0.1:{free_port()}/users")

    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 2)
    assert "cret" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "wait", "line"),
    [
        ("mysql://localhost/users", "1", "DATABASE_URL must begin with postgresql:// or postgres://."),
        ("postgresql://localhost/users", "soon", "DATABASE_WAIT must be a whole number of seconds from 0 to 9999."),
    ],
)
def test_unusable_setting_is_one_line(url: str, wait: str, line: str) -> None:
    done = enter(url, wait)

    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{line}\n")


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """A function that sets the DATABASE_URL of a deployment."""

    def configured(url: str | None) -> None:
        monkeypatch.setattr(config, "APP_SETTINGS", "project.config.ProductionConfig")
        monkeypatch.setattr(config.ProductionConfig, "SQLALCHEMY_DATABASE_URI", url)

    return configured


def test_url_of_heroku_is_understood(
    server_url: str, configured: Callable[[str | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    configured(server_url.replace("postgresql", "postgres", 1))

    wait.main("0")

    assert capsys.readouterr() == ("", "")


def test_database_without_a_url_is_the_affair_of_the_command(configured: Callable[[str | None], None]) -> None:
    configured(None)

    wait.main("1")


def test_wait_is_a_module_to_run(
    configured: Callable[[str | None], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(None)
    monkeypatch.setattr(sys, "argv", ["wait", "soon"])

    with pytest.raises(SystemExit, match="^DATABASE_WAIT must be"):
        runpy.run_path(str(ROOT / "project" / "storage" / "wait.py"), run_name="__main__")


@pytest.mark.parametrize("seconds", ["soon", "-1", "12345", ""])
def test_unusable_wait_is_one_line(seconds: str) -> None:
    with pytest.raises(SystemExit, match="^DATABASE_WAIT must be a whole number of seconds from 0 to 9999.$"):
        wait.main(seconds)


def test_first_of_several_hosts_that_answers_is_enough(server_url: str) -> None:
    url = make_url(server_url)
    answers = f"{url.query.get('host') or url.host}:{url.query.get('port') or url.port or 5432}"
    several = url.set(host=None, port=None, query={"host": (f"127.0.0.1:{free_port()}", answers)})

    assert wait.connection_error(several) == ""


def test_database_that_is_missing_is_the_affair_of_the_command(server_url: str) -> None:
    assert wait.connection_error(make_url(server_url).set(database="no_such_database")) == ""


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://me:se%2Fcret@127.0.0.1:{port}/users", "127.0.0.1:{port}"),
        ("postgresql:///users?host=/no/such/socket", "/no/such/socket"),
        ("postgresql:///users?host=127.0.0.1:{port}&host=[::1]:{port}", "127.0.0.1:{port}, [::1]:{port}"),
        pytest.param("postgresql://no-such-host.invalid/users", "no-such-host.invalid:5432", marks=pytest.mark.slow),
    ],
)
def test_database_that_does_not_answer_is_named(
    url: str, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = count()
    monkeypatch.setattr(wait, "time", SimpleNamespace(monotonic=lambda: next(seconds), sleep=lambda _: None))
    port = free_port()
    place = place.format(port=port)

    with pytest.raises(SystemExit) as refused:
        wait.wait_for(make_url(url.format(port=port)), 3)

    assert capsys.readouterr().err == f"Waiting for the database at {place}.\n"
    assert str(refused.value).startswith(f"The database at {place} did not answer within 3 seconds: ")
    assert "cret" not in str(refused.value)


def test_database_that_comes_later_is_waited_for(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = make_url(server_url)
    if "host" not in url.query:
        pytest.skip("the database server is reached by TCP, and this test moves a socket")
    name = ".s.PGSQL.5432"

    def come(seconds: float) -> None:
        if not (tmp_path / name).is_symlink():
            (tmp_path / name).symlink_to(Path(str(url.query["host"]), name))

    monkeypatch.setattr(wait, "time", SimpleNamespace(monotonic=time.monotonic, sleep=come))
    wait.wait_for(url.set(query={"host": str(tmp_path), "port": "5432"}), 20)

    assert capsys.readouterr().err == f"Waiting for the database at {tmp_path}.\n"


@pytest.mark.parametrize("reason", ["the database system is starting up", "not yet accepting: in recovery"])
def test_server_that_will_soon_answer_is_waited_for(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**arguments: object) -> None:
        raise psycopg2.OperationalError(f"FATAL:  {reason}")

    monkeypatch.setattr(psycopg2, "connect", refuse)

    assert wait.connection_error(make_url("postgresql://127.0.0.1/users")) == f"FATAL:  {reason}"
