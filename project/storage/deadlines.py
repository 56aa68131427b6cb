"""How long a request may use the database, and the watchdog that ends what takes longer."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
from flask import g

#: How long a request may connect and hold connections, all of them together, in seconds: longer than a statement may
#: take, so that the database ends it if it can, and shorter than the 6 s within which every call is answered.
REQUEST_SECONDS = 5.5
#: How often the clock looks, in seconds.
TICK = 0.2


class Clock:
    """Cut the connections whose time is over: a database that hangs does not end its statements itself.

    A cut connection gives an OperationalError to whoever waits for it.
    """

    def __init__(self) -> None:
        self.ends: dict[Any, tuple[float, int]] = {}
        # Whoever gives a connection back must know that it is not cut later, in the next user's hands.
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None

    def start(self, connection: Any, seconds: float, inode: int) -> None:
        """Cut the connection in so many seconds, unless it is stopped before.

        inode: of its socket, which is not asked for here: whoever waits for this lock would wait for the system.
        """
        with self.lock:
            if self.thread is None:
                # Not before: a thread does not live on in the workers that gunicorn forks.
                thread = threading.Thread(target=self.run, name="database-clock", daemon=True)
                thread.start()
                self.thread = thread
            self.ends[connection] = time.monotonic() + seconds, inode

    def stop(self, connection: Any) -> float:
        """Leave the connection alone, and return the seconds that were left."""
        with self.lock:
            now = time.monotonic()
            return self.ends.pop(connection, (now, 0))[0] - now

    @contextmanager
    def limit(self, connection: Any, seconds: float) -> Iterator[None]:
        """Let whatever is done with the connection here take so many seconds at most."""
        self.start(connection, seconds, socket_of(connection))
        try:
            yield
        finally:
            self.stop(connection)

    def run(self) -> None:
        """Look every now and then, for ever."""
        while True:
            time.sleep(TICK)
            self.cut()

    def cut(self) -> None:
        """Cut the connections whose time is over."""
        with self.lock:
            now = time.monotonic()
            for connection in [connection for connection, (end, _) in self.ends.items() if end <= now]:
                shut(connection, self.ends.pop(connection)[1])


def socket_of(connection: Any) -> int:
    """Return the inode of a connection's socket, which no other has while this one is there."""
    return os.fstat(connection.fileno()).st_ino


def shut(connection: Any, inode: int) -> None:
    """End both directions of a connection's socket, from another thread than the one that uses it."""
    # It may be gone, and its number be another socket's by now: hold on to whatever it is, and then look.
    with suppress(OSError, psycopg2.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
        if os.fstat(line.fileno()).st_ino == inode:
            line.shutdown(socket.SHUT_RDWR)


clock = Clock()


def allow(seconds: float) -> None:
    """Let the current request have so many seconds with the database from now on, while it holds no connection.

    The database's own limits are others: statement_timeout and lock_timeout are settings of the transaction.
    """
    g.database_seconds = seconds


def seconds_left() -> float:
    """Return how long the current request may still hold connections."""
    seconds: float = g.setdefault("database_seconds", REQUEST_SECONDS)
    return seconds
