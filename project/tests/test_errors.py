"""The one error body, on every path and in every environment."""

import io
import re
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from werkzeug.exceptions import TooManyRequests

from project import db
from project.api.models import User
from project.config import BaseConfig, DevelopmentConfig, ProductionConfig, TestingConfig
from project.tests.conftest import app_on

MakeUser = Callable[..., User]


def failing_app(database_url: str, environment: type) -> Flask:
    """Return an application of an environment, with routes that fail in every way there is."""
    app = app_on(database_url, environment)

    @app.get("/bug")
    def bug() -> str:
        raise RuntimeError("a secret detail")

    @app.get("/constraint")
    def constraint() -> str:
        db.session.add(User(username=" ", email="a@b.test"))
        db.session.commit()
        return "unreachable"

    @app.get("/slow")
    def slow() -> str:
        db.session.execute(text("SET LOCAL statement_timeout = '10ms'; SELECT pg_sleep(1)"))
        return "unreachable"

    @app.get("/teapot/<int:status>")
    def teapot(status: int) -> str:
        if status == 429:
            raise TooManyRequests(retry_after=7)
        return "unreachable"

    return app


ENVIRONMENTS = [DevelopmentConfig, TestingConfig, ProductionConfig]


@pytest.fixture(scope="module")
def failing_apps(open_url: str) -> Iterator[dict[type, Flask]]:
    """An application of each environment."""
    apps = {environment: failing_app(open_url, environment) for environment in ENVIRONMENTS}
    yield apps
    for app in apps.values():
        with app.app_context():
            db.engine.dispose()


@pytest.fixture(params=ENVIRONMENTS)
def environment(request: pytest.FixtureRequest, failing_apps: dict[type, Flask], open_database: str) -> Flask:
    """An application of each environment, on an empty database."""
    return failing_apps[request.param]


ERRORS = [
    ("GET", "/nowhere", 404, "not_found"),
    ("GET", "/users//1", 404, "not_found"),
    ("GET", "/users/", 404, "not_found"),
    ("GET", "/users/1/more", 404, "not_found"),
    ("GET", "/users/1", 404, "not_found"),
    ("POST", "/users", 400, "invalid_payload"),
    ("DELETE", "/users", 405, "method_not_allowed"),
    ("POST", "/ping", 405, "method_not_allowed"),
    ("PUT", "/", 405, "method_not_allowed"),
    ("BREW", "/users/1", 405, "method_not_allowed"),
    ("GET", "/bug", 500, "internal_server_error"),
    ("GET", "/constraint", 500, "internal_server_error"),
    ("GET", "/slow", 503, "service_unavailable"),
    ("GET", "/teapot/429", 429, "too_many_requests"),
]


@pytest.mark.parametrize(("method", "path", "status", "code"), ERRORS)
def test_every_error_has_the_one_body(environment: Flask, method: str, path: str, status: int, code: str) -> None:
    response = environment.test_client().open(path, method=method)

    body = response.get_json()
    assert response.status_code == status
    assert response.mimetype == "application/json"
    assert list(body) == ["status", "message", "code", "detail", "request_id"]
    assert body["status"] == ("fail" if status < 500 else "error")
    assert body["code"] == code
    assert body["request_id"] == response.headers["X-Request-ID"]
    if code != "invalid_payload":
        assert body["detail"] == body["message"]
    assert body["message"].endswith(".") or body["message"] == "User does not exist"
    for told in ("secret", "SELECT", "psycopg2", "sqlalchemy", "Traceback", "users_username_not_blank"):
        assert told.lower() not in response.text.lower()


def test_duplicate_is_a_400_in_every_environment(environment: Flask) -> None:
    client = environment.test_client()
    answers = [client.post("/users", json={"username": "a", "email": "a@b.test"}) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [201, 400]
    assert answers[1].get_json()["code"] == "email_exists"


def test_405_names_the_methods_that_are_allowed(client: FlaskClient) -> None:
    allowed = client.post("/users/1").headers["Allow"]

    assert set(allowed.split(", ")) == {"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"}


@pytest.mark.parametrize(("path", "status", "seconds"), [("/slow", 503, "1"), ("/teapot/429", 429, "7")])
def test_caller_is_told_when_to_come_back(environment: Flask, path: str, status: int, seconds: str) -> None:
    response = environment.test_client().get(path)

    assert (response.status_code, response.headers["Retry-After"]) == (status, seconds)


def test_database_that_is_away_is_a_503() -> None:
    app = app_on("postgresql://nobody:a-password@127.0.0.1:1/nothing", ProductionConfig)

    response = app.test_client().get("/users")

    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert response.get_json()["message"] == "The database is not available at the moment."
    assert app.test_client().get("/ping").status_code == 200


def test_full_pool_is_a_503(open_database: str) -> None:
    options = {**BaseConfig.SQLALCHEMY_ENGINE_OPTIONS, "pool_size": 1, "max_overflow": 0, "pool_timeout": 0.1}
    app = app_on(open_database, SQLALCHEMY_ENGINE_OPTIONS=options)
    app.add_url_rule("/session", view_func=lambda: str(db.session.scalar(text("SELECT 1"))))

    with app.app_context():
        with db.engine.connect():
            assert app.test_client().get("/session").status_code == 503
            assert app.test_client().get("/users").status_code == 200
        assert app.test_client().get("/session").status_code == 200
        db.engine.dispose()


def test_body_that_is_not_json_is_a_415(client: FlaskClient) -> None:
    response = client.post("/users", data="username=a", content_type="application/x-www-form-urlencoded")

    assert response.status_code == 415
    assert response.get_json()["code"] == "unsupported_media_type"


class NeverRead(io.BytesIO):
    """A body that nobody may read."""

    def read(self, size: int | None = -1) -> bytes:
        """Fail the test."""
        raise AssertionError("the body was read")


def test_body_over_the_limit_is_a_413_and_is_not_read(client: FlaskClient) -> None:
    length = str(64 * 1024 + 1)
    response = client.post(
        "/users",
        content_type="application/json",
        environ_overrides={"wsgi.input": NeverRead(), "CONTENT_LENGTH": length},
    )

    assert response.status_code == 413
    assert response.get_json()["code"] == "request_entity_too_large"


def test_body_that_ends_too_early_is_a_408(client: FlaskClient) -> None:
    # As gunicorn hands it over.
    cut = {"wsgi.input": io.BytesIO(b"{"), "wsgi.input_terminated": True, "CONTENT_LENGTH": "10"}
    response = client.post("/users", content_type="application/json", environ_overrides=cut)

    assert response.status_code == 408
    assert response.get_json()["code"] == "request_timeout"


def test_body_of_unannounced_length_is_a_411(client: FlaskClient) -> None:
    response = client.post("/users", json={}, headers={"Transfer-Encoding": "chunked"})

    assert response.status_code == 411
    assert response.get_json()["code"] == "length_required"


@pytest.mark.parametrize("given", ["abc", "2f1c-9.A_b", "x" * 128])
def test_sane_request_id_is_taken(client: FlaskClient, given: str) -> None:
    response = client.get("/nowhere", headers={"X-Request-ID": given})

    assert response.headers["X-Request-ID"] == given
    assert response.get_json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "ä", "<script>", "a,b"])
def test_odd_request_id_is_replaced(client: FlaskClient, given: str) -> None:
    made = client.get("/ping", headers={"X-Request-ID": given}).headers["X-Request-ID"]

    assert re.fullmatch("[0-9a-f]{32}", made)


def test_root_says_where_to_go_on(client: FlaskClient) -> None:
    body = client.get("/").get_json()

    assert body["status"] == "success"
    assert re.fullmatch(r"\d+\.\d+\.\d+", body["version"])
    for path in body["links"].values():
        with client.get(path) as response:
            assert response.status_code == 200
