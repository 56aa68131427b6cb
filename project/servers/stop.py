"""The stop of gunicorn: no connection is begun that nobody would answer, and those that wait are accepted first."""

import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from project.servers.limits import Limits

log = logging.getLogger(__name__)

#: Linux's number, which Python's socket does not name.
IP_MINTTL = 21


def refuse_connections(listeners: Sequence[socket.socket]) -> None:
    """Let the kernel drop new connections to listeners, while those that wait can still be accepted."""
    if sys.platform != "linux":
        return
    for listener in listeners:
        try:
            # The kernel drops what begins a connection with a smaller TTL, as all do. The client's tries again a
            # second later, and is refused then.
            listener.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 255)
        except OSError as error:
            log.info("A connection that begins at this moment may be reset: %s", error)


class StopAfterDrain:
    """Hands a worker's SIGTERM to gunicorn once no connection waits at the listeners.

    gunicorn stops to accept at once, and would reset the connections that wait, with their requests. The end of the
    master is as a SIGTERM: a successor needs the port.

    master: the process id of gunicorn's master
    on_stop: called just before gunicorn stops
    """

    def __init__(
        self, listeners: Sequence[socket.socket], master: int, limits: Limits, on_stop: Callable[[], None]
    ) -> None:
        self.listeners, self.master, self.limits, self.on_stop = listeners, master, limits, on_stop
        self.requested_at: float | None = None
        self.is_done = False

    def install(self) -> None:
        """Handle SIGTERM in the place of gunicorn's handler."""
        self.handler = signal.signal(signal.SIGTERM, self.on_signal)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Note a SIGTERM."""
        self.requested_at = self.requested_at or time.monotonic()

    def check(self) -> None:
        """Stop where that was asked for, and no connection waits."""
        if self.master != os.getppid():
            self.on_signal(signal.SIGTERM, None)
        if self.requested_at is None or self.is_done:
            return
        seconds = time.monotonic() - self.requested_at
        # Where all processes are told to stop at once, as on Heroku, the master refuses connections a moment later.
        is_drained = seconds > self.limits.TICK_SECONDS and not select.select(self.listeners, [], [], 0)[0]
        if is_drained or seconds > self.limits.MAX_DRAIN_SECONDS:
            self.is_done = True
            self.on_stop()
            call_handler(self.handler, signal.SIGTERM)


def call_handler(handler: Any, number: int) -> None:
    """Call a handler of a signal that stood before."""
    handler(number, None)
