"""The extensions, not yet bound to an application."""

from typing import ClassVar

from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.query import Query
from sqlalchemy.orm import DeclarativeBase, QueryPropertyDescriptor

from project.config import ROOT
from project.storage.connections import Pool

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
migrate = Migrate(db=db, directory=str(ROOT / "migrations"), compare_server_default=True)
