"""The notes over HTTP, row by row of the contract, on both forms of each path."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from project import db
from project.api.models import Note
from project.tests.conftest import app_on, execute, mostly_slow

NOTE = {"title": "something", "description": "something else"}
#: What is written after the path without the closing slash.
FORMS = pytest.mark.parametrize("slash", ["", "/"])

MakeNote = Callable[..., Note]


@pytest.fixture
def make_note(app: Flask) -> MakeNote:
    """A function that adds a note."""

    def make_note(title: str = "something", description: str = "something else") -> Note:
        with app.app_context():
            note = Note(title=title, description=description)
            db.session.add(note)
            db.session.commit()
            return note

    return make_note


@FORMS
def test_added_note_is_answered_bare(client: FlaskClient, slash: str) -> None:
    response = client.post(f"/notes{slash}", json=NOTE)

    assert response.status_code == 201
    note = response.get_json()
    assert list(note) == ["id", "title", "description", "created_date"]
    assert {name: note[name] for name in NOTE} == NOTE
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", note["created_date"])
    assert response.headers["Location"] == f"/notes/{note['id']}/"
    assert client.get(response.headers["Location"]).get_json() == note


@FORMS
def test_notes_are_listed_by_id(client: FlaskClient, make_note: MakeNote, slash: str) -> None:
    assert client.get(f"/notes{slash}").get_json() == []
    notes = [make_note(title).to_json() for title in ("zoo", "art", "mid")]

    response = client.get(f"/notes{slash}")

    assert (response.status_code, response.get_json()) == (200, notes)
    assert "Link" not in response.headers


@FORMS
def test_note_is_shown(client: FlaskClient, make_note: MakeNote, slash: str) -> None:
    note = make_note()

    response = client.get(f"/notes/{note.id}{slash}")

    assert (response.status_code, response.get_json()) == (200, note.to_json())


@FORMS
def test_put_replaces_a_note(client: FlaskClient, make_note: MakeNote, slash: str) -> None:
    note = make_note()
    new = {"title": "someone", "description": "someone else"}

    response = client.put(f"/notes/{note.id}{slash}", json=new)

    assert (response.status_code, response.get_json()) == (200, {**note.to_json(), **new})
    assert client.get(f"/notes/{note.id}").get_json() == response.get_json()


@FORMS
def test_deleted_note_is_answered_as_it_was(client: FlaskClient, make_note: MakeNote, slash: str) -> None:
    note = make_note()

    response = client.delete(f"/notes/{note.id}{slash}")

    assert (response.status_code, response.get_json()) == (200, note.to_json())
    assert client.get(f"/notes/{note.id}").status_code == 404


@FORMS
@pytest.mark.parametrize("unknown", ["999", str(2**63 - 1), str(2**63), "9" * 5000])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_unknown_note_is_a_404(
    client: FlaskClient, make_note: MakeNote, method: str, unknown: str, slash: str
) -> None:
    make_note()

    response = client.open(f"/notes/{unknown}{slash}", method=method, json=NOTE)

    assert response.status_code == 404
    error = response.get_json()
    assert (error["detail"], error["message"], error["code"]) == ("Note not found", "Note not found", "not_found")


ODD_IDS = [
    "0",
    "-1",
    "+1",
    "blah",
    "1.0",
    "1e0",
    "0x1",
    "01",
    "00",
    "%20",
    "%201",
    "1%0A",
    "1%00",
    "%D9%A1",
    "²",
    "null",
]


@FORMS
@pytest.mark.parametrize("odd_id", mostly_slow(ODD_IDS, ODD_IDS[::4]))
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_odd_id_is_a_422(client: FlaskClient, make_note: MakeNote, method: str, odd_id: str, slash: str) -> None:
    make_note()

    response = client.open(f"/notes/{odd_id}{slash}", method=method, json=NOTE)

    assert response.status_code == 422
    error = response.get_json()
    assert (error["status"], error["message"], error["code"]) == ("fail", "Invalid path.", "invalid_path")
    fault = {"loc": ["path", "id"], "msg": "Must be a whole number of 1 or more.", "type": "id"}
    assert error["detail"] == [fault]


def note(**members: Any) -> dict[str, Any]:
    """Return a payload that is right but for these members."""
    return {**NOTE, **members}


#: Payloads that no call takes, with each member at fault and the error's type.
BAD_NOTES: dict[str, tuple[Any, list[tuple[list[str], str]]]] = {
    "empty": ({}, [(["title"], "missing"), (["description"], "missing")]),
    "no title": ({"description": "bar"}, [(["title"], "missing")]),
    "no description": ({"title": "something"}, [(["description"], "missing")]),
    "title too short": (note(title="ab"), [(["title"], "string_too_short")]),
    "description too short": (note(description="1"), [(["description"], "string_too_short")]),
    "both too short": (
        {"title": "", "description": ""},
        [(["title"], "string_too_short"), (["description"], "string_too_short")],
    ),
    "title too long": (note(title="x" * 51), [(["title"], "string_too_long")]),
    "description too long": (note(description="x" * 51), [(["description"], "string_too_long")]),
    "number": (note(title=123), [(["title"], "string_type")]),
    "null": (note(description=None), [(["description"], "string_type")]),
    "list": (note(title=["something"]), [(["title"], "string_type")]),
    "NUL": (note(title="some\0thing"), [(["title"], "control_character")]),
    "line feed": (note(description="some\nthing"), [(["description"], "control_character")]),
    "unknown member": (note(text="something"), [(["text"], "extra_forbidden")]),
    "no object": ([NOTE], [([], "object_type")]),
}


@FORMS
@pytest.mark.parametrize("name", BAD_NOTES)
def test_bad_note_is_a_422(client: FlaskClient, make_note: MakeNote, name: str, slash: str) -> None:
    payload, faults = BAD_NOTES[name]
    there = make_note()

    # The body is checked before the id.
    for method, path in (
        ("POST", "/notes"),
        ("PUT", f"/notes/{there.id}"),
        ("PUT", "/notes/999"),
        ("PUT", "/notes/0"),
    ):
        response = client.open(path + slash, method=method, json=payload)

        assert response.status_code == 422
        error = response.get_json()
        assert list(error) == ["status", "message", "code", "detail", "request_id"]
        assert (error["status"], error["message"], error["code"]) == ("fail", "Invalid payload.", "invalid_payload")
        assert [(fault["loc"], fault["type"]) for fault in error["detail"]] == [
            (["body", *member], kind) for member, kind in faults
        ]
        assert all(set(fault) == {"loc", "msg", "type"} and fault["msg"] for fault in error["detail"])
    assert client.get("/notes").get_json() == [there.to_json()]


@pytest.mark.parametrize("body", ["", "{", '{"title": "something", "title": "something"}', '{"title": NaN}'])
def test_body_that_is_no_json_is_a_422(client: FlaskClient, body: str) -> None:
    response = client.post("/notes/", data=body, content_type="application/json")

    assert (response.status_code, response.get_json()["code"]) == (422, "invalid_payload")


def test_message_of_a_length_names_the_least(client: FlaskClient) -> None:
    error = client.post("/notes/", json=note(title="ab", description="x" * 51)).get_json()

    assert [fault["msg"] for fault in error["detail"]] == [
        "Must have 3 or more characters.",
        "Must have at most 50 characters.",
    ]


@pytest.mark.parametrize("text", ["abc", "x" * 50, "   ", " a ", "名前だ", "🦊" * 50, "o'; DROP TABLE notes; --"])
def test_text_is_kept_as_it_was_written(client: FlaskClient, text: str) -> None:
    response = client.post("/notes/", json={"title": text, "description": text})

    assert response.status_code == 201
    assert (response.get_json()["title"], response.get_json()["description"]) == (text, text)


def test_what_get_gave_can_be_put_back(client: FlaskClient, make_note: MakeNote) -> None:
    note = make_note().to_json()

    assert client.put(f"/notes/{note['id']}/", json=note).get_json() == note


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/notes"), ("PATCH", "/notes/1"), ("POST", "/notes/1")])
@FORMS
def test_other_methods_are_a_405(client: FlaskClient, method: str, path: str, slash: str) -> None:
    response = client.open(path + slash, method=method)

    assert response.status_code == 405
    assert {"GET", "HEAD", "OPTIONS"} < set(response.headers["Allow"].split(", "))


@pytest.mark.parametrize("path", ["/notes//", "/notes/1//", "/notes/1/more", "/notesmore"])
def test_other_paths_are_a_404(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 404


@FORMS
def test_pages_give_every_note_once(client: FlaskClient, make_note: MakeNote, slash: str) -> None:
    notes = [make_note(f"note {number}").to_json() for number in range(7)]

    pages, url = [], f"/notes{slash}?limit=3"
    while url:
        response = client.get(url)
        pages.append(response.get_json())
        (url,) = re.findall('^<(.*)>; rel="next"$', response.headers.get("Link", "")) or [""]
        assert not url or url.startswith(f"/notes{slash}?limit=3&after=")

    assert [len(page) for page in pages] == [3, 3, 1]
    assert sum(pages, []) == notes


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "after=", "after=x", "sort=id", "limit=1&limit=2"]
)
def test_odd_query_is_a_422(client: FlaskClient, query: str) -> None:
    response = client.get(f"/notes/?{query}")

    assert response.status_code == 422
    assert response.get_json()["code"] == "invalid_query"
    assert response.get_json()["detail"][0]["loc"][0] == "query"


def test_cursor_of_another_listing_is_refused(client: FlaskClient, make_note: MakeNote) -> None:
    for title in ("one", "two"):
        make_note(title)
    link = client.get("/notes/?limit=1").headers["Link"]
    (after,) = re.findall("after=([^&>]+)", link)

    assert client.get(f"/notes/?after={after}").status_code == 200
    assert client.get(f"/summaries/?after={after}").status_code == 422
    assert client.get(f"/users?after={after}").status_code == 400


def test_known_version_is_not_sent_again(client: FlaskClient) -> None:
    posted = client.post("/notes/", json=NOTE)
    url, version = posted.headers["Location"], posted.headers["ETag"]

    shown = client.get(url, headers={"If-None-Match": version})
    assert (shown.status_code, shown.data, shown.headers["ETag"]) == (304, b"", version)
    put = client.put(url, json=NOTE)
    assert put.headers["ETag"] == client.get(url).headers["ETag"] != version
    assert client.get(url, headers={"If-None-Match": version}).status_code == 200


def test_write_of_an_old_version_is_refused(open_database: str) -> None:
    client = app_on(open_database).test_client()
    posted = client.post("/notes/", json=NOTE)
    url, old = posted.headers["Location"], {"If-Match": posted.headers["ETag"]}
    new = {"If-Match": client.put(url, json=note(title="newer"), headers=old).headers["ETag"]}

    for response in (client.put(url, json=NOTE, headers=old), client.delete(url, headers=old)):
        assert (response.status_code, response.get_json()["code"]) == (412, "version_conflict")
    assert client.put("/notes/999/", json=NOTE, headers=old).status_code == 404
    assert execute(open_database, "SELECT title FROM notes") == [("newer",)]
    assert client.delete(url, headers=new).get_json()["title"] == "newer"
