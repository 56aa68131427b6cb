"""Connections to Postgres: each thread's own for single statements, beside SQLAlchemy's pool for sessions.

A thread's own connection costs less than any pool: nothing is taken out and given back. All of it stands on what
SQLAlchemy and psycopg2 document.
"""

import os
import select
import threading
import time
from typing import Any

from flask import Flask, current_app, g, has_request_context
from psycopg2.errors import ReadOnlySqlTransaction
from sqlalchemy import Engine, NullPool, PoolProxiedConnection, QueuePool, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import InvalidatePoolError

from project.observability.metrics import Metrics
from project.storage.deadlines import check_deadline, seconds_left, set_seconds_left, socket_inode, watchdog

#: How long to connect to each of several hosts, which libpq tries one after the other.
HOST_SECONDS = 2


class Pool(QueuePool):
    """A pool that counts how long callers wait while all connections that it keeps are in use."""

    def connect(self) -> PoolProxiedConnection:
        """Return a connection."""
        waits = self.checkedout() >= self.size()
        began = time.perf_counter()
        try:
            return super().connect()
        finally:
            if waits and current_app:
                metrics: Metrics = current_app.extensions["metrics"]
                metrics.pool_wait.observe(time.perf_counter() - began)


class ThreadConnection:
    """The connection of one thread, in autocommit, with what is known of it."""

    def __init__(self, connection: Any, generation: int) -> None:
        self.connection = connection
        self.generation = generation
        self.process = os.getpid()
        self.inode = socket_inode(connection)
        self.cursor = connection.cursor()
        self.prepared: set[str] = set()
        self.cursor.execute("SELECT pg_backend_pid()")
        # Behind a pooler the backend is another than the one that the connection began with, and perhaps another next
        # time: what is prepared on it would meet other clients.
        self.is_direct = self.cursor.fetchone() == (connection.info.backend_pid,)

    def is_usable(self, generation: int) -> bool:
        """Return whether the connection is this process's, and neither closed nor outdated."""
        current = self.generation == generation and self.process == os.getpid()
        return current and not self.connection.closed and not has_news(self.connection)


class Connections:
    """The connections of an application that are not the pool's."""

    def __init__(self, engine: Engine) -> None:
        #: Opens a connection each time that it is asked, and closes it when it is given back.
        self.engine = engine
        self.generation = 0
        self.kept = threading.local()

    def of_thread(self) -> ThreadConnection:
        """Return the connection of this thread, a new one where there is none that can be used."""
        connection: ThreadConnection | None = getattr(self.kept, "connection", None)
        if connection is None or not connection.is_usable(self.generation):
            # It is closed with its thread, or when another takes its place.
            connection = self.kept.connection = ThreadConnection(open_connection(self.engine), self.generation)
        return connection

    def replace_all(self) -> None:
        """Let each thread open a new connection before its next statement: another host may be the primary by now."""
        self.generation += 1


def open_connection(engine: Engine) -> Any:
    """Open a connection of psycopg2's that is its caller's to close, not the engine's."""
    opened = engine.raw_connection()
    connection = opened.driver_connection
    opened.detach()
    return connection


def connections() -> Connections:
    """Return the connections of the current application."""
    found: Connections = current_app.extensions["connections"]
    return found


def before_connect(dialect: Any, record: Any, arguments: Any, parameters: dict[str, Any]) -> None:
    """Bound the time for each of several hosts, and note when the connecting begins."""
    if "," in parameters.get("host", ""):
        parameters["connect_timeout"] = HOST_SECONDS
    check_deadline()
    record.info["since"] = time.monotonic()


def on_connect(connection: Any, record: Any) -> None:
    """Note the connection's socket, and take the time that it took from the request's."""
    record.info["inode"] = socket_inode(connection)
    if has_request_context():
        set_seconds_left(seconds_left() - (time.monotonic() - record.info["since"]))


def on_checkout(connection: Any, record: Any, proxy: Any) -> None:
    """Refuse a connection that the database has closed, and hold the others to the request's deadline."""
    # Not a new one: the pool gives up after two that are refused.
    if record.info.pop("idle", False) and has_news(connection):
        raise InvalidatePoolError()
    if has_request_context():
        record.info["request"] = g._get_current_object()
        watchdog.start(connection, seconds_left(), record.info["inode"])


def on_checkin(connection: Any, record: Any) -> None:
    """Leave the connection alone, and note what is left to the request."""
    if request := record.info.pop("request", None):
        request.database_seconds = watchdog.stop(connection)
    record.info["idle"] = True


def has_news(connection: Any) -> bool:
    """Return whether there is something to read from an idle connection.

    A server speaks only when it is asked: whatever can be read says that the connection is gone.
    """
    news = select.poll()
    news.register(connection, select.POLLIN)
    return bool(news.poll(0))


def count_sessions(engine: Engine, metrics: Metrics) -> None:
    """Show how many connections of the pool are in use."""

    def on_checkout(connection: Any, record: Any, proxy: Any) -> None:
        record.info["counted"] = True
        metrics.checked_out.inc()

    def on_checkin(connection: Any, record: Any) -> None:
        if record.info.pop("counted", False):
            metrics.checked_out.dec()

    event.listen(engine, "checkout", on_checkout)
    event.listen(engine, "checkin", on_checkin)


def init_app(app: Flask, engine: Engine) -> None:
    """Give the application its connections, and hold those of the pool to the deadline of a request."""
    options: dict[str, Any] = app.config["SQLALCHEMY_ENGINE_OPTIONS"]
    unpooled = create_engine(
        engine.url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        connect_args=options.get("connect_args", {}),
    )
    kept = app.extensions["connections"] = Connections(unpooled)
    postgres = app.config["EMBEDDED_POSTGRES"]

    def start_postgres(*connecting: Any) -> None:
        if postgres:
            postgres.start()

    def on_error(context: ExceptionContext) -> None:
        """Drop all connections where one leads to a database that has become a standby."""
        if isinstance(context.original_exception, ReadOnlySqlTransaction):
            context.is_disconnect = True
            kept.replace_all()

    for either in (engine, unpooled):
        event.listen(either, "do_connect", start_postgres)
        event.listen(either, "do_connect", before_connect)
        event.listen(either, "connect", on_connect)
    event.listen(engine, "checkout", on_checkout)
    # One that is lost is closed first, and then given back as nothing.
    event.listen(engine, "close", on_checkin)
    event.listen(engine, "checkin", on_checkin)
    event.listen(engine, "handle_error", on_error)
    count_sessions(engine, app.extensions["metrics"])
