"""What a caller is told where a write breaks a constraint of the database.

One line for each constraint that the input of a caller can break; any other guards against mistakes of the program,
and is a 500. The translation of errors, the admin forms, the OpenAPI document, the import and the tests read this
table.
"""

from typing import NamedTuple

import psycopg2
from sqlalchemy import Table

from project.observability.redact import driver_error


class Constraint(NamedTuple):
    """The member whose value the database refuses, and the error that a caller gets."""

    member: str
    status: int
    message: str
    code: str


#: By the names that the constraints and the unique indexes have in models.py.
CONSTRAINTS = {
    "users_email_key": Constraint("email", 400, "Sorry. That email already exists.", "email_exists"),
}


def broken_constraint(error: BaseException) -> Constraint | None:
    """Return the constraint that a write has broken, or None for an error that no caller is told of.

    error: psycopg2's, or SQLAlchemy's around it.
    """
    cause = driver_error(error)
    return CONSTRAINTS.get(cause.diag.constraint_name or "") if isinstance(cause, psycopg2.IntegrityError) else None


def constraints_of(table: Table) -> list[Constraint]:
    """Return what callers are told of the constraints of a table."""
    names = {constraint.name for constraint in table.constraints} | {index.name for index in table.indexes}
    return [constraint for name, constraint in CONSTRAINTS.items() if name in names]
