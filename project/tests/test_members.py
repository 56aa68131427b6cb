"""Each member of a user on each of its ways: a new one is tried on all of them as soon as it has values here."""

import csv
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.sql import SQL
from sqlalchemy import Column, String

from project import db
from project.api.members import USER_MEMBERS, Member, members_of
from project.api.models import MAX_SEARCH_LENGTH, User
from project.api.payloads import UserChanges, UserIn
from project.api.queries import UserQuery
from project.api.users import LISTING
from project.config import ProductionConfig
from project.tests.conftest import app_on, execute
from project.tests.test_admin import KEY, Visitor
from project.tests.test_cli import invoke
from project.transfer import merge

#: Two values of each member that callers choose; the first is not its default.
VALUES: dict[str, tuple[Any, Any]] = {
    "username": ("ada", "=Ada, Countess of Lovelace"),
    "email": ("ada@example.org", "+Ada@Example.org"),
    "active": (False, True),
}
CHOSEN = [member for member in members_of(UserIn) if member.is_taken]
OPTIONAL = [member for member in CHOSEN if not member.is_needed]
NULLABLE = [member for member in CHOSEN if member.is_nullable]
#: The members that a user must have.
LEAST = {"username": "grace", "email": "grace@example.org"}


def values_of(member: Member) -> tuple[Any, Any]:
    """Return two values of a member."""
    assert member.name in VALUES, f"Give two values of {member.name} in VALUES: then it is tried on each of its ways."
    return VALUES[member.name]


def whole() -> dict[str, Any]:
    """Return a user with a value of each member."""
    return {member.name: values_of(member)[0] for member in CHOSEN}


def told(user: dict[str, Any]) -> dict[str, Any]:
    """Return of a user as the API shows it what callers choose."""
    return {member.name: user[member.name] for member in CHOSEN}


@pytest.fixture(scope="module")
def shared(open_url: str) -> Iterator[Flask]:
    """The application that these tests share, with admin pages."""
    app = app_on(open_url, ProductionConfig, AUTH_REQUIRED=False, SECRET_KEY=KEY)
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def app(shared: Flask, open_database: str) -> Flask:
    """An application that commits for real."""
    return shared


def shown(client: FlaskClient, user_id: int) -> dict[str, Any]:
    """Return a user as the detail shows it, which is as the listing, the model and both exports do."""
    detail = client.get(f"/users/{user_id}").get_json()["data"]
    listed = client.get("/users?limit=1000").get_json()["data"]["users"]
    exported = client.get("/users/export").data.splitlines()
    with client.application.app_context():
        model = db.session.get(User, user_id).to_json()

    for other in (listed, map(json.loads, exported)):
        assert [user for user in other if user["id"] == user_id] == [detail]
    assert model == detail
    assert list(detail) == [member.name for member in USER_MEMBERS]
    return detail


def send(client: FlaskClient, content: str, content_type: str, on_conflict: str) -> dict[str, Any]:
    """Import a file, and return what was done."""
    path = f"/users/import?on_conflict={on_conflict}"
    answer = client.post(path, data=content, content_type=content_type).get_json()
    assert answer["status"] == "success", answer
    return {name: number for name, number in answer["data"].items() if number}


def csv_of(user: dict[str, Any]) -> str:
    """Return a file of CSV with a user; null is an empty cell."""
    file = StringIO()
    writer = csv.DictWriter(file, list(user))
    writer.writeheader()
    # The writer makes an empty cell of null.
    writer.writerow({name: str(value).lower() if isinstance(value, bool) else value for name, value in user.items()})
    return file.getvalue()


def ndjson_of(user: dict[str, Any]) -> str:
    """Return a file of NDJSON with a user."""
    return json.dumps(user) + "\n"


FILES = pytest.mark.parametrize(("file", "kind"), [(csv_of, "text/csv"), (ndjson_of, "application/x-ndjson")])


@pytest.mark.parametrize("member", CHOSEN, ids=lambda member: member.name)
def test_each_member_has_two_values_and_the_first_is_no_default(client: FlaskClient, member: Member) -> None:
    one, other = values_of(member)
    user = client.post("/users", json=LEAST).get_json()["data"]

    assert one != other
    assert user[member.name] != one, f"The first value of {member.name} in VALUES is its default: choose another one."


def test_model_payload_and_representation_agree() -> None:
    types, payload = get_type_hints(User.representation), get_type_hints(UserIn)

    assert [member.name for member in CHOSEN] == list(UserIn.model_fields) == list(UserChanges.model_fields)
    for member in USER_MEMBERS:
        assert (
            NoneType in get_args(types[member.name])
        ) is member.is_nullable, f"{member.name}: UserOut and the model"
    for member in CHOSEN:
        assert (
            NoneType in get_args(payload[member.name])
        ) is member.is_nullable, f"{member.name}: UserIn and the model"
        longest = UserIn.model_json_schema()["properties"][member.name]
        lengths = {part.get("maxLength") for part in (longest, *longest.get("anyOf", ()))} - {None}
        assert lengths == {getattr(member.column.type, "length", None)} - {None}, f"{member.name}: its greatest length"


def test_orders_and_filters_of_the_listing_are_those_of_the_query() -> None:
    orders = get_args(UserQuery.model_fields["sort"].annotation)

    assert set(orders) == {sign + name for name in LISTING.keys for sign in ("", "-")}
    assert set(LISTING.filters) < set(UserQuery.model_fields)
    assert MAX_SEARCH_LENGTH >= max(User.__table__.c[name].type.length for name in ("username", "email"))


def test_post_writes_each_member(client: FlaskClient) -> None:
    answer = client.post("/users", json=whole()).get_json()

    assert told(answer["data"]) == whole()
    assert shown(client, answer["data"]["id"]) == answer["data"]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("member", CHOSEN, ids=lambda member: member.name)
def test_each_member_is_set_and_changed_and_no_other(client: FlaskClient, member: Member, method: str) -> None:
    before = client.post("/users", json=LEAST).get_json()["data"]
    path = f"/users/{before['id']}"

    for value in values_of(member):
        changes = {**(LEAST if method == "PUT" else {}), member.name: value}
        answer = client.open(path, method=method, json=changes)

        assert answer.status_code == 200, answer.text
        assert answer.get_json()["data"] == shown(client, before["id"]) == {**before, member.name: value}
    # What is not sent stays.
    answer = client.open(path, method=method, json=LEAST)
    assert answer.get_json()["data"] == {**before, member.name: value, **LEAST}


@pytest.mark.parametrize("member", CHOSEN, ids=lambda member: member.name)
def test_null_clears_a_nullable_member_and_is_refused_of_others(client: FlaskClient, member: Member) -> None:
    for method in ("POST", "PUT", "PATCH"):
        user = client.post("/users", json=whole()).get_json()["data"]
        path = f"/users/{user['id']}"
        changes = {member.name: None} if method == "PATCH" else {**LEAST, member.name: None}
        answer = client.open("/users" if method == "POST" else path, method=method, json=changes)

        if member.is_nullable:
            assert answer.get_json()["data"][member.name] is None, answer.text
            assert shown(client, answer.get_json()["data"]["id"])[member.name] is None
            client.delete(f"/users/{answer.get_json()['data']['id']}")
        else:
            assert answer.get_json()["detail"][0]["loc"] == ["body", member.name], answer.text
        client.delete(path)


def test_what_get_gave_can_be_put_back(client: FlaskClient) -> None:
    for payload in (whole(), LEAST):
        user = client.post("/users", json=payload).get_json()["data"]

        assert client.put(f"/users/{user['id']}", json=user).get_json()["data"] == user


@FILES
@pytest.mark.parametrize("on_conflict", ["fail", "skip", "update"])
def test_import_adds_each_member(client: FlaskClient, file: Any, kind: str, on_conflict: str) -> None:
    assert send(client, file(whole()), kind, on_conflict) == {"added": 1}

    assert told(shown(client, 1)) == whole()


@FILES
def test_import_leaves_to_the_table_what_is_not_told(client: FlaskClient, file: Any, kind: str) -> None:
    added = client.post("/users", json=LEAST).get_json()["data"]
    client.delete(f"/users/{added['id']}")

    send(client, file(LEAST), kind, "fail")

    assert told(shown(client, added["id"] + 1)) == told(added)


@FILES
@pytest.mark.parametrize("member", OPTIONAL, ids=lambda member: member.name)
def test_import_updates_each_member_that_is_told(client: FlaskClient, member: Member, file: Any, kind: str) -> None:
    before = client.post("/users", json={**LEAST, member.name: values_of(member)[0]}).get_json()["data"]

    assert send(client, file({**LEAST, "username": "other"}), kind, "update") == {"updated": 1}
    assert shown(client, before["id"]) == {**before, "username": "other"}
    assert send(client, file({**LEAST, member.name: values_of(member)[1]}), kind, "skip") == {"skipped": 1}
    assert shown(client, before["id"]) == {**before, "username": "other"}
    assert send(client, file({**LEAST, member.name: values_of(member)[1]}), kind, "update") == {"updated": 1}
    assert shown(client, before["id"]) == {**before, member.name: values_of(member)[1]}


def test_import_of_null_clears_a_member(client: FlaskClient) -> None:
    before = client.post("/users", json=whole()).get_json()["data"]
    cleared: dict[str, Any] = {member.name: None for member in NULLABLE}

    # A cell of CSV cannot say null: an empty one is a member that is absent.
    assert send(client, csv_of({**whole(), **cleared}), "text/csv", "update") == {"updated": 1}
    assert shown(client, before["id"]) == before
    assert send(client, ndjson_of({**whole(), **cleared}), "application/x-ndjson", "update") == {"updated": 1}
    assert shown(client, before["id"]) == {**before, **cleared}


@pytest.mark.parametrize(
    ("staged", "written"), [("NULL, '{}'", "old"), ("NULL, '{nickname}'", None), ("'new', '{}'", "new")]
)
def test_merge_tells_null_from_what_is_not_told(open_database: str, staged: str, written: str | None) -> None:
    nickname = Member("nickname", Column("nickname", String, nullable=True), is_taken=True, is_needed=False)
    told = merge.staged_value(nickname, merge.present(nickname))

    rows = SQL(
        "SELECT {} FROM (VALUES ('old')) AS users (nickname), (VALUES ({}::text[])) AS staged (nickname, cleared)"
    )
    assert execute(open_database, rows.format(told, SQL(staged))) == [(written,)]


@pytest.mark.parametrize("name", ["users.csv", "users.ndjson.gz"])
def test_what_was_exported_comes_back(app: Flask, client: FlaskClient, tmp_path: Path, name: str) -> None:
    second = {member.name: values_of(member)[1] for member in CHOSEN} | {"email": "second@example.org"}
    users = [client.post("/users", json=payload).get_json()["data"] for payload in (whole(), LEAST, second)]
    assert invoke(app, "export_users", str(tmp_path / name)).exit_code == 0
    for user in users:
        client.delete(f"/users/{user['id']}")

    assert invoke(app, "import_users", str(tmp_path / name)).exit_code == 0

    assert [shown(client, user["id"]) for user in users] == users


def test_csv_has_a_cell_for_each_member(client: FlaskClient) -> None:
    client.post("/users", json={**whole(), "username": "=1"})

    (row,) = csv.DictReader(StringIO(client.get("/users/export", headers={"Accept": "text/csv"}).text))

    assert list(row) == [member.name for member in USER_MEMBERS]
    assert row["username"] == "'=1"
    assert all(row.values())


@pytest.fixture
def visitor(app: Flask) -> Visitor:
    """An administrator who has signed in."""
    visitor = Visitor(app.test_client())
    visitor.sign_in(invoke(app, "create_token", "operator", "--scope", "admin").stdout.strip())
    return visitor


def fields(user: dict[str, Any]) -> dict[str, str]:
    """Return the fields of a form with a user: a box that is not ticked is not sent, and null is an empty field."""
    return {name: "" if value is None else value for name, value in user.items() if value is not False}


def version_of(page: str) -> str:
    """Return the version in a form."""
    return page.partition('name="version" type="hidden" value="')[2].partition('"')[0]


def test_admin_form_writes_each_member(client: FlaskClient, visitor: Visitor) -> None:
    visitor.get("users/new/")
    assert visitor.post("users/new/", **fields(whole())).status_code == 302
    assert told(shown(client, 1)) == whole()
    page = visitor.get("users/edit/?id=1").text
    for member in CHOSEN:
        assert f'name="{member.name}"' in page

    second = {member.name: values_of(member)[1] for member in CHOSEN}
    assert visitor.post("users/edit/?id=1", version=version_of(page), **fields(second)).status_code == 302

    assert told(shown(client, 1)) == second


def test_admin_form_is_null_where_a_nullable_field_is_empty(client: FlaskClient, visitor: Visitor) -> None:
    user = whole() | {member.name: None for member in NULLABLE}
    client.post("/users", json=whole())

    page = visitor.get("users/edit/?id=1").text
    assert visitor.post("users/edit/?id=1", version=version_of(page), **fields(user)).status_code == 302

    assert told(shown(client, 1)) == user


def test_admin_list_and_its_export_have_each_member(client: FlaskClient, visitor: Visitor) -> None:
    client.post("/users", json=whole())

    assert visitor.get("users/").text.count("<td data-title=") == len(USER_MEMBERS)
    exported = visitor.client.get("/admin/users/export/csv/", base_url="https://localhost").text
    assert len(next(csv.reader(StringIO(exported)))) == len(USER_MEMBERS)
