"""The session's cookie of the admin pages, over HTTPS and over plain HTTP."""

import html
import re
from collections.abc import Callable

import pytest
from flask import Flask

from project.admin.sign_in import NO_COOKIE
from project.config import DevelopmentConfig, ProductionConfig
from project.tests.conftest import app_on, mostly_slow
from project.tests.test_admin import KEY
from project.tests.test_cli import invoke

PLAIN, TLS = "http://users.test", "https://users.test"
TOO_OLD = "This form was too old, or not from this page. Nothing was changed. Try again."


@pytest.fixture
def make_app(open_database: str) -> Callable[..., Flask]:
    """A function that makes an application with admin pages and so many trusted proxies."""

    def make_app(proxies: int, base: type = ProductionConfig) -> Flask:
        return app_on(open_database, base, AUTH_REQUIRED=True, SECRET_KEY=KEY, TRUSTED_PROXIES=proxies)

    return make_app


COOKIES = [
    (ProductionConfig, 0, TLS, None, True),
    (ProductionConfig, 0, PLAIN, None, True),
    (ProductionConfig, 0, PLAIN, "http", True),
    (ProductionConfig, 0, PLAIN, "https", True),
    (ProductionConfig, 1, PLAIN, "http", False),
    (ProductionConfig, 1, PLAIN, "https", True),
    (ProductionConfig, 1, PLAIN, "HTTPS", True),
    (ProductionConfig, 1, PLAIN, None, True),
    (ProductionConfig, 1, PLAIN, "", True),
    (ProductionConfig, 2, PLAIN, "http", False),
    (ProductionConfig, 2, PLAIN, "https", True),
    (ProductionConfig, 2, PLAIN, "https, http", True),
    (ProductionConfig, 2, PLAIN, "http, http", False),
    (DevelopmentConfig, 0, PLAIN, None, False),
    (DevelopmentConfig, 0, TLS, None, True),
    (DevelopmentConfig, 1, PLAIN, "https", True),
]


@pytest.mark.parametrize(
    ("base", "proxies", "url", "told", "secure"),
    mostly_slow(COOKIES, COOKIES[::4]),
)
def test_cookie_is_for_https_alone_unless_a_trusted_proxy_tells_of_plain_http(
    make_app: Callable[..., Flask], base: type, proxies: int, url: str, told: str | None, secure: bool
) -> None:
    headers = {} if told is None else {"X-Forwarded-Proto": told}

    answer = make_app(proxies, base).test_client().get("/admin/", base_url=url, headers=headers)

    assert ("; Secure;" in answer.headers["Set-Cookie"]) is secure
    assert "HttpOnly" in answer.headers["Set-Cookie"] and "SameSite=Strict" in answer.headers["Set-Cookie"]


def sign_in(app: Flask, told: str) -> tuple[int, str]:
    """Sign in by a browser that speaks plain HTTP; return the status, and what the page says is wrong."""
    token = invoke(app, "create_token", "operator", "--scope", "admin").stdout.strip()
    client, headers = app.test_client(use_cookies=False), {"X-Forwarded-Proto": told}
    answer = client.get("/admin/", base_url=PLAIN, headers=headers)
    page, (cookie, _, attributes) = answer.text, answer.headers["Set-Cookie"].partition("; ")
    if "Secure" not in attributes:
        # A browser keeps no other over plain HTTP; Flask's client would.
        headers["Cookie"] = cookie
    form = {"csrf_token": re.findall('name="csrf_token" value="([^"]+)"', page)[0], "token": token}
    answer = client.post("/admin/sign_in", base_url=PLAIN, headers=headers, data=form)
    return answer.status_code, html.unescape("".join(re.findall('role="alert">([^<]+)<', answer.text)))


def test_sign_in_works_over_plain_http_behind_a_trusted_proxy(make_app: Callable[..., Flask]) -> None:
    assert sign_in(make_app(1), "http") == (303, "")


@pytest.mark.parametrize(("proxies", "told"), [(0, "http"), (0, ""), (1, "")])
def test_page_says_what_is_wrong_where_the_browser_keeps_no_cookie(
    make_app: Callable[..., Flask], proxies: int, told: str
) -> None:
    assert sign_in(make_app(proxies), told) == (400, NO_COOKIE)


def test_form_without_a_cookie_over_https_is_too_old(make_app: Callable[..., Flask]) -> None:
    answer = make_app(0).test_client().post("/admin/sign_in", base_url=TLS, data={"token": "x"})

    assert (answer.status_code, TOO_OLD in answer.text) == (400, True)
