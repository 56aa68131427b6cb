"""The schema, made by the migrations and by the models."""

from collections.abc import Callable

import pytest
from flask import Flask
from flask_migrate import check, downgrade, upgrade

from project import db
from project.extensions import SCHEMA_LOCK
from project.tests.conftest import ROOT, app_on, execute, start_manage, wait_until

COLUMNS = """
    SELECT table_name, column_name, data_type, character_maximum_length, datetime_precision, is_nullable,
           column_default, is_identity, identity_generation, collation_name
    FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version' ORDER BY 1, 2
"""
INDEXES = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version' ORDER BY 1"
CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
    FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version' ORDER BY 1, 2
"""


def schema(url: str) -> list[list[tuple]]:
    """Return what the database knows of its tables."""
    return [execute(url, query) for query in (COLUMNS, INDEXES, CONSTRAINTS)]


@pytest.fixture
def empty_app(make_database: Callable[[], str]) -> Flask:
    """An application on a database without tables."""
    return app_on(make_database())


def url_of(app: Flask) -> str:
    """Return the URL of the application's database."""
    return app.config["SQLALCHEMY_DATABASE_URI"].render_as_string(hide_password=False)


def test_migrations_and_models_make_the_same_schema(empty_app: Flask, make_database: Callable[[], str]) -> None:
    by_models = app_on(make_database())
    with by_models.app_context():
        db.create_all()
    with empty_app.app_context():
        upgrade()

    assert schema(url_of(empty_app)) == schema(url_of(by_models))
    assert schema(url_of(empty_app))[0]


def test_migrations_run_both_ways_without_drift(empty_app: Flask) -> None:
    with empty_app.app_context():
        upgrade()
        check()
        there = schema(url_of(empty_app))
        downgrade(revision="base")
        assert schema(url_of(empty_app)) == [[], [], []]
        upgrade()

    assert schema(url_of(empty_app)) == there


@pytest.mark.slow
def test_upgrades_at_once_do_the_work_once(make_database: Callable[[], str]) -> None:
    url = make_database()

    upgrades = [start_manage("db", "upgrade", DATABASE_URL=url) for _ in range(3)]
    said = [upgrade.communicate(timeout=30)[1] for upgrade in upgrades]

    assert [upgrade.returncode for upgrade in upgrades] == [0, 0, 0]
    assert "".join(said).count("Running upgrade") == len(list((ROOT / "migrations" / "versions").glob("*.py")))


def test_upgrade_leaves_no_lock_behind(empty_app: Flask) -> None:
    with empty_app.app_context():
        upgrade()

    # The server releases it when it notices that the connection was closed.
    wait_until(lambda: execute(url_of(empty_app), f"SELECT pg_try_advisory_lock({SCHEMA_LOCK})") == [(True,)])


@pytest.mark.slow
def test_migration_gives_up_on_a_table_in_use(empty_app: Flask) -> None:
    with empty_app.app_context():
        upgrade()
        with db.engine.connect() as reader:
            reader.exec_driver_sql("SELECT * FROM users")
            result = empty_app.test_cli_runner().invoke(args=["db", "downgrade", "0001"])

    assert result.exit_code == 1
    assert "lock timeout" in str(result.exception)
