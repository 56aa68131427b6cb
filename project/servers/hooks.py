"""gunicorn's hooks: its start, its forks and its stop, and the beginning of a request."""

import os
import signal
import socket
from collections.abc import Sequence
from types import FrameType
from typing import Any

from gunicorn import glogging

from project.servers.stop import call_handler, refuse_connections

#: What stops a worker.
STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
#: What tells that the listeners come from systemd, or from the gunicorn that this one succeeds.
INHERITED = ("LISTEN_FDS", "GUNICORN_PID")


class Logger(glogging.Logger):
    """gunicorn's log without a line for each request, which the application logs by itself."""

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Log nothing: with a logconfig_dict gunicorn makes an access line even where none is written."""


class Master:
    """What the hooks remember of gunicorn's master: its listeners, and whether other programs accept from them."""

    pid = 0
    listeners: Sequence[socket.socket] = ()
    are_shared = False


def on_starting(arbiter: Any) -> None:
    """Look where the listeners come from, while the environment tells it."""
    Master.are_shared = any(name in os.environ for name in INHERITED)
    os.register_at_fork(after_in_parent=unblock_stop_signals)


def when_ready(arbiter: Any) -> None:
    """Make the master refuse connections before its workers stop: later ones would be reset."""
    stop, succeed = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR2)

    def on_stop(number: int, frame: FrameType | None) -> None:
        if not Master.are_shared:
            refuse_connections(Master.listeners)
        call_handler(stop, number)

    def on_successor(number: int, frame: FrameType | None) -> None:
        Master.are_shared = True
        call_handler(succeed, number)

    signal.signal(signal.SIGTERM, on_stop)
    signal.signal(signal.SIGUSR2, on_successor)


def unblock_stop_signals() -> None:
    """Let the signals through that pre_fork() has blocked."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def pre_fork(arbiter: Any, worker: Any) -> None:
    """Keep the signals that a worker gets before it can handle them."""
    Master.pid, Master.listeners = os.getpid(), worker.sockets
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def post_worker_init(worker: Any) -> None:
    """Prepare a worker whose application is loaded: its probe of the database, and its stop."""
    worker.wsgi.extensions["probe"].start()
    worker.executor.stop_after_drain(worker.sockets, Master.pid)
    unblock_stop_signals()


def pre_request(worker: Any, request: Any) -> None:
    """Tell the executor which request a thread answers, by which its deadline is chosen."""
    worker.executor.note_request(request.method, request.path)
