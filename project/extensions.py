"""The extensions, not yet bound to an application."""

from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import click
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.query import Query
from sqlalchemy.orm import DeclarativeBase, QueryPropertyDescriptor

from project.database import Pool

# The advisory lock that whoever changes the schema holds; the number means nothing.
SCHEMA_LOCK = 7_303_014_119


class Base(DeclarativeBase):
    """The base of every model; its metadata is the whole schema."""

    #: The query of a model, such as User.query.all(): for the shell, where people expect it of Flask-SQLAlchemy.
    query: ClassVar[QueryPropertyDescriptor]


# A committed object keeps its values: to answer from it must not cost another query.
db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False}, engine_options={"poolclass": Pool})
# Flask-SQLAlchemy gives it to the subclasses of db.Model alone.
Base.query = db.session.query_property(Query)


class MigrationCommands(click.Command):
    """Flask-Migrate's commands, imported when somebody asks for them: Alembic would take a tenth of every start."""

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        """Give way to Flask-Migrate's own group."""
        context: click.Context = import_module("flask_migrate.cli").db.make_context(*arguments, **more)
        return context


class Migrations:
    """What Flask-Migrate looks for in app.extensions, without Flask-Migrate until then."""

    directory = str(Path(__file__).resolve().parent.parent / "migrations")

    @cached_property
    def migrate(self) -> Any:
        """Return Flask-Migrate's own extension."""
        return import_module("flask_migrate").Migrate(db=db, directory=self.directory, compare_server_default=True)

    @property
    def configure_args(self) -> dict[str, Any]:
        """Return what Alembic is told."""
        arguments: dict[str, Any] = self.migrate.alembic_ctx_kwargs
        return arguments

    def init_app(self, app: Flask) -> None:
        """Give the application its migrations, and their commands."""
        app.extensions["migrate"] = self
        app.cli.add_command(MigrationCommands("db", help="Perform database migrations."))


migrations = Migrations()
