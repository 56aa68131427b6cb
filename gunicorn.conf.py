"""How gunicorn serves the application; it reads this file by itself when started in this folder."""

import errno
import os
import re
import select
import selectors
import signal
import socket
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import orjson
from flask import Config
from gunicorn import glogging, util
from gunicorn.http import wsgi
from gunicorn.http.body import LengthReader
from gunicorn.http.errors import ExpectationFailed, LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers import base
from gunicorn.workers.gthread import ThreadWorker

from project import logs, metrics
from project.api.errors import error_body
from project.api.headers import fixed_headers
from project.config import APP_SETTINGS, complete

settings = Config(os.getcwd())
settings.from_object(APP_SETTINGS)
# Here, and not only in the workers: one that ends at its start is started again and again.
complete(settings)
logs.start(settings)
# Before the workers start, which write their figures there.
folder = metrics.share()
metrics.warn_of_missing_folder()

# Linux's number, which Python's socket does not name.
IP_MINTTL = 21


class Logger(glogging.Logger):
    """gunicorn's own log, in lines of ours. The application writes a line for each request by itself."""

    def setup(self, cfg):
        """Take the level from gunicorn, and nothing else."""
        super().setup(cfg)
        self.error_log.handlers = [logs.LOG]


# The module of workers keeps gunicorn's own, while this file is read again at each SIGHUP and would find ours.
class Response(base.Response):
    """An answer that goes out at once, headers and body, where the body is one piece: gunicorn writes twice."""

    def write(self, arg):
        """Write a piece of the body, the first with the headers before it."""
        if self.headers_sent or self._omits_body or len(arg) != self.response_length:
            super().write(arg)
            return
        lines = [*self.default_headers(), *(f"{name}: {value}\r\n" for name, value in self.headers), "\r\n"]
        self.headers_sent, self.sent = True, len(arg)
        util.write(self.sock, "".join(lines).encode("latin-1") + arg)


# There is no setting for it.
wsgi.Response = Response


class Heartbeat:
    """The heartbeat of a worker in memory without a name, for where no file can be made: gunicorn's WorkerTmp."""

    def __init__(self, cfg):
        self.file = open(os.memfd_create("heartbeat"), "wb", 0)

    def notify(self):
        """Show that the worker lives."""
        now = time.monotonic()
        os.utime(self.file.fileno(), (now, now))

    def last_update(self):
        """Return when the worker last did."""
        return os.fstat(self.file.fileno()).st_mtime

    def fileno(self):
        """Return the descriptor."""
        return self.file.fileno()

    def close(self):
        """Give the memory back."""
        self.file.close()


if folder is None and hasattr(os, "memfd_create"):
    # There is no setting for that either: worker_tmp_dir must be a folder that can be written.
    base.WorkerTmp = Heartbeat


class Hand:
    """What is known of a request in hand, or of a connection that waits for a thread.

    since: when it was taken in hand, or when the last request on its connection was answered
    """

    def __init__(self):
        self.since = time.monotonic()
        self.transfer = False
        self.future = None


class Worker(ThreadWorker):
    """A worker that lets nobody wait for ever, and gives the one error body also to what never becomes a request.

    Its main thread looks after the requests in hand: those that wait for a thread, and those that a thread reads from
    or writes to a slow client.
    """

    #: Whoever looks after the service is answered when all threads are busy too: with a head that has come in as a
    #: whole, and no body after it, since the rest would be waited for.
    probe = re.compile(
        rb"(GET|HEAD) /(ping|health|metrics)[ ?][^\r\n]*\r\n"
        rb"((?!(?i:transfer-encoding|content-length:[ \t]*0*[1-9]))[^\r\n]+\r\n)*\r\n"
    )
    #: What moves many users takes its time; everything else ends within 30 s.
    transfers = {("POST", "/users/import"), ("GET", "/users/export")}
    #: How many seconds a request may wait for a thread, come in, and be answered altogether.
    queue_seconds, read_seconds, request_seconds = 0.75, 20.0, 28.0
    #: The service's own limit comes first, and its answer with it.
    transfer_seconds = settings["TRANSFER_TIMEOUT"] + 5
    #: How long a thread waits for the next request of the client that it has just answered, in milliseconds.
    moment = 2
    #: How often to look, in seconds.
    tick = 0.1
    #: How long a client may take to close a connection after us, in seconds, and how many bytes it may send meanwhile.
    farewell, drained = 2.0, 1024 * 1024

    def init_process(self):
        """Add two threads for those who ask how the service is."""
        self.probes = ThreadPoolExecutor(2)
        self.in_hand = {}
        # The oldest first, with the bytes that each may still send.
        self.leaving = {}
        # gunicorn works out a setting each time that it looks at it, dozens of times a request.
        vars(self.cfg).update({name: setting.get() for name, setting in self.cfg.settings.items()})
        super().init_process()

    def init_signals(self):
        """Hear signals, with those that came before: the master's handler has kept them since the fork."""
        super().init_signals()
        while not self.signals.empty():
            number = self.signals.get()
            if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                signal.raise_signal(number)

    def serve(self, conn):
        """Serve a client, which keeps the thread while its next request comes at once and no other needs the thread.

        The main thread would take the connection back, wait for the request, and wake a thread again: that costs as
        much as the request.
        """
        keep = self.handle(conn)
        while keep is True and self.alive and self.asks_again(conn):
            hand = self.in_hand[conn]
            hand.since, hand.transfer = time.monotonic(), False
            keep = self.handle(conn)
        return keep

    def asks_again(self, conn):
        """Wait a moment for the next request of a client, unless another waits for a thread."""
        if len(self.in_hand) > self.cfg.threads:
            return False
        look = select.poll()
        look.register(conn.sock, select.POLLIN)
        return bool(look.poll(self.moment))

    def handle_request(self, req, conn):
        """Answer a request."""
        self.in_hand[conn].transfer = (req.method, req.path) in self.transfers
        return super().handle_request(req, conn)

    def _keepalive_after(self, conn, keepalive):
        """Say whether there may be another request: a body that is read needs no time-outs to read its rest."""
        body = conn.parser.mesg.body.reader
        if keepalive and isinstance(body, LengthReader) and not body.length:
            conn.parser.mesg = None
            return True
        return super()._keepalive_after(conn, keepalive)

    def accept(self, listener):
        """Accept a connection, or a moment later while too many files are open: gunicorn would end the worker."""
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self.log.error("Whoever connects now has to wait: %s", error)
            time.sleep(self.tick)

    def enqueue_req(self, conn):
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
        if self.probe.match(head):
            self.submit(self.probes, self.handle, conn)
        else:
            self.submit(self.tpool, self.serve, conn)

    def await_data(self, conn):
        """Look at a new connection again when there is something to read, and occupy no thread until then."""
        conn.set_timeout()
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def submit(self, threads, task, conn):
        """Let a thread do something with a connection, and keep an eye on it."""
        # Before there is a thread that asks for it.
        hand = self.in_hand[conn] = Hand()
        hand.future = threads.submit(task, conn)
        hand.future.add_done_callback(
            lambda done: done.cancelled() or self.method_queue.defer(self.finish_request, conn, done)
        )

    def finish_request(self, conn, fs):
        """Let go of a connection that a thread has done with."""
        self.in_hand.pop(conn, None)
        if fs.exception() is None and fs.result():
            super().finish_request(conn, fs)
        else:
            self.take_leave(conn)

    def take_leave(self, conn):
        """Close a connection once its client does, or soon; gunicorn would wait for that, and all others with it."""
        conn.timeout = time.monotonic() + self.farewell
        self.leaving[conn] = self.drained
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.log.debug("The client is gone: %s", error)
        # Most are gone by now, or have been closed in the middle of an answer.
        self.drain(conn)
        if conn in self.leaving:
            self.poller.register(conn.sock, selectors.EVENT_READ, lambda client: self.drain(conn))

    def drain(self, conn):
        """Read what a client still sends: the answer would be lost with what is left unread."""
        try:
            read = len(conn.sock.recv(64 * 1024))
        except BlockingIOError:
            return
        except OSError as error:
            self.log.debug("The client is gone: %s", error)
            read = 0
        self.leaving[conn] -= read
        if not read or self.leaving[conn] < 0:
            self.let_go(conn)

    def let_go(self, conn):
        """Close a connection that leave was taken of."""
        del self.leaving[conn]
        # Most were never waited for.
        with suppress(KeyError, ValueError):
            self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def wait_for_and_dispatch_events(self, timeout):
        """Wait for events, and look after the requests in hand in between."""
        super().wait_for_and_dispatch_events(min(timeout, self.tick))
        now = time.monotonic()
        while self.leaving and (oldest := next(iter(self.leaving))).timeout < now:
            self.let_go(oldest)
        for conn, hand in list(self.in_hand.items()):
            seconds = now - hand.since
            if seconds > self.queue_seconds and hand.future.cancel():
                self.submit(self.probes, self.refuse, conn)
            elif seconds > (self.transfer_seconds if hand.transfer else self.request_seconds):
                self.shut(conn, socket.SHUT_RDWR)
            elif seconds > self.read_seconds and not hand.transfer:
                # The answer, a 408 perhaps, can still be written.
                self.shut(conn, socket.SHUT_RD)

    def shut(self, conn, direction):
        """End a connection while a thread may wait for it."""
        try:
            conn.sock.shutdown(direction)
        except OSError as error:
            self.log.debug("The client is gone: %s", error)

    def refuse(self, conn):
        """Tell a client that all threads are busy."""
        conn.sock.settimeout(self.tick)
        try:
            # Else the connection would be reset, and the answer with it.
            conn.sock.recv(1024 * 1024)
        except OSError as error:
            self.log.debug("The client is gone, or has sent nothing more: %s", error)
        self.answer(conn.sock, conn.client, 503, "Service Unavailable", "The service is busy at the moment.")

    def is_parent_alive(self):
        """Stop in earnest where the master is gone: whoever takes its place needs the port."""
        # Never set it to what it was: a SIGTERM in between would be forgotten.
        if not super().is_parent_alive():
            self.alive = False
        return self.alive

    def _cap_keepalive(self, deadline):
        """Let a stopping worker wait no longer for a request on a new connection than on one that is kept alive."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def handle_error(self, req, client, addr, exc):
        """Refuse what is not HTTP, or not within the limits."""
        status, reason = 400, "Bad Request"
        if isinstance(exc, LimitRequestLine):
            status, reason = 414, "Request URI Too Long"
        elif isinstance(exc, LimitRequestHeaders):
            status, reason = 431, "Request Header Fields Too Large"
        elif isinstance(exc, ExpectationFailed):
            status, reason = 417, "Expectation Failed"
        elif not isinstance(exc, ParseException):
            status, reason = 500, "Internal Server Error"
            self.log.error("Error handling a request", exc_info=exc)
        self.answer(client, addr, status, reason, f"{reason}.")

    def answer(self, client, addr, status, reason, message):
        """Write the one error body, without a request to answer."""
        request_id = uuid.uuid4().hex
        body = orjson.dumps(error_body(status, message, reason.lower().replace(" ", "_"), request_id)) + b"\n"
        fields = {
            "Connection": "close",
            "Content-Type": "application/json",
            "Content-Length": len(body),
            "X-Request-ID": request_id,
            **({"Retry-After": 1} if status == 503 else {}),
            **fixed_headers(settings),
        }
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        refused = {"request_id": request_id, "method": "unknown", "route": "unknown", "status": status}
        self.log.info("refused before it became a request", extra={"members": refused})
        try:
            util.write(client, "\r\n".join(lines).encode() + body)
        except OSError as error:
            self.log.debug("The client is gone: %s", error)

    def set_accept_enabled(self, enabled):
        """Accept connections or not; once stopping, take those that wait already, and leave the socket.

        Left open, it would queue them up to the end, and then reset them with their requests.
        """
        # Asked once: a SIGTERM in between would close sockets that have just begun to be watched.
        stopping = not self.alive
        if stopping:
            # Where all processes are told to stop at once, as on Heroku, the master may be later to shut the door.
            until = time.monotonic() + self.tick
            while time.monotonic() < until:
                self.wait_for_and_dispatch_events(self.tick)
        super().set_accept_enabled(enabled and not stopping)
        if stopping:
            for listener in self.sockets:
                # No more than can wait: where the door stays open, for other workers, somebody may come all the time.
                for _ in range(self.cfg.backlog):
                    taken = self.nr_conns
                    self.accept(listener)
                    if taken == self.nr_conns:
                        break
                listener.close()
            self.sockets = []


def when_ready(arbiter):
    """Let the master shut the door before its workers stop: who came after their last look would be cut off."""
    stop = arbiter.stop

    def shut_and_stop(graceful=True):
        # Sockets that come from a predecessor or systemd, or go on to a successor, stay open.
        if sys.platform == "linux" and not (arbiter.reexec_pid or arbiter.master_pid or arbiter.systemd):
            for listener in arbiter.LISTENERS:
                try:
                    # The kernel drops what begins a connection with a smaller TTL, as all do. The caller's tries again
                    # a second later, and is refused then.
                    listener.sock.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 255)
                except OSError as error:
                    arbiter.log.info("Whoever connects at this moment may be cut off: %s", error)
        stop(graceful)

    arbiter.stop = shut_and_stop


def pre_fork(arbiter, worker):
    """Show a worker the signals that it gets while the master's handler is still its own."""
    worker.signals = arbiter.SIG_QUEUE


def post_worker_init(worker):
    """Let each worker look at the database by itself, from after its fork on."""
    worker.wsgi.extensions["probe"].start()


wsgi_app = "manage:app"
worker_class = Worker
bind = f"0.0.0.0:{settings['PORT']}"
workers = settings["WEB_CONCURRENCY"]
threads = settings["WEB_THREADS"]

# A worker whose main thread is silent for 30 s is killed; each request has its own limits, in Worker.
timeout = 30
graceful_timeout = settings["GRACEFUL_TIMEOUT"]
keepalive = settings["KEEP_ALIVE"]

# The most that gunicorn takes: a listing's longest filters, percent-encoded, need more than its usual 4094 bytes.
limit_request_line = 8190

# Workers prove that they live by touching a file, which must not wait for a disk: beside their figures, in memory.
worker_tmp_dir = os.path.dirname(folder) if folder else None
# The socket needs a folder to write in, which a read-only container has not.
control_socket_disable = True

loglevel = settings["LOG_LEVEL"]
logger_class = Logger
