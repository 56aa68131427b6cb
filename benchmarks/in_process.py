"""Call the application in this process, as a server would, on a database that lives as long as the benchmark."""

import io
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import unquote

import click
from flask import Flask
from sqlalchemy import create_engine, make_url, text

from project import create_app, db
from project.config import BaseConfig, DevelopmentConfig, database_url

NAME = "users_benchmark"


class Cost(NamedTuple):
    """What a call cost, in seconds, and the body of its answer."""

    wall: float
    cpu: float
    content: bytes


@contextmanager
def database(url: str | None) -> Iterator[Flask]:
    """Yield an application on a database that lives as long as the benchmark.

    url: any database of the server to use, by default the embedded one
    """
    embedded = BaseConfig.EMBEDDED_POSTGRES
    if not url and embedded:
        embedded.start()
        url = embedded.url("users_dev")
    server = create_engine(database_url("--url", str(url)), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)"))
        connection.execute(text(f"CREATE DATABASE {NAME}"))
        own = make_url(str(url)).set(database=NAME).render_as_string(hide_password=False)
        try:
            app = create_app(type("Config", (DevelopmentConfig,), {"SQLALCHEMY_DATABASE_URI": own}))
            with app.app_context():
                db.create_all()
            # Not within the context: calls would share its session, and leave it open.
            yield app
            with app.app_context():
                db.engine.dispose()
        finally:
            connection.execute(text(f"DROP DATABASE {NAME} WITH (FORCE)"))


def environment(method: str, target: str, body: bytes = b"", token: str = "") -> dict[str, Any]:
    """Return a request as a server hands it to the application.

    target: a path, or a path and a query
    """
    path, _, query = target.partition("?")
    return {
        "REQUEST_METHOD": method,
        "PATH_INFO": unquote(path),
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "5001",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost:5001",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        **({"HTTP_AUTHORIZATION": f"Bearer {token}"} if token else {}),
        **({"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body))} if body else {}),
    }


def call(app: Flask, method: str, target: str, body: bytes = b"", token: str = "") -> Cost:
    """Call the application, which must succeed."""
    request = environment(method, target, body, token)
    statuses: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        statuses.append(status)

    wall, cpu = time.perf_counter(), time.process_time()
    answer: Iterable[bytes] = app.wsgi_app(request, start_response)
    content = b"".join(answer)
    if close := getattr(answer, "close", None):
        close()
    cost = Cost(time.perf_counter() - wall, time.process_time() - cpu, content)
    if statuses[-1:] not in (["200 OK"], ["201 CREATED"]):
        raise click.ClickException(f"{method} {target} answered {statuses}: {content.decode()}")
    return cost
