"""Database sessions of imports and exports."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from psycopg2.extensions import connection as Connection
from psycopg2.sql import Composable
from sqlalchemy import Engine

from project.storage.connections import open_connection
from project.storage.deadlines import watchdog


@contextmanager
def session(engine: Engine, seconds: int = 0) -> Iterator[Connection]:
    """Yield a database connection of its own, closed in the end: a transfer leaves nothing behind on another.

    engine: one without a pool, whose connections are in autocommit. seconds: how long a statement may take, and all
    that is done here, 0 for no limit.
    """
    connection: Connection = open_connection(engine)
    try:
        execute(connection, "SELECT set_config('statement_timeout', %s, false)", f"{seconds}s")
        # Longer than the 10 s after which a transaction ends in which nothing happens: no other holds a row longer.
        execute(connection, "SET lock_timeout = '15s'")
        # The server notices in the middle of a statement that this process was killed. Old servers do not know how.
        name = "client_connection_check_interval"
        execute(connection, "SELECT set_config(name, '1s', false) FROM pg_settings WHERE name = %s", name)
        with watchdog.limit(connection, seconds) if seconds else nullcontext():
            yield connection
    finally:
        connection.close()


def execute(connection: Connection, statement: str | Composable, *values: Any) -> list[tuple[Any, ...]]:
    """Run a statement and return its rows."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def counted(connection: Connection, statement: str | Composable) -> int:
    """Run a statement and return how many rows it has written."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.rowcount
