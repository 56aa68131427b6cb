"""What gunicorn's master does: its log, and its hooks at a fork and at a stop."""

import socket
import sys
from typing import Any

from gunicorn import glogging

from project.observability import logs

#: Linux's number, which Python's socket does not name.
IP_MINTTL = 21


class Logger(glogging.Logger):
    """gunicorn's own log, in the lines of the service. The application logs each request by itself."""

    def setup(self, cfg: Any) -> None:
        """Take the level from gunicorn, and nothing else."""
        super().setup(cfg)
        self.error_log.handlers = [logs.LOG]


def when_ready(arbiter: Any) -> None:
    """Make the master refuse connections before its workers stop: later ones would be reset."""
    stop = arbiter.stop

    def refuse_and_stop(graceful: bool = True) -> None:
        refuse_connections(arbiter)
        stop(graceful)

    arbiter.stop = refuse_and_stop


def refuse_connections(arbiter: Any) -> None:
    """Let the kernel drop new connections to the master's listeners, while those that wait can still be accepted."""
    # Sockets that come from a predecessor or systemd, or go on to a successor, stay open.
    if sys.platform != "linux" or arbiter.reexec_pid or arbiter.master_pid or arbiter.systemd:
        return
    for listener in arbiter.LISTENERS:
        try:
            # The kernel drops what begins a connection with a smaller TTL, as all do. The client's tries again a
            # second later, and is refused then.
            listener.sock.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 255)
        except OSError as error:
            arbiter.log.info("A connection that begins at this moment may be reset: %s", error)


def pre_fork(arbiter: Any, worker: Any) -> None:
    """Show a worker the signals that it gets while the master's handler is still its own."""
    worker.signals = arbiter.SIG_QUEUE


def post_worker_init(worker: Any) -> None:
    """Make each worker look at the database by itself, from after its fork on."""
    worker.wsgi.extensions["probe"].start()
