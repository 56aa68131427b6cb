"""The listing of users: pages, orders, filters."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, pairwise
from threading import Event
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from project import db
from project.api.models import MAX_SEARCH_LENGTH, MAX_USERNAME_LENGTH, User
from project.config import ProductionConfig
from project.storage.connections import ThreadConnection
from project.storage.statements import Statement
from project.tests.conftest import app_on, execute, mostly_slow
from project.tests.utils import add_user

SORTS = ["id", "username", "email", "created_date"]
SIGNED_SORTS = [sign + sort for sort in SORTS for sign in ("", "-")]
NAMES = ["zoe", "Adam", "mia", "adam", "émile", "Zoe", "mia", "a%b", "a_b", "a\\b", "名前", "B"]


@pytest.fixture
def users(app: Flask) -> list[dict[str, Any]]:
    """Users in no order at all, some of them alike in all but the id and the address."""
    with app.app_context():
        for number, name in enumerate(NAMES):
            db.session.add(User(username=name, email=f"{name[::-1]}{number}@Example.org".replace("\\", "!")))
        db.session.flush()
        db.session.execute(text("UPDATE users SET created_date = now() - (id % 3) * interval '1 day'"))
        db.session.execute(text("UPDATE users SET active = (id % 4 <> 0)"))
        db.session.commit()
        return [user.to_json() for user in db.session.query(User).populate_existing().order_by(User.id)]


def listed(client: FlaskClient, **parameters: Any) -> list[dict[str, Any]]:
    """Return the users of one page."""
    response = client.get("/users", query_string=parameters)
    assert response.status_code == 200, response.text
    return response.get_json()["data"]["users"]


def walk(client: FlaskClient, **parameters: Any) -> Iterator[list[dict[str, Any]]]:
    """Yield page after page, following the Link headers."""
    url = f"/users?{urlencode(parameters)}"
    while url:
        response = client.get(url)
        data = response.get_json()["data"]
        yield data["users"]
        link = response.headers.get("Link", "")
        assert ("next" in data) is bool(link)
        url = re.sub('^<(.*)>; rel="next"$', r"\1", link)
        assert url != link or not link


@pytest.mark.parametrize("limit", mostly_slow([1, 3, 4, 11, 12, 13, 1000], [3, 12]))
@pytest.mark.parametrize("sort", SIGNED_SORTS)
def test_pages_give_every_user_once_in_order(
    client: FlaskClient, users: list[dict[str, Any]], sort: str, limit: int
) -> None:
    pages = list(walk(client, sort=sort, limit=limit))

    key = sort.removeprefix("-")
    expected = sorted(users, key=lambda user: (user[key], user["id"]), reverse=sort != key)
    assert sum(pages, []) == expected
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert pages[-1]


def test_postgres_writes_the_same_json_as_python(app: Flask, client: FlaskClient) -> None:
    odd = "\"\\/'\b\t\r\x01\x7f\x80\u2028<&>é名🦊%s{0}"
    with app.app_context():
        db.session.add_all(User(username=f"{odd}{number}", email=f"{number}{odd}@b.test") for number in range(3))
        db.session.commit()
        users = [user.to_json() for user in db.session.query(User).order_by(User.id)]

    assert client.get("/users").data == orjson.dumps({"status": "success", "data": {"users": users}}) + b"\n"


def test_page_has_a_hundred_users_unless_asked_otherwise(client: FlaskClient, app: Flask) -> None:
    with app.app_context():
        db.session.add_all(User(username="u", email=f"{number}@b.test") for number in range(101))
        db.session.commit()

    assert [len(page) for page in walk(client)] == [100, 1]


def test_last_page_has_no_next(client: FlaskClient, users: list[dict[str, Any]]) -> None:
    response = client.get(f"/users?limit={len(users)}")

    assert list(response.get_json()["data"]) == ["users"]
    assert "Link" not in response.headers


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"email": "EOZ0@EXAMPLE.ORG"}, ["zoe"]),
        ({"email": " eoz0@example.org "}, ["zoe"]),
        ({"email": "eoz0@example"}, []),
        ({"username": "mia"}, ["mia", "mia"]),
        ({"username": "MIA"}, []),
        ({"active": "false"}, None),
        ({"active": "true"}, None),
        ({"q": "ADA"}, ["Adam", "adam"]),
        ({"q": "É"}, ["émile"]),
        ({"q": "eoz"}, ["zoe", "Zoe"]),
        ({"q": "a%"}, ["a%b"]),
        ({"q": "a_"}, ["a_b"]),
        ({"q": "a\\"}, ["a\\b"]),
        ({"q": "%"}, []),
        ({"q": "'"}, []),
        ({"q": "ADA", "username": "adam"}, ["adam"]),
    ],
)
def test_filters(client: FlaskClient, users: list[dict[str, Any]], parameters: dict[str, str], names: Any) -> None:
    found = listed(client, **parameters)

    if names is None:
        assert found == [user for user in users if user["active"] is (parameters["active"] == "true")]
        assert 0 < len(found) < len(users)
    else:
        assert [user["username"] for user in found] == names


@pytest.mark.parametrize("parameters", [{}, {"q": "a"}, {"active": "false"}, {"limit": "1"}, {"username": "nobody"}])
def test_count_is_that_of_all_pages(
    client: FlaskClient, users: list[dict[str, Any]], parameters: dict[str, str]
) -> None:
    pages = walk(client, **parameters)

    response = client.get("/users", query_string={**parameters, "count": "true"})

    assert response.headers["X-Total-Count"] == str(len(sum(pages, [])))
    assert "X-Total-Count" not in client.get("/users", query_string={**parameters, "count": "false"}).headers


BAD_QUERIES = {
    "limit=0": ("limit", "greater_than_equal"),
    "limit=1001": ("limit", "less_than_equal"),
    "limit=": ("limit", "int_type"),
    "limit=ten": ("limit", "int_type"),
    "limit=1.5": ("limit", "int_type"),
    "limit=-1": ("limit", "int_type"),
    "limit=%2B1": ("limit", "int_type"),
    "limit=%D9%A1": ("limit", "int_type"),
    "limit=" + "9" * 5000: ("limit", "int_type"),
    "limit=1&limit=2": ("limit", "duplicate"),
    "sort=": ("sort", "literal_error"),
    "sort=active": ("sort", "literal_error"),
    "sort=--id": ("sort", "literal_error"),
    "sort=id;drop": ("sort", "literal_error"),
    "active=": ("active", "bool_type"),
    "active=1": ("active", "bool_type"),
    "active=True": ("active", "bool_type"),
    "count=yes": ("count", "bool_type"),
    "email=": ("email", "string_too_short"),
    "email=%00": ("email", "control_character"),
    "username=a%0Ab": ("username", "control_character"),
    "username=" + "x" * 129: ("username", "string_too_long"),
    "q=": ("q", "string_too_short"),
    "q=%00": ("q", "control_character"),
    "q=" + "x" * 129: ("q", "string_too_long"),
    "after=": ("after", "string_too_short"),
    "after=abc": ("after", "cursor"),
    "after=WzFd.c2lnbmF0dXJl": ("after", "cursor"),
    "after=%00": ("after", "cursor"),
    "after=" + "x" * 3000: ("after", "string_too_long"),
    "page=2": ("page", "extra_forbidden"),
    "Limit=1": ("Limit", "extra_forbidden"),
    "=1": ("", "extra_forbidden"),
}


@pytest.mark.parametrize(("query", "parameter", "error_type"), [(q, *fault) for q, fault in BAD_QUERIES.items()])
def test_bad_query_is_refused(client: FlaskClient, query: str, parameter: str, error_type: str) -> None:
    response = client.get(f"/users?{query}")

    body = response.get_json()
    assert response.status_code == 400
    assert body["code"] == "invalid_query"
    assert [(fault["loc"], fault["type"]) for fault in body["detail"]] == [(["query", parameter], error_type)]
    assert all(fault["msg"].endswith(".") and "{" not in fault["msg"] for fault in body["detail"])


def test_all_that_is_wrong_with_a_query_is_named(client: FlaskClient) -> None:
    detail = client.get("/users?limit=0&sort=x&page=2").get_json()["detail"]

    assert {fault["loc"][1] for fault in detail} == {"limit", "sort", "page"}


@pytest.mark.parametrize("foreign", [{"sort": "-id"}, {"sort": "username"}, {"q": "a"}, {"active": "true"}])
def test_cursor_works_only_where_it_came_from(
    client: FlaskClient, users: list[dict[str, Any]], foreign: dict[str, str]
) -> None:
    cursor = client.get("/users?limit=2").get_json()["data"]["next"]

    assert listed(client, after=cursor, limit=5) == users[2:7]
    response = client.get("/users", query_string={"after": cursor, **foreign})
    assert (response.status_code, response.get_json()["detail"][0]["type"]) == (400, "cursor")


def test_forged_cursor_is_refused(client: FlaskClient, users: list[dict[str, Any]]) -> None:
    cursor = client.get("/users?limit=2").get_json()["data"]["next"]
    position, _, signature = cursor.rpartition(".")

    for forged in (f"{position}x.{signature}", f"{position}.{signature[::-1]}", position, f".{signature}", cursor[1:]):
        assert client.get("/users", query_string={"after": forged}).status_code == 400


def test_cursor_is_taken_by_every_instance_that_shares_the_database(open_database: str) -> None:
    execute(
        open_database, "INSERT INTO users (username, email) SELECT 'u', i || '@b.test' FROM generate_series(1, 3) i"
    )
    instances = [app_on(open_database, ProductionConfig) for _ in range(2)]

    cursor = instances[0].test_client().get("/users?limit=1").get_json()["data"]["next"]
    page = instances[1].test_client().get("/users", query_string={"after": cursor}).get_json()

    assert len(page["data"]["users"]) == 2


@pytest.fixture(scope="module")
def planned(make_database: Callable[[], str]) -> Iterator[Callable[[str], str]]:
    """A function that returns Postgres's plan of a listing, in a table so large that it matters."""
    url = make_database()
    app = app_on(url)
    with app.app_context():
        db.create_all()
    execute(
        url,
        """INSERT INTO users (username, email, active, created_date)
           SELECT md5(i::text), md5((-i)::text) || '@example.org', i % 50 <> 0, now() - i * interval '1 minute'
           FROM generate_series(1, 30000) i""",
        "ANALYZE users",
    )

    def plan(query: str) -> str:
        statements = []
        run = Statement.run

        def remember(statement: Statement, own: ThreadConnection, parameters: dict[str, Any]) -> None:
            if "FROM users" in statement.sql:
                statements.append(own.cursor.mogrify(statement.sql, {**statement.constants, **parameters}).decode())
            run(statement, own, parameters)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Statement, "run", remember)
            assert app.test_client().get(f"/users?{query}").status_code == 200
        return json.dumps(execute(url, f"EXPLAIN (FORMAT JSON) {statements[0]}")[0][0])

    plan.app = app
    yield plan
    with app.app_context():
        db.engine.dispose()


def nodes(plan: str) -> list[str]:
    """Return the kinds of the plan's steps."""
    return re.findall(r'"Node Type": "([^"]+)"', plan)


@pytest.mark.slow
@pytest.mark.parametrize("sort", SIGNED_SORTS)
def test_every_page_of_every_order_comes_from_an_index(planned: Callable[[str], str], sort: str) -> None:
    first = planned(f"sort={sort}&limit=10")
    cursor = planned.app.test_client().get(f"/users?sort={sort}&limit=10").get_json()["data"]["next"]
    later = planned(f"sort={sort}&limit=10&after={cursor}")

    for plan in (first, later):
        assert nodes(plan) == ["Subquery Scan", "Limit", "Index Scan"], plan
    assert "Index Cond" in later and "Filter" not in later


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("email=A@example.org", "users_email_key"),
        ("username=abc", "users_username_idx"),
        ("active=false", "users_active_idx"),
        ("q=abc", "users_username_prefix_idx"),
        ("q=abc", "users_email_key"),
    ],
)
def test_every_filter_is_served_by_an_index(planned: Callable[[str], str], query: str, index: str) -> None:
    plan = planned(query)

    assert index in plan, plan
    assert "Seq Scan" not in nodes(plan)


def test_orders_do_not_depend_on_the_platform(planned: Callable[[str], str]) -> None:
    users = planned.app.test_client().get("/users?sort=username&limit=500").get_json()["data"]["users"]

    assert all(first["username"].encode() < second["username"].encode() for first, second in pairwise(users))


@pytest.mark.slow
def test_walk_sees_every_untouched_user_once_while_others_write(open_database: str) -> None:
    app = app_on(open_database)
    untouched, touched = range(1, 401), range(401, 801)
    execute(
        open_database,
        "INSERT INTO users (username, email, created_date) "
        "SELECT 'u' || i % 7, (i * 7919) % 1009 || '@b.test', now() - i % 5 * interval '1 day' "
        "FROM generate_series(1, 800) i",
    )
    walked = Event()

    def write(number: int) -> int:
        client = app.test_client()
        writes = count()
        while not walked.is_set():
            turn = next(writes)
            mine = list(touched)[number::4]
            client.post("/users", json={"username": f"u{turn % 7}", "email": f"{number}.{turn}@c.test"})
            client.patch(
                f"/users/{mine[turn % len(mine)]}", json={"username": f"{turn}", "email": f"{number}-{turn}@d.io"}
            )
            client.delete(f"/users/{mine[(turn * 3) % len(mine)]}")
            client.patch(f"/users/{untouched[turn % 400]}", json={"active": turn % 2 == 0})
        return next(writes)

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, number) for number in range(4)]
        try:
            seen = {
                sort: [user["id"] for page in walk(app.test_client(), sort=sort, limit=23) for user in page]
                for sort in SIGNED_SORTS
            }
        finally:
            walked.set()
        assert all(writer.result() for writer in writers)

    for sort, ids in seen.items():
        assert Counter(user_id for user_id in ids if user_id in untouched) == Counter(untouched), sort


@pytest.mark.parametrize("parameter", ["username", "q"])
def test_longest_name_can_be_searched_for(client: FlaskClient, app: Flask, parameter: str) -> None:
    with app.app_context():
        add_user("x" * MAX_USERNAME_LENGTH, "a@b.test")

    assert len(listed(client, **{parameter: "x" * MAX_USERNAME_LENGTH})) == 1
    assert client.get(f"/users?{parameter}={'x' * (MAX_SEARCH_LENGTH + 1)}").status_code == 400
