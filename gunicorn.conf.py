"""How gunicorn serves the application; it reads this file by itself when started in this folder."""

import os
import sys
import uuid

import orjson
from flask import Config
from gunicorn import util
from gunicorn.http.errors import ExpectationFailed, LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.gthread import ThreadWorker

from project.api.errors import error_body
from project.api.headers import fixed_headers
from project.config import APP_SETTINGS, complete

settings = Config(os.getcwd())
settings.from_object(APP_SETTINGS)
# Here, and not only in the workers: one that ends at its start is started again and again.
complete(settings)


class Worker(ThreadWorker):
    """A worker that gives the one error body also to what never becomes a request of the application."""

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
        request_id = uuid.uuid4().hex
        body = orjson.dumps(error_body(status, f"{reason}.", reason.lower().replace(" ", "_"), request_id)) + b"\n"
        fields = {
            "Connection": "close",
            "Content-Type": "application/json",
            "Content-Length": len(body),
            "X-Request-ID": request_id,
            **fixed_headers(settings),
        }
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        self.log.info("Refused a request from %s: %s %s", (addr or ["-"])[0], status, request_id)
        try:
            util.write(client, "\r\n".join(lines).encode() + body)
        except OSError as error:
            self.log.debug("The client is gone: %s", error)

    def set_accept_enabled(self, enabled):
        """Accept connections or not; once stopping, take those that wait already and refuse those that come later.

        Left open, the socket would queue them up to the end, and then reset them with their requests.
        """
        super().set_accept_enabled(enabled and self.alive)
        if not self.alive:
            # Between the last look at who waits and the closing, no other thread may take its time.
            sys.setswitchinterval(1e-6)
            for listener in self.sockets:
                taken = -1
                while taken != self.nr_conns:
                    taken = self.nr_conns
                    self.accept(listener)
                listener.close()
            self.sockets = []


worker_class = Worker
bind = f"0.0.0.0:{settings['PORT']}"
workers = settings["WEB_CONCURRENCY"]
threads = settings["WEB_THREADS"]

# A request ends within 30 s, and a stopping worker finishes what it has within 25 s: Heroku kills after 30.
timeout = 30
graceful_timeout = 25
# Longer than the 90 s for which Heroku's router keeps its connections: it must be the one who closes.
keepalive = 95

# The most that gunicorn takes: a listing's longest filters, percent-encoded, need more than its usual 4094 bytes.
limit_request_line = 8190

# Workers prove that they live by touching a file, which must not wait for a disk.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
# The socket needs a folder to write in, which a read-only container has not.
control_socket_disable = True

loglevel = settings["LOG_LEVEL"]
accesslog = "-"
# The path without its query, in which there may be an email address.
access_log_format = '%(h)s "%(m)s %(U)s" %(s)s %(B)s %(D)sus %({x-request-id}o)s'
