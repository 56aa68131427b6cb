"""gunicorn's worker: deadlines for every request, and an orderly end."""

import errno
import re
import select
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any

from gunicorn import util
from gunicorn.http.body import LengthReader
from gunicorn.workers.gthread import ThreadWorker

from project.http.headers import fixed_headers
from project.servers import response
from project.servers.lingering import LingeringClose
from project.servers.refusals import refusal, status_of

#: Answered when all threads are busy, too: with a head that has come in as a whole, and no body after it, since the
#: rest would be waited for.
PROBE = re.compile(
    rb"(GET|HEAD) /(ping|health|metrics)[ ?][^\r\n]*\r\n"
    rb"((?!(?i:transfer-encoding|content-length:[ \t]*0*[1-9]))[^\r\n]+\r\n)*\r\n"
)
#: Requests that move many users, which have a longer deadline than the others.
TRANSFERS = {("POST", "/users/import"), ("GET", "/users/export")}


class InFlight:
    """A connection that a thread serves, or that waits for one.

    started_at: when it was given to the threads, or when the last request on it was answered
    """

    future: "Future[Any]"

    def __init__(self) -> None:
        self.started_at = time.monotonic()
        self.is_transfer = False


class Worker(LingeringClose, ThreadWorker):
    """A worker that ends every wait, and sends the one error body also for what never becomes a request.

    Its main thread looks after the connections in flight: those that wait for a thread, and those that a thread reads
    from or writes to a slow client.
    """

    #: How many seconds a request may wait for a thread, come in, and be answered altogether.
    MAX_QUEUE_SECONDS, MAX_READ_SECONDS, MAX_REQUEST_SECONDS = 0.75, 20.0, 28.0
    #: How many an import or an export may take; configure() sets it.
    MAX_TRANSFER_SECONDS = 305.0
    #: How long a thread waits for the next request of the client that it has just answered.
    NEXT_REQUEST_MILLISECONDS = 2
    #: How often the main thread looks at the deadlines.
    TICK_SECONDS = 0.1

    #: The headers of every response; configure() sets them.
    fixed_headers: Mapping[str, str] = {}
    #: Those that came between the fork and init_signals(); the hook pre_fork sets it.
    signals: "SimpleQueue[int]"
    #: The listeners.
    sockets: list[Any]

    @classmethod
    def configure(cls, settings: Mapping[str, Any]) -> None:
        """Take what workers need from the settings of the service."""
        cls.fixed_headers = fixed_headers(settings)
        # The service's own limit comes first, and its answer with it.
        cls.MAX_TRANSFER_SECONDS = settings["TRANSFER_TIMEOUT"] + 5

    def init_process(self) -> None:
        """Add two threads for probes."""
        response.install()
        self.probe_threads = ThreadPoolExecutor(2)
        self.in_flight: dict[Any, InFlight] = {}
        self.lingering = {}
        # gunicorn works out a setting each time that it looks at it, dozens of times a request.
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})
        super().init_process()

    def init_signals(self) -> None:
        """Handle signals, with those that came before: the master's handler has kept them since the fork."""
        super().init_signals()
        while not self.signals.empty():
            number = self.signals.get()
            if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                signal.raise_signal(number)

    def serve(self, conn: Any) -> Any:
        """Serve a connection, which keeps the thread while its next request comes at once and no other needs it.

        The main thread would take the connection back, wait for the request, and wake a thread again: that costs as
        much as the request.
        """
        keep = self.handle(conn)
        while keep is True and self.alive and self.has_next_request(conn):
            entry = self.in_flight[conn]
            entry.started_at, entry.is_transfer = time.monotonic(), False
            keep = self.handle(conn)
        return keep

    def has_next_request(self, conn: Any) -> bool:
        """Wait a moment for the next request on a connection, unless another waits for a thread."""
        if len(self.in_flight) > self.cfg.threads:
            return False
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(self.NEXT_REQUEST_MILLISECONDS))

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer a request."""
        self.in_flight[conn].is_transfer = (req.method, req.path) in TRANSFERS
        return super().handle_request(req, conn)

    def _keepalive_after(self, conn: Any, keepalive: Any) -> Any:
        """Say whether there may be another request: a body that is read needs no time-outs to read its rest."""
        body = conn.parser.mesg.body.reader
        if keepalive and isinstance(body, LengthReader) and not body.length:
            conn.parser.mesg = None
            return True
        return super()._keepalive_after(conn, keepalive)

    def accept(self, listener: Any) -> None:
        """Accept a connection, or a moment later while too many files are open: gunicorn would end the worker."""
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self.log.error("New connections have to wait: %s", error)
            time.sleep(self.TICK_SECONDS)

    def enqueue_req(self, conn: Any) -> None:
        """Give a request to a thread as soon as it begins to come in."""
        head = b""
        try:
            head = conn.sock.recv(2048, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            conn.data_ready = True
        except BlockingIOError:
            if not conn.initialized:
                self.await_data(conn)
                return
        except OSError as error:
            self.log.debug("The client is gone: %s", error)
        if PROBE.match(head):
            self.submit(self.probe_threads, self.handle, conn)
        else:
            self.submit(self.tpool, self.serve, conn)

    def await_data(self, conn: Any) -> None:
        """Look at a new connection again when there is something to read, and occupy no thread until then."""
        conn.set_timeout()
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def submit(self, threads: ThreadPoolExecutor, task: Callable[[Any], Any], conn: Any) -> None:
        """Give a connection to the threads, and watch its deadlines."""
        # Before there is a thread that asks for it.
        entry = self.in_flight[conn] = InFlight()
        entry.future = threads.submit(task, conn)
        entry.future.add_done_callback(
            lambda done: done.cancelled() or self.method_queue.defer(self.finish_request, conn, done)
        )

    def finish_request(self, conn: Any, fs: "Future[Any]") -> None:
        """Keep a connection alive that a thread has served, or close it."""
        self.in_flight.pop(conn, None)
        if fs.exception() is None and fs.result():
            super().finish_request(conn, fs)
        else:
            self.begin_lingering_close(conn)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events, and enforce the deadlines in between."""
        super().wait_for_and_dispatch_events(min(timeout, self.TICK_SECONDS))
        self.enforce_deadlines(time.monotonic())

    def enforce_deadlines(self, now: float) -> None:
        """End what takes too long: lingering closes, waits for a thread, requests."""
        self.end_expired(now)
        for conn, entry in list(self.in_flight.items()):
            seconds = now - entry.started_at
            if seconds > self.MAX_QUEUE_SECONDS and entry.future.cancel():
                self.submit(self.probe_threads, self.refuse, conn)
            elif seconds > (self.MAX_TRANSFER_SECONDS if entry.is_transfer else self.MAX_REQUEST_SECONDS):
                self.shut_down(conn, socket.SHUT_RDWR)
            elif seconds > self.MAX_READ_SECONDS and not entry.is_transfer:
                # The answer, a 408 perhaps, can still be written.
                self.shut_down(conn, socket.SHUT_RD)

    def shut_down(self, conn: Any, direction: int) -> None:
        """Shut a connection down while a thread may wait for it."""
        try:
            conn.sock.shutdown(direction)
        except OSError as error:
            self.log.debug("The client is gone: %s", error)

    def refuse(self, conn: Any) -> None:
        """Tell a client that all threads are busy."""
        conn.sock.settimeout(self.TICK_SECONDS)
        try:
            # Else the connection would be reset, and the answer with it.
            conn.sock.recv(1024 * 1024)
        except OSError as error:
            self.log.debug("The client is gone, or has sent nothing more: %s", error)
        self.send_refusal(conn.sock, 503, "Service Unavailable", "The service is busy at the moment.")

    def is_parent_alive(self) -> bool:
        """Stop for good where the master is gone: its successor needs the port."""
        # Never set it to what it was: a SIGTERM in between would be forgotten.
        if not super().is_parent_alive():
            self.alive = False
        return bool(self.alive)

    def _cap_keepalive(self, deadline: float) -> None:
        """Let a stopping worker wait no longer for a request on a new connection than on one that is kept alive."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Refuse what is not HTTP, or not within the limits."""
        status, reason = status_of(exc)
        if status == 500:
            self.log.error("Error handling a request", exc_info=exc)
        self.send_refusal(client, status, reason, f"{reason}.")

    def send_refusal(self, client: socket.socket, status: int, reason: str, message: str) -> None:
        """Write the one error body, without a request to answer."""
        try:
            util.write(client, refusal(status, reason, message, self.fixed_headers, self.log))
        except OSError as error:
            self.log.debug("The client is gone: %s", error)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept connections or not; once stopping, accept those that wait already, and close the listeners.

        Left open, they would queue connections up to the end, and then reset them with their requests.
        """
        # Asked once: a SIGTERM in between would close sockets that have just begun to be watched.
        stopping = not self.alive
        if stopping:
            # Where all processes are told to stop at once, as on Heroku, the master may refuse connections later.
            until = time.monotonic() + self.TICK_SECONDS
            while time.monotonic() < until:
                self.wait_for_and_dispatch_events(self.TICK_SECONDS)
        super().set_accept_enabled(enabled and not stopping)
        if stopping:
            self.drain_listeners()

    def drain_listeners(self) -> None:
        """Accept the connections that wait, and close the listeners."""
        for listener in self.sockets:
            # No more than can wait: a listener that other workers keep open may get new ones all the time.
            for _ in range(self.cfg.backlog):
                accepted = self.nr_conns
                self.accept(listener)
                if accepted == self.nr_conns:
                    break
            listener.close()
        self.sockets = []
