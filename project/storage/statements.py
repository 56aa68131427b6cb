"""Single statements, each of which commits by itself: compiled once, and prepared once on a direct connection.

They run on the connection that their thread keeps. What needs several statements to succeed or fail together takes
`db.session` or `db.engine.begin()`.
"""

import hashlib
from typing import Any

from psycopg2.errors import FeatureNotSupported, InvalidSqlStatementName, ReadOnlySqlTransaction
from psycopg2.extensions import AsIs
from sqlalchemy import ClauseElement, make_url

from project.storage.connections import ThreadConnection, connections
from project.storage.deadlines import request_deadline

DIALECT = make_url("postgresql+psycopg2://").get_dialect()()

Values = tuple[Any, ...]


class Statement:
    """A statement with parameters for its bindparam()s. Its values are psycopg2's, without SQLAlchemy's types."""

    def __init__(self, statement: ClauseElement) -> None:
        compiled = statement.compile(dialect=DIALECT)
        self.sql = str(compiled)
        self.constants = {name: value for name, value in compiled.params.items() if value is not None}
        parameters = [name for name, value in compiled.params.items() if value is None]
        self.places = {name: AsIs(f"${number}") for number, name in enumerate(parameters, 1)}
        # A name of its text, the same in every process. Its first word tells logs and traces what it does.
        text = f"{self.sql} {sorted(self.constants.items())}"
        self.name = f"{self.sql.split()[0].lower()}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        given = ", ".join(f"%({name})s" for name in parameters)
        self.execute = f"EXECUTE {self.name} ({given})" if given else f"EXECUTE {self.name}"

    def rows(self, **parameters: Any) -> list[Values]:
        """Run the statement and return its rows.

        Raises psycopg2's errors, and SQLAlchemy's TimeoutError where the request has used up its time.
        """
        kept = connections()
        own = kept.of_thread()
        with request_deadline(own.connection, own.inode):
            try:
                self.run(own, parameters)
                found: list[Values] = own.cursor.fetchall()
            except ReadOnlySqlTransaction:
                # The database has become a standby.
                kept.replace_all()
                raise
        return found

    def row(self, **parameters: Any) -> Values | None:
        """Run the statement and return its first row, if there is one. Raises as rows does."""
        found = self.rows(**parameters)
        return found[0] if found else None

    def run(self, own: ThreadConnection, parameters: dict[str, Any]) -> None:
        """Run the statement on a connection."""
        if not own.is_direct:
            own.cursor.execute(self.sql, {**self.constants, **parameters})
            return
        self.prepare(own)
        try:
            own.cursor.execute(self.execute, parameters)
        except (FeatureNotSupported, InvalidSqlStatementName):
            # A migration has changed what the statement returns, or it was discarded: nothing was done yet.
            own.cursor.execute("DEALLOCATE ALL")
            own.prepared.clear()
            self.prepare(own)
            own.cursor.execute(self.execute, parameters)

    def prepare(self, own: ThreadConnection) -> None:
        """Let Postgres parse and plan the statement, where it has not done so on this connection."""
        if self.name not in own.prepared:
            text = own.cursor.mogrify(self.sql, {**self.constants, **self.places})
            own.cursor.execute(f"PREPARE {self.name} AS ".encode() + text)
            own.prepared.add(self.name)
