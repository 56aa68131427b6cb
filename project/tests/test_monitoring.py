"""What a scraper is told while the database is away, and by which token."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import event

from project import db
from project.config import ConfigError, ProductionConfig, env_token
from project.tests.conftest import ROOT, app_on, free_port, start_manage
from project.tests.test_cli import invoke
from project.tests.test_gunicorn import assert_one_error_body, request, send
from project.tests.test_servers import is_served, wait_until
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
