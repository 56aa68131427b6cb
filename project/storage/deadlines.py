"""How long a request may use the database, and the watchdog that ends what takes longer.

Postgres ends a statement that takes too long by its own statement_timeout. A server that hangs does not, and libpq
waits for it without a limit: the watchdog shuts the socket down, and the thread that waits gets an OperationalError.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
from flask import g, has_request_context
from sqlalchemy.exc import TimeoutError as DatabaseTimeout

#: How long a request may connect and hold connections, all of them together: longer than a statement may take, so that
#: the database ends it if it can, and shorter than the 6 s within which every call is answered.
REQUEST_SECONDS = 5.5
CHECK_SECONDS = 0.2


class ConnectionWatchdog:
    """Shuts down the sockets of connections whose deadline has passed."""

    def __init__(self) -> None:
        self.deadlines: dict[Any, tuple[float, int]] = {}
        # A connection that was taken off the list is not shut down later, when another request uses it.
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None

    def start(self, connection: Any, seconds: float, inode: int) -> None:
        """Shut the connection down in so many seconds, unless it is stopped before.

        inode: of its socket; to ask the system for it here would make other threads wait for the lock.
        """
        with self.lock:
            if self.thread is None:
                # Not before: a thread does not live on in the workers that gunicorn forks.
                thread = threading.Thread(target=self.run, name="database-watchdog", daemon=True)
                thread.start()
                self.thread = thread
            self.deadlines[connection] = time.monotonic() + seconds, inode

    def stop(self, connection: Any) -> float:
        """Leave the connection alone, and return the seconds that were left."""
        with self.lock:
            now = time.monotonic()
            return self.deadlines.pop(connection, (now, 0))[0] - now

    @contextmanager
    def limit(self, connection: Any, seconds: float) -> Iterator[None]:
        """Limit what is done with the connection in this block to so many seconds."""
        self.start(connection, seconds, socket_inode(connection))
        try:
            yield
        finally:
            self.stop(connection)

    def run(self) -> None:
        """Check the deadlines until the process ends."""
        while True:
            time.sleep(CHECK_SECONDS)
            self.check()

    def check(self) -> None:
        """Shut down the connections whose deadline has passed."""
        with self.lock:
            now = time.monotonic()
            for connection in [connection for connection, (end, _) in self.deadlines.items() if end <= now]:
                shut_down(connection, self.deadlines.pop(connection)[1])


def socket_inode(connection: Any) -> int:
    """Return the inode of a connection's socket, which is unique while the socket is open."""
    return os.fstat(connection.fileno()).st_ino


def shut_down(connection: Any, inode: int) -> None:
    """Shut both directions of a connection's socket down, from another thread than the one that uses it."""
    # The socket may be closed and its number be another's by now: duplicate it first, and compare then.
    with suppress(OSError, psycopg2.Error), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        if os.fstat(duplicate.fileno()).st_ino == inode:
            duplicate.shutdown(socket.SHUT_RDWR)


watchdog = ConnectionWatchdog()


def set_seconds_left(seconds: float) -> None:
    """Set how long the current request may use the database from now on, while it holds no connection.

    The database's own limits are others: statement_timeout and lock_timeout are settings of the transaction.
    """
    g.database_seconds = seconds


def seconds_left() -> float:
    """Return how long the current request may still use the database."""
    seconds: float = g.setdefault("database_seconds", REQUEST_SECONDS)
    return seconds


def check_deadline() -> None:
    """Raise SQLAlchemy's TimeoutError where the current request has used up its time."""
    if has_request_context() and seconds_left() <= 0:
        raise DatabaseTimeout("The time that a request has with the database is over.")


@contextmanager
def request_deadline(connection: Any, inode: int) -> Iterator[None]:
    """Hold what is done with the connection in this block to the deadline of the request, if there is one."""
    if not has_request_context():
        yield
        return
    check_deadline()
    watchdog.start(connection, seconds_left(), inode)
    try:
        yield
    finally:
        set_seconds_left(watchdog.stop(connection))
