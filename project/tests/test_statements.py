"""Single statements, each of which commits by itself, beside sessions, which do not."""

import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from sqlalchemy import Select, bindparam, event, func, insert, literal, select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from project import db
from project.api.models import User
from project.config import TestingConfig
from project.storage.statements import Statement
from project.tests.conftest import app_on
from project.tests.test_transfer import wait_for

ADD = Statement(
    insert(User).values(username=bindparam("username"), email=bindparam("email")).returning(User.id, User.username)
)
BACKEND: Select[Any] = select(func.pg_backend_pid())


@pytest.fixture
def app_of_one(open_database: str) -> Iterator[Flask]:
    """An application that has a single connection."""
    options = {**TestingConfig.SQLALCHEMY_ENGINE_OPTIONS, "pool_size": 1, "max_overflow": 0}
    app = app_on(open_database, SQLALCHEMY_ENGINE_OPTIONS=options)
    yield app
    with app.app_context():
        db.engine.dispose()


def test_statement_commits_by_itself(app: Flask) -> None:
    with app.app_context():
        user_id, username = ADD.row(username="michael", email="a@b.test")

        with db.engine.connect() as other:
            assert other.scalar(select(User.username).where(User.id == user_id)) == username == "michael"
            states = text("SELECT DISTINCT state FROM pg_stat_activity WHERE datname = current_database()")
            assert set(other.scalars(states)) <= {"active", "idle"}


def test_statement_without_rows_has_no_first(app: Flask) -> None:
    with app.app_context():
        assert Statement(select(User.id).where(User.id == bindparam("key"))).row(key=1) is None


def test_session_stays_one_transaction(app: Flask) -> None:
    with app.app_context():
        ADD.row(username="first", email="taken@b.test")
        db.session.add_all(User(username="u", email=email) for email in ("new@b.test", "taken@b.test"))
        with pytest.raises(IntegrityError):
            db.session.commit()
        db.session.rollback()

        assert db.session.scalars(select(User.email)).all() == ["taken@b.test"]


def test_transaction_of_the_engine_stays_one(app: Flask) -> None:
    with app.app_context():
        ADD.row(username="first", email="taken@b.test")
        with pytest.raises(IntegrityError), db.engine.begin() as connection:
            for email in ("new@b.test", "taken@b.test"):
                connection.execute(insert(User).values(username="u", email=email))

        assert db.session.scalars(select(User.email)).all() == ["taken@b.test"]


def test_refusal_is_the_engines_and_spoils_no_connection(app: Flask) -> None:
    with app.app_context():
        ADD.row(username="first", email="taken@b.test")
        (before,) = Statement(BACKEND).row()

        with pytest.raises(IntegrityError) as refused:
            ADD.row(username="second", email="taken@b.test")

        assert refused.value.orig.diag.constraint_name == "users_email_key"
        assert "[SQL parameters hidden" in str(refused.value)
        assert Statement(BACKEND).row() == (before,)


def test_connection_that_breaks_is_replaced(app: Flask) -> None:
    with app.app_context():
        with pytest.raises(OperationalError) as lost:
            Statement(select(func.pg_terminate_backend(func.pg_backend_pid()))).rows()

        assert lost.value.connection_invalidated
        assert db.engine.pool.checkedout() == 0
        assert Statement(select(literal(1))).row() == (1,)


def test_session_takes_the_connection_of_the_last_statement_and_gives_it_back(app_of_one: Flask) -> None:
    with app_of_one.app_context():
        for _ in range(2):
            assert (backend := Statement(BACKEND).row())
            with db.engine.begin() as connection:
                assert tuple(connection.execute(BACKEND).one()) == backend
                assert db.engine.pool.checkedout() == 1
            assert db.engine.pool.checkedout() == 0


def test_statement_hands_its_connection_to_whoever_waits_for_one(app_of_one: Flask) -> None:
    def take_a_while() -> None:
        with app_of_one.app_context():
            Statement(select(func.pg_sleep(0.5))).rows()

    other = threading.Thread(target=take_a_while)
    with app_of_one.app_context():
        other.start()
        while not db.engine.pool.checkedout():
            time.sleep(0.01)
        with db.engine.connect() as connection:
            assert connection.scalar(select(literal(1))) == 1
    other.join()


def test_statements_at_once_leave_no_more_connections_than_the_pool_keeps(open_database: str) -> None:
    usual = TestingConfig.SQLALCHEMY_ENGINE_OPTIONS
    options = {**usual, "pool_size": 2, "connect_args": {**usual["connect_args"], "application_name": "crowd"}}
    app = app_on(open_database, SQLALCHEMY_ENGINE_OPTIONS=options)
    together = threading.Barrier(5)

    def meet() -> None:
        with app.app_context():
            together.wait()
            Statement(select(func.pg_sleep(0.3))).rows()

    threads = [threading.Thread(target=meet) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # A backend takes a moment to end.
    wait_for(open_database, "SELECT count(*) <= 2 FROM pg_stat_activity WHERE application_name = 'crowd'", True)
    with app.app_context():
        db.engine.dispose()


def test_disposing_of_the_engine_closes_what_statements_handed_on(app_of_one: Flask) -> None:
    with app_of_one.app_context():
        before = Statement(BACKEND).row()
        db.engine.dispose()

        assert Statement(BACKEND).row() != before


def test_statement_does_without_what_is_no_longer_trusted(app_of_one: Flask) -> None:
    with app_of_one.app_context():
        before = Statement(BACKEND).row()
        # As at the first sign of a database that has become a standby.
        db.engine.pool._invalidate_time = time.time()

        assert Statement(BACKEND).row() != before


def test_statement_is_prepared_once_a_connection(app: Flask) -> None:
    with app.app_context():
        for number in range(3):
            ADD.row(username="michael", email=f"{number}@b.test")

        prepared = text("SELECT statement FROM pg_prepared_statements WHERE name = :name")
        for _ in range(2):
            with db.engine.connect() as connection:
                texts = connection.scalars(prepared, {"name": ADD.name}).all()
                assert [found[: found.index("VALUES")].split()[4:6] for found in texts] == [["INTO", "users"]]
                connection.invalidate()
            ADD.row(username="michael", email=f"{uuid4()}@b.test")


def test_transaction_begins_after_a_statement_on_the_same_connection(app: Flask) -> None:
    with app.app_context():
        assert (backend := Statement(BACKEND).row())
        with db.engine.connect() as connection:
            assert tuple(connection.execute(BACKEND).one()) == backend
            connection.execute(text("INSERT INTO users (username, email) VALUES ('ada', 'ada@b.test')"))
            connection.rollback()
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("INSERT INTO users (username, email) VALUES ('bob', 'bob@b.test')"))

        assert db.session.scalars(text("SELECT username FROM users")).all() == ["bob"]


def test_statement_that_was_discarded_is_prepared_anew(app: Flask) -> None:
    with app.app_context():
        assert Statement(BACKEND).row()
        literally = Statement(select(literal("here")))
        assert literally.row() == ("here",)
        with db.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("DISCARD ALL"))

        assert literally.row() == ("here",)


def test_statement_outlives_a_change_of_its_table(app: Flask) -> None:
    every = Statement(select(text("*")).select_from(text("changing")))
    with app.app_context():
        try:
            with db.engine.begin() as connection:
                connection.execute(text("CREATE TABLE changing AS SELECT 1 AS first"))
            assert every.row() == (1,)
            with db.engine.begin() as connection:
                connection.execute(text("ALTER TABLE changing ADD second integer DEFAULT 2"))

            assert every.row() == (1, 2)
        finally:
            with db.engine.begin() as connection:
                connection.execute(text("DROP TABLE changing"))


def test_listeners_of_the_engine_hear_of_statements(app: Flask) -> None:
    heard = []

    def listen(*told: Any) -> None:
        heard.append(told[2:4])

    with app.app_context():
        event.listen(db.engine, "before_cursor_execute", listen)
        ADD.row(username="michael", email="a@b.test")
        event.remove(db.engine, "before_cursor_execute", listen)

    ((statement, parameters),) = heard
    assert statement.startswith("INSERT INTO users")
    assert parameters == {"username": "michael", "email": "a@b.test"}
