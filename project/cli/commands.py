"""The group of all commands of manage.py: each parses, makes one call and says what happened."""

from typing import Any

import click
import psycopg2
from flask import Flask
from flask.cli import FlaskGroup, ScriptInfo
from sqlalchemy.exc import DBAPIError

from project import create_app
from project.cli.development import compose, develop, test
from project.cli.postgres import postgres
from project.cli.schema import create_db, migrate, recreate_db, seed_db
from project.cli.summaries import summarize
from project.cli.tokens import create_token, list_tokens, revoke_token
from project.cli.transfers import export_users, import_users
from project.observability.redact import driver_error, one_line
from project.postgres.system import PostgresError


class Commands(FlaskGroup):
    """The group of all commands: a database that refuses is one line and exit status 1, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            ctx.with_resource(ctx.ensure_object(ScriptInfo).load_app().app_context())
            return super().invoke(ctx)
        except PostgresError as error:
            raise click.ClickException(str(error)) from error
        except (DBAPIError, psycopg2.Error) as error:
            cause = driver_error(error)
            hint = (
                ". First run: python manage.py db upgrade" if isinstance(cause, psycopg2.errors.UndefinedTable) else ""
            )
            raise click.ClickException(f"The database says: {one_line(cause)}{hint}") from error


cli = Commands(create_app=create_app)
for command in (
    create_db,
    recreate_db,
    seed_db,
    import_users,
    export_users,
    create_token,
    list_tokens,
    revoke_token,
    summarize,
    test,
    compose,
    develop,
    postgres,
):
    cli.add_command(command)


def run(app: Flask) -> None:
    """Run the command that the command line names on an application."""
    migrate.init_app(app)
    cli(obj=ScriptInfo(create_app=lambda: app), default_map={"run": {"port": app.config["PORT"]}})
