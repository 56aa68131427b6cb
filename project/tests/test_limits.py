"""How often a caller may call."""

from collections.abc import Callable, Iterator
from http import HTTPStatus

import pytest
from flask import Flask

from project import db
from project.config import ProductionConfig
from project.tests.conftest import app_on, free_port
from project.tests.test_cli import invoke

MakeApp = Callable[..., Flask]


@pytest.fixture
def limited_app(open_database: str) -> Iterator[MakeApp]:
    """A function that makes an application with a rate of five calls a day: no window ends during a test."""
    apps = []

    def limited_app(**settings: object) -> Flask:
        apps.append(app_on(open_database, ProductionConfig, **{"RATELIMIT": "5/day", **settings}))
        return apps[-1]

    yield limited_app
    for app in apps:
        with app.app_context():
            db.engine.dispose()


def statuses(app: Flask, calls: int = 7, path: str = "/users", **headers: str) -> list[int]:
    """Return what as many calls answer."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return [app.test_client().get(path, headers=names).status_code for _ in range(calls)]


def test_caller_with_too_many_calls_is_told_when_to_come_back(limited_app: MakeApp) -> None:
    app = limited_app()
    assert statuses(app) == [200] * 5 + [429] * 2

    answer = app.test_client().get("/users")

    assert 1 <= int(answer.headers["Retry-After"]) <= 2 * 86400
    assert answer.get_json()["code"] == "too_many_requests"
    assert answer.get_json()["message"] == "These are too many calls. Come back later."


def test_every_rate_of_several_counts(limited_app: MakeApp) -> None:
    assert statuses(limited_app(RATELIMIT="100/second;3/day")) == [200] * 3 + [429] * 4


def test_nobody_is_limited_unless_configured(limited_app: MakeApp) -> None:
    assert set(statuses(limited_app(RATELIMIT=None), 20)) == {200}


def test_sign_of_life_is_never_refused(limited_app: MakeApp) -> None:
    assert set(statuses(limited_app(), path="/ping")) == {200}


def test_every_token_has_its_own_rate(limited_app: MakeApp) -> None:
    app = limited_app(AUTH_REQUIRED=True)
    headers = [
        {"Authorization": f"Bearer {invoke(app, 'create_token', name, '--scope', 'users:read').stdout.strip()}"}
        for name in ("one", "other")
    ]

    assert [statuses(app, **header) for header in headers] == [[200] * 5 + [429] * 2] * 2


def test_made_up_tokens_are_limited_before_the_database_hears_of_them(
    limited_app: MakeApp, statements: list[str]
) -> None:
    app = limited_app(AUTH_REQUIRED=True)

    answers = [statuses(app, 1, Authorization=f"Bearer usr_{number}")[0] for number in range(20)]

    assert answers == [401] * 5 + [429] * 15
    assert sum("access_tokens" in said for said in statements) == 5


@pytest.mark.parametrize(
    ("proxies", "forwarded", "last"),
    [
        (0, "10.0.0.{}", 429),  # nobody is trusted
        (1, "10.0.0.{}, 192.0.2.7", 429),  # what the caller wrote comes before what the proxy adds
        (1, "10.0.0.{}", 200),
        (2, "10.0.0.{}, 192.0.2.7", 200),
        (2, "10.0.0.{}, 192.0.2.7, 192.0.2.8", 429),
        (2, "10.0.0.{}", 429),  # came past a proxy
        (1, "junk {}", 429),
        (1, "2001:db8:1:{}::1", 200),
        (1, "::ffff:10.0.0.{}", 200),
        (1, "2001:db8:1:1::{}", 429),  # one client has a whole network of addresses
    ],
)
def test_forged_address_evades_nothing(limited_app: MakeApp, proxies: int, forwarded: str, last: int) -> None:
    app = limited_app(TRUSTED_PROXIES=proxies)

    answers = [statuses(app, 1, X_Forwarded_For=forwarded.format(number))[0] for number in range(7)]

    assert answers == [200] * 5 + [last] * 2


def test_service_answers_when_redis_is_away(limited_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
    app = limited_app(RATELIMIT_STORAGE=f"redis://:hush@127.0.0.1:{free_port()}", AUTH_REQUIRED=True)

    assert statuses(app) == [HTTPStatus.UNAUTHORIZED] * 7
    assert statuses(app, 1, Authorization="Bearer usr_x") == [HTTPStatus.UNAUTHORIZED]
    assert "rates: " in caplog.text
    assert "hush" not in caplog.text
