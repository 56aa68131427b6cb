"""Conditional requests: nobody overwrites what somebody else has written."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from flask.testing import FlaskClient

from project.api.models import User
from project.tests.conftest import app_on, execute, mostly_slow

MakeUser = Callable[..., User]


def etag_of(client: FlaskClient, user_id: int) -> str:
    """Return the user's ETag."""
    return client.get(f"/users/{user_id}").headers["ETag"]


def test_every_answer_with_a_user_has_its_etag(client: FlaskClient) -> None:
    payload = {"username": "a", "email": "a@b.test"}

    posted = client.post("/users", json=payload)
    url = posted.headers["Location"]
    assert posted.headers["ETag"] == client.get(url).headers["ETag"]
    put = client.put(url, json=payload)
    assert put.headers["ETag"] == client.get(url).headers["ETag"] != posted.headers["ETag"]
    patched = client.patch(url, json={"active": False})
    assert patched.headers["ETag"] == client.get(url).headers["ETag"] != put.headers["ETag"]
    assert patched.headers["ETag"].startswith('"')


def test_write_by_hand_changes_the_etag(client: FlaskClient, make_user: MakeUser, open_database: str) -> None:
    client = app_on(open_database).test_client()
    execute(open_database, "INSERT INTO users (id, username, email) VALUES (1, 'a', 'a@b.test')")
    before = etag_of(client, 1)

    execute(open_database, "UPDATE users SET active = false")

    assert etag_of(client, 1) != before


@pytest.mark.parametrize("form", ["{0}", "W/{0}", '"x", {0}', "*"])
def test_known_version_is_not_sent_again(client: FlaskClient, make_user: MakeUser, form: str) -> None:
    url = f"/users/{make_user().id}"
    etag = client.get(url).headers["ETag"]

    response = client.get(url, headers={"If-None-Match": form.format(etag)})

    assert (response.status_code, response.data, response.headers["ETag"]) == (304, b"", etag)
    assert client.head(url, headers={"If-None-Match": form.format(etag)}).status_code == 304


@pytest.mark.parametrize("given", ['"0"', '"x"', '""', "", "nonsense", ",", '"'])
def test_other_version_is_sent(client: FlaskClient, make_user: MakeUser, given: str) -> None:
    response = client.get(f"/users/{make_user().id}", headers={"If-None-Match": given})

    assert response.status_code == 200


def writes(client: FlaskClient, user_id: int, if_match: str) -> list:
    """Return what each kind of write answers; none of them changes what the next one finds, but for the last."""
    url, headers = f"/users/{user_id}", {"If-Match": if_match}
    return [
        client.put(url, json={"username": "new", "email": "new@b.test"}, headers=headers),
        client.patch(url, json={"username": "new"}, headers=headers),
        client.delete(url, headers=headers),
    ]


@pytest.mark.parametrize(
    "if_match", ['"0"', '"x"', '""', "", "x", '"99999999999"', '"4294967295"', '"1", "2"', "\"1' OR '1'='1\"", '"١"']
)
def test_write_of_another_version_is_refused(client: FlaskClient, make_user: MakeUser, if_match: str) -> None:
    user = make_user()
    before = client.get(f"/users/{user.id}")

    for response in writes(client, user.id, if_match.encode().decode("latin-1")):
        assert response.status_code == 412
        assert response.get_json()["code"] == "version_conflict"
        assert response.get_json()["message"].startswith("Somebody has written this in between.")
    after = client.get(f"/users/{user.id}")
    assert (after.get_json(), after.headers["ETag"]) == (before.get_json(), before.headers["ETag"])


def test_weak_etag_allows_no_write(client: FlaskClient, make_user: MakeUser) -> None:
    user = make_user()

    statuses = [response.status_code for response in writes(client, user.id, f"W/{etag_of(client, user.id)}")]

    assert statuses == [412, 412, 412]


@pytest.mark.parametrize("form", ["{0}", '"1", {0}', "*"])
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_write_of_the_known_version_succeeds(client: FlaskClient, make_user: MakeUser, method: str, form: str) -> None:
    user = make_user()
    headers = {"If-Match": form.format(etag_of(client, user.id))}

    response = client.open(
        f"/users/{user.id}", method=method, json={"username": "new", "email": "n@b.test"}, headers=headers
    )

    assert response.status_code == 200


@pytest.mark.parametrize("if_match", ['"1"', "*"])
def test_write_of_an_unknown_user_is_a_404(client: FlaskClient, if_match: str) -> None:
    assert [response.status_code for response in writes(client, 999, if_match)] == [404, 404, 404]


@pytest.mark.parametrize("number", [5, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", mostly_slow(["PUT", "PATCH", "DELETE"], ["PATCH"]))
def test_one_of_two_writers_of_a_version_wins(open_database: str, method: str, number: int) -> None:
    app = app_on(open_database)
    execute(
        open_database,
        f"INSERT INTO users (id, username, email) SELECT i, 'u', i || '@b.test' FROM generate_series(1, {number}) i",
    )
    start = Barrier(2)

    def writer(name: str) -> list[int]:
        client = app.test_client()
        statuses = []
        for user_id in range(1, number + 1):
            headers = {"If-Match": etag_of(client, user_id)}
            start.wait()
            payload = {"username": name, "email": f"{user_id}@b.test"}
            response = client.open(f"/users/{user_id}", method=method, json=payload, headers=headers)
            statuses.append(response.status_code)
            start.wait()
        return statuses

    with ThreadPoolExecutor(2) as pool:
        rounds = zip(*pool.map(writer, ("first", "second")), strict=True)

    lost = 404 if method == "DELETE" else 412
    assert Counter(tuple(sorted(statuses)) for statuses in rounds) == {(200, lost): number}
