"""What every answer tells a browser."""

from collections.abc import Callable

import pytest
from flask import Flask

from project.api.models import User
from project.config import ProductionConfig
from project.tests.conftest import app_on
from project.tests.test_gunicorn import request, send

MakeUser = Callable[..., User]

ORIGIN = "https://app.example.org"
PREFLIGHT = {"Access-Control-Request-Method": "PUT"}


@pytest.fixture(scope="module")
def app_for_pages(open_url: str) -> Flask:
    """An application of production that pages of one origin may call."""
    return app_on(open_url, ProductionConfig, AUTH_REQUIRED=True, CORS_ORIGINS=(ORIGIN,))


MESSAGES = {
    "success": (request("GET", "/ping"), 200),
    "error": (request("GET", "/nowhere"), 404),
    "people": (request("GET", "/users"), 200),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    "header too long": (request("GET", "/users", {"X-Odd": "a" * 9000}), 431),
    "address too long": (request("GET", "/" + "a" * 9000), 414),
}


@pytest.mark.parametrize(("message", "status"), MESSAGES.values(), ids=MESSAGES)
@pytest.mark.usefixtures("open_database")
def test_every_answer_has_its_headers_and_tells_no_version(gunicorn: str, message: bytes, status: int) -> None:
    answered, headers, _ = send(gunicorn, message)

    assert answered == status
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["strict-transport-security"] == "max-age=31536000"
    assert headers.get("server", "gunicorn") == "gunicorn"
    assert not [name for name in headers if "powered" in name or name.startswith("access-control")]


@pytest.mark.parametrize(
    ("method", "path", "conditions"),
    [
        ("GET", "/ping", {}),
        ("HEAD", "/users", {}),
        ("POST", "/users", {}),
        ("GET", "/users/{}", {}),
        ("GET", "/users/{}", {"If-None-Match": "*"}),
        ("GET", "/users/{}", {"If-Match": '"x"'}),
        ("GET", "/users/0", {}),
        ("PUT", "/users", {}),
        ("GET", "/nowhere", {}),
        ("GET", "/docs", {}),
        ("GET", "/openapi.json", {}),
        ("OPTIONS", "/users", {}),
    ],
)
def test_no_header_is_sent_twice(
    app: Flask, make_user: MakeUser, method: str, path: str, conditions: dict[str, str]
) -> None:
    url = path.format(make_user().id)
    payload = {"username": "a", "email": "a@b.test"} if method == "POST" else None
    with app.test_client().open(url, method=method, json=payload, headers=conditions) as answer:
        names = [name.lower() for name, _ in answer.headers]
        length = len(answer.data)

    assert sorted(names) == sorted(set(names))
    if answer.status_code != 304 and method != "HEAD":
        assert answer.headers["Content-Length"] == str(length)


def test_development_asks_for_no_https(app: Flask) -> None:
    assert "Strict-Transport-Security" not in app.test_client().get("/ping").headers


def test_view_may_have_headers_of_its_own(app: Flask) -> None:
    with app.test_client().get("/docs") as page:
        headers = page.headers

    assert headers["Cache-Control"] == "public, max-age=3600"
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_page_of_a_named_origin_may_call(app_for_pages: Flask) -> None:
    asked = app_for_pages.test_client().options("/users/1", headers={"Origin": ORIGIN, **PREFLIGHT})
    answer = app_for_pages.test_client().get("/users", headers={"Origin": ORIGIN})

    assert (asked.status_code, asked.text) == (204, "")
    assert "PUT" in asked.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in asked.headers["Access-Control-Allow-Headers"]
    assert answer.status_code == 401  # and the page may read why
    for headers in (asked.headers, answer.headers):
        assert headers["Access-Control-Allow-Origin"] == ORIGIN
        assert headers["Vary"] == "Origin"
        assert "Access-Control-Allow-Credentials" not in headers


@pytest.mark.parametrize(
    "origin", ["https://evil.example", f"{ORIGIN}.evil.example", "null", "http://app.example.org"]
)
def test_page_of_another_origin_may_not(app_for_pages: Flask, origin: str) -> None:
    asked = app_for_pages.test_client().options("/users/1", headers={"Origin": origin, **PREFLIGHT})
    answer = app_for_pages.test_client().get("/ping", headers={"Origin": origin})

    assert asked.status_code == 401
    for headers in (asked.headers, answer.headers):
        assert "Access-Control-Allow-Origin" not in headers
        assert headers["Vary"] == "Origin"


def test_no_page_may_call_unless_configured(app: Flask) -> None:
    headers = app.test_client().get("/ping", headers={"Origin": ORIGIN}).headers

    assert not [name for name in headers.keys() if name.startswith("Access-Control")]
    assert "Vary" not in headers
