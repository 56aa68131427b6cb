"""What a scraper is told while the database is away, and by which token."""

import json
import os
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import psutil
import pytest
from flask import Flask
from sqlalchemy import event, make_url

from project import db
from project.api import health
from project.config import ConfigError, ProductionConfig, env_token
from project.tests.conftest import ROOT, app_on, execute, free_port, no_thread, start_manage, start_server, wait_until
from project.tests.test_cli import invoke
from project.tests.test_gunicorn import assert_one_error_body, request, send
from project.tests.test_metrics import figures, samples
from project.tests.test_servers import SERVERS, is_served
from project.tests.web import http, serving

TOKEN = "scraper-" * 4
AWAY = "postgresql://127.0.0.1:1/nothing"


def bearer(token: str) -> dict[str, str]:
    """Return the header that sends a token."""
    return {"Authorization": f"Bearer {token}"}


def closed_app(url: str, **settings: object) -> Flask:
    """Return an application of production that needs tokens and has METRICS_TOKEN."""
    return app_on(url, ProductionConfig, **{"AUTH_REQUIRED": True, "METRICS_TOKEN": TOKEN, **settings})


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_metrics_token_is_checked_without_the_database(method: str) -> None:
    app = closed_app(AWAY)
    connects: list[object] = []
    with app.app_context():
        event.listen(db.engine, "do_connect", lambda *arguments: connects.append(arguments))

    answer = app.test_client().open("/metrics", method=method, headers=bearer(TOKEN))

    assert (answer.status_code, connects) == (200, [])
    assert answer.content_type.startswith("text/plain; version=")


def test_metrics_token_opens_nothing_else() -> None:
    app = closed_app(AWAY, SECRET_KEY="x" * 32)
    paths = {rule.rule.replace("<user_id>", "1").replace("<row_id>", "1") for rule in app.url_map.iter_rules()}
    closed = sorted(path for path in paths if not path.startswith(("/admin", "/ping", "/health", "/metrics")))

    answers = [app.test_client().get(path, headers=bearer(TOKEN)).status_code for path in closed]

    assert set(answers) == {401} and len(answers) > 15
    assert app.test_client().post("/users", headers=bearer(TOKEN)).status_code == 401
    assert app.test_client().get("/metrics/", headers=bearer(TOKEN)).status_code == 401


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], f"{TOKEN}x", TOKEN.upper(), "ä" * 32])
@pytest.mark.parametrize("expected", [TOKEN, None])
def test_any_other_token_does_not_open_the_metrics(expected: str | None, token: str) -> None:
    app = closed_app(AWAY, METRICS_TOKEN=expected)

    answer = app.test_client().get("/metrics", headers=bearer(token))

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="users"'


def test_access_token_opens_the_metrics_while_the_database_is_up(open_database: str) -> None:
    app = closed_app(open_database)
    token = invoke(app, "create_token", "scraper", "--scope", "notes:read").stdout.strip()

    assert app.test_client().get("/metrics", headers=bearer(token)).status_code == 200


def test_access_token_is_a_503_for_the_metrics_while_the_database_is_down() -> None:
    answer = closed_app(AWAY).test_client().get("/metrics", headers=bearer(f"usr_{'x' * 43}"))

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.get_json()["message"] == "The database is not available at the moment."


@pytest.mark.parametrize("value", ["short", "x" * 31, f"{'x' * 32} ", "ä" * 32, '"' * 32, "x" * 32 + "\n"])
def test_metrics_token_that_could_be_guessed_or_not_sent_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("METRICS_TOKEN", value)

    with pytest.raises(ConfigError, match="^METRICS_TOKEN must have 32 characters or more, of letters") as error:
        env_token("METRICS_TOKEN")

    assert value not in str(error.value)


@pytest.mark.parametrize("value", ["", "x" * 32, "aZ09._~+/-" * 4 + "=="])
def test_metrics_token_is_read(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("METRICS_TOKEN", value)

    assert env_token("METRICS_TOKEN") == (value or None)


@pytest.mark.slow
def test_unusable_metrics_token_ends_the_start_with_one_line() -> None:
    command = start_manage("routes", METRICS_TOKEN="hush")

    output, errors = command.communicate(timeout=30)

    assert (command.returncode, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("METRICS_TOKEN must have 32 characters or more") and "hush" not in errors


def database_up(app: Flask) -> float:
    """Return what an application tells of its database."""
    return figures(app)["database_up",]


@pytest.mark.parametrize("up", [True, False])
def test_first_scrape_tells_whether_the_database_is_up(open_database: str, up: bool) -> None:
    assert database_up(app_on(open_database if up else AWAY)) == up


def test_database_that_lacks_its_tables_is_not_up(make_database: Callable[[], str]) -> None:
    assert database_up(app_on(make_database())) == 0


def test_probe_follows_a_database_that_goes_and_comes_back(
    make_database: Callable[[], str], server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_SECONDS", 0.02)
    url = make_database()
    name = make_url(url).database
    app = app_on(url)
    with app.app_context():
        db.create_all()
        db.engine.dispose()

    assert database_up(app) == 1
    execute(
        server_url,
        f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
    )
    wait_until(lambda: database_up(app) == 0)
    execute(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    wait_until(lambda: database_up(app) == 1)


def test_probe_is_one_thread_however_often_it_is_started(open_database: str) -> None:
    probe = app_on(open_database).extensions["probe"]
    probe.await_first_look()
    first = probe.thread

    for _ in range(3):
        probe.await_first_look()

    assert probe.thread is first
    assert first.daemon


def test_probe_that_finds_no_thread_is_started_by_the_next_scrape(
    open_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_on(open_database)
    monkeypatch.setattr(health, "PROBE_SECONDS", 0.02)
    with monkeypatch.context() as full:
        full.setattr(Thread, "start", no_thread)
        full.setattr(health, "WAIT", 0.1)
        assert ("database_up",) not in figures(app)
        app.extensions["probe"].look()
        assert database_up(app) == 0

    wait_until(lambda: database_up(app) == 1)


@pytest.mark.slow
@pytest.mark.parametrize("server_name", SERVERS)
def test_each_worker_probes_and_a_dead_one_leaves_nothing(
    open_database: str, tmp_path: Path, server_name: str
) -> None:
    variables = {"METRICS_TOKEN": TOKEN, "WSGI_SERVER": server_name}
    with start_server(open_database, subprocess.DEVNULL, **variables) as (server, url):

        def gauges() -> set[int]:
            """Return the processes whose gauge is counted."""
            scrape = urllib.request.Request(f"{url}/metrics", headers=bearer(TOKEN))
            with urllib.request.urlopen(scrape, timeout=10) as answer:
                up = samples(answer.read().decode()).get(("database_up",))
            return {int(file.stem.rpartition("_")[2]) for file in folder.glob("gauge_livemin_*.db")} if up else set()

        def workers() -> set[int]:
            return {worker.pid for worker in psutil.Process(server.pid).children()}

        wait_until(lambda: len(workers()) == 2)
        maps = psutil.Process(min(workers())).memory_maps()
        (folder,) = {Path(found.path).parent for found in maps if "users-metrics-" in found.path}
        wait_until(lambda: gauges() == workers())
        killed = min(workers())
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(workers() - {killed}) == 2)
        wait_until(lambda: gauges() == workers())
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("nginx") is None, reason="the proxy's configuration is tried by nginx, which is missing"
)
def test_nginx_never_passes_the_metrics_on(tmp_path: Path) -> None:
    port = free_port()
    configuration = (ROOT / "deploy/nginx.conf").read_text()
    with serving() as service:
        for written, here in (
            ("listen 80 ", f"listen 127.0.0.1:{port} "),
            ("/run/nginx.pid", f"{tmp_path}/pid"),
            ("http://users:5001", service.url),
        ):
            assert written in configuration
            configuration = configuration.replace(written, here)
        file = tmp_path / "nginx.conf"
        file.write_text(configuration)
        service.answers |= {path: http(b"passed on") for path in ("/metrics", "/ping", "//metrics", "/%6detrics")}
        command = ["nginx", "-c", str(file), "-e", "stderr", "-g", "daemon off;"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as nginx:
            try:
                wait_until(lambda: is_served(f"http://127.0.0.1:{port}"))
                answers = [
                    send(f"http://127.0.0.1:{port}", request("GET", path, bearer(TOKEN)))
                    for path in ("/metrics", "//metrics", "/%6detrics", "/x/../metrics", "/metrics?x=1")
                ]
            finally:
                nginx.terminate()

    for status, headers, body in answers:
        assert_one_error_body(status, headers, body, 404)
        assert json.loads(body)["code"] == "not_found"
    assert [path for path in service.asked if path != "/ping"] == []
