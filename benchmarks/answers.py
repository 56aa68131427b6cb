"""Check that all contestants give the same answers and refuse the same bodies, before any of them is measured."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from benchmarks.contestants import Running

NEW = {"username": "ada", "email": "Ada.Lovelace@example.org"}
#: Bodies that are no user: 400, or 422 as FastAPI has it.
BAD_BODIES = (
    "",
    "{",
    "[]",
    '"text"',
    "{}",
    json.dumps({"username": "ada"}),
    json.dumps({"email": "ada@example.org"}),
    json.dumps({"username": "", "email": "ada@example.org"}),
    json.dumps({"username": "a" * 129, "email": "ada@example.org"}),
    json.dumps({"username": ["ada"], "email": "ada@example.org"}),
    json.dumps({"username": None, "email": "ada@example.org"}),
    json.dumps({"username": "ada", "email": ""}),
    json.dumps({"username": "ada", "email": "ada"}),
    json.dumps({"username": "ada", "email": "ada@"}),
    json.dumps({"username": "ada", "email": "ada@example..org"}),
    json.dumps({"username": "ada", "email": f"ada@{'example.' * 16}org"}),
)


class WrongAnswer(click.ClickException):
    """Say which answer is not what it must be."""


def expect(server: Running, method: str, path: str, status: int, body: str | None = None) -> Any:
    """Return the JSON of an answer, or fail where its status or type is another."""
    found, kind, content = server.call(method, path, body)
    if found != status or not kind.startswith("application/json"):
        raise WrongAnswer(
            f"{server.contestant.name}: {method} {path} {body or ''} answered {found} {content.decode()}"
        )
    return json.loads(content)


def shows(found: Any, expected: Any) -> bool:
    """Say whether an answer is as it is expected; more members may follow."""
    if isinstance(expected, dict):
        return all(name in found and shows(found[name], value) for name, value in expected.items())
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(shows, found, expected))
    return bool(found == expected)


def is_now(date: str) -> bool:
    """Say whether a date is one of these seconds."""
    return abs(datetime.now(UTC) - datetime.fromisoformat(date)) < timedelta(seconds=10)


def check(server: Running, users: list[dict[str, Any]]) -> None:
    """Fail unless a server answers each route as the contract says, and refuses what it must.

    Adds one user.

    users: those in its database, as the API shows them
    """
    expected = {
        "/ping": {"status": "success", "message": "pong!"},
        "/users/1": {"status": "success", "data": users[0]},
        "/users": {"status": "success", "data": {"users": users}},
    }
    for path, answer in expected.items():
        if not shows(found := expect(server, "GET", path, 200), answer):
            raise WrongAnswer(f"{server.contestant.name}: GET {path} answered {found}, not {answer}")
    expect(server, "GET", "/users/999999", 404)

    added = expect(server, "POST", "/users", 201, json.dumps(NEW))
    set_by_the_service = {"id": added["data"].get("id"), "created_date": added["data"].get("created_date")}
    answer = {
        "status": "success",
        "message": f"{NEW['email']} was added!",
        "data": {**NEW, **set_by_the_service, "active": True},
    }
    if not shows(added, answer) or added["data"]["id"] <= len(users) or not is_now(added["data"]["created_date"]):
        raise WrongAnswer(f"{server.contestant.name}: POST /users answered {added}, not {answer}")

    expect(server, "POST", "/users", 400, json.dumps(NEW))
    expect(server, "POST", "/users", 400, json.dumps({**NEW, "email": NEW["email"].lower()}))
    for body in BAD_BODIES:
        status, _, content = server.call("POST", "/users", body)
        if status not in (400, 422):
            raise WrongAnswer(f"{server.contestant.name}: POST /users {body} answered {status} {content.decode()}")
