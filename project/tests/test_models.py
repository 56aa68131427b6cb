"""What holds in the database, whoever writes."""

from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from sqlalchemy.exc import DataError, IntegrityError

from project import db
from project.api.models import Note, Summary, User
from project.api.validation import parse_id
from project.tests.utils import add_user, recreate_db


def test_user_is_shown_as_json(app: Flask) -> None:
    with app.app_context():
        user = add_user("michael", "michael@testdriven.io")

        shown = user.to_json()

    created_date = datetime.strptime(shown.pop("created_date"), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    # More members may follow.
    assert list(shown.items())[:4] == [
        ("id", user.id),
        ("username", "michael"),
        ("email", "michael@testdriven.io"),
        ("active", True),
    ]
    assert abs(datetime.now(UTC) - created_date) < timedelta(minutes=5)


@pytest.mark.parametrize(
    ("username", "email", "constraint"),
    [
        ("", "a@b.test", "users_username_not_blank"),
        ("  ", "a@b.test", "users_username_not_blank"),
        ("a", " a@b.test", "users_email_is_address"),
        ("a", "@b.test", "users_email_is_address"),
        ("a", "", "users_email_is_address"),
        (None, "a@b.test", "username"),
        ("a", None, "email"),
    ],
)
def test_database_refuses_what_is_no_user(app: Flask, username: str, email: str, constraint: str) -> None:
    with app.app_context(), pytest.raises(IntegrityError, match=constraint):
        add_user(username, email)


@pytest.mark.parametrize(("username", "email"), [("x" * 129, "a@b.test"), ("a", f"{'x' * 129}@b.test")])
def test_database_refuses_what_is_too_long(app: Flask, username: str, email: str) -> None:
    with app.app_context(), pytest.raises(DataError, match="too long"):
        add_user(username, email)


@pytest.mark.parametrize("second", ["Jürgen@Example.de", "JÜRGEN@EXAMPLE.DE"])
def test_database_refuses_an_address_in_another_case(app: Flask, second: str) -> None:
    with app.app_context():
        add_user("first", "jürgen@example.de")
        with pytest.raises(IntegrityError, match="users_email_key"):
            add_user("second", second)


@pytest.mark.parametrize(
    ("title", "description", "constraint"),
    [
        ("ab", "something else", "notes_title_long_enough"),
        ("something", "ab", "notes_description_long_enough"),
        (None, "something else", "title"),
        ("something", None, "description"),
    ],
)
def test_database_refuses_what_is_no_note(app: Flask, title: str, description: str, constraint: str) -> None:
    with app.app_context(), pytest.raises(IntegrityError, match=constraint):
        db.session.add(Note(title=title, description=description))
        db.session.commit()


def add_summary(**members: str) -> Summary:
    """Add a summary to the database of the current application."""
    summary = Summary(**{"url": "https://example.org/", **members})
    db.session.add(summary)
    db.session.commit()
    return summary


def test_new_summary_is_pending_and_empty(app: Flask) -> None:
    with app.app_context():
        summary = add_summary()

        shown = summary.to_json()

    created_at = datetime.strptime(shown.pop("created_at"), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert shown == {"id": summary.id, "url": "https://example.org/", "summary": "", "state": "pending"}
    assert abs(datetime.now(UTC) - created_at) < timedelta(minutes=5)


def test_failed_summary_shows_its_reason(app: Flask) -> None:
    with app.app_context():
        shown = add_summary(state="failed", reason="The page has no text.").to_json()

    assert (shown["state"], shown["reason"]) == ("failed", "The page has no text.")


@pytest.mark.parametrize(
    ("members", "constraint"),
    [
        ({"state": "lost"}, "summaries_state_is_known"),
        ({"state": "failed"}, "summaries_failed_has_reason"),
        ({"state": "done", "reason": "None."}, "summaries_failed_has_reason"),
        ({"url": None}, "url"),
    ],
)
def test_database_refuses_what_is_no_summary(app: Flask, members: dict[str, str], constraint: str) -> None:
    with app.app_context(), pytest.raises(IntegrityError, match=constraint):
        add_summary(**members)


def test_database_refuses_a_url_that_is_too_long(app: Flask) -> None:
    with app.app_context(), pytest.raises(DataError, match="too long"):
        add_summary(url="x" * 2084)


def test_id_does_not_run_out(app: Flask) -> None:
    with app.app_context():
        user = User(id=2**62, username="a", email="a@b.test")
        db.session.add(user)
        db.session.commit()

        assert app.test_client().get(f"/users/{2**62}").get_json()["data"]["id"] == 2**62


@pytest.mark.parametrize("text", ["1", "42", "1000000000000000000", "9223372036854775807"])
def test_id_is_a_positive_number(text: str) -> None:
    assert parse_id(text) == int(text)


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "+1", "01", "1.0", " 1", "1\n", "\u0661", "9223372036854775808", "9" * 5000]
)
def test_everything_else_is_no_id(text: str) -> None:
    assert parse_id(text) is None


def test_whole_schema_can_be_made_anew(app: Flask) -> None:
    with app.app_context():
        add_user("michael", "michael@testdriven.io")

        recreate_db()

        assert db.session.query(User).count() == 0
