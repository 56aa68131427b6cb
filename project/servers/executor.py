"""The threads of gunicorn's worker, with deadlines: gunicorn submits a connection, and its handler runs here."""

import logging
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from project.http.connection import client_socket
from project.servers.limits import Limits
from project.servers.refusals import send_refusal
from project.servers.stop import StopAfterDrain
from project.servers.watchdog import Watchdog

log = logging.getLogger(__name__)

#: Answered when all threads are busy, too: with a head that has come in as a whole, and no body after it, since the
#: rest would be waited for.
PROBE = re.compile(
    rb"(GET|HEAD) /(ping|health|metrics)[ ?][^\r\n]*\r\n"
    rb"((?!(?i:transfer-encoding|content-length:[ \t]*0*[1-9]))[^\r\n]+\r\n)*\r\n"
)
#: Requests that move many users, which have a longer deadline than the others.
TRANSFERS = {("POST", "/users/import"), ("GET", "/users/export")}
BUSY_MESSAGE = "The service is busy at the moment."


class ConnectionClosed(Exception):
    """The end of a connection, for which gunicorn has nothing to wait."""


class InFlight:
    """A connection between its submission by gunicorn and the result.

    result: what gunicorn waits for: whether the connection is kept alive
    queued: the task in the queue of the threads, until one of them begins it
    started_at: when it was given to the threads, or when the last request on it was answered
    """

    queued: "Future[None]"

    def __init__(self, handle: Callable[[Any], Any], conn: Any) -> None:
        self.handle, self.conn = handle, conn
        self.result: Future[Any] = Future()
        self.started_at = time.monotonic()
        self.is_transfer = False

    @property
    def sock(self) -> socket.socket:
        """Return the socket of the client."""
        sock: socket.socket = self.conn.sock
        return sock

    def shut_down(self, direction: int) -> None:
        """Shut the connection down while a thread may wait for it."""
        try:
            self.sock.shutdown(direction)
        except OSError as error:
            log.debug("The client is gone: %s", error)


class RequestExecutor(Executor):
    """Runs gunicorn's handler for connections that have something to read, and ends what takes too long.

    A silent connection occupies no thread. Probes have two threads of their own.
    """

    def __init__(self, threads: Executor, limits: Limits, fixed_headers: Mapping[str, str]) -> None:
        self.threads, self.limits, self.fixed_headers = threads, limits, fixed_headers
        self.probe_threads = ThreadPoolExecutor(2, "probe")
        self.in_flight: set[InFlight] = set()
        self.waiting: set[InFlight] = set()
        self.kept_alive: WeakSet[Any] = WeakSet()
        self.current = threading.local()
        self.is_shut_down = False
        self.watchdog = Watchdog(limits, self.enforce_deadlines)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Give a connection to a thread as soon as a request begins to come in."""
        entry = InFlight(fn, *args)
        head = b""
        try:
            head = entry.sock.recv(2048, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            # Of one that is kept alive gunicorn may have read the next request already.
            if entry.conn not in self.kept_alive:
                self.watchdog.await_data(entry.sock, lambda: self.dispatch(entry), lambda: self.close(entry))
                return entry.result
        except OSError as error:
            log.debug("The client is gone: %s", error)
        self.dispatch(entry, head)
        return entry.result

    def dispatch(self, entry: InFlight, head: bytes | None = None) -> None:
        """Give a connection to the threads, and watch its deadlines. head: the beginning of the request, if known."""
        if head is None:
            with suppress(OSError):
                head = entry.sock.recv(2048, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        entry.started_at = time.monotonic()
        self.in_flight.add(entry)
        if PROBE.match(head or b""):
            entry.queued = self.probe_threads.submit(self.serve_once, entry)
        else:
            self.waiting.add(entry)
            entry.queued = self.threads.submit(self.serve, entry)

    def serve_once(self, entry: InFlight) -> None:
        """Answer one request."""
        self.finish(entry, self.handle(entry))

    def serve(self, entry: InFlight) -> None:
        """Serve a connection, which keeps the thread while its next request comes at once and no other needs it.

        gunicorn's main thread would take the connection back, wait for the request, and wake a thread again: that
        costs as much as the request.
        """
        self.waiting.discard(entry)
        keep = self.handle(entry)
        while keep is True and self.has_next_request(entry):
            entry.started_at, entry.is_transfer = time.monotonic(), False
            keep = self.handle(entry)
        self.finish(entry, keep)

    def handle(self, entry: InFlight) -> Any:
        """Call gunicorn's handler, which returns whether the connection is to be kept alive."""
        self.current.entry = entry
        client_socket.set(entry.sock)
        try:
            return entry.handle(entry.conn)
        except Exception as error:
            log.error("Error handling a connection", exc_info=error)
            return False
        finally:
            self.current.entry = None
            client_socket.set(None)

    def has_next_request(self, entry: InFlight) -> bool:
        """Wait a moment for the next request on a connection, unless another waits for a thread."""
        if self.waiting:
            return False
        poll = select.poll()
        poll.register(entry.sock, select.POLLIN)
        return bool(poll.poll(self.limits.NEXT_REQUEST_SECONDS * 1000))

    def finish(self, entry: InFlight, keep: Any) -> None:
        """Give a connection back that is kept alive, and close any other."""
        self.in_flight.discard(entry)
        if keep and not self.is_shut_down:
            self.kept_alive.add(entry.conn)
            entry.result.set_result(keep)
        else:
            self.watchdog.begin_lingering_close(entry.sock, lambda: self.close(entry))

    def close(self, entry: InFlight) -> None:
        """Let gunicorn close a connection at once, as where a task fails; once it has ended it takes no result."""
        if not self.is_shut_down:
            entry.result.set_exception(ConnectionClosed())

    def stop_after_drain(self, listeners: Sequence[socket.socket], master: int) -> None:
        """Let a SIGTERM stop this worker in order; called in the main thread, once gunicorn handles that signal."""
        stop = StopAfterDrain(listeners, master, self.limits, self.watchdog.end_silence)
        stop.install()
        self.watchdog.checks.append(stop.check)

    def note_request(self, method: str, path: str) -> None:
        """Note what the request of this thread is: gunicorn's hook pre_request calls this."""
        if entry := getattr(self.current, "entry", None):
            entry.is_transfer = (method, path) in TRANSFERS

    def enforce_deadlines(self) -> None:
        """End what takes too long: waits for a thread, and requests."""
        now = time.monotonic()
        for entry in self.in_flight.copy():
            seconds = now - entry.started_at
            if seconds > self.limits.MAX_QUEUE_SECONDS and entry.queued.cancel():
                self.waiting.discard(entry)
                entry.queued = self.probe_threads.submit(self.refuse, entry)
            elif seconds > self.max_seconds(entry):
                entry.shut_down(socket.SHUT_RDWR)
            elif seconds > self.limits.MAX_READ_SECONDS and not entry.is_transfer:
                # The answer, a 408 perhaps, can still be written.
                entry.shut_down(socket.SHUT_RD)

    def max_seconds(self, entry: InFlight) -> float:
        """Return how long a request may take."""
        return self.limits.MAX_TRANSFER_SECONDS if entry.is_transfer else self.limits.MAX_REQUEST_SECONDS

    def refuse(self, entry: InFlight) -> None:
        """Tell a client that all threads are busy."""
        try:
            entry.sock.settimeout(self.limits.TICK_SECONDS)
            # Else the connection would be reset, and the answer with it.
            entry.sock.recv(1024 * 1024)
        except OSError as error:
            log.debug("The client is gone, or has sent nothing more: %s", error)
        send_refusal(entry.sock, 503, "Service Unavailable", BUSY_MESSAGE, self.fixed_headers)
        self.finish(entry, False)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads: gunicorn calls this at its end, and takes no results afterwards."""
        self.is_shut_down = True
        self.watchdog.stop()
        self.threads.shutdown(wait, cancel_futures=cancel_futures)
        self.probe_threads.shutdown(wait, cancel_futures=cancel_futures)
