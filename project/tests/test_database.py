"""What becomes of requests and connections when the database hangs, closes, refuses or moves."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread

import psycopg2
import pytest
from flask import Flask
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from project import db
from project.config import ProductionConfig
from project.storage import deadlines
from project.storage.connections import connections
from project.storage.deadlines import ConnectionWatchdog, socket_inode
from project.tests.conftest import app_on, execute, free_port, no_thread

ADA = {"username": "ada", "email": "ada@example.org"}
BACKENDS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
BUSY = ("08006", "25006", "40001", "40P01", "53100", "53200", "53300", "55P03", "57014", "57P01", "57P02", "57P03")
NOT_MIGRATED = ("42P01", "42703")
OUR_MISTAKE = ("22012", "25P02", "42501", "XX000")


@pytest.fixture
def app(open_database: str) -> Iterator[Flask]:
    """An application that commits for real, with routes that use the database in odd ways."""
    app = app_on(open_database, ProductionConfig)

    @app.get("/fail/<sqlstate>")
    def fail(sqlstate: str) -> str:
        db.session.execute(text(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}'; END $$"))
        return "unreachable"

    @app.get("/read-only")
    def read_only() -> str:
        connections().of_thread().cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        return "done"

    @app.get("/session")
    def session() -> str:
        return str(db.session.scalar(text("SELECT 1")))

    @app.get("/hang")
    def hang() -> str:
        db.session.execute(text("SET LOCAL statement_timeout = 0"))
        db.session.execute(text("SELECT pg_sleep(20)"))
        return "unreachable"

    @app.get("/stubborn")
    def stubborn() -> str:
        with pytest.raises(OperationalError):
            hang()
        db.session.rollback()
        db.session.execute(text("SELECT 1"))
        return "unreachable"

    @app.get("/patient")
    def patient() -> str:
        deadlines.set_seconds_left(60)
        db.session.execute(text("SELECT pg_sleep(0.3)"))
        db.session.rollback()
        return str(deadlines.seconds_left())

    yield app
    with app.app_context():
        db.engine.dispose()


def fill_pool(app: Flask) -> None:
    """Open as many connections as the pool keeps."""
    size = ProductionConfig.SQLALCHEMY_ENGINE_OPTIONS["pool_size"]
    barrier = Barrier(size)

    def ask() -> None:
        with app.app_context(), db.engine.connect():
            barrier.wait()

    with ThreadPoolExecutor(size) as threads:
        for asked in [threads.submit(ask) for _ in range(size)]:
            asked.result()


def test_connections_that_the_database_closed_cost_no_request(app: Flask, open_database: str) -> None:
    fill_pool(app)
    (closed,) = execute(open_database, f"SELECT count(pg_terminate_backend(pid, 5000)) {BACKENDS}")

    answers = [app.test_client().get(path).status_code for path in ("/users", "/session") for _ in range(5)]

    assert closed >= (ProductionConfig.SQLALCHEMY_ENGINE_OPTIONS["pool_size"],)
    assert answers == [200] * 10


def test_hanging_database_is_a_503_and_the_next_call_is_clean(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "REQUEST_SECONDS", 0.5)
    client = app.test_client()

    answer = client.get("/hang")

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert client.post("/users", json=ADA).status_code == 201


def test_request_whose_time_is_over_gets_no_other_connection(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "REQUEST_SECONDS", 0.5)
    client = app.test_client()

    assert client.get("/stubborn").status_code == 503
    assert client.get("/users").status_code == 200


def test_request_may_be_allowed_more_and_spends_it(app: Flask) -> None:
    assert 0.3 <= 60 - float(app.test_client().get("/patient").text) < 10


def test_connection_that_is_given_back_has_begun_nothing(app: Flask) -> None:
    with app.app_context():
        with db.engine.connect() as connection:
            connection.execute(text("INSERT INTO users (username, email) VALUES ('ada', 'ada@example.org')"))
        pooled = db.engine.raw_connection()
        pooled.cursor().execute("INSERT INTO users (username, email) VALUES ('ada', 'ada@example.org')")
        pooled.close()

        assert db.session.scalar(text("SELECT count(*) FROM users")) == 0


def test_commands_take_the_time_they_need(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "REQUEST_SECONDS", 0)
    with app.app_context():
        assert db.session.scalar(text("SELECT 1 FROM pg_sleep(0.5)")) == 1


def test_watchdog_shuts_down_what_is_late_and_nothing_else(open_database: str) -> None:
    watchdog = ConnectionWatchdog()
    late, returned, early, gone, replaced = connections = [psycopg2.connect(open_database) for _ in range(5)]
    for connection in connections:
        watchdog.start(connection, 60 if connection is early else -1, socket_inode(connection))
    watchdog.stop(returned)
    gone.close()
    # What happens where libpq lets go of a socket, and its number becomes another's.
    os.dup2(early.fileno(), replaced.fileno())

    watchdog.check()

    with pytest.raises(psycopg2.OperationalError):
        late.cursor().execute("SELECT 1")
    for connection in (returned, early):
        connection.cursor().execute("SELECT 1")
    for connection in connections:
        connection.close()


def test_watchdog_that_finds_no_thread_is_started_by_the_next_request(
    open_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watchdog, connection = ConnectionWatchdog(), psycopg2.connect(open_database)
    with monkeypatch.context() as full:
        full.setattr(Thread, "start", no_thread)
        with pytest.raises(RuntimeError):
            watchdog.start(connection, 60, socket_inode(connection))

    with watchdog.limit(connection, 0.1), pytest.raises(psycopg2.OperationalError):
        connection.cursor().execute("SELECT pg_sleep(5)")
    connection.close()


@pytest.mark.parametrize("sqlstate", [*BUSY, *NOT_MIGRATED])
def test_database_that_cannot_is_a_503_and_the_next_call_is_clean(app: Flask, sqlstate: str) -> None:
    client = app.test_client()

    answer = client.get(f"/fail/{sqlstate}")

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.get_json()["code"] == "service_unavailable"
    assert client.post("/users", json=ADA).status_code == 201


@pytest.mark.parametrize("sqlstate", OUR_MISTAKE)
def test_any_other_error_of_the_database_is_a_500(app: Flask, sqlstate: str) -> None:
    assert app.test_client().get(f"/fail/{sqlstate}").status_code == 500


def test_missing_migration_is_named_in_the_log(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    app.test_client().get("/fail/42P01")

    assert "db upgrade" in caplog.text


def test_database_that_has_become_read_only_is_left(app: Flask) -> None:
    client = app.test_client()
    assert client.get("/read-only").text == "done"

    assert [client.post("/users", json=ADA).status_code for _ in range(2)] == [503, 201]


def test_primary_is_found_among_several_hosts(open_database: str) -> None:
    url = make_url(open_database)
    host, port = url.query.get("host") or url.host, url.query.get("port") or url.port or 5432
    both = {"host": f"127.0.0.1,{host}", "port": f"{free_port()},{port}", "target_session_attrs": "read-write"}
    app = app_on(url.set(host=None, port=None, query=both).render_as_string(hide_password=False))

    with app.app_context():
        assert app.test_client().post("/users", json=ADA).status_code == 201
        db.engine.dispose()
