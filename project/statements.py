"""Single statements, compiled once and run by themselves: no session, no transaction around them.

What is unusual in how the API reaches the database stands here, and this is what it gives: one row by its primary
key takes 20 µs of the client's CPU, where the ORM takes 195, Core 83 on a connection that it switches to autocommit,
and 50 where the whole engine is in autocommit. Postgres hears one message, where a transaction takes three. Whoever
needs several statements to succeed or fail together takes a session or `db.engine.begin()`, as everywhere.
"""

from contextlib import suppress
from typing import Any

import psycopg2
from sqlalchemy import ClauseElement, make_url

from project.extensions import db

DIALECT = make_url("postgresql+psycopg2://").get_dialect()()

Row = tuple[Any, ...]


class Statement:
    """A statement that commits by itself, with parameters for its bindparam()s.

    Values go to and fro as psycopg2 has them, without SQLAlchemy's types in between.
    """

    def __init__(self, statement: ClauseElement) -> None:
        compiled = statement.compile(dialect=DIALECT)
        self.sql = str(compiled)
        self.constants = {name: value for name, value in compiled.params.items() if value is not None}

    def rows(self, **parameters: Any) -> list[Row]:
        """Run the statement and return its rows. Raises what SQLAlchemy raises."""
        values = {**self.constants, **parameters}
        with db.engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            cursor = raw.cursor()
            # Whoever listens to the engine hears of these statements too.
            for listener in connection.dispatch.before_cursor_execute:
                listener(connection, cursor, self.sql, values, None, False)
            try:
                raw.autocommit = True
                cursor.execute(self.sql, values)
                found: list[Row] = cursor.fetchall()
            except psycopg2.Error as error:
                # SQLAlchemy's errors and events, and an end to a connection that is broken, as for its own statements.
                connection._handle_dbapi_exception(error, self.sql, values, cursor, None)
            finally:
                # A closed connection has no settings any more.
                with suppress(psycopg2.InterfaceError):
                    raw.autocommit = False
        return found

    def row(self, **parameters: Any) -> Row | None:
        """Run the statement and return its first row, if there is one. Raises what SQLAlchemy raises."""
        found = self.rows(**parameters)
        return found[0] if found else None
