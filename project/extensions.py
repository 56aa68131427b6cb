"""The extensions, not yet bound to an application."""

from pathlib import Path

from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase

from project.metrics import Pool

# The advisory lock that whoever changes the schema holds; the number means nothing.
SCHEMA_LOCK = 7_303_014_119


class Base(DeclarativeBase):
    """The base of every model; its metadata is the whole schema."""


# A committed object keeps its values: to answer from it must not cost another query.
db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False}, engine_options={"poolclass": Pool})
migrate = Migrate(directory=str(Path(__file__).resolve().parent.parent / "migrations"), compare_server_default=True)
