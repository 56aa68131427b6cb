"""The command behind make run: one process to start, with all that it needs, and nothing left at its end."""

import json
import signal
import socket
import sys
import urllib.request
from collections.abc import Iterator

import psutil
import pytest
from click.testing import Result
from flask import Flask
from flask.cli import run_command

from project.cli.commands import cli
from project.cli.development import HOST
from project.tests.conftest import app_on, free_port, start_manage, wait_until_served


@pytest.fixture(autouse=True)
def restored_signal() -> Iterator[None]:
    """Put the handler of SIGTERM back that was there before the command."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def develop(app: Flask) -> Result:
    """Run the command of an application as manage.py does."""
    return app.test_cli_runner().invoke(cli, ["develop"])


def test_develop_prepares_the_database_serves_and_stops_the_summarizer(
    open_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, served = free_port(), []

    def serve(**options: object) -> None:
        """Stand for the server, up to the Ctrl-C."""
        served.append((options["port"], options["reload"], [child.cmdline()[-1] for child in children()]))
        raise KeyboardInterrupt

    children = psutil.Process().children
    monkeypatch.setenv("DATABASE_URL", open_database)
    monkeypatch.setattr(sys, "argv", ["manage.py"])
    monkeypatch.setattr(run_command, "callback", serve)
    done = develop(app_on(open_database, PORT=port))
    assert done.exit_code == 0, done.output
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGTERM)
    assert "Added 2 example users." in done.output
    assert f"curl -s localhost:{port}/users" in done.output
    assert served[0][:2] == (port, True)
    assert "summarize" in served[0][2]
    assert "summarize" not in [child.cmdline()[-1] for child in children() if child.is_running()]


def test_reloaded_server_prepares_nothing_again(open_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    served = []
    monkeypatch.setenv("WERKZEUG_RUN_MAIN", "true")
    monkeypatch.setattr(run_command, "callback", lambda **options: served.append(options["port"]))
    done = develop(app_on(open_database, PORT=5123))
    assert (done.exit_code, done.output, served) == (0, "", [5123])


def test_embedded_postgres_is_stopped_at_the_end(open_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Embedded:
        """Stand for the embedded server, which test_postgres.py starts and stops for real."""

        stopped = False

        def start(self) -> None:
            """Do nothing: the database answers already."""

        def stop(self) -> None:
            """Remember that it was asked for."""
            self.stopped = True

    def interrupt(**options: object) -> None:
        """Stand for a Ctrl-C while the server runs."""
        raise KeyboardInterrupt

    server = Embedded()
    app = app_on(open_database, PORT=free_port())
    app.config["EMBEDDED_POSTGRES"] = server
    monkeypatch.setattr("project.cli.development.started_summarizer", interrupt)
    done = develop(app)
    assert (done.exit_code, server.stopped) == (0, True), done.output


def test_busy_port_is_one_line_before_anything_is_started(open_database: str) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        done = develop(app_on(open_database, PORT=port))
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: Port {port} cannot be used: Address already in use.")
    assert done.output.count("\n") == 1


@pytest.mark.slow
def test_develop_serves_example_users_until_it_is_interrupted(open_database: str) -> None:
    port = free_port()
    server = start_manage("develop", DATABASE_URL=open_database, PORT=str(port))
    try:
        wait_until_served(f"http://{HOST}:{port}", server)
        with urllib.request.urlopen(f"http://{HOST}:{port}/users") as response:
            assert [user["username"] for user in json.load(response)["data"]["users"]] == ["michael", "michaelherman"]
        started = psutil.Process(server.pid).children(recursive=True)
        # As a terminal does: to every process of the group.
        for process in [*started, psutil.Process(server.pid)]:
            process.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 0
        assert psutil.wait_procs(started, timeout=10)[1] == []
    finally:
        # Those that it started hold its output open.
        for process in [*psutil.Process(server.pid).children(recursive=True), server] if server.poll() is None else []:
            process.kill()
        server.communicate(timeout=20)
