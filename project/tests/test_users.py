"""The users over HTTP, row by row of the contract."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from project.api.models import User

MICHAEL = {"username": "michael", "email": "michael@testdriven.io"}
TAKEN = "Sorry. That email already exists."

MakeUser = Callable[..., User]


def test_added_user_is_answered_with_its_location(client: FlaskClient) -> None:
    response = client.post("/users", json=MICHAEL)

    assert response.status_code == 201
    body = response.get_json()
    user = body.pop("data")
    user_id, created_date = user["id"], user["created_date"]
    assert body == {"status": "success", "message": "michael@testdriven.io was added!"}
    # More members may follow.
    assert list(user)[:5] == ["id", "username", "email", "active", "created_date"]
    assert {**user, **MICHAEL, "active": True} == user
    assert len(created_date) == len("2026-11-20T12:00:00Z") and created_date.endswith("Z")
    assert response.headers["Location"] == f"/users/{user_id}"
    assert client.get(response.headers["Location"]).get_json()["data"]["email"] == MICHAEL["email"]


def test_user_can_be_added_inactive(client: FlaskClient) -> None:
    assert client.post("/users", json={**MICHAEL, "active": False}).get_json()["data"]["active"] is False


def test_username_need_not_be_unique(client: FlaskClient, make_user: MakeUser) -> None:
    make_user("michael", "first@testdriven.io")

    assert client.post("/users", json=MICHAEL).status_code == 201


def test_users_are_listed_by_id(client: FlaskClient, make_user: MakeUser) -> None:
    users = [make_user(name, f"{name}@testdriven.io") for name in ("zoe", "adam", "mia")]

    response = client.get("/users")

    assert response.status_code == 200
    assert response.get_json() == {"status": "success", "data": {"users": [user.to_json() for user in users]}}


def test_empty_table_is_an_empty_list(client: FlaskClient) -> None:
    assert client.get("/users").get_json() == {"status": "success", "data": {"users": []}}


def test_unknown_query_parameter_is_refused(client: FlaskClient) -> None:
    response = client.get("/users?limti=1")

    assert response.status_code == 400
    assert response.get_json()["code"] == "invalid_query"
    assert response.get_json()["detail"][0]["loc"] == ["query", "limti"]


def test_user_is_shown(client: FlaskClient, make_user: MakeUser) -> None:
    user = make_user()

    response = client.get(f"/users/{user.id}")

    assert response.status_code == 200
    assert response.get_json() == {"status": "success", "data": user.to_json()}


ODD_IDS = ["blah", "0", "-1", "+1", "1.0", "1e0", "0x1", "01", "%20", "%201", "1%20", "1%0A", "1%00", "1;", "%D9%A1"]
ODD_IDS += ["²", "True", "null", "999999999999999999", "9223372036854775807", "9223372036854775808", "9" * 400]


@pytest.mark.parametrize("odd_id", ODD_IDS)
def test_odd_id_is_an_unknown_user(client: FlaskClient, make_user: MakeUser, odd_id: str) -> None:
    make_user()

    for response in (
        client.get(f"/users/{odd_id}"),
        client.put(f"/users/{odd_id}", json=MICHAEL),
        client.patch(f"/users/{odd_id}", json={"active": False}),
        client.delete(f"/users/{odd_id}"),
    ):
        assert response.status_code == 404
        assert response.get_json()["message"] == "User does not exist"


def test_put_replaces_a_user(client: FlaskClient, make_user: MakeUser) -> None:
    user = make_user()

    response = client.put(f"/users/{user.id}", json={"username": "mike", "email": "mike@testdriven.io"})

    assert response.status_code == 200
    expected = {**user.to_json(), "username": "mike", "email": "mike@testdriven.io"}
    assert response.get_json() == {"status": "success", "message": f"{user.id} was updated!", "data": expected}
    assert client.get(f"/users/{user.id}").get_json()["data"] == expected


def test_what_get_gave_can_be_put_back(client: FlaskClient, make_user: MakeUser) -> None:
    user = make_user()
    client.patch(f"/users/{user.id}", json={"active": False})
    shown = client.get(f"/users/{user.id}").get_json()["data"]

    response = client.put(f"/users/{user.id}", json=shown)

    assert response.status_code == 200
    assert response.get_json()["data"] == shown


def test_what_the_service_sets_is_ignored(client: FlaskClient, make_user: MakeUser) -> None:
    user = make_user()

    ignored = {"id": 4711, "created_date": [None, {"\x00": "\x01"}]}
    response = client.put(f"/users/{user.id}", json={**MICHAEL, **ignored})

    assert response.status_code == 200
    assert response.get_json()["data"] == user.to_json()


@pytest.mark.parametrize("changes", [{"username": "mike"}, {"email": "mike@testdriven.io"}, {"active": False}])
def test_patch_leaves_the_other_members(client: FlaskClient, make_user: MakeUser, changes: dict[str, Any]) -> None:
    user = make_user()

    response = client.patch(f"/users/{user.id}", json=changes)

    assert response.status_code == 200
    assert response.get_json()["message"] == f"{user.id} was updated!"
    assert response.get_json()["data"] == {**user.to_json(), **changes}


def test_merge_patch_is_json(client: FlaskClient, make_user: MakeUser) -> None:
    url = f"/users/{make_user().id}"

    response = client.patch(url, data='{"active": false}', content_type="application/merge-patch+json")

    assert response.get_json()["data"]["active"] is False


def test_deleted_user_is_gone(client: FlaskClient, make_user: MakeUser) -> None:
    user = make_user()

    response = client.delete(f"/users/{user.id}")

    assert response.status_code == 200
    assert response.get_json() == {"status": "success", "message": "michael@testdriven.io was removed!"}
    assert client.get(f"/users/{user.id}").status_code == 404
    assert client.delete(f"/users/{user.id}").status_code == 404


@pytest.mark.parametrize("email", ["michael@testdriven.io", "Michael@TestDriven.IO", "  michael@testdriven.io\t"])
def test_duplicate_email_is_refused(client: FlaskClient, make_user: MakeUser, email: str) -> None:
    make_user()
    other = make_user("other", "other@testdriven.io")

    for response in (
        client.post("/users", json={"username": "mike", "email": email}),
        client.put(f"/users/{other.id}", json={"username": "mike", "email": email}),
        client.patch(f"/users/{other.id}", json={"email": email}),
    ):
        assert response.status_code == 400
        assert (response.get_json()["message"], response.get_json()["code"]) == (TAKEN, "email_exists")
    assert client.get(f"/users/{other.id}").get_json()["data"] == other.to_json()


def test_own_email_can_change_its_case(client: FlaskClient, make_user: MakeUser) -> None:
    user = make_user()

    response = client.patch(f"/users/{user.id}", json={"email": "Michael@TestDriven.io"})

    assert response.get_json()["data"]["email"] == "Michael@TestDriven.io"


ADDRESSES = [
    "someone@corp.local",
    "a@b.test",
    "O'Hara+tag@example.co.uk",
    "jürgen@exämple.de",
    "  x@y.org ",
    "A@B.ORG",
]


@pytest.mark.parametrize("address", [*ADDRESSES, f"{'a' * 64}@{'b' * 60}.de"])
def test_address_is_kept_as_it_was_written(client: FlaskClient, address: str) -> None:
    response = client.post("/users", json={"username": "x", "email": address})

    assert response.status_code == 201
    assert response.get_json()["data"]["email"] == address.strip()


@pytest.mark.parametrize(
    "username", ["a", " padded ", "x" * 128, "名前", "🦊", "o'; DROP TABLE users; --", "<script>"]
)
def test_username_is_kept_as_it_was_written(client: FlaskClient, username: str) -> None:
    response = client.post("/users", json={"username": username, "email": "a@b.test"})

    assert response.get_json()["data"]["username"] == username


def user(**members: Any) -> str:
    """Return a payload that is right but for these members."""
    return json.dumps({**MICHAEL, **members})


#: Bodies that no call takes, with the member at fault and the error's type.
BAD_PAYLOADS = {
    "no body": ("", [], "missing"),
    "blank": ("  ", [], "json_invalid"),
    "malformed": ("{", [], "json_invalid"),
    "trailing comma": ('{"username": "a",}', [], "json_invalid"),
    "two documents": ("{}{}", [], "json_invalid"),
    "list": ("[]", [], "object_type"),
    "string": ('"michael"', [], "object_type"),
    "number": ("1", [], "object_type"),
    "null": ("null", [], "object_type"),
    "NaN": (user().replace('"michael"', "NaN"), [], "json_invalid"),
    "infinity": ('{"username": -Infinity}', [], "json_invalid"),
    "huge integer": ('{"username": ' + "1" * 5000 + "}", [], "json_invalid"),
    "deep": ("[" * 20_000, [], "too_deep"),
    "deep object": ('{"a":' * 5000 + "1" + "}" * 5000, [], "too_deep"),
    "deep as can be": ('{"a":' * 200 + "1" + "}" * 200, None, None),
    "byte order mark": ("\ufeff" + user(), [], "json_invalid"),
    "latin-1": (user(username="é").encode().decode("unicode_escape").encode("latin-1"), [], "json_invalid"),
    "UTF-16": (user().encode("utf-16"), [], "json_invalid"),
    "surrogate in a name": ('{"\\ud800": 1}', [], "json_invalid"),
    "empty": ("{}", None, None),
    "named twice": ('{"username": "a", "username": "a", "email": "a@b.test"}', ["username"], "duplicate"),
    "unknown member": (user(admin=True), ["admin"], "extra_forbidden"),
    "unknown member NUL": ('{"\\u0000": 1, ' + user()[1:], ["\x00"], "extra_forbidden"),
    "username null": (user(username=None), ["username"], "string_type"),
    "username number": (user(username=1), ["username"], "string_type"),
    "username object": (user(username={}), ["username"], "string_type"),
    "username empty": (user(username=""), ["username"], "blank"),
    "username blank": (user(username=" \u3000"), ["username"], "blank"),
    "username too long": (user(username="x" * 129), ["username"], "string_too_long"),
    "username NUL": (user(username="a\x00b"), ["username"], "control_character"),
    "username line break": (user(username="a\nb"), ["username"], "control_character"),
    "username DEL": (user(username="a\x7f"), ["username"], "control_character"),
    "username C1": (user(username="a\x85"), ["username"], "control_character"),
    "email null": (user(email=None), ["email"], "string_type"),
    "email list": (user(email=["a@b.test"]), ["email"], "string_type"),
    "email boolean": (user(email=True), ["email"], "string_type"),
    "email empty": (user(email=""), ["email"], "email"),
    "email blank": (user(email="  "), ["email"], "email"),
    "email without @": (user(email="michael"), ["email"], "email"),
    "email without domain": (user(email="michael@"), ["email"], "email"),
    "email without name": (user(email="@testdriven.io"), ["email"], "email"),
    "email without dot": (user(email="a@b"), ["email"], "email"),
    "email with two @": (user(email="a@b@c.de"), ["email"], "email"),
    "email with blank": (user(email="a b@c.de"), ["email"], "email"),
    "email with name": (user(email="Michael <a@b.de>"), ["email"], "email"),
    "email too long": (user(email="a" * 64 + "@" + "b" * 61 + ".de"), ["email"], "string_too_long"),
    "email NUL": (user(email="a\x00@b.test"), ["email"], "control_character"),
    "active null": (user(active=None), ["active"], "bool_type"),
    "active number": (user(active=1), ["active"], "bool_type"),
    "active string": (user(active="true"), ["active"], "bool_type"),
}


@pytest.mark.parametrize("method", ["post", "put", "patch"])
@pytest.mark.parametrize(("payload", "loc", "error_type"), BAD_PAYLOADS.values(), ids=BAD_PAYLOADS)
def test_bad_payload_is_refused(
    client: FlaskClient, method: str, payload: str | bytes, loc: list[str] | None, error_type: str | None
) -> None:
    url = "/users" if method == "post" else "/users/999"  # The payload is judged before the id.

    response = client.open(url, method=method.upper(), data=payload, content_type="application/json")

    body = response.get_json()
    assert response.status_code == 400
    assert (body["status"], body["message"], body["code"]) == ("fail", "Invalid payload.", "invalid_payload")
    if loc is not None:
        assert [(fault["loc"], fault["type"]) for fault in body["detail"]] == [(["body", *loc], error_type)]
        assert all(fault["msg"].endswith(".") for fault in body["detail"])


@pytest.mark.parametrize("surrogate", ['"\\ud800"', '"a\\udfffb"'])
@pytest.mark.parametrize("member", ["username", "email"])
def test_half_a_surrogate_pair_is_refused(client: FlaskClient, member: str, surrogate: str) -> None:
    payload = user(**{member: "PLACE"}).replace('"PLACE"', surrogate)

    response = client.post("/users", data=payload, content_type="application/json")

    assert response.get_json()["detail"][0]["loc"] == ["body", member]


def test_missing_members_are_all_named(client: FlaskClient) -> None:
    response = client.post("/users", json={"admin": True, "active": "no"})

    faults = {fault["loc"][1]: fault["msg"] for fault in response.get_json()["detail"]}
    assert faults == {
        "username": "Is required.",
        "email": "Is required.",
        "active": "Must be true or false.",
        "admin": "Is not a member of this object.",
    }


def test_thousands_of_unknown_members_get_a_short_answer(client: FlaskClient) -> None:
    response = client.post("/users", json={f"m{i}": i for i in range(4000)})

    assert response.status_code == 400
    assert len(response.get_json()["detail"]) == 50


@pytest.mark.parametrize("changes", [{}, {"id": 1}, {"id": 1, "created_date": "x"}])
def test_patch_needs_a_member_to_change(client: FlaskClient, make_user: MakeUser, changes: dict[str, Any]) -> None:
    response = client.patch(f"/users/{make_user().id}", json=changes)

    (fault,) = response.get_json()["detail"]
    assert (fault["loc"], fault["type"]) == (["body"], "empty")
    assert fault["msg"].startswith("Must have a member to change: username, email")
