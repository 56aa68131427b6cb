"""The one table of constraints, and all that reads it."""

from collections.abc import Iterator

import psycopg2
import pytest
from flask import Flask
from flask.testing import FlaskClient

from project import db
from project.api.constraints import CONSTRAINTS, Constraint, constraints_of
from project.api.models import Note, User
from project.config import ProductionConfig
from project.openapi.document import document
from project.tests.conftest import app_on, execute
from project.tests.fuzzing import STATE
from project.tests.test_notes import NOTE


def test_each_constraint_is_in_the_schema_with_its_member() -> None:
    tables = db.metadata.tables.values()
    named = {str(found.name): table for table in tables for found in (*table.constraints, *table.indexes)}

    for name, constraint in CONSTRAINTS.items():
        assert name in named, f"models.py has no constraint {name}"
        assert constraint.member in named[name].columns, f"{constraint.member} is no column of {named[name].name}"
        assert constraint in constraints_of(named[name])


def test_each_code_is_told_once_and_known_to_the_fuzz_tests() -> None:
    codes = [constraint.code for constraint in CONSTRAINTS.values()]

    assert len(set(codes)) == len(codes)
    assert set(codes) <= STATE


@pytest.fixture
def unique_title(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[Constraint]:
    """A constraint that makes the titles of notes unique, and its line in the table."""
    url = app.config["SQLALCHEMY_DATABASE_URI"].render_as_string(hide_password=False)
    constraint = Constraint("title", 409, "This title is taken. Choose another one.", "title_exists")
    monkeypatch.setitem(CONSTRAINTS, "notes_title_key", constraint)
    execute(url, "ALTER TABLE notes ADD CONSTRAINT notes_title_key UNIQUE (title)")
    yield constraint
    execute(url, "ALTER TABLE notes DROP CONSTRAINT notes_title_key")


def test_line_of_the_table_is_all_that_a_unique_member_needs(client: FlaskClient, unique_title: Constraint) -> None:
    client.post("/notes/", json=NOTE)
    other = client.post("/notes/", json={**NOTE, "title": "other"}).headers["Location"]

    for response in (client.post("/notes/", json=NOTE), client.put(other, json=NOTE)):
        body = response.get_json()
        assert response.status_code == unique_title.status
        assert (body["message"], body["code"]) == (unique_title.message, unique_title.code)


def test_document_tells_of_a_unique_member(monkeypatch: pytest.MonkeyPatch) -> None:
    constraint = Constraint("title", 409, "This title is taken. Choose another one.", "title_exists")
    monkeypatch.setitem(CONSTRAINTS, "notes_title_long_enough", constraint)
    paths = document(app_on("postgresql://x/y"))["paths"]

    for path, method in (("/notes/", "post"), ("/notes/{id}/", "put")):
        examples = paths[path][method]["responses"]["409"]["content"]["application/json"]["examples"]
        assert examples["title_exists"]["value"]["message"] == constraint.message
    assert "409" not in paths["/notes/{id}/"]["delete"]["responses"]
    assert constraints_of(Note.__table__) == [constraint]


def raised(url: str, *statements: str) -> psycopg2.Error:
    """Return the error of psycopg2 that statements end in."""
    with pytest.raises(psycopg2.Error) as error:
        execute(url, *statements)
    return error.value


DUPLICATE = ["INSERT INTO users (username, email) VALUES ('a', 'a@b.test')"] * 2
READ_ONLY = ["SET default_transaction_read_only = on", DUPLICATE[0]]


@pytest.mark.parametrize(
    ("statements", "status", "code"),
    [
        (DUPLICATE, 400, "email_exists"),
        (["SELECT * FROM nowhere"], 503, "service_unavailable"),
        (["SELECT nothing FROM users"], 503, "service_unavailable"),
        (READ_ONLY, 503, "service_unavailable"),
        (["SET statement_timeout = 10", "SELECT pg_sleep(1)"], 503, "service_unavailable"),
        (["INSERT INTO users (username, email) VALUES (' ', 'a@b.test')"], 500, "internal_server_error"),
        (["SELEC 1"], 500, "internal_server_error"),
    ],
)
def test_error_of_the_driver_is_answered_as_one_of_sqlalchemy(
    open_database: str, statements: list[str], status: int, code: str
) -> None:
    app = app_on(open_database, ProductionConfig, AUTH_REQUIRED=False)
    error = raised(open_database, *statements)
    app.add_url_rule("/refused", view_func=lambda: raise_again(error))

    response = app.test_client().get("/refused")

    assert (response.status_code, response.get_json()["code"]) == (status, code)


def raise_again(error: Exception) -> str:
    """Raise an error."""
    raise error


def test_email_is_the_member_that_the_contract_names() -> None:
    assert constraints_of(User.__table__) == [
        Constraint("email", 400, "Sorry. That email already exists.", "email_exists")
    ]
