"""The log: one line an event, with nothing in it that is nobody's business."""

import json
import logging
import sys
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from project import db
from project.auth.tokens import Grant, Tokens
from project.config import ProductionConfig
from project.observability import logs, redact
from project.tests.conftest import app_on, free_port, start_manage
from project.tests.test_gunicorn import JSON, request, send

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Lines:
    """A function that returns the lines that were logged since it was last called, as production writes them."""
    monkeypatch.setattr(logs.LOG, "render", logs.as_json)
    return lambda: [json.loads(line) for line in capfd.readouterr().err.splitlines()]


@pytest.fixture
def failing_app(open_database: str) -> Iterator[Flask]:
    """An application of production with calls that fail."""
    app = app_on(open_database, ProductionConfig)

    @app.get("/bug")
    def bug() -> str:
        address = "@".join(("somebody", "testdriven.io"))
        try:
            raise KeyError(address)
        except KeyError as error:
            raise RuntimeError(f"about {address}\n{address}") from error

    @app.get("/refused-row")
    def refused_row() -> str:
        insert = "INSERT INTO access_tokens (name, digest, scopes) VALUES ('somebody@testdriven.io', '', '{a}')"
        db.session.execute(text(insert))
        return "unreachable"

    @app.get("/value")
    def value() -> str:
        db.session.execute(text("SELECT CAST('a secret body' AS integer)"))
        return "unreachable"

    @app.get("/late")
    def late() -> Iterator[str]:
        yield "late"

    yield app
    with app.app_context():
        db.engine.dispose()


def test_request_is_a_line(client: FlaskClient, lines: Lines) -> None:
    client.get("/users/blah?email=michael@testdriven.io", headers={"X-Request-ID": "mine"})

    (line,) = lines()
    assert line.pop("time").endswith("Z")
    assert 0 < line.pop("duration_ms") < 30_000
    assert line == {
        "level": "info",
        "event": "request",
        "request_id": "mine",
        "method": "GET",
        "route": "/users/<user_id>",
        "status": 404,
        "token": None,
    }


def test_line_names_no_path_or_method_that_a_caller_made_up(client: FlaskClient, lines: Lines) -> None:
    client.open("/michael@testdriven.io", method="MICHAEL")

    (line,) = lines()
    assert (line["route"], line["method"], line["status"]) == ("unknown", "other", 404)


def test_line_names_the_token_and_no_address(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_on("postgresql://x/y", ProductionConfig, AUTH_REQUIRED=True)
    names = ["reporting", "https://issuer.example ada@example.org", "two\nlines \ud800"]

    for name in names:
        monkeypatch.setattr(Tokens, "grant", lambda tokens, token, name=name: Grant(name, frozenset()))
        assert app.test_client().get("/", headers={"Authorization": "Bearer x"}).status_code == 200

    logged = [line["token"] for line in lines() if line["event"] == "request"]
    assert logged == ["reporting", "https://issuer.example <address>", "two lines ?"]


def test_end_of_an_answer_that_is_made_late_is_the_end_of_its_request(failing_app: Flask, lines: Lines) -> None:
    lines()
    with failing_app.test_client().get("/late") as response:
        assert lines() == []
        assert response.text == "late"

    assert [line["route"] for line in lines()] == ["/late"]


@pytest.mark.parametrize("path", ["/bug", "/refused-row", "/value"])
def test_failure_is_one_line_with_its_traceback_and_no_values(failing_app: Flask, lines: Lines, path: str) -> None:
    lines()
    assert failing_app.test_client().get(path).status_code == 500

    failure, answer = lines()
    assert (failure["event"], failure["level"], failure["route"]) == ("unhandled exception", "error", path)
    assert (answer["event"], answer["level"], answer["status"]) == ("request", "error", 500)
    assert failure["request_id"] == answer["request_id"]
    assert 'test_logs.py", line ' in failure["exception"]
    assert "somebody@" not in str(failure) and "secret" not in str(failure["exception"].splitlines()[-1])


def test_traceback_names_the_cause_first(failing_app: Flask, lines: Lines) -> None:
    lines()
    failing_app.test_client().get("/bug")

    said = lines()[0]["exception"].splitlines()
    assert "builtins.KeyError: '<address>'" in said
    assert said[-1] == "builtins.RuntimeError: about <address>"


def test_database_that_is_away_is_a_warning(lines: Lines) -> None:
    app = app_on("postgresql://nobody:a-password@127.0.0.1:1/nothing", ProductionConfig)
    lines()

    app.test_client().get("/users")

    warning, answer = lines()
    assert (warning["level"], warning["route"]) == ("warning", "/users")
    assert warning["event"].startswith("database: connection to server")
    assert "password" not in str(warning)
    assert (answer["level"], answer["status"]) == ("error", 503)


def test_level_leaves_out_what_went_well(lines: Lines) -> None:
    app = app_on("postgresql://127.0.0.1:1/nothing", ProductionConfig, LOG_LEVEL="error")
    lines()

    app.test_client().get("/ping")
    app.test_client().get("/users")

    assert [line["status"] for line in lines()] == [503]
    app_on("postgresql://127.0.0.1:1/nothing", ProductionConfig)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a plain line", "a plain line"),
        ('a\r\n{"event": "forged"}\x1b[2J\u2028end', 'a {"event": "forged"} [2J end'),
        ("Key (email)=(o'hara+x@b.test) exists", "Key (email)=(o'<address>) exists"),
        ("usr_abcdefgh12345678 and eyJhbGciOi.eyJzdWIi.c2ln", "<token> and <token>"),
        ("\ud800", "?"),
        ("x" * 5000, "x" * 1000),
        ("\x1b[31m\x1b[1mred\x1b[0m", " red "),
    ],
)
def test_text_from_elsewhere_is_made_harmless(given: str, shown: str) -> None:
    assert redact.harmless(given) == shown


def test_traceback_ends_where_causes_go_round() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one

    assert redact.trace(one).count("ValueError") == redact.MOST_CAUSES


def test_log_that_nobody_takes_fails_no_request(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "STANDARD_ERROR", -1)

    assert client.get("/ping").status_code == 200


def test_people_get_colours_and_one_line_an_event(
    client: FlaskClient, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(logs.LOG, "render", logs.for_people)

    client.get("/ping", headers={"X-Request-ID": "mine"})
    logging.getLogger("project").warning("two\nlines")

    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2
    assert "\x1b[" in said[0] and "mine" in said[0] and "/ping" in said[0]
    assert "token" not in said[0]
    assert "two lines" in said[1]


def test_traceback_for_people_stands_on_lines_of_its_own() -> None:
    line = {"time": datetime.now(UTC), "level": "error", "event": "lost", "by": "two words", "exception": "a\nb: c"}

    said = logs.for_people(line).decode().splitlines()

    assert said[0].endswith("[error] lost by='two words'")
    assert said[1:] == ["a", "b: c"]


def test_access_lines_of_the_development_server_are_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("werkzeug")
    capfd.readouterr()

    log.warning('"%s" %s %s', "GET /users?email=private@testdriven.io", 200, "-")
    log.warning(" * Something else")

    said = capfd.readouterr().err
    assert "Something else" in said and "GET" not in said


def test_every_line_of_gunicorn_is_an_event(gunicorn: str, gunicorn_log: Path) -> None:
    payload = json.dumps({"username": "private", "email": "private@testdriven.io"})
    messages = [
        request("POST", "/users", JSON, payload),
        request("GET", "/private@testdriven.io?private"),
        request("GET", "/private@testdriven.io", {"X-Odd": "private\x00"}),
        request("G(T", "/private"),
    ]
    before = len(gunicorn_log.read_text())
    ids = [send(gunicorn, message)[1]["x-request-id"] for message in messages]

    log = gunicorn_log.read_text()
    # The first line, and those of this test.
    written = [json.loads(line) for line in [log.partition("\n")[0], *log[before:].splitlines()]]
    assert all({"time", "level", "event"} <= set(line) for line in written)
    assert any(line["event"].startswith("Starting gunicorn") for line in written)
    mine = {line["request_id"]: line["event"] for line in written if line.get("request_id") in ids}
    refused = "refused before it became a request"
    assert [mine[request_id] for request_id in ids] == ["request", "request", refused, refused]
    assert "private" not in log


@pytest.mark.slow
@pytest.mark.usefixtures("open_database")
def test_development_server_logs_no_query(open_url: str) -> None:
    port = free_port()
    server = start_manage("run", "--no-reload", DATABASE_URL=open_url, PORT=str(port))
    said = []
    try:
        for line in server.stderr:
            said.append(line)
            if "Running on" in line:
                break
        urllib.request.urlopen(f"http://127.0.0.1:{port}/users?email=private@testdriven.io", timeout=10).close()
    finally:
        server.terminate()
        said += server.communicate(timeout=30)[1].splitlines()

    assert any("route=/users status=200" in line for line in said)
    assert "private" not in "".join(said)
