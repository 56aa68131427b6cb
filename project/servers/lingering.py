"""The lingering close of RFC 9112, section 9.6, in an event loop."""

import asyncio
import logging
import socket
from collections.abc import Callable

from project.servers.limits import Limits

log = logging.getLogger(__name__)


class LingeringClose:
    """Waits for the client to close a connection: gunicorn would wait in its main thread, and all others with it.

    on_closed: called as soon as the connection can be closed without a wait
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, limits: Limits, on_closed: Callable[[], None]
    ) -> None:
        self.loop, self.sock, self.on_closed = loop, sock, on_closed
        self.seconds, self.bytes_left = limits.LINGER_SECONDS, limits.MAX_LINGER_BYTES

    def begin(self) -> None:
        """Send the end of the connection, and wait for the client's."""
        self.timer = self.loop.call_later(self.seconds, self.end)
        try:
            self.sock.setblocking(False)
            self.sock.shutdown(socket.SHUT_WR)
            self.loop.add_reader(self.sock, self.drain)
        except OSError as error:
            log.debug("The client is gone: %s", error)
            self.end()

    def drain(self) -> None:
        """Read what a client still sends: left unread, it would reset the connection, and lose the answer."""
        try:
            read = len(self.sock.recv(64 * 1024))
        except OSError as error:
            log.debug("The client is gone: %s", error)
            read = 0
        self.bytes_left -= read
        if not read or self.bytes_left < 0:
            self.end()

    def end(self) -> None:
        """Wait no longer."""
        self.timer.cancel()
        # A socket that the application has closed was never watched.
        if self.sock.fileno() >= 0:
            self.loop.remove_reader(self.sock)
        self.on_closed()
