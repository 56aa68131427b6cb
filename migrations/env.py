"""How Alembic runs the migrations of this service."""

from logging.config import fileConfig

from alembic import context
from flask import current_app
from sqlalchemy import text

from project.extensions import SCHEMA_LOCK, db

if context.config.config_file_name:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)


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
        # Closed at the end, not pooled: the lock and the time limits go with it.
        connection.detach()
        # Two releases that start at once: the second waits here, and then finds nothing left to do.
        connection.execute(text("SET statement_timeout = '15min'"))
        connection.execute(text("SET lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": SCHEMA_LOCK})
        # A table that is in use must not make every other request queue up behind the migration.
        connection.execute(text("SET lock_timeout = '4s'"))
        connection.commit()

        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            transaction_per_migration=True,
            **current_app.extensions["migrate"].configure_args,
        )
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()
