"""Who takes part, how each is started, and what its processes use."""

import http.client
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import click
import psutil

from project.config import ROOT, VAR

PEERS = Path(__file__).with_name("peers")
BIN = VAR / "bench-venv" / "bin"
LOGS = VAR / "bench"
WORKERS, THREADS = 2, 4
#: How long a server may take to start or to answer, in seconds.
PATIENCE = 30.0


class Contestant(NamedTuple):
    """A server with an application.

    command: with {port} where its port belongs
    """

    name: str
    title: str
    folder: Path
    command: str
    environment: dict[str, str]


def service(name: str, title: str) -> Contestant:
    """Return this service as it ships, on one of its servers; its log has a line for each request."""
    variables = {
        "APP_SETTINGS": "project.config.ProductionConfig",
        "AUTH_REQUIRED": "false",
        "WSGI_SERVER": name,
        "WEB_CONCURRENCY": str(WORKERS),
        "WEB_THREADS": str(THREADS),
    }
    return Contestant(name, title, ROOT, f"{sys.executable} serve.py", variables)


def peer(name: str, title: str, command: str, **variables: str) -> Contestant:
    """Return somebody else, who logs no requests: that is for free."""
    return Contestant(name, title, PEERS, f"{BIN}/{command}", variables)


UVICORN = f"uvicorn --port {{port}} --workers {WORKERS} --loop uvloop --http httptools --no-access-log"
GUNICORN = f"gunicorn --bind 127.0.0.1:{{port}} --workers {WORKERS} --no-control-socket"

CONTESTANTS = (
    service("gunicorn", "this service, gunicorn"),
    service("granian", "this service, granian"),
    peer("asyncpg", "FastAPI + asyncpg by hand", f"{UVICORN} fastapi_asyncpg:app"),
    peer("tortoise", "FastAPI + Tortoise", f"{UVICORN} fastapi_tortoise:app"),
    peer("sqlalchemy", "FastAPI + SQLAlchemy async", f"{UVICORN} fastapi_sqlalchemy:app"),
    peer(
        "django",
        "Django REST framework",
        f"{GUNICORN} --worker-class gthread --threads {THREADS} django_rest",
        DJANGO_SETTINGS_MODULE="django_settings",
    ),
    peer("plain", "plain Flask form", f"{GUNICORN} flask_plain:app"),
)


def family(pid: int) -> list[psutil.Process]:
    """Return all processes that come from one, and that one as the last."""
    first = psutil.Process(pid)
    return [*first.children(recursive=True), first]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process and all that come from it have used, those that are gone included."""
    seconds = 0.0
    for process in family(pid):
        with suppress(psutil.NoSuchProcess):  # gone since, and so in the figures of its parent
            seconds += sum(process.cpu_times()[:4])
    return seconds


class Running:
    """A contestant's server that runs.

    start_seconds: from its start to its first answer
    """

    def __init__(self, contestant: Contestant, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.contestant = contestant
        self.process = process
        self.port = port
        self.log = log
        self.start_seconds = 0.0

    @property
    def url(self) -> str:
        """Return where it serves."""
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """Return the CPU time that all its processes have used."""
        return cpu_seconds(self.process.pid)

    def memory(self) -> dict[str, float]:
        """Return the largest process's own memory, and the share of all of them in the machine's, in MB."""
        used = [process.memory_full_info() for process in family(self.process.pid)]
        return {
            "own_mb": round(max(process.uss for process in used[:-1]) / 2**20, 1),
            "all_mb": round(sum(process.pss for process in used) / 2**20, 1),
        }

    def call(self, method: str, path: str, body: str | None = None) -> tuple[int, str, bytes]:
        """Return the status, the content type and the body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body is not None else {})
            response = connection.getresponse()
            return response.status, response.getheader("Content-Type", ""), response.read()
        finally:
            connection.close()

    def wait_for_answer(self, since: float) -> None:
        """Wait until it answers, and keep how long that took."""
        while self.process.poll() is None and time.monotonic() < since + PATIENCE:
            try:
                status, _, _ = self.call("GET", "/ping")
            except OSError:
                time.sleep(0.005)
                continue
            if status == 200:
                self.start_seconds = time.monotonic() - since
                return
        raise click.ClickException(f"{self.contestant.name} does not start, see {self.log}.")

    def stop(self) -> None:
        """End all its processes at once: nobody waits for an answer any more."""
        with suppress(ProcessLookupError):  # it may have ended by itself
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def clean_environment(**variables: str) -> dict[str, str]:
    """Return these variables and what every program needs, but nothing that would configure a server."""
    needed = ("PATH", "HOME", "LANG", "TMPDIR")
    return {**{name: os.environ[name] for name in needed if name in os.environ}, **variables}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(contestant: Contestant, socket_folder: Path, database: str) -> Iterator[Running]:
    """Yield a contestant's server on a database, which all reach over the same Unix socket."""
    port = free_port()
    log = LOGS / f"{contestant.name}.log"
    environment = clean_environment(
        DATABASE_URL=f"postgresql://postgres@/{database}?host={quote(str(socket_folder), safe='')}&port=5432",
        PGHOST=str(socket_folder),
        PGUSER="postgres",
        PGDATABASE=database,
        PORT=str(port),
        **contestant.environment,
    )
    command = contestant.command.format(port=port).split()
    with open(log, "wb") as output:
        began = time.monotonic()
        # A group of its own, which can be ended as one, and which a Ctrl-C in the terminal does not reach.
        process = subprocess.Popen(
            command,
            cwd=contestant.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = Running(contestant, process, port, log)
    try:
        server.wait_for_answer(began)
        yield server
    finally:
        server.stop()


def start_seconds(contestant: Contestant, socket_folder: Path, database: str, times: int) -> float:
    """Start and stop a server some times; return the median time to the first answer."""
    seconds = []
    for _ in range(times):
        with running(contestant, socket_folder, database) as server:
            seconds.append(server.start_seconds)
    return round(statistics.median(seconds), 3)
