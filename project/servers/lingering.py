"""The lingering close of RFC 9112, section 9.6, in the main thread of a worker."""

import selectors
import socket
import time
from contextlib import suppress
from typing import Any


class LingeringClose:
    """Part of a worker that closes connections: gunicorn would block on each for 2 s, and all others with it."""

    #: How long a client may take to close after the response, and how much it may send meanwhile.
    LINGER_SECONDS, MAX_LINGER_BYTES = 2.0, 1024 * 1024

    #: The oldest first, with the number of bytes that each client may still send.
    lingering: dict[Any, int]
    # The worker's own.
    log: Any
    nr_conns: int
    poller: selectors.BaseSelector

    def begin_lingering_close(self, conn: Any) -> None:
        """Close a connection once its client does, or soon."""
        conn.timeout = time.monotonic() + self.LINGER_SECONDS
        self.lingering[conn] = self.MAX_LINGER_BYTES
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.log.debug("The client is gone: %s", error)
        # Most are gone by now, or have been closed in the middle of an answer.
        self.drain(conn)
        if conn in self.lingering:
            self.poller.register(conn.sock, selectors.EVENT_READ, lambda client: self.drain(conn))

    def drain(self, conn: Any) -> None:
        """Read what a client still sends: left unread, it would reset the connection, and lose the answer."""
        try:
            read = len(conn.sock.recv(64 * 1024))
        except BlockingIOError:
            return
        except OSError as error:
            self.log.debug("The client is gone: %s", error)
            read = 0
        self.lingering[conn] -= read
        if not read or self.lingering[conn] < 0:
            self.end_lingering_close(conn)

    def end_lingering_close(self, conn: Any) -> None:
        """Close a connection for good."""
        del self.lingering[conn]
        # Most were never waited for.
        with suppress(KeyError, ValueError):
            self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def end_expired(self, now: float) -> None:
        """Close connections whose clients have taken too long."""
        while self.lingering and (oldest := next(iter(self.lingering))).timeout < now:
            self.end_lingering_close(oldest)
