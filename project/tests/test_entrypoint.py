"""The entrypoint of the images: wait for the database, then become the command."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import make_url

from project.tests.conftest import ROOT, free_port

DONE = "the command runs"


def enter(url: str | None, wait: str = "1", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the entrypoint as a container of that DATABASE_URL does."""
    environment = {
        **os.environ,
        "APP_SETTINGS": "project.config.ProductionConfig",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DATABASE_WAIT": wait,
        **environment,
    }
    environment.pop("DATABASE_URL", None)
    if url is not None:
        environment["DATABASE_URL"] = url
    command = ["./entrypoint.sh", "sh", "-c", f"echo {DONE}; exit 7"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def assert_it_becomes_the_command(done: subprocess.CompletedProcess[str]) -> None:
    """Check that the command ran, and that its exit status is the entrypoint's."""
    assert (done.stdout, done.stderr, done.returncode) == (f"{DONE}\n", "", 7)


def test_database_that_answers_is_not_waited_for(server_url: str) -> None:
    assert_it_becomes_the_command(enter(server_url))


def test_url_of_heroku_is_understood(server_url: str) -> None:
    assert_it_becomes_the_command(enter(server_url.replace("postgresql", "postgres", 1)))


def test_first_of_several_hosts_that_answers_is_enough(server_url: str) -> None:
    url = make_url(server_url)
    answers = f"{url.query.get('host') or url.host}:{url.query.get('port') or url.port or 5432}"
    several = url.set(host=None, port=None, query={"host": (f"127.0.0.1:{free_port()}", answers)})

    assert_it_becomes_the_command(enter(several.render_as_string(hide_password=False)))


def test_database_that_is_missing_is_the_affair_of_the_command(server_url: str) -> None:
    url = make_url(server_url).set(database="no_such_database")

    assert_it_becomes_the_command(enter(url.render_as_string(hide_password=False)))


def test_database_without_a_url_is_the_affair_of_the_command() -> None:
    assert_it_becomes_the_command(enter(None))


def test_waiting_can_be_turned_off() -> None:
    assert_it_becomes_the_command(enter(f"postgresql://127.0.0.1:{free_port()}/users", "0"))


def test_other_configuration_has_another_database() -> None:
    testing = {"APP_SETTINGS": "project.config.TestingConfig", "DATABASE_TEST_URL": "postgresql://127.0.0.1:1/users"}

    done = enter(None, **testing)

    assert "The database at 127.0.0.1:1 did not answer" in done.stderr


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://me:se%2Fcret@127.0.0.1:{port}/users", "127.0.0.1:{port}"),
        ("postgresql:///users?host=/no/such/socket", "/no/such/socket"),
        ("postgresql://no-such-host.invalid/users", "no-such-host.invalid:5432"),
        ("postgresql:///users?host=127.0.0.1:{port}&host=[::1]:{port}", "127.0.0.1:{port}, [::1]:{port}"),
    ],
)
def test_database_that_does_not_answer_is_named(url: str, place: str) -> None:
    port = free_port()

    done = enter(url.format(port=port))

    assert (done.returncode, done.stdout) == (1, "")
    waiting, refusal = done.stderr.splitlines()
    assert waiting == f"Waiting for the database at {place.format(port=port)}."
    assert refusal.startswith(f"The database at {place.format(port=port)} did not answer within 1 seconds: ")
    assert "cret" not in done.stderr


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


def test_database_that_comes_later_is_waited_for(server_url: str, tmp_path: Path) -> None:
    url = make_url(server_url)
    if "host" not in url.query:
        pytest.skip("the database server is reached by TCP, and this test moves a socket")
    name = ".s.PGSQL.5432"
    later = url.set(query={"host": str(tmp_path), "port": "5432"})

    def come() -> None:
        time.sleep(2.5)
        (tmp_path / name).symlink_to(Path(str(url.query["host"]), name))

    thread = threading.Thread(target=come)
    thread.start()
    done = enter(later.render_as_string(hide_password=False), "20")
    thread.join()

    assert (done.returncode, done.stdout) == (7, f"{DONE}\n")
    assert done.stderr == f"Waiting for the database at {tmp_path}.\n"
