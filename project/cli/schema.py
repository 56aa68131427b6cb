"""Commands for the schema and its example users."""

import click
import psycopg2
from flask import current_app
from flask_migrate import Migrate, stamp
from psycopg2 import sql
from sqlalchemy import func, inspect, select
from sqlalchemy.dialects.postgresql import insert

from project.api.models import User
from project.config import MIGRATIONS
from project.extensions import SCHEMA_LOCK, db

migrate = Migrate(db=db, directory=str(MIGRATIONS), compare_server_default=True)

EXAMPLE_USERS = [
    {"username": "michael", "email": "hermanmu@gmail.com"},
    {"username": "michaelherman", "email": "michael@mherman.org"},
]


@click.command("create_db")
def create_db() -> None:
    """Create the database that the configuration names, if it is missing.

    It holds no tables then: "db upgrade" makes them.
    """
    url = db.engine.url
    if current_app.config["EMBEDDED_POSTGRES"]:
        current_app.config["EMBEDDED_POSTGRES"].start()
    # Every server has a database of this name, and CREATE DATABASE cannot run in a transaction.
    dsn = url.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    connection = psycopg2.connect(dsn, connect_timeout=3)
    connection.autocommit = True
    try:
        connection.cursor().execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(url.database or "")))
        click.echo(f"Created the database {url.database}.")
    except (psycopg2.errors.DuplicateDatabase, psycopg2.errors.UniqueViolation):
        click.echo(f"The database {url.database} is there already.")
    finally:
        connection.close()


@click.command("recreate_db")
@click.option("--force", is_flag=True, help="Do it in production even where there are users, who are lost.")
def recreate_db(force: bool) -> None:
    """Drop the tables and create them anew, empty.

    Refuses in production where there is a user, unless --force.
    """
    with db.engine.begin() as connection:
        connection.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
        if current_app.config["ENVIRONMENT"] == "production" and not force:
            if inspect(connection).has_table("users") and connection.scalar(select(User.id).limit(1)):
                raise click.ClickException("There are users in this database. To lose them all, add --force.")
        db.metadata.drop_all(connection)
        db.metadata.create_all(connection)
    stamp(purge=True)
    click.echo("Recreated the tables.")


@click.command("seed_db")
def seed_db() -> None:
    """Add two example users; a second call adds nothing."""
    added = db.session.scalars(insert(User).values(EXAMPLE_USERS).on_conflict_do_nothing().returning(User.id)).all()
    db.session.commit()
    click.echo(f"Added {len(added)} example users.")
