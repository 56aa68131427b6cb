"""How Alembic runs the migrations of this service."""

import time
from typing import Any

from alembic import context
from flask import current_app
from sqlalchemy import Connection, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex

from project.extensions import SCHEMA_LOCK, db


def is_comparable(item: Any, name: str | None, kind: str, reflected: bool, compared_to: Any) -> bool:
    """Leave out indexes with a collation, which Alembic does not read back; a test of ours compares them."""
    return kind != "index" or name not in {
        index.name
        for table in db.metadata.tables.values()
        for index in table.indexes
        if "COLLATE" in str(CreateIndex(index).compile(dialect=postgresql.dialect()))
    }


def run_migrations_offline() -> None:
    """Print the SQL instead of running it."""
    context.configure(
        url=current_app.config["SQLALCHEMY_DATABASE_URI"], target_metadata=db.metadata, literal_binds=True
    )
    with context.begin_transaction():
        context.run_migrations()


def run_migrations_online() -> None:
    """Run the migrations, one process at a time."""
    with db.engine.connect() as connection:
        try:
            wait_for_our_turn(connection)
            context.configure(
                connection=connection,
                target_metadata=db.metadata,
                include_object=is_comparable,
                transaction_per_migration=True,
                **current_app.extensions["migrate"].configure_args,
            )
            with context.begin_transaction():
                context.run_migrations()
        finally:
            # Closed, not pooled: the lock and the time limits go with it.
            connection.invalidate()


def wait_for_our_turn(connection: Connection) -> None:
    """Take the lock of the schema, and set the time limits of migrations."""
    connection.execute(text("SET statement_timeout = '15min'"))
    # A table that is in use must not make every other request queue up behind the migration.
    connection.execute(text("SET lock_timeout = '4s'"))
    # Two releases that start at once: the second waits here, and then finds nothing left to do. It waits between
    # transactions, since an index that is built concurrently waits for the end of all of them.
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": SCHEMA_LOCK}):
        connection.commit()
        time.sleep(0.1)
    connection.commit()


if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()
