"""The summaries over HTTP, row by row of the contract, on both forms of each path."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from project import db
from project.api.models import Summary
from project.tests.conftest import app_on, execute, mostly_slow
from project.tests.test_notes import FORMS, ODD_IDS

URL = "https://foo.bar"
SUMMARY = {"url": URL, "summary": "It says what it says."}

MakeSummary = Callable[..., Summary]


@pytest.fixture
def make_summary(app: Flask) -> MakeSummary:
    """A function that adds a summary."""

    def make_summary(**members: Any) -> Summary:
        with app.app_context():
            summary = Summary(**{"url": URL, **members})
            db.session.add(summary)
            db.session.commit()
            return summary

    return make_summary


@FORMS
def test_url_is_taken_to_be_summarised(client: FlaskClient, slash: str) -> None:
    response = client.post(f"/summaries{slash}", json={"url": URL})

    assert response.status_code == 201
    asked = response.get_json()
    assert asked == {"id": asked["id"], "url": URL}
    assert response.headers["Location"] == f"/summaries/{asked['id']}/"
    shown = client.get(response.headers["Location"]).get_json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", shown.pop("created_at"))
    assert shown == {**asked, "summary": "", "state": "pending"}


@FORMS
def test_summary_is_shown(client: FlaskClient, make_summary: MakeSummary, slash: str) -> None:
    summary = make_summary(summary="Text.", state="done")

    response = client.get(f"/summaries/{summary.id}{slash}")

    assert (response.status_code, response.get_json()) == (200, summary.to_json())
    assert list(response.get_json()) == ["id", "url", "summary", "created_at", "state"]


def test_failed_summary_tells_its_reason(client: FlaskClient, make_summary: MakeSummary) -> None:
    summary = make_summary(state="failed", reason="The page has no text.")

    assert client.get(f"/summaries/{summary.id}/").get_json()["reason"] == "The page has no text."


@FORMS
def test_summaries_are_listed_by_id_in_pages(client: FlaskClient, make_summary: MakeSummary, slash: str) -> None:
    assert client.get(f"/summaries{slash}").get_json() == []
    summaries = [make_summary(url=f"{URL}/{name}").to_json() for name in ("zoo", "art", "mid")]

    first = client.get(f"/summaries{slash}?limit=2")
    (link,) = re.findall('^<(.*)>; rel="next"$', first.headers["Link"])
    last = client.get(link)

    assert first.get_json() + last.get_json() == client.get(f"/summaries{slash}").get_json() == summaries
    assert "Link" not in last.headers


@FORMS
def test_put_replaces_a_summary(client: FlaskClient, make_summary: MakeSummary, slash: str) -> None:
    summary = make_summary(state="failed", reason="The page has no text.", attempts=5)

    response = client.put(f"/summaries/{summary.id}{slash}", json=SUMMARY)

    shown = {**summary.to_json(), **SUMMARY, "state": "done"}
    del shown["reason"]
    assert (response.status_code, response.get_json()) == (200, shown)
    assert client.get(f"/summaries/{summary.id}").get_json() == shown


def test_empty_text_asks_for_another(client: FlaskClient, make_summary: MakeSummary, app: Flask) -> None:
    summary = make_summary(state="failed", reason="The page has no text.", attempts=5)

    response = client.put(f"/summaries/{summary.id}/", json={"url": f"{URL}/new", "summary": ""})

    assert (response.get_json()["state"], response.get_json()["url"]) == ("pending", f"{URL}/new")
    with app.app_context():
        assert db.session.get_one(Summary, summary.id).attempts == 0


@pytest.mark.parametrize("members", [{}, {"summary": "Text.", "state": "done"}])
def test_what_get_gave_can_be_put_back(
    client: FlaskClient, make_summary: MakeSummary, members: dict[str, str]
) -> None:
    summary = make_summary(**members).to_json()

    assert client.put(f"/summaries/{summary['id']}/", json=summary).get_json() == summary


@FORMS
def test_deleted_summary_is_answered_as_it_was(client: FlaskClient, make_summary: MakeSummary, slash: str) -> None:
    summary = make_summary()

    response = client.delete(f"/summaries/{summary.id}{slash}")

    assert (response.status_code, response.get_json()) == (200, summary.to_json())
    assert client.get(f"/summaries/{summary.id}").status_code == 404


@FORMS
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_unknown_summary_is_a_404(client: FlaskClient, method: str, slash: str) -> None:
    response = client.open(f"/summaries/999{slash}", method=method, json=SUMMARY)

    assert (response.status_code, response.get_json()["detail"]) == (404, "Summary not found")


@FORMS
@pytest.mark.parametrize("odd_id", mostly_slow(ODD_IDS, ODD_IDS[::4]))
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_odd_id_is_a_422(client: FlaskClient, method: str, odd_id: str, slash: str) -> None:
    response = client.open(f"/summaries/{odd_id}{slash}", method=method, json=SUMMARY)

    assert (response.status_code, response.get_json()["detail"][0]["loc"]) == (422, ["path", "id"])


#: Texts that are no URL, with the error's type.
BAD_URLS = {
    "": "url",
    "foo": "url",
    "foo.bar": "url",
    "invalid://url": "url",
    "ftp://foo.bar/": "url",
    "file:///etc/hosts": "url",
    "javascript:alert(1)": "url",
    "http://": "url",
    "https:///": "url",
    "http:foo.bar": "url",
    "http:/foo.bar": "url",
    "http:\\\\foo.bar": "url",
    "http://foo.bar\\@b.test/": "url",
    "http://foo.bar:99999/": "url",
    "http://foo bar/": "url",
    "http://foo.bar/a b": "url",
    "http://[::1": "url",
    "http://foo.bar/\nb": "control_character",
    "http://foo.bar/\0": "control_character",
    f"http://foo.bar/{'x' * 2069}": "string_too_long",
}


@FORMS
@pytest.mark.parametrize("url", mostly_slow(BAD_URLS, list(BAD_URLS)[::3]))
def test_bad_url_is_a_422(client: FlaskClient, url: str, slash: str) -> None:
    for method, path, more in (("POST", "/summaries", {}), ("PUT", "/summaries/999", {"summary": ""})):
        response = client.open(path + slash, method=method, json={"url": url, **more})

        assert response.status_code == 422
        assert response.get_json()["code"] == "invalid_payload"
        (fault,) = response.get_json()["detail"]
        assert (fault["loc"], fault["type"]) == (["body", "url"], BAD_URLS[url])
        assert fault["msg"].endswith(".")


GOOD_URLS = [
    "http://b.test",
    "https://foo.bar/",
    "HTTP://Foo.Bar/Path?q=1#part",
    "http://foo.bar:8080/a%20b",
    "http://[::1]:80/",
    "http://127.0.0.1/",
    "https://exämple.de/ü",
    f"http://foo.bar/{'x' * 2068}",
]


@pytest.mark.parametrize("url", GOOD_URLS)
def test_url_is_kept_as_it_was_written(client: FlaskClient, url: str) -> None:
    response = client.post("/summaries/", json={"url": f" {url} "})

    assert (response.status_code, response.get_json().get("url")) == (201, url)


BAD_SUMMARIES: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "empty": ({}, [("url", "missing"), ("summary", "missing")]),
    "no text": ({"url": URL}, [("summary", "missing")]),
    "no URL": ({"summary": "Text."}, [("url", "missing")]),
    "null": ({"url": URL, "summary": None}, [("summary", "string_type")]),
    "number": ({"url": 1, "summary": "Text."}, [("url", "string_type")]),
    "too long": ({"url": URL, "summary": "x" * 10_001}, [("summary", "string_too_long")]),
    "NUL": ({"url": URL, "summary": "\0"}, [("summary", "control_character")]),
    "unknown member": ({**SUMMARY, "text": ""}, [("text", "extra_forbidden")]),
}


@FORMS
@pytest.mark.parametrize("name", BAD_SUMMARIES)
def test_bad_summary_is_a_422(client: FlaskClient, name: str, slash: str) -> None:
    payload, faults = BAD_SUMMARIES[name]

    response = client.put(f"/summaries/999{slash}", json=payload)

    assert response.status_code == 422
    found = [(fault["loc"], fault["type"]) for fault in response.get_json()["detail"]]
    assert found == [(["body", member], kind) for member, kind in faults]


@pytest.mark.parametrize("member", ["summary", "state", "attempts"])
def test_only_the_url_can_be_chosen_at_first(client: FlaskClient, member: str) -> None:
    response = client.post("/summaries/", json={"url": URL, member: "done"})

    assert response.status_code == 422
    assert response.get_json()["detail"][0]["loc"] == ["body", member]


def test_write_of_an_old_version_is_refused(open_database: str) -> None:
    client = app_on(open_database).test_client()
    posted = client.post("/summaries/", json={"url": URL})
    url, headers = posted.headers["Location"], {"If-Match": posted.headers["ETag"]}
    assert client.get(url, headers={"If-None-Match": posted.headers["ETag"]}).status_code == 304
    execute(open_database, "UPDATE summaries SET summary = 'Text.', state = 'done'")

    for response in (client.put(url, json=SUMMARY, headers=headers), client.delete(url, headers=headers)):
        assert (response.status_code, response.get_json()["code"]) == (412, "version_conflict")
    assert client.get(url).get_json()["summary"] == "Text."
