"""How long a request may use the database, and what becomes of connections that are lost.

Everything here hangs on the events of the engine's pool, so that nobody who uses the engine can pass it by.
"""

import select
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

from flask import Flask, current_app, g, has_request_context
from psycopg2.errors import ReadOnlySqlTransaction
from sqlalchemy import (
    Connection,
    Engine,
    PoolProxiedConnection,
    PoolResetState,
    QueuePool,
    event,
)
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from project.observability.metrics import metrics
from project.storage.deadlines import allow, clock, seconds_left, socket_of

#: How long to connect to each of several hosts.
SECONDS_PER_HOST = 2


def connecting(dialect: Any, record: Any, arguments: Any, parameters: dict[str, Any]) -> None:
    """Bound the time for each of several hosts, which libpq tries one after the other, and note when it begins."""
    if "," in parameters.get("host", ""):
        parameters["connect_timeout"] = SECONDS_PER_HOST
    if has_request_context() and seconds_left() <= 0:
        # Whoever goes on where the database did not answer in time.
        raise PoolTimeout("The time that a request has with the database is over.")
    record.info["since"] = time.monotonic()


def connected(connection: Any, record: Any) -> None:
    """Note its socket, and count the time it took."""
    record.info["socket"] = socket_of(connection)
    if has_request_context():
        allow(seconds_left() - (time.monotonic() - record.info["since"]))


def checked_out(connection: Any, record: Any, proxy: Any) -> None:
    """Refuse a connection that the database has closed, and set the clock for a request.

    A server speaks only when it is asked: whatever can be read from an idle connection, its end or a last word,
    says that it is gone. The pool then drops all it has, and connects anew.
    """
    # Not a new one: the pool gives up after two that are refused.
    if record.info.pop("idle", False) and has_news(connection):
        raise InvalidatePoolError()
    if has_request_context():
        record.info["request"] = g._get_current_object()
        clock.start(connection, seconds_left(), record.info["socket"])


def given_back(connection: Any, record: Any) -> None:
    """Stop the clock, and note what is left to the request."""
    if request := record.info.pop("request", None):
        request.database_seconds = clock.stop(connection)
    record.info["idle"] = True


def has_news(connection: Any) -> bool:
    """Say whether there is something to read from a connection, or it is gone."""
    look = select.poll()
    look.register(connection, select.POLLIN)
    return bool(look.poll(0))


def begin(connection: Connection) -> None:
    """Begin a transaction also where single statements have left the connection in autocommit."""
    raw: Any = connection.connection.driver_connection
    if raw.autocommit and connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        raw.autocommit = False


def reset(connection: Any, record: Any, state: PoolResetState) -> None:
    """Roll back what a connection that is given back has begun, if anything.

    SQLAlchemy would do it each time, and psycopg2 then lets other threads take their turn for nothing.
    """
    if not (state.transaction_was_reset or connection.autocommit):
        connection.rollback()


class Pool(QueuePool):
    """A pool that tells how long callers wait, and lets single statements hand connections on to each other.

    SQLAlchemy makes three objects each time that a connection is taken out and given back: a fifth of the CPU of
    `GET /users/1`. What is handed on stays taken out for SQLAlchemy, but the events are the same, and whoever needs
    a connection otherwise gets it.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.handed_on: deque[Connection] = deque()
        #: One entry for each caller who is at the pool.
        self.callers: deque[None] = deque()
        self.telling = threading.Lock()

    def connect(self) -> PoolProxiedConnection:
        """Return a connection."""
        self.callers.append(None)
        began = time.perf_counter()
        waits = self.checkedout() >= self.size()
        try:
            self.let_go()
            return super().connect()
        finally:
            self.callers.pop()
            self.tell()
            if waits and current_app:
                metrics().pool_wait.observe(time.perf_counter() - began)

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        """Take a connection back, or the place of one that is detached, of which no event tells."""
        super()._do_return_conn(record)
        self.tell()

    def tell(self) -> None:
        """Show how many connections are in use."""
        if current_app:
            # Else the last to show it would not be the last to look.
            with self.telling:
                metrics().checked_out.set(self.checkedout())

    def take(self, engine: Engine) -> Connection:
        """Return a connection of the engine that a statement has handed on, or else one that is in autocommit."""
        try:
            connection = self.handed_on.pop()
        except IndexError:
            connection = engine.connect()
            raw: Any = connection.connection.driver_connection
            # It stays so until somebody begins a transaction: to set it makes other threads take their turn.
            if not raw.autocommit:
                raw.autocommit = True
            return connection
        line: Any = connection.connection
        record = line._connection_record
        try:
            if record.starttime < self._invalidate_time:
                raise InvalidatePoolError()
            self.dispatch.checkout(line.dbapi_connection, record, line)
        except DisconnectionError:
            # The pool finds the same when it is asked, and drops all it has.
            connection.close()
            return self.take(engine)
        self.tell()
        return connection

    def hand_on(self, connection: Connection) -> None:
        """Keep a connection, with nothing begun on it, for the next statement."""
        line: Any = connection.connection
        self.dispatch.checkin(line.dbapi_connection, line._connection_record)
        self.handed_on.append(connection)
        # In this order: who comes to the pool just now sees it, or is seen.
        if self.callers or self.overflow() > 0:
            self.let_go()
        self.tell()

    def let_go(self) -> None:
        """Give a connection that was handed on back to the pool, if there is one."""
        with suppress(IndexError):
            self.handed_on.pop().close()

    def checkedout(self) -> int:
        """Return how many connections are in use."""
        return super().checkedout() - len(self.handed_on)

    def dispose(self) -> None:
        """Close all connections that are not in use."""
        while self.handed_on:
            self.let_go()
        super().dispose()


def drop_read_only(context: ExceptionContext) -> None:
    """Drop all connections where one leads to a database that has become a standby: the next may find the primary."""
    if isinstance(context.original_exception, ReadOnlySqlTransaction):
        context.is_disconnect = True


def init_app(app: Flask, engine: Engine) -> None:
    """Hold the application's engine to the limits, and start the embedded server where it is used."""
    if postgres := app.config["EMBEDDED_POSTGRES"]:
        event.listen(engine, "do_connect", lambda *connection: postgres.start())
    event.listen(engine, "do_connect", connecting)
    event.listen(engine, "connect", connected)
    event.listen(engine, "checkout", checked_out)
    # One that is lost is closed first, and then given back as nothing.
    event.listen(engine, "close", given_back)
    event.listen(engine, "checkin", given_back)
    event.listen(engine, "begin", begin)
    event.listen(engine, "reset", reset)
    event.listen(engine, "handle_error", drop_read_only)
