"""The members of a row, described once: by the columns of its model, its representation and its payload.

Files, forms and tests are made from this. A new member of a user stands in models.py, representations.py and
payloads.py, and nowhere else.
"""

from typing import Any, NamedTuple, cast

from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.elements import ClauseElement

from project.api.payloads import RowPayload, UserRow

#: For SQL without parameters.
SQL_DIALECT = postgresql.dialect(paramstyle="named")


class Member(NamedTuple):
    """A member of a row.

    is_taken: whether the payload takes it; another one is only shown. is_needed: whether the payload must have it.
    """

    name: str
    column: Column[Any]
    is_taken: bool
    is_needed: bool

    @property
    def kind(self) -> type:
        """Return the type of its values."""
        return self.column.type.python_type

    @property
    def is_nullable(self) -> bool:
        """Say whether null is one of its values."""
        return bool(self.column.nullable)


def default_of(column: Column[Any]) -> str:
    """Return what Postgres writes to a column of which nothing is told, as SQL."""
    return SQL_DIALECT.ddl_compiler(SQL_DIALECT, cast(Any, None)).get_column_default_string(column) or "NULL"


def members_of(payload: type[RowPayload]) -> tuple[Member, ...]:
    """Return the members that are shown of a row, with what is known of them as members of a payload."""
    columns, fields = cast(Table, payload.model.__table__).columns, payload.model_fields
    return tuple(
        Member(name, columns[name], name in fields, name in fields and fields[name].is_required())
        for name in payload.model.representation.__annotations__
    )


def sql_of(expression: ClauseElement) -> str:
    """Return an expression over columns as SQL."""
    return str(expression.compile(dialect=SQL_DIALECT, compile_kwargs={"literal_binds": True}))


#: The members of a user in a file.
USER_MEMBERS = members_of(UserRow)
