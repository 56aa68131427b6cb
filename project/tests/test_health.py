"""Readiness: what /health says of the database, and when."""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from threading import enumerate as threads

import psutil
import psycopg2
import pytest
from alembic.script import ScriptDirectory
from flask import Flask
from flask_migrate import downgrade, upgrade
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.test import TestResponse

from project import db
from project.api import health
from project.config import MIGRATIONS, BaseConfig, DevelopmentConfig, ProductionConfig
from project.postgres.server import Server
from project.tests.conftest import app_on, execute, no_thread
from project.tests.test_openapi import check


def ask(app: Flask) -> TestResponse:
    """Ask for the health of an application."""
    return app.test_client().get("/health")


def state(app: Flask) -> tuple[int, str]:
    """Return the status and what is told of the database."""
    response = ask(app)
    return response.status_code, response.get_json()["database"]


@pytest.fixture
def migrated_app(make_database: Callable[[], str]) -> Flask:
    """An application on a migrated database of its own."""
    app = app_on(make_database(), ProductionConfig)
    with app.app_context():
        upgrade()
        db.engine.dispose()
    return app


def url_of(app: Flask) -> str:
    """Return the URL of the application's database."""
    return app.config["SQLALCHEMY_DATABASE_URI"].render_as_string(hide_password=False)


def test_healthy_service_says_what_it_is(migrated_app: Flask) -> None:
    assert ask(migrated_app).get_json() == {
        "status": "success",
        "environment": "production",
        "testing": False,
        "database": "up",
        "version": migrated_app.config["VERSION"],
    }


def test_health_is_told_to_everybody(open_database: str) -> None:
    app = app_on(open_database, ProductionConfig, AUTH_REQUIRED=True, RATELIMIT="1/hour")

    assert [ask(app).status_code for _ in range(3)] == [200, 200, 200]


def test_database_that_is_away_is_told_in_the_one_error_body() -> None:
    app = app_on("postgresql://nobody:a-password@127.0.0.1:1/nothing", ProductionConfig)

    response = ask(app)

    body = response.get_json()
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert body.pop("request_id") == response.headers["X-Request-ID"]
    assert body == {
        "status": "error",
        "message": "The database is not available at the moment.",
        "code": "service_unavailable",
        "detail": "The database is not available at the moment.",
        "environment": "production",
        "testing": False,
        "database": "down",
        "version": app.config["VERSION"],
    }
    check(app.test_client().get("/openapi.json").get_json(), "get", "/health", response)


def test_tables_that_are_missing_are_told(make_database: Callable[[], str]) -> None:
    assert state(app_on(make_database())) == (503, "behind")


def test_older_schema_is_told_until_it_is_upgraded(migrated_app: Flask) -> None:
    with migrated_app.app_context():
        assert state(migrated_app) == (200, "up")
        (head,) = ScriptDirectory(str(MIGRATIONS)).get_heads()
        execute(url_of(migrated_app), "UPDATE alembic_version SET version_num = '0001'")
        assert state(migrated_app) == (503, "behind")
        execute(url_of(migrated_app), f"UPDATE alembic_version SET version_num = '{head}'")
        downgrade(revision="0002")
        assert state(migrated_app) == (503, "behind")
        upgrade()
        assert state(migrated_app) == (200, "up")
        db.engine.dispose()


def test_newer_schema_will_do(migrated_app: Flask) -> None:
    execute(url_of(migrated_app), "UPDATE alembic_version SET version_num = 'of the next release'")

    assert state(migrated_app) == (200, "up")


def test_tables_that_the_models_made_will_do(make_database: Callable[[], str]) -> None:
    app = app_on(make_database())
    with app.app_context():
        db.create_all()
        db.engine.dispose()

    assert state(app) == (200, "up")


def test_read_only_database_is_told_until_it_takes_writes(migrated_app: Flask) -> None:
    url = url_of(migrated_app)
    name = migrated_app.config["SQLALCHEMY_DATABASE_URI"].database

    execute(url, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    assert state(migrated_app) == (503, "read-only")
    # A connection keeps what it began with; another one sees the change.
    execute(url, "SET default_transaction_read_only = off", f'ALTER DATABASE "{name}" RESET ALL')
    assert state(migrated_app) == (200, "up")


def test_connection_that_was_lost_is_replaced(migrated_app: Flask) -> None:
    assert state(migrated_app) == (200, "up")
    execute(
        url_of(migrated_app),
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'users-health' AND datname = current_database()",
    )

    assert state(migrated_app) == (200, "up")


def test_busy_pool_is_no_reason_to_be_unwell(migrated_app: Flask) -> None:
    options = {**BaseConfig.SQLALCHEMY_ENGINE_OPTIONS, "pool_size": 1, "max_overflow": 0, "pool_timeout": 0.1}
    app = app_on(url_of(migrated_app), SQLALCHEMY_ENGINE_OPTIONS=options)

    with app.app_context():
        with db.engine.connect():
            with pytest.raises(PoolTimeout):
                db.engine.connect()
            assert state(app) == (200, "up")
        db.engine.dispose()


@pytest.mark.slow
def test_frozen_database_is_told_in_time_and_found_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(place / "postgres", databases=["users_dev"], durable=False)

    class Embedded(DevelopmentConfig):
        SQLALCHEMY_DATABASE_URI = None
        EMBEDDED_POSTGRES = server

    app = app_on("", Embedded)
    try:
        # The first look starts the server, which takes its time.
        deadline = time.monotonic() + 60
        while state(app) != (503, "behind"):
            assert time.monotonic() < deadline
        with app.app_context():
            upgrade()
        assert state(app) == (200, "up")

        monkeypatch.setattr(health, "WAIT", 0.2)
        monkeypatch.setattr(health, "PATIENCE", 1)
        postmaster = psutil.Process(int((server.data / "postmaster.pid").read_text().split()[0]))
        frozen = [postmaster, *postmaster.children()]
        for process in frozen:
            process.send_signal(signal.SIGSTOP)
        try:
            with ThreadPoolExecutor(8) as callers:
                assert set(callers.map(lambda _: state(app), range(16))) == {(503, "down")}
            assert len([thread for thread in threads() if thread.name == "health"]) == 1
            # The question is given up, the next one finds nobody who would take the connection.
            asked = app.extensions["health"].question
            while app.extensions["health"].question is asked:
                assert state(app) == (503, "down")
                assert time.monotonic() < deadline
        finally:
            for process in frozen:
                process.send_signal(signal.SIGCONT)
        while state(app) != (200, "up"):
            assert time.monotonic() < deadline
    finally:
        with app.app_context():
            db.engine.dispose()
        server.stop()


def test_who_asks_late_waits_no_longer_than_who_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "WAIT", 0.5)
    answered = Event()

    def connect() -> None:
        answered.wait()
        raise psycopg2.OperationalError

    asker = health.Asker(connect, "")

    began = time.monotonic()
    states = [asker.state() for _ in range(3)]
    waited = time.monotonic() - began

    answered.set()
    assert asker.question and asker.question.result(30) == "down"
    assert (states, waited < 1) == (["down"] * 3, True)


def test_question_that_finds_no_thread_is_asked_again(migrated_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(Thread, "start", no_thread)
        assert ask(migrated_app).status_code == 500

    assert state(migrated_app) == (200, "up")


def test_versions_before_this_one_are_those_that_alembic_finds() -> None:
    scripts = ScriptDirectory(str(MIGRATIONS))
    newest = set(scripts.get_heads())

    assert health.older_versions(str(MIGRATIONS)) == {one.revision for one in scripts.walk_revisions()} - newest


def test_versions_before_this_one_are_found_however_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    for number, line in enumerate(("= None", ": str | None = 'a1'", ' = ("b2", "c3")', "='d4'  # the first")):
        (tmp_path / "versions" / f"{number}.py").write_text(f'revision = "x{number}"\ndown_revision{line}\n')

    assert health.older_versions(str(tmp_path)) == {"a1", "b2", "c3", "d4"}
