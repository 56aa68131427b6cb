"""An event loop in a thread of its own: what waits for a client or for a moment occupies no thread of the requests."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Any

from project.servers.limits import Limits
from project.servers.lingering import LingeringClose


class Watchdog:
    """The event loop, whose methods any thread may call.

    checks: called at every tick
    """

    def __init__(self, limits: Limits, *checks: Callable[[], None]) -> None:
        self.limits, self.checks = limits, [*checks]
        self.silent: set[SilentConnection] = set()
        self.loop = asyncio.new_event_loop()
        self.thread = Thread(target=self.run, name="watchdog", daemon=True)
        self.thread.start()

    def run(self) -> None:
        """Run the event loop until it is stopped."""
        self.loop.call_soon(self.tick)
        self.loop.run_forever()
        self.loop.close()

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function in the event loop, unless that is closed."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *arguments)

    def stop(self) -> None:
        """Stop the event loop: it calls nothing any more."""
        self.call(self.loop.stop)
        self.thread.join()

    def tick(self) -> None:
        """Call the checks, and again at the next tick."""
        self.loop.call_later(self.limits.TICK_SECONDS, self.tick)
        for check in self.checks:
            check()

    def await_data(self, sock: socket.socket, on_data: Callable[[], None], on_timeout: Callable[[], None]) -> None:
        """Wait for the first bytes of a new connection."""
        connection = SilentConnection(self, sock, on_data, on_timeout)
        self.call(connection.begin)

    def end_silence(self) -> None:
        """Close the connections that send nothing within a moment: the worker stops."""
        self.call(self.loop.call_later, self.limits.MAX_SILENT_SECONDS_AT_STOP, self.close_silent_connections)

    def close_silent_connections(self) -> None:
        """Close the connections that have sent nothing."""
        for connection in self.silent.copy():
            connection.end(connection.on_timeout)

    def begin_lingering_close(self, sock: socket.socket, on_closed: Callable[[], None]) -> None:
        """Close a connection once its client does, or soon."""
        closing = LingeringClose(self.loop, sock, self.limits, on_closed)
        self.call(closing.begin)


class SilentConnection:
    """A new connection whose client has sent nothing."""

    def __init__(
        self, watchdog: Watchdog, sock: socket.socket, on_data: Callable[[], None], on_timeout: Callable[[], None]
    ) -> None:
        self.watchdog, self.sock, self.on_data, self.on_timeout = watchdog, sock, on_data, on_timeout

    def begin(self) -> None:
        """Wait for the first bytes."""
        loop, seconds = self.watchdog.loop, self.watchdog.limits.MAX_SILENT_SECONDS
        self.watchdog.silent.add(self)
        self.timer = loop.call_later(seconds, self.end, self.on_timeout)
        loop.add_reader(self.sock, self.end, self.on_data)

    def end(self, then: Callable[[], None]) -> None:
        """Wait no longer, and go on."""
        self.watchdog.silent.discard(self)
        self.timer.cancel()
        self.watchdog.loop.remove_reader(self.sock)
        then()
