"""What chaos breaks: Postgres clusters, gunicorn, nginx, and callers who remember what they were told."""

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg2

from benchmarks.contestants import free_port
from project.postgres.system import (
    choose_user,
    environment,
    find_programs,
    is_root,
    run_as,
    run_program,
)

ROOT = Path(__file__).resolve().parent.parent
USER = choose_user(0, is_root())


def until(done: Callable[[], bool], seconds: float = 30) -> float:
    """Wait until something is so, and return how long it took."""
    start = time.monotonic()
    while not done():
        if time.monotonic() - start > seconds:
            raise TimeoutError(f"not so after {seconds:.0f} s")
        time.sleep(0.02)
    return time.monotonic() - start


def listens(port: int) -> bool:
    """Say whether somebody listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Cluster:
    """A Postgres on a port of its own, with everything that a deployment's has."""

    def __init__(self, *settings: str, copy_of: "Cluster | None" = None) -> None:
        self.port = free_port()
        self.settings = settings
        self.folder = Path(tempfile.mkdtemp(prefix="users-chaos-"))
        os.chown(self.folder, *USER)
        self.data = self.folder / "data"
        self.programs = find_programs(USER)
        if copy_of:
            source = f"host=127.0.0.1 port={copy_of.port} user=postgres application_name=standby"
            run_program(
                USER,
                self.programs / "pg_basebackup",
                "-D",
                self.data,
                "-R",
                "-X",
                "stream",
                "-c",
                "fast",
                "-d",
                source,
            )
        else:
            run_program(
                USER, self.programs / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-N", "--no-locale"
            )
        self.start()

    def start(self) -> None:
        """Start the server, and return when it takes connections."""
        options = ["listen_addresses=127.0.0.1", f"port={self.port}", f"unix_socket_directories={self.folder}"]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.data, *(f"-c{o}" for o in (*options, *self.settings))],
                stdout=log,
                stderr=log,
                cwd=self.data,
                env=environment(),
                **run_as(USER),
            )
        until(self.accepts)

    def accepts(self) -> bool:
        """Say whether the server takes connections."""
        try:
            self.query("SELECT 1")
        except psycopg2.OperationalError:
            return False
        return True

    def connect(self, database: str = "postgres") -> Any:
        """Return a connection that commits by itself."""
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname=database, connect_timeout=2
        )
        connection.autocommit = True
        return connection

    def query(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run a statement, and return its rows."""
        with contextlib.closing(self.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of the server."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in (*psutil.Process(self.process.pid).children(), self.process):
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    os.kill(process.pid, number)

    def stop(self) -> None:
        """Stop the server as an operator does."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)

    def kill(self) -> None:
        """Kill the server, as a power cut does."""
        self.signal(signal.SIGKILL)
        self.process.wait(30)

    def remove(self) -> None:
        """Stop the server and remove its data."""
        self.signal(signal.SIGCONT)
        self.kill()
        shutil.rmtree(self.folder)


class Service:
    """gunicorn, 2 workers of 4 threads, ProductionConfig, open to everybody."""

    def __init__(self, url: str) -> None:
        self.port = free_port()
        self.log = tempfile.TemporaryFile()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PG")},
            "APP_SETTINGS": "project.config.ProductionConfig",
            "DATABASE_URL": url,
            "PORT": str(self.port),
            "WEB_CONCURRENCY": "2",
            "WEB_THREADS": "4",
            "AUTH_REQUIRED": "false",
        }
        self.start()

    def manage(self, *arguments: str) -> None:
        """Run a command of manage.py."""
        command = [sys.executable, "manage.py", *arguments]
        subprocess.run(command, cwd=ROOT, env=self.environment, check=True, capture_output=True)

    def start(self) -> None:
        """Start gunicorn, and return when it answers."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "manage:app"],
            cwd=ROOT,
            env=self.environment,
            stdout=self.log,
            stderr=self.log,
        )
        until(lambda: ask(self.port, "GET", "/ping", timeout=1)[0] == 200)

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes."""
        return psutil.Process(self.process.pid).children()

    def stop(self) -> None:
        """Stop gunicorn as an orchestrator does."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(40)


class Nginx:
    """nginx in the production configuration, in front of some instances."""

    def __init__(self, *ports: int) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="users-chaos-nginx-"))
        self.folder.chmod(0o755)
        servers = "".join(f"server 127.0.0.1:{port} max_fails=0;" for port in ports)
        text = (ROOT / "deploy/nginx.conf").read_text()
        for old, new in (
            ("pid /run/nginx.pid;", f"pid {self.folder}/pid; daemon off;"),
            ("listen 80 default_server;", f"listen 127.0.0.1:{self.port} default_server;"),
            ("http {", f"http {{ upstream instances {{ {servers} }}"),
            ("http://users:5001", "http://instances"),
        ):
            assert old in text, old
            text = text.replace(old, new)
        (self.folder / "nginx.conf").write_text(text)
        self.process = subprocess.Popen(
            ["nginx", "-c", self.folder / "nginx.conf", "-p", self.folder], stderr=subprocess.DEVNULL
        )
        until(lambda: listens(self.port))

    def stop(self) -> None:
        """Stop nginx."""
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self.folder)


def ask(
    port: int,
    method: str,
    path: str,
    payload: dict[str, Any] | None = None,
    timeout: float = 60,
    connection: http.client.HTTPConnection | None = None,
) -> tuple[int, Any, float]:
    """Return the status of an answer, its body and the seconds it took; the status is 0 where none came."""
    own = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    body = json.dumps(payload) if payload is not None else None
    start = time.monotonic()
    try:
        own.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = own.getresponse()
        text = response.read()
        return response.status, json.loads(text), time.monotonic() - start
    except (OSError, http.client.HTTPException, ValueError) as error:
        own.close()
        return 0, type(error).__name__, time.monotonic() - start
    finally:
        if connection is None:
            own.close()


class Load:
    """Callers who read and write at random, and remember each write that was acknowledged."""

    def __init__(self, port: int, callers: int = 8, keep_alive: bool = True) -> None:
        self.port = port
        self.keep_alive = keep_alive
        self.ids: dict[str, int] = {}
        # What may stand in the table for an address: what was acknowledged last, and all that may have come after.
        self.names: dict[str, set[str]] = {}
        self.unknown: set[str] = set()
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.calls: list[tuple[float, str, int, float]] = []
        self.odd: list[str] = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.call, args=(number,)) for number in range(callers)]
        self.run = f"{random.getrandbits(48):x}"

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def call(self, number: int) -> None:
        """Call until somebody says stop."""
        chance = random.Random(number)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        mine: list[str] = []
        count = 0
        while not self.stopping.is_set():
            count += 1
            kind = chance.choice(["POST", "POST", "GET", "GET", "PATCH", "LIST"]) if mine else "POST"
            email = f"{self.run}-{number}-{count}@example.org" if kind == "POST" else chance.choice(mine)
            name = f"{number}-{count}"
            path = "/users" if kind == "POST" else f"/users/{self.ids[email]}" if kind != "LIST" else "/users?limit=5"
            payload = {"POST": {"username": name, "email": email}, "PATCH": {"username": name}}.get(kind)
            method = "GET" if kind == "LIST" else kind
            status, body, seconds = ask(self.port, method, path, payload, connection=connection)
            if not self.keep_alive:
                connection.close()
            self.calls.append((time.monotonic(), kind, status, seconds))
            self.statuses[kind, status] += 1
            self.remember(kind, email, name, status, body)
            if kind == "POST" and status == 201:
                mine.append(email)
            if status == 0:
                time.sleep(0.02)
        connection.close()

    def remember(self, kind: str, email: str, name: str, status: int, body: Any) -> None:
        """Note what an answer promises, and whether it is right."""
        right = body.get("data", {}) if status in (200, 201) else {}
        if kind == "POST" and status == 201:
            self.ids[email], self.names[email] = right["id"], {name}
        elif kind == "POST":
            self.unknown.add(email)
        elif kind == "PATCH" and status == 200:
            self.names[email] = {name}
        elif kind == "PATCH":
            self.names[email].add(name)
        if status not in (0, 201 if kind == "POST" else 200, 503):
            self.odd.append(f"{kind} {status}")
        elif (
            kind == "GET" and status == 200 and (right["email"] != email or right["username"] not in self.names[email])
        ):
            self.odd.append("GET gave another user, or an old one")
        elif status == 503 and (body.get("status"), body.get("code")) != ("error", "service_unavailable"):
            self.odd.append("503 without the one error body")

    def wrong(self, cluster: Cluster) -> list[str]:
        """Return what the table holds against what was acknowledged."""
        rows = cluster.query(f"SELECT email, id, username FROM users WHERE email LIKE '{self.run}%'", "users_prod")
        times = Counter(email for email, _, _ in rows)
        found = {email: (number, username) for email, number, username in rows}
        wrong = [f"{email} is there {number} times" for email, number in times.items() if number > 1]
        for email, number in self.ids.items():
            if email not in found:
                wrong.append(f"{email} is lost")
            elif found[email][0] != number or found[email][1] not in self.names[email]:
                wrong.append(f"{email} is not as acknowledged")
        wrong += [f"{email} was never sent" for email in found.keys() - self.ids.keys() - self.unknown]
        return wrong + sorted(set(self.odd))

    def since(self, moment: float) -> list[tuple[float, str, int, float]]:
        """Return the calls that began after a moment: when each ended, its kind, status and seconds."""
        return [call for call in list(self.calls) if call[0] - call[3] >= moment]

    def writes_again(self, moment: float, seconds: float = 30) -> float:
        """Wait for the first write that succeeded after a moment, and return how many seconds later it ended."""

        def written() -> list[float]:
            return [
                end for end, kind, status, _ in self.calls[-2000:] if end > moment and (kind, status) == ("POST", 201)
            ]

        until(lambda: bool(written()), seconds)
        return min(written()) - moment


class IdleWatch:
    """Look for transactions that somebody leaves open."""

    def __init__(self) -> None:
        self.clusters: list[Cluster] = []
        self.found = 0
        self.looks = 0
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        """Look twice a second, for ever."""
        idle = "state LIKE 'idle in transaction%' AND state_change < now() - interval '5 s'"
        idle += " AND application_name = 'users'"
        while True:
            time.sleep(0.5)
            for cluster in list(self.clusters):
                with contextlib.suppress(psycopg2.Error):
                    self.found += cluster.query(f"SELECT count(*) FROM pg_stat_activity WHERE {idle}")[0][0]
                    self.looks += 1


@contextlib.contextmanager
def deployment(watch: IdleWatch, *settings: str) -> Iterator[tuple[Cluster, Service]]:
    """Yield a database and a service on it, both gone afterwards."""
    cluster = Cluster(*settings)
    watch.clusters.append(cluster)
    service = None
    try:
        cluster.query("CREATE DATABASE users_prod")
        service = Service(f"postgresql://postgres@127.0.0.1:{cluster.port}/users_prod")
        service.manage("db", "upgrade")
        yield cluster, service
    finally:
        watch.clusters.remove(cluster)
        cluster.signal(signal.SIGCONT)
        if service:
            service.stop()
        cluster.remove()
