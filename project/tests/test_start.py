"""The start of either server: what it is told, and that it serves."""

import os
import runpy
import signal
import subprocess
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest
from coverage import Coverage

from project.config import ConfigError, ProductionConfig
from project.observability import logs, multiprocess
from project.servers import hooks, start
from project.servers.limits import Limits
from project.servers.worker import Worker
from project.tests.conftest import ROOT, app_on, execute, start_server
from project.tests.test_gunicorn import request, send


@pytest.fixture
def own_figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The folder that the processes of a server would count in is gone afterwards."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    multiprocess.share.cache_clear()
    yield
    multiprocess.remove(multiprocess.share(), os.getpid())
    multiprocess.share.cache_clear()


@pytest.mark.usefixtures("own_figures")
def test_configuration_of_gunicorn_may_be_read_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "fixed_headers", {})
    monkeypatch.setattr(Worker, "limits", Limits())

    first, second = (runpy.run_path(str(ROOT / "gunicorn.conf.py")) for _ in range(2))

    assert first["worker_class"] is second["worker_class"] is Worker
    assert first["logger_class"] is hooks.Logger
    assert (first["pre_request"], first["wsgi_app"]) == (hooks.pre_request, "manage:app")
    assert first["logconfig_dict"]["handlers"]["service"]["()"]() is logs.LOG
    assert (first["threads"], first["keepalive"], first["graceful_timeout"]) == (4, 95, 25)
    assert Worker.limits.MAX_TRANSFER_SECONDS == 305
    assert Worker.fixed_headers["X-Content-Type-Options"] == "nosniff"


def test_configuration_that_cannot_serve_ends_the_master(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("project.config.APP_SETTINGS", type("Config", (ProductionConfig,), {"DATABASE_VARIABLE": "X"}))
    monkeypatch.setattr(ProductionConfig, "SQLALCHEMY_DATABASE_URI", None)

    with pytest.raises(ConfigError, match="X must be set in production."):
        runpy.run_path(str(ROOT / "gunicorn.conf.py"))


def test_granian_has_the_settings_of_the_service() -> None:
    server: Any = start.make_granian(app_on("postgresql://x/y", PORT=5005, WEB_CONCURRENCY=3, WEB_THREADS=7))

    assert (server.bind_addr, server.bind_port, server.workers, server.blocking_threads) == ("0.0.0.0", 5005, 3, 7)
    assert (server.backpressure, server.workers_kill_timeout) == (1000, 25)


def test_application_that_granian_loads_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(start, "end_with_parent", told.append)

    app: Any = start.load()

    answers: list[str] = []
    for path in ("/ping", ""):
        body = app({**environ(), "PATH_INFO": path}, lambda status, headers, *_: answers.append(status))
        b"".join(body)
    assert (told, answers) == ([os.getppid()], ["200 OK", "404 NOT FOUND"])


def environ() -> dict[str, Any]:
    """Return what a server hands over with a request."""
    return dict(app_on("postgresql://x/y").test_request_context("/ping").request.environ)


def test_worker_of_granian_ends_when_its_parent_has(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = iter([1, 1, 2])
    ended: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    monkeypatch.setattr(start, "PARENT_CHECK_SECONDS", 0)
    monkeypatch.setattr(os, "getppid", lambda: next(parents))

    start.end_with_parent(1)

    signal.signal(signal.SIGTERM, before)
    assert ended == [signal.SIGTERM]


@pytest.mark.parametrize("name", ["gunicorn", "granian"])
def test_server_starts_serves_and_stops(open_database: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if Coverage.current():
        # Of what runs at the start and at the end alone there is no test in this process.
        monkeypatch.setenv("COVERAGE_PROCESS_START", str(ROOT / "setup.cfg"))
    added: list[int] = []

    def add(url: str, number: int) -> None:
        ada = '{"username": "ada", "email": "%s@example.org"}' % number
        added.append(send(url, request("POST", "/users", {"Content-Type": "application/json"}, ada))[0])

    settings = {"WSGI_SERVER": name, "WEB_CONCURRENCY": "1", "AUTH_REQUIRED": "false"}
    with start_server(open_database, subprocess.DEVNULL, **settings) as (server, url):
        threads = [Thread(target=add, args=(url, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.terminate()
        assert server.wait(timeout=30) == 0

    assert added == [201] * 4
    assert execute(open_database, "SELECT count(*) FROM users") == [(4,)]


def test_import_of_the_start_serves_nothing() -> None:
    assert "__name__" in runpy.run_path(str(ROOT / "serve.py"))


def test_manage_is_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["manage.py", "--help"])

    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_path(str(ROOT / "manage.py"), run_name="__main__")

    assert "seed_db" in capsys.readouterr().out
