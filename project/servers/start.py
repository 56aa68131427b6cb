"""The start of the server that WSGI_SERVER names."""

import os
import runpy
import signal
import threading
import time
from collections.abc import Iterable
from functools import partial
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Flask
from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels

from project import create_app
from project.observability import multiprocess

#: How often a worker of granian looks whether the process that started it is still there.
PARENT_CHECK_SECONDS = 1.0


def serve() -> None:
    """Serve the application of manage.py until a SIGTERM."""
    # Before there is an application: its processes count together from the start.
    multiprocess.share()
    app = create_app()
    # This process uses no connections; those that it starts do, and count for themselves.
    pool_size = app.extensions["metrics"].pool_size
    pool_size.set(0)
    os.register_at_fork(after_in_child=partial(pool_size.set, app.config["SQLALCHEMY_ENGINE_OPTIONS"]["pool_size"]))
    if app.config["WSGI_SERVER"] == "gunicorn":
        runpy.run_module("gunicorn", run_name="__main__")
    else:
        multiprocess.warn_of_missing_folder()
        make_granian(app).serve(target_loader=load, wrap_loader=False)


def make_granian(app: Flask) -> Any:
    """Return granian with the settings of an application."""
    return Granian(
        "manage:app",
        address="0.0.0.0",
        port=app.config["PORT"],
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        websockets=False,
        workers=app.config["WEB_CONCURRENCY"],
        blocking_threads=app.config["WEB_THREADS"],
        # As many connections as gunicorn holds: those that wait for a request of theirs count as well.
        backlog=2048,
        backpressure=1000,
        # Request line and headers, in bytes; and how long a connection may take for its next one, in milliseconds.
        http1_settings=HTTP1Settings(max_buffer_size=16 * 1024, header_read_timeout=app.config["KEEP_ALIVE"] * 1000),
        workers_kill_timeout=app.config["GRACEFUL_TIMEOUT"],
        respawn_failed_workers=True,
        # Seconds between the start of a new worker and the stop of an old one, which is ready long before.
        respawn_interval=1,
        log_level=LogLevels(app.config["LOG_LEVEL"]),
        # Without handlers of its own: in the lines of the service, like everything else.
        log_dictconfig={"loggers": {}},
    )


def load() -> WSGIApplication:
    """Return the application to a worker of granian."""
    # A worker that outlives its parent would go on to serve, beside those of the next start.
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    app = create_app()
    app.extensions["probe"].start()
    return partial(call_with_path, app)


def end_with_parent(parent: int) -> None:
    """End this worker in the way of a SIGTERM as soon as the process that started it is gone."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def call_with_path(app: Flask, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Call the application with a path, which granian leaves out where there is no address, such as in `GET users`."""
    # Without this Flask would answer an empty path with a redirect.
    environ["PATH_INFO"] = environ["PATH_INFO"] or "*"
    return app(environ, start_response)
