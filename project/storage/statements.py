"""Single statements, compiled once, prepared once a connection, and run by themselves: no session, no transaction.

What is unusual in how the API reaches the database stands here and in `database.Pool`, and this is what it gives: one
row by its primary key takes half of the client's CPU that it takes where each statement takes a connection out of the
pool, a quarter of what it takes by Core on an engine that is in autocommit as a whole, and a twentieth of the ORM's.
Postgres hears one message, where a transaction takes three, and parses and plans it once a connection instead of each
time: 15 to 19 µs of its CPU for that row, where it took 28 to 30.
Whoever needs several statements to succeed or fail together takes a session or `db.engine.begin()`, as everywhere."""

from itertools import count
from typing import Any, cast

import psycopg2
from psycopg2.errors import FeatureNotSupported, InvalidSqlStatementName
from psycopg2.extensions import AsIs
from sqlalchemy import ClauseElement, make_url

from project.extensions import db
from project.storage.connections import Pool

DIALECT = make_url("postgresql+psycopg2://").get_dialect()()
NUMBERS = count(1)
Row = tuple[Any, ...]


class Statement:
    """A statement that commits by itself, with parameters for its bindparam()s.

    Values go to and fro as psycopg2 has them, without SQLAlchemy's types in between.
    """

    def __init__(self, statement: ClauseElement) -> None:
        compiled = statement.compile(dialect=DIALECT)
        self.sql = str(compiled)
        self.constants = {name: value for name, value in compiled.params.items() if value is not None}
        parameters = [name for name, value in compiled.params.items() if value is None]
        self.places = {name: AsIs(f"${number}") for number, name in enumerate(parameters, 1)}
        # With its first word, so that logs and traces of the database tell what it does.
        self.name = f"{self.sql.split()[0].lower()}_{next(NUMBERS)}"
        given = ", ".join(f"%({name})s" for name in parameters)
        self.execute = f"EXECUTE {self.name} ({given})" if given else f"EXECUTE {self.name}"

    def rows(self, **parameters: Any) -> list[Row]:
        """Run the statement and return its rows. Raises what SQLAlchemy raises."""
        engine = db.engine
        pool = cast(Pool, engine.pool)
        connection = pool.take(engine)
        done = False
        try:
            raw: Any = connection.connection.driver_connection
            cursor = raw.cursor()
            # Whoever listens to the engine hears of these statements too.
            for listener in connection.dispatch.before_cursor_execute:
                listener(connection, cursor, self.sql, {**self.constants, **parameters}, None, False)
            try:
                self.run(cursor, parameters, connection.info.setdefault("prepared", set()))
                found: list[Row] = cursor.fetchall()
            except psycopg2.Error as error:
                # SQLAlchemy's errors and events, and an end to a connection that is broken, as for its own statements.
                connection._handle_dbapi_exception(error, self.sql, parameters, cursor, None)
            done = True
        finally:
            if done:
                pool.hand_on(connection)
            else:
                connection.close()
        return found

    def run(self, cursor: Any, parameters: dict[str, Any], prepared: set[str]) -> None:
        """Run the statement on a connection that has prepared these already."""
        self.prepare(cursor, prepared)
        try:
            cursor.execute(self.execute, parameters)
        except (FeatureNotSupported, InvalidSqlStatementName):
            # A migration has changed what the statement returns, or somebody has discarded it: nothing was done yet.
            cursor.execute("DEALLOCATE ALL")
            prepared.clear()
            self.prepare(cursor, prepared)
            cursor.execute(self.execute, parameters)

    def prepare(self, cursor: Any, prepared: set[str]) -> None:
        """Let Postgres parse the statement, where it has not done so on this connection."""
        if self.name not in prepared:
            text = cursor.mogrify(self.sql, {**self.constants, **self.places})
            cursor.execute(f"PREPARE {self.name} AS ".encode() + text)
            prepared.add(self.name)

    def row(self, **parameters: Any) -> Row | None:
        """Run the statement and return its first row, if there is one. Raises what SQLAlchemy raises."""
        found = self.rows(**parameters)
        return found[0] if found else None
