"""Many writers at once, on connections of their own."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from project import db
from project.api.models import User
from project.tests.conftest import app_on, execute
from project.tests.utils import add_user

#: Each has a connection of its own, and other tests run beside these: Postgres takes a hundred.
WRITERS = 24
SPELLINGS = ["new@testdriven.io", "NEW@testdriven.io", " new@testdriven.io", "New@TestDriven.io\t"]


@pytest.fixture
def app(open_database: str) -> Iterator[Flask]:
    """An application that commits for real."""
    app = app_on(open_database)
    yield app
    with app.app_context():
        db.engine.dispose()


def at_once(write: Callable[[int], TestResponse]) -> Counter[tuple[int, str | None]]:
    """Let all writers write at the same moment; return how often each status and code was answered."""
    start = Barrier(WRITERS)

    def writer(number: int) -> tuple[int, str | None]:
        start.wait()
        response = write(number)
        return response.status_code, response.get_json().get("code")

    with ThreadPoolExecutor(WRITERS) as pool:
        return Counter(pool.map(writer, range(WRITERS)))


def test_one_of_many_writers_wins_a_new_address(app: Flask, open_database: str) -> None:
    def post(number: int) -> TestResponse:
        email = SPELLINGS[number % len(SPELLINGS)]
        return app.test_client().post("/users", json={"username": f"writer {number}", "email": email})

    assert at_once(post) == {(201, None): 1, (400, "email_exists"): WRITERS - 1}
    assert execute(open_database, "SELECT count(*) FROM users") == [(1,)]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_one_of_many_users_gets_the_address(app: Flask, open_database: str, method: str) -> None:
    with app.app_context():
        ids = [add_user(f"user {number}", f"{number}@testdriven.io").id for number in range(WRITERS)]

    def change(number: int) -> TestResponse:
        payload = {"username": "same", "email": SPELLINGS[number % len(SPELLINGS)]}
        return app.test_client().open(f"/users/{ids[number]}", method=method, json=payload)

    assert at_once(change) == {(200, None): 1, (400, "email_exists"): WRITERS - 1}
    assert execute(open_database, "SELECT count(*) FROM users WHERE username = 'same'") == [(1,)]


def test_user_removed_in_between_is_a_404(app: Flask, open_database: str) -> None:
    with app.app_context():
        user_id = add_user("michael", "michael@testdriven.io").id

    def write(number: int) -> TestResponse:
        client = app.test_client()
        if number % 2:
            return client.delete(f"/users/{user_id}")
        return client.patch(f"/users/{user_id}", json={"username": f"writer {number}"})

    answers = at_once(write)

    assert set(answers) <= {(200, None), (404, "not_found")}
    assert answers[(404, "not_found")] >= WRITERS // 2 - 1
    with app.app_context():
        assert db.session.get(User, user_id) is None
