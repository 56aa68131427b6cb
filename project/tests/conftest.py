"""The parts of the tests: a real Postgres, applications on databases of their own, and clients."""

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import BinaryIO

import psycopg2
import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import upgrade
from hypothesis import settings
from psycopg2 import sql
from sqlalchemy import delete, make_url

from project import create_app, db
from project.api import health
from project.api.models import User
from project.cli.schema import migrate
from project.config import VAR, TestingConfig
from project.storage.statements import Statement
from project.tests.utils import add_user

ROOT = Path(__file__).resolve().parents[2]

#: Modules whose tests share a cluster or a process.
TOGETHER = {"test_postgres": "postgres", "test_summarizer": "summarizer", "test_slowness": "slowness"}

# How many examples a property is tried with: few in "make test", many in "make test-slow" and a plain pytest run.
settings.register_profile("few", max_examples=20)
settings.register_profile("many", max_examples=200)


def pytest_configure(config: pytest.Config) -> None:
    """Try few examples where the slow tests are left out."""
    settings.load_profile("few" if config.option.markexpr == "not slow" else "many")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests together that share what takes seconds to start, so that one process of several starts it."""
    servers = {"gunicorn", "granian", "closed_gunicorn", "either_server"}
    for item in items:
        group = "servers" if servers & set(getattr(item, "fixturenames", ())) else TOGETHER.get(item.path.stem)
        if group:
            item.add_marker(pytest.mark.xdist_group(group))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Use a process for each processor, and half as many again for the slow tests, which wait most of their time."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waiting = 0 if config.option.markexpr == "not slow" else (processors + 1) // 2
    return min(processors + waiting, 16)


def mostly_slow(cases: Iterable, fast: Collection) -> list:
    """Return the parameters of a table of which make test tries these alone, and make test-slow the others."""
    return [
        case if case in fast else pytest.param(*(case if isinstance(case, tuple) else [case]), marks=pytest.mark.slow)
        for case in cases
    ]


def execute(url: str, *statements: sql.Composable | str) -> list[tuple]:
    """Run statements outside any transaction and return the last one's rows."""
    connection = psycopg2.connect(re.sub(r"^postgres\w*(\+psycopg2)?://", "postgresql://", url))
    connection.autocommit = True
    try:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


@pytest.fixture(scope="session", autouse=True)
def probes_look_once() -> None:
    """Each application of a test that tells its metrics looks at its database once, not every ten seconds."""
    health.PROBE_SECONDS = 3600


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A database server: the one of DATABASE_TEST_URL, or the embedded one, stopped when nobody tests any more."""
    if TestingConfig.SQLALCHEMY_DATABASE_URI:
        yield TestingConfig.SQLALCHEMY_DATABASE_URI
        return
    server = TestingConfig.EMBEDDED_POSTGRES
    url = server.url("users_test")
    VAR.mkdir(exist_ok=True)
    with open(VAR / "test-postgres.in-use", "w") as in_use:
        with suppress(BlockingIOError):
            fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Nobody else tests: a database that is there was left behind by a run that was killed.
            server.start()
            for (name,) in execute(url, "SELECT datname FROM pg_database WHERE datname LIKE 'users\\_test\\_%'"):
                execute(url, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        fcntl.flock(in_use, fcntl.LOCK_SH)
        server.start()
        yield url
        with suppress(BlockingIOError):
            fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            server.stop()


@pytest.fixture(scope="session")
def make_database(server_url: str) -> Iterator[Callable[[], str]]:
    """A function that creates an empty database and returns its URL; all of them are gone after the tests."""
    names = []

    def make_database() -> str:
        names.append(f"users_test_{uuid.uuid4().hex}")
        execute(server_url, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(names[-1])))
        url = make_url(server_url.replace("postgres://", "postgresql://", 1)).set(database=names[-1])
        return url.render_as_string(hide_password=False)

    yield make_database
    for name in names:
        execute(server_url, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def app_on(url: str, base: type = TestingConfig, **settings: object) -> Flask:
    """Return an application on the database of that URL, open to everybody unless the settings say otherwise."""
    app = create_app(type("Config", (base,), {"SQLALCHEMY_DATABASE_URI": url, "AUTH_REQUIRED": False, **settings}))
    migrate.init_app(app)
    return app


def start_manage(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start a command of manage.py in an environment that has these variables and no others of the service's."""
    ours = ("APP_SETTINGS", "APPLICATION_CONFIG", "DATABASE_URL", "DATABASE_TEST_URL", "SECRET_KEY", "PORT")
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.Popen(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={**clean, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="session")
def shared_app(make_database: Callable[[], str]) -> Iterator[Flask]:
    """The application that the isolated tests share, on a database with the whole schema."""
    app = app_on(make_database())
    with app.app_context():
        db.create_all()
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def app(shared_app: Flask) -> Iterator[Flask]:
    """The application on a database in which everything is committed, empty before and after.

    One that is rolled back would hide what the API does: each of its statements commits by itself.
    """
    yield shared_app
    with shared_app.app_context(), db.engine.begin() as connection:
        for table in reversed(db.metadata.sorted_tables):
            connection.execute(delete(table))


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client of the application, of the isolated one unless a module has another."""
    return app.test_client()


@pytest.fixture
def make_user(app: Flask) -> Callable[..., User]:
    """A function that adds a user."""

    def make_user(username: str = "michael", email: str = "michael@testdriven.io") -> User:
        with app.app_context():
            return add_user(username, email)

    return make_user


#: Quicker than TRUNCATE, which makes new files for each table and index.
EMPTY = """
DELETE FROM summaries; DELETE FROM notes; DELETE FROM users; DELETE FROM access_tokens;
SELECT setval(pg_get_serial_sequence(name, 'id'), 1, false)
FROM unnest(ARRAY['summaries', 'notes', 'users', 'access_tokens']) AS name
"""


@pytest.fixture(scope="session")
def open_url(make_database: Callable[[], str]) -> str:
    """A migrated database for tests that commit for real; open_database empties it before each."""
    url = make_database()
    with app_on(url).app_context():
        upgrade()
        db.engine.dispose()
    return url


@pytest.fixture
def open_database(open_url: str) -> str:
    """The URL of a database in which everything is committed, empty before."""
    execute(open_url, EMPTY)
    return open_url


@pytest.fixture(scope="session")
def open_shared(open_url: str) -> Iterator[Flask]:
    """The application that the tests on the migrated database share."""
    app = app_on(open_url)
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def open_app(open_shared: Flask, open_database: str) -> Flask:
    """The application on the migrated database, which is empty before."""
    return open_shared


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that the embedded server's user can reach, which pytest's own are not where root runs the tests."""
    place = Path(tempfile.mkdtemp(prefix="users-test-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def no_thread(thread: Thread) -> None:
    """Fail as a thread does where the system has no more."""
    raise RuntimeError("can't start new thread")


def send_on_and_on(client: socket.socket) -> int:
    """Send 256 MiB, or as much as is taken before the connection is closed; return how many bytes were sent."""
    sent = 0
    with suppress(ConnectionError):
        while sent < 256 * 1024 * 1024:
            client.sendall(bytes(64 * 1024))
            sent += 64 * 1024
    return sent


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The single statements that have run, as SQL."""
    ran: list[str] = []
    rows = Statement.rows

    def remember(statement: Statement, **parameters: object) -> list[tuple]:
        ran.append(statement.sql)
        return rows(statement, **parameters)

    monkeypatch.setattr(Statement, "rows", remember)
    return ran


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def gunicorn_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with all that gunicorn says."""
    return tmp_path_factory.mktemp("gunicorn") / "log"


@pytest.fixture(scope="session")
def gunicorn(open_url: str, gunicorn_log: Path) -> Iterator[str]:
    """The service as a deployment serves it, but open to everybody; yields its URL."""
    with served(open_url, gunicorn_log, AUTH_REQUIRED="false") as url:
        yield url


@pytest.fixture(scope="session")
def granian(open_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same on the other server; yields its URL."""
    log = tmp_path_factory.mktemp("granian") / "log"
    with served(open_url, log, AUTH_REQUIRED="false", WSGI_SERVER="granian") as url:
        yield url


@pytest.fixture(scope="session", params=["gunicorn", "granian"])
def either_server(request: pytest.FixtureRequest) -> str:
    """The URL of the service on one server, and then on the other."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture(scope="session")
def closed_gunicorn(open_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service as a deployment serves it, to those who have a token; yields its URL."""
    with served(open_url, tmp_path_factory.mktemp("closed_gunicorn") / "log") as url:
        yield url


def gunicorn_with(folder: Path, code: str) -> str:
    """Write a configuration of gunicorn's that is ours with some code after it, and return its path."""
    file = folder / "changed.conf.py"
    file.write_text(f"import runpy\nglobals().update(runpy.run_path('gunicorn.conf.py'))\n{code}")
    return str(file)


@contextmanager
def served(database_url: str, log_file: Path, *options: str, **variables: str) -> Iterator[str]:
    """Serve as the image does, with options of gunicorn's, 2 workers of 4 threads, ProductionConfig; yield the URL."""
    with open(log_file, "wb") as log, start_server(database_url, log, ("serve.py", *options), **variables) as (
        server,
        url,
    ):
        yield url
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0


@contextmanager
def start_server(
    database_url: str, log: int | BinaryIO, command: tuple[str, ...] = ("serve.py",), **variables: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start a server that somebody else stops; yield it with its URL as soon as it answers."""
    port = free_port()
    environment = {
        **os.environ,
        "APP_SETTINGS": "project.config.ProductionConfig",
        # What Heroku sets.
        "DATABASE_URL": re.sub(r"^\w+://", "postgres://", database_url),
        "PORT": str(port),
        "WSGI_SERVER": "",
        "WEB_CONCURRENCY": "2",
        "WEB_THREADS": "4",
        "AUTH_REQUIRED": "",
        **variables,
    }
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stdout=log, stderr=log) as server:
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until_served(url, server)
            yield server, url
        finally:
            # Whom a failed test did not stop, nobody would.
            server.kill()


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_until_served(url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until the service answers, 30 s at most."""
    deadline = time.monotonic() + 30
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/ping", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the service does not answer at {url}; exit status {server.poll()}")
