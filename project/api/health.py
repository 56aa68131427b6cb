"""Whether the service can do its work."""

import re
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from logging import getLogger
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic, sleep
from typing import Any, Literal

import psycopg2
from flask import Blueprint, Flask, current_app, g
from sqlalchemy import Engine
from werkzeug.exceptions import ServiceUnavailable

from project.api.representations import DatabaseState, Healthy, Unhealthy, error_body
from project.config import MIGRATIONS
from project.extensions import db
from project.http.errors import in_our_words
from project.http.resources import Api, Resource
from project.http.response_headers import NoHeaders, RetryHeaders
from project.observability.metrics import Metrics
from project.observability.redact import one_line
from project.postgres.system import PostgresError
from project.storage.deadlines import watchdog

health_blueprint = Blueprint("health", __name__)
api = Api(health_blueprint)
log = getLogger(__name__)

#: How long a caller waits, and how long a question may take before its connection is cut, in seconds.
WAIT, PATIENCE = 1.8, 5
#: Between two looks at the database for the gauge database_up.
PROBE_SECONDS = 10
#: What is told of a database that does not do.
STATE_MESSAGES: dict[DatabaseState, str] = {
    "down": "The database is not available at the moment.",
    "read-only": "The database takes no writes at the moment.",
    "behind": "The tables are not as this version needs them: python manage.py db upgrade brings them up to date.",
}
#: What a migration follows: nothing, one version, or several in a tuple.
FOLLOWS = re.compile(r"^down_revision\b[^=\n]*=(.*)$", re.MULTILINE)
QUOTED = re.compile("""["']([^"']+)["']""")
STATE_QUERY = """
    SELECT current_setting('transaction_read_only')::boolean,
           EXISTS (SELECT FROM unnest(%s) AS needed WHERE to_regclass(quote_ident(needed)) IS NULL),
           to_regclass('alembic_version') IS NOT NULL
"""


class Asker:
    """Asks the database how it is: one question at a time, whose answer everybody gets who asks meanwhile.

    In a thread of its own, since a frozen server, or a name server that does not answer, keeps whoever waits for it;
    on a connection of its own, since slow statements may keep all of the pool's.
    """

    def __init__(self, connect: Callable[[], Any], migrations: str) -> None:
        self.connect = connect
        self.migrations = migrations
        self.older: frozenset[str] | None = None
        self.connection: Any = None
        self.lock = Lock()
        self.question: Future[DatabaseState] | None = None
        self.asked = 0.0

    def state(self) -> DatabaseState:
        """Return what the database says, or "down" where it does not say it in time."""
        with self.lock:
            if self.question is None or self.question.done():
                question: Future[DatabaseState] = Future()
                Thread(target=self.answer, args=(question,), name="health", daemon=True).start()
                # Not before: one that no thread answers would never be done.
                self.question, self.asked = question, monotonic()
            question, until = self.question, self.asked + WAIT
        with suppress(TimeoutError):
            # Not from now on: who comes late may have waited for a thread of the server.
            return question.result(max(0, until - monotonic()))
        return "down"

    def answer(self, question: "Future[DatabaseState]") -> None:
        """Answer a question."""
        state: DatabaseState = "down"
        try:
            if self.connection:
                # That the server has closed it meanwhile says nothing of a new one.
                with suppress(psycopg2.Error):
                    state = self.ask()
            if state == "down":
                self.drop()
                self.connection = self.connect()
                state = self.ask()
        except (psycopg2.Error, PostgresError) as error:
            log.warning("health: %s", one_line(error))
        finally:
            if state != "up":
                # By a new connection another host may be found, which is up.
                self.drop()
            question.set_result(state)

    def drop(self) -> None:
        """Close the connection, if there is one."""
        if self.connection:
            self.connection.close()
            self.connection = None

    def ask(self) -> DatabaseState:
        """Ask the database."""
        with watchdog.limit(self.connection, PATIENCE), self.connection.cursor() as cursor:
            cursor.execute(STATE_QUERY, (list(db.metadata.tables),))
            read_only, tables_missing, has_versions = cursor.fetchone()
            if read_only:
                return "read-only"
            if tables_missing:
                return "behind"
            if has_versions:
                cursor.execute("SELECT version_num FROM alembic_version")
                if self.older is None:
                    self.older = older_versions(self.migrations)
                if any(version in self.older for (version,) in cursor):
                    return "behind"
        return "up"


class Probe:
    """Tells the gauge database_up of this process, again and again, from a thread of its own."""

    def __init__(self, asker: Asker, tell: Callable[[bool], None]) -> None:
        self.asker = asker
        self.tell = tell
        self.up = False
        self.lock = Lock()
        self.thread: Thread | None = None
        self.has_looked = Event()

    def start(self) -> None:
        """Start the thread, unless this process has it: a fork leaves it behind."""
        with self.lock:
            if self.thread and self.thread.is_alive():
                return
            thread = Thread(target=self.run, name="probe", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                # The next scrape tries again.
                log.warning("probe: %s", one_line(error))
                return
            self.thread = thread

    def run(self) -> None:
        """Look at the database for as long as this process runs."""
        while True:
            self.look()
            sleep(PROBE_SECONDS)

    def look(self) -> None:
        """Ask the database, and tell the gauge."""
        try:
            self.up = self.asker.state() == "up"
        except RuntimeError as error:
            # No thread for the question: what cannot be asked is not known to be up.
            self.up = False
            log.warning("probe: %s", one_line(error))
        self.tell(self.up)
        self.has_looked.set()

    def await_first_look(self) -> None:
        """Start the thread where no server has, and wait for the end of its first look, 1.8 s at most."""
        self.start()
        self.has_looked.wait(WAIT)


def older_versions(migrations: str) -> frozenset[str]:
    """Return the versions of the schema before the one that this code needs: those that a migration follows.

    One that is unknown is newer: while a release starts, the one before it still serves.
    """
    # Read from the files, since each worker asks: Alembic would cost it 9 MB, and 0.13 s of its start.
    scripts = (script.read_text(encoding="utf-8") for script in Path(migrations, "versions").glob("*.py"))
    return frozenset(name for script in scripts for line in FOLLOWS.findall(script) for name in QUOTED.findall(line))


IsWell = tuple[Healthy, Literal[200], NoHeaders]
IsNotWell = tuple[Unhealthy, Literal[503], RetryHeaders]


class Health(Resource):
    """The service with its database."""

    def get(self) -> IsWell | IsNotWell:
        """Say whether the service can do its work.

        Answers within 2 s, whatever the database does. It is for whoever sends requests here, or does not: a service
        that is not well is to be left alone, and need not be restarted.
        """
        config = current_app.config
        asker: Asker = current_app.extensions["health"]
        state = asker.state()
        if state == "up":
            well: IsWell = (
                {
                    "status": "success",
                    "environment": config["ENVIRONMENT"],
                    "testing": config["TESTING"],
                    "database": state,
                    "version": config["VERSION"],
                },
                200,
                {},
            )
            return well
        status, _, code = in_our_words(ServiceUnavailable())
        not_well: IsNotWell = (
            {
                **error_body(status, STATE_MESSAGES[state], code, g.request_id),
                "environment": config["ENVIRONMENT"],
                "testing": config["TESTING"],
                "database": state,
                "version": config["VERSION"],
            },
            503,
            {"Retry-After": "1"},
        )
        return not_well


def init_app(app: Flask, engine: Engine) -> None:
    """Give the application somebody who asks the database of the engine."""
    embedded, options = app.config["EMBEDDED_POSTGRES"], app.config["SQLALCHEMY_ENGINE_OPTIONS"]
    arguments = {
        **engine.dialect.create_connect_args(engine.url)[1],
        **options.get("connect_args", {}),
        "connect_timeout": 2,
        "application_name": "users-health",
    }

    def connect() -> Any:
        if embedded:
            embedded.start()
        connection = psycopg2.connect(**arguments)
        connection.autocommit = True
        return connection

    asker = app.extensions["health"] = Asker(connect, str(MIGRATIONS))
    figures: Metrics = app.extensions["metrics"]
    # Not the gauge itself, which only a process that serves is to have.
    app.extensions["probe"] = Probe(asker, lambda up: figures.database_up.set(up))


api.add_resource(Health, "/health")
