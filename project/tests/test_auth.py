"""Who may call what."""

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from types import SimpleNamespace

import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.test import TestResponse

from project import db
from project.api.models import SCOPES
from project.auth import access
from project.auth import tokens as tokens_module
from project.config import ProductionConfig
from project.tests.conftest import app_on, execute
from project.tests.test_cli import invoke
from project.tests.test_gunicorn import JSON, request, send

#: What a test calls a path's variable parts.
ARGUMENTS = re.compile(r"<[^>]+>")
Call = Callable[..., TestResponse]
MakeToken = Callable[..., str]


@pytest.fixture
def closed_app(open_database: str) -> Iterator[Flask]:
    """An application of production, on a database in which everything is committed."""
    app = app_on(open_database, ProductionConfig, AUTH_REQUIRED=ProductionConfig.AUTH_REQUIRED)
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def make_token(closed_app: Flask) -> MakeToken:
    """A function that creates a token with these scopes and this name."""

    def make_token(*scopes: str, name: str = "a token") -> str:
        options = [option for scope in scopes for option in ("--scope", scope)]
        return invoke(closed_app, "create_token", name, *options).stdout.strip()

    return make_token


@pytest.fixture
def call(closed_app: Flask) -> Call:
    """A function that calls the application with a token."""

    def call(method: str, path: str, token: str | None = None) -> TestResponse:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return closed_app.test_client().open(path, method=method, headers=headers)

    return call


def calls(app: Flask) -> list[tuple[str, str]]:
    """Return every method and every path that the application serves."""
    return [(method, ARGUMENTS.sub("1", rule.rule)) for rule in app.url_map.iter_rules() for method in rule.methods]


def test_every_call_but_the_open_ones_needs_a_token(closed_app: Flask, call: Call) -> None:
    answers = {(method, path): call(method, path).status_code for method, path in calls(closed_app)}

    assert {path for (_, path), status in answers.items() if status != 401} <= {"/ping", "/health"}
    assert {"/users", "/users/1", "/"} <= {path for (_, path), status in answers.items() if status == 401}
    assert call("GET", "/ping").status_code == 200


def test_every_call_names_its_scope(closed_app: Flask) -> None:
    for method, path in calls(closed_app):
        with closed_app.test_request_context(path, method=method):
            assert access.is_open(path, ()) or access.scope_of_call() in (*SCOPES, access.ANY), (method, path)


def test_reading_token_writes_nothing(closed_app: Flask, call: Call, make_token: MakeToken) -> None:
    reader = make_token(*(scope for scope in SCOPES if scope.endswith(":read")))

    for method, path in calls(closed_app):
        if method not in ("GET", "HEAD", "OPTIONS"):
            answer = call(method, path, reader)
            scope = f"{path.split('/')[1]}:write"
            assert (answer.status_code, answer.get_json()["code"]) == (403, "insufficient_scope")
            assert answer.get_json()["message"] == f'The token lacks the scope "{scope}".'
            assert f'error="insufficient_scope", scope="{scope}"' in answer.headers["WWW-Authenticate"]
    assert call("GET", "/users", reader).status_code == 200


def test_every_scope_opens_its_own_calls_alone(call: Call, make_token: MakeToken) -> None:
    tokens = {scope: make_token(scope, name=scope) for scope in SCOPES}

    assert {scope for scope in SCOPES if call("GET", "/users", tokens[scope]).status_code == 200} == {"users:read"}
    assert {scope for scope in SCOPES if call("POST", "/users", tokens[scope]).status_code != 403} == {"users:write"}
    assert all(call("GET", "/", token).status_code == 200 for token in tokens.values())
    assert all(call("OPTIONS", "/users", token).status_code == 200 for token in tokens.values())


def test_call_that_names_no_scope_is_closed(closed_app: Flask, call: Call, make_token: MakeToken) -> None:
    closed_app.add_url_rule("/forgotten", view_func=lambda: "unreachable")

    assert call("GET", "/forgotten").status_code == 401
    assert call("GET", "/forgotten", make_token(*SCOPES)).status_code == 403


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("PUT", "/users", 405)])
def test_token_comes_before_the_address(
    call: Call, make_token: MakeToken, method: str, path: str, status: int
) -> None:
    assert call(method, path).status_code == 401
    assert call(method, path, make_token("users:read")).status_code == status


@pytest.mark.parametrize("path", ["/metrics", "/docs", "/openapi.json"])
def test_configuration_opens_a_path(open_database: str, path: str) -> None:
    refused = []
    for opened in ((), (path,)):
        app = app_on(open_database, ProductionConfig, AUTH_REQUIRED=True, OPEN_PATHS=opened)
        for address in (path, f"{path}/file", f"{path}more"):
            with app.test_client().get(address) as answer:
                refused.append(answer.status_code == 401)

    assert refused == [True, True, True, False, False, True]


def test_refusal_says_how_to_get_a_token_and_how_to_switch_it_off(call: Call) -> None:
    answer = call("GET", "/users")

    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="users"'
    assert answer.get_json()["code"] == "unauthorized"
    assert "manage.py create_token" in answer.get_json()["message"]
    assert "AUTH_REQUIRED=false" in answer.get_json()["message"]


def test_caller_is_not_told_what_is_wrong_with_a_token(
    closed_app: Flask, open_database: str, call: Call, make_token: MakeToken
) -> None:
    expired, revoked, good = (make_token(*SCOPES, name=name) for name in ("expired", "revoked", "good"))
    execute(open_database, "UPDATE access_tokens SET expires_at = now() - interval '1 s' WHERE name = 'expired'")
    invoke(closed_app, "revoke_token", "revoked")
    bearer = f"Bearer {good}"
    headers = [
        *(f"Bearer {token}" for token in (expired, revoked, good[:-1], good + "A", good.swapcase(), "usr_")),
        *("", "Bearer", "Bearer ", f"Basic {good}", good, f"{bearer}, {bearer}", f"{bearer} x", "Bearer a=b", "\xe9"),
        *(f"Bearer {'x' * 5000}", "Bearer \xe9", "Bearer ' OR 1=1 --", "Bearer eyJhbGciOiJub25lIn0.e30."),
    ]

    answers = [closed_app.test_client().get("/users", headers={"Authorization": header}) for header in headers]

    assert {answer.status_code for answer in answers} == {401}
    assert len({(answer.get_json()["message"], answer.headers["WWW-Authenticate"]) for answer in answers}) == 1
    assert closed_app.test_client().get("/users", headers={"Authorization": bearer}).status_code == 200
    assert closed_app.test_client().get("/users", headers={"Authorization": f"bearer {good}"}).status_code == 200


@pytest.mark.parametrize("column", ["revoked_at", "expires_at"])
def test_token_in_use_ends_within_a_second(
    open_database: str, call: Call, make_token: MakeToken, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = make_token("users:read")
    assert call("GET", "/users", token).status_code == 200

    execute(open_database, f"UPDATE access_tokens SET {column} = date_trunc('second', now())")
    later = time.monotonic() + tokens_module.TRUST
    monkeypatch.setattr(tokens_module, "time", SimpleNamespace(monotonic=lambda: later))

    assert call("GET", "/users", token).status_code == 401


@pytest.mark.slow
def test_revoked_token_is_refused_by_every_worker(
    closed_gunicorn: str, closed_app: Flask, make_token: MakeToken
) -> None:
    message = request("GET", "/users", {"Authorization": f"Bearer {make_token('users:read')}"})
    with ThreadPoolExecutor(8) as pool:
        before = set(pool.map(lambda _: send(closed_gunicorn, message)[0], range(32)))
        invoke(closed_app, "revoke_token", "a token")
        time.sleep(tokens_module.TRUST)
        after = set(pool.map(lambda _: send(closed_gunicorn, message)[0], range(32)))

    assert (before, after) == ({200}, {401})


@pytest.mark.slow
def test_body_is_not_read_before_the_token(closed_gunicorn: str) -> None:
    """The service answers though the body never comes."""
    status, headers, _ = send(closed_gunicorn, request("POST", "/users", {**JSON, "Content-Length": "1000"}))

    assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="users"')


def test_token_is_looked_up_once_a_second(call: Call, make_token: MakeToken, statements: list[str]) -> None:
    token = make_token("users:read")

    assert {call("GET", "/", token).status_code for _ in range(20)} == {200}

    assert 1 <= sum("SELECT" in said and "access_tokens.digest" in said for said in statements) <= 3


def test_use_of_a_token_is_noted_once_a_minute(
    closed_app: Flask, open_database: str, call: Call, make_token: MakeToken
) -> None:
    token = make_token("users:read")
    noted = []
    for age in ("0 s", "30 s", "90 s"):
        execute(open_database, f"UPDATE access_tokens SET last_used_at = last_used_at - interval '{age}'")
        closed_app.extensions["tokens"].known.clear()
        before = execute(open_database, "SELECT last_used_at FROM access_tokens")
        assert call("GET", "/", token).status_code == 200
        noted.append(execute(open_database, "SELECT last_used_at FROM access_tokens") != before)

    assert noted == [True, False, True]


def test_token_works_on_a_database_that_cannot_be_written(open_database: str, make_token: MakeToken) -> None:
    token = make_token("users:read")
    options = {"connect_args": {"options": "-c default_transaction_read_only=on"}}
    app = app_on(open_database, ProductionConfig, AUTH_REQUIRED=True, SQLALCHEMY_ENGINE_OPTIONS=options)

    answer = app.test_client().get("/users", headers={"Authorization": f"Bearer {token}"})

    assert answer.status_code == 200
    with app.app_context():
        db.engine.dispose()


def test_token_waits_for_nobody_who_writes_it(
    closed_app: Flask, open_database: str, call: Call, make_token: MakeToken
) -> None:
    token = make_token("users:read")
    with closed_app.app_context(), db.engine.begin() as writer:
        writer.execute(text("SELECT * FROM access_tokens FOR UPDATE"))
        began = Event()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(lambda: (began.set(), call("GET", "/", token))[1]).result(timeout=1.5)

    assert began.is_set() and answer.status_code == 200
    assert execute(open_database, "SELECT last_used_at FROM access_tokens") == [(None,)]


def test_no_transaction_is_open_while_the_body_comes(closed_app: Flask, make_token: MakeToken) -> None:
    token = make_token("users:read")

    with closed_app.test_request_context("/users", headers={"Authorization": f"Bearer {token}"}):
        access.check_access()
        assert db.engine.pool.checkedout() == 0


def test_known_tokens_are_bounded(
    call: Call, closed_app: Flask, make_token: MakeToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_module, "MOST_KNOWN", 3)
    tokens = [make_token("users:read", name=str(number)) for number in range(8)]

    for token in (*tokens, "usr_unknown"):
        call("GET", "/", token)
        assert len(closed_app.extensions["tokens"].known) <= 3


def test_database_that_is_away_is_a_503_and_no_401() -> None:
    app = app_on("postgresql://nobody@127.0.0.1:1/nothing", ProductionConfig, AUTH_REQUIRED=True)

    assert app.test_client().get("/users", headers={"Authorization": "Bearer usr_x"}).status_code == 503
    assert app.test_client().get("/users").status_code == 401


@pytest.mark.parametrize("authorization", [None, "Bearer usr_x", "Basic YTpi"])
def test_nobody_needs_a_token_in_development(app: Flask, authorization: str | None) -> None:
    headers = {"Authorization": authorization} if authorization else {}

    assert app.test_client().get("/users", headers=headers).status_code == 200


def test_ping_does_not_look_its_token_up() -> None:
    app = app_on("postgresql://nobody@127.0.0.1:1/nothing", ProductionConfig, AUTH_REQUIRED=True)
    headers = {"Authorization": "Bearer usr_unknown"}

    assert app.test_client().get("/ping", headers=headers).status_code == 200
    assert app.test_client().get("/users", headers=headers).status_code == 503
