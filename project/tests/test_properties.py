"""What holds for any input at all."""

import json
from contextlib import suppress
from typing import Any

import pytest
from email_validator import EmailSyntaxError, validate_email
from flask.testing import FlaskClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from project.api.validation import email_address

# The database is emptied after the last example only; that users of earlier examples are there changes nothing here.
any_number_of_times = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

texts = st.text(st.characters(codec=None), max_size=140)
emails = st.one_of(st.emails(), texts, st.from_regex(r"[ -~]{0,20}@[ -~]{0,20}"))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=10,
)
payloads = st.fixed_dictionaries(
    {}, optional={"username": texts | values, "email": emails | values, "active": st.booleans() | values, "x": values}
)
methods = st.sampled_from([("POST", "/users"), ("PUT", "/users/1"), ("PATCH", "/users/1")])


def check(client: FlaskClient, method: str, url: str, body: bytes) -> None:
    """Send a body and see that the answer is one of the contract's."""
    response = client.open(url, method=method, data=body, content_type="application/json")

    answer = response.get_json()
    assert response.status_code in (200, 201, 400, 404), answer
    assert answer["status"] == ("success" if response.status_code < 300 else "fail")


@any_number_of_times
@given(call=methods, document=values | payloads)
def test_no_json_is_a_server_error(client: FlaskClient, call: tuple[str, str], document: Any) -> None:
    check(client, *call, json.dumps(document).encode())


@any_number_of_times
@given(call=methods, body=st.binary(max_size=300))
def test_no_bytes_are_a_server_error(client: FlaskClient, call: tuple[str, str], body: bytes) -> None:
    check(client, *call, body)


@any_number_of_times
@given(method=st.sampled_from(["GET", "PUT", "PATCH", "DELETE"]), user_id=st.binary(min_size=1, max_size=30))
def test_no_id_is_a_server_error(client: FlaskClient, method: str, user_id: bytes) -> None:
    path = "/users/" + user_id.decode("latin-1")  # As WSGI hands a path over, whatever bytes are in it.
    payload = {"username": "a", "email": "a@b.test"}

    response = client.open(method=method, json=payload, environ_overrides={"PATH_INFO": path})

    assert response.status_code in (404, 405), response.get_json()
    assert response.get_json()["status"] == "fail"


@any_number_of_times
@given(username=texts.filter(str.strip), email=st.emails())
def test_what_is_accepted_comes_back_as_it_was(client: FlaskClient, username: str, email: str) -> None:
    response = client.post("/users", json={"username": username, "email": email})

    if response.status_code == 201:
        data = client.get(response.headers["Location"]).get_json()["data"]
        assert (data["username"], data["email"]) == (username, email)


labels = st.from_regex(r"[a-zA-Z0-9_.+'-]{0,3}(xn--|--|[a-zA-Z0-9ſKé-]{0,66})[a-z0-9-]{0,3}", fullmatch=True)
addresses = st.builds("{}@{}".format, labels, st.lists(labels, max_size=4).map(".".join))


@pytest.mark.slow
@settings(deadline=None, max_examples=5 * settings().max_examples)
@given(address=st.one_of(st.emails(), addresses, emails))
@example(f"{'a' * 64}@{'b' * 63}.de")
@example(f"{'a' * 65}@b.de")
@example(f"a@{'b' * 64}.de")
@example("a@b.c1")
@example("a@b.1c")
@example("a@xn--bcher-kva.de")
@example("a@xn--b.de")
@example("a@ab--c.de")
@example("a@-b.de")
@example("a@b-.de")
@example("a.@b.de")
@example("a@b.de\n")
def test_cheap_look_at_an_address_has_the_verdict_of_the_library(address: str) -> None:
    with suppress(PydanticCustomError):
        email_address(address)
        validate_email(address, check_deliverability=False)
        return
    with pytest.raises(EmailSyntaxError):
        validate_email(address, check_deliverability=False)
