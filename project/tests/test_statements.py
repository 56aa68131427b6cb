"""Single statements, each of which commits by itself, beside sessions, which do not."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
import pytest
from flask import Flask
from psycopg2.errors import UniqueViolation
from sqlalchemy import Select, bindparam, func, insert, literal, select, text
from sqlalchemy.exc import IntegrityError, InternalError

from project import db
from project.api.models import User
from project.config import TestingConfig
from project.storage.connections import connections
from project.storage.statements import Statement
from project.tests.conftest import app_on, execute
from project.tests.test_transfer import wait_for

ADD = Statement(
    insert(User).values(username=bindparam("username"), email=bindparam("email")).returning(User.id, User.username)
)
BACKEND: Select[Any] = select(func.pg_backend_pid())


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


def test_refusal_spoils_no_connection(app: Flask) -> None:
    with app.app_context():
        ADD.row(username="first", email="taken@b.test")
        before = Statement(BACKEND).row()

        with pytest.raises(UniqueViolation) as refused:
            ADD.row(username="second", email="taken@b.test")

        assert refused.value.diag.constraint_name == "users_email_key"
        assert Statement(BACKEND).row() == before


def test_connection_that_breaks_is_replaced(app: Flask) -> None:
    with app.app_context():
        with pytest.raises(psycopg2.OperationalError):
            Statement(select(func.pg_terminate_backend(func.pg_backend_pid()))).rows()

        assert Statement(select(literal(1))).row() == (1,)


def test_connection_that_the_database_closed_is_replaced(app: Flask, open_database: str) -> None:
    with app.app_context():
        (backend,) = Statement(BACKEND).row() or ()
        execute(open_database, f"SELECT pg_terminate_backend({backend}, 5000)")

        assert Statement(BACKEND).row() != (backend,)


def test_each_thread_keeps_its_connection(app: Flask) -> None:
    def backend() -> Any:
        with app.app_context():
            return Statement(BACKEND).row()

    with ThreadPoolExecutor(1) as thread:
        others = {thread.submit(backend).result() for _ in range(3)}

    assert len(others) == 1 and {backend() for _ in range(3)} != others


def test_connection_is_closed_with_its_thread(app: Flask, open_database: str) -> None:
    def backend() -> Any:
        with app.app_context():
            return Statement(BACKEND).row()

    with ThreadPoolExecutor(1) as thread:
        ((pid,),) = [thread.submit(backend).result()]

    wait_for(open_database, f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}", 0)


def test_child_process_opens_connections_of_its_own(app: Flask) -> None:
    with app.app_context():
        before = Statement(BACKEND).row()
        read, write = os.pipe()
        if not (child := os.fork()):
            os.write(write, str(Statement(BACKEND).row()).encode())
            # Nothing of the tests' own end is to run here.
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)

        assert os.read(read, 100).decode() not in ("", str(before))
        assert Statement(BACKEND).row() == before
    os.close(read)
    os.close(write)


def test_session_waits_for_no_statement(open_database: str) -> None:
    options = {**TestingConfig.SQLALCHEMY_ENGINE_OPTIONS, "pool_size": 1, "max_overflow": 0}
    app = app_on(open_database, SQLALCHEMY_ENGINE_OPTIONS=options)
    with app.app_context():
        with db.engine.connect() as connection:
            assert connection.scalar(BACKEND) != (Statement(BACKEND).row() or ())[0]
        db.engine.dispose()


def test_all_threads_leave_a_database_that_has_become_read_only(app: Flask) -> None:
    with app.app_context():
        before = Statement(BACKEND).row()
        with db.engine.connect() as connection, pytest.raises(InternalError):
            connection.execute(text("SET TRANSACTION READ ONLY"))
            connection.execute(text("DELETE FROM users"))

        assert Statement(BACKEND).row() != before


def test_statement_is_prepared_once_on_a_direct_connection(app: Flask) -> None:
    prepared = Statement(
        select(text("statement")).select_from(text("pg_prepared_statements")).where(text("name = :name"))
    )
    with app.app_context():
        for number in range(3):
            ADD.row(username="michael", email=f"{number}@b.test")

        ((statement,),) = prepared.rows(name=ADD.name)
        assert statement.startswith(f"PREPARE {ADD.name} AS INSERT INTO users")


def test_statements_have_names_of_their_texts() -> None:
    again = Statement(select(literal("here")))

    assert again.name == Statement(select(literal("here"))).name
    assert len({again.name, Statement(select(literal("there"))).name, Statement(select(literal(1))).name}) == 3


def test_connection_that_may_be_shared_prepares_nothing(app: Flask) -> None:
    with app.app_context():
        connections().replace_all()
        connections().of_thread().is_direct = False
        ADD.row(username="michael", email="a@b.test")

        found = Statement(select(User.email).where(User.username == bindparam("name"))).rows(name="michael")
        prepared = Statement(select(text("name")).select_from(text("pg_prepared_statements"))).rows()

        connections().replace_all()
    assert (found, prepared) == ([("a@b.test",)], [])


def test_statement_that_was_discarded_is_prepared_anew(app: Flask) -> None:
    with app.app_context():
        assert Statement(BACKEND).row()
        literally = Statement(select(literal("here")))
        assert literally.row() == ("here",)
        connections().of_thread().cursor.execute("DISCARD ALL")

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
