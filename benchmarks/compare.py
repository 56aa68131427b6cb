"""Measure this service beside its peers, one run, one table: make bench.

All are started on one Postgres, each with a database of its own, and are called in turn. Writes results.json and
results.png beside this file, and prints the report.
"""

import importlib.metadata
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import psycopg2
from psycopg2.extensions import connection as Connection
from tqdm import tqdm

from benchmarks import answers, report
from benchmarks.contestants import (
    BIN,
    CONTESTANTS,
    LOGS,
    THREADS,
    WORKERS,
    Contestant,
    Running,
    clean_environment,
    running,
    start_seconds,
)
from benchmarks.goals import judge
from benchmarks.load import ROUTES, Measurement, find_wrk, measure
from project.config import ROOT
from project.postgres.server import Server

HERE = Path(__file__).parent
USERS = 100
TEMPLATE = "bench_template"
PROGRESS = "{desc} {percentage:3.0f} % |{bar}| {remaining} left"
FILL = f"""
    INSERT INTO users (username, email, created_date)
    SELECT 'user' || i, 'user' || i || '@example.org', timestamptz '2026-01-01 00:00:00Z' + i * interval '1 hour'
    FROM generate_series(1, {USERS}) i
"""
AS_SHOWN = """
    SELECT json_build_object('id', id, 'username', username, 'email', email, 'active', active,
                             'created_date', to_char(created_date AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
    FROM users ORDER BY id
"""


def connect(url: str) -> Connection:
    """Return a connection in which every statement counts at once."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    return connection


def execute(connection: Connection, *statements: str) -> int:
    """Run statements; return how many rows the last one touched."""
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return cursor.rowcount


@contextmanager
def databases(names: list[str]) -> Iterator[tuple[Server, dict[str, Connection], list[dict[str, Any]]]]:
    """Start a Postgres of our own; yield it, connections to databases of these names, and the users in each."""
    LOGS.mkdir(parents=True, exist_ok=True)
    server = Server(LOGS / "postgres")
    server.start()
    try:
        with ExitStack() as stack:
            admin = connect(server.url("postgres"))
            stack.callback(admin.close)
            # A vacuum of the server's own would be charged to whoever is measured at that moment.
            execute(admin, "ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()")
            for name in (TEMPLATE, *names):
                execute(admin, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            execute(admin, f'CREATE DATABASE "{TEMPLATE}"')
            migrate = [sys.executable, "manage.py", "db", "upgrade"]
            subprocess.run(migrate, cwd=ROOT, env=clean_environment(DATABASE_URL=server.url(TEMPLATE)), check=True)
            template = connect(server.url(TEMPLATE))
            execute(template, FILL, "VACUUM ANALYZE users")
            with template.cursor() as cursor:
                cursor.execute(AS_SHOWN)
                users = [user for (user,) in cursor.fetchall()]
            template.close()
            connections = {}
            for name in names:
                execute(admin, f'CREATE DATABASE "{name}" TEMPLATE "{TEMPLATE}"')
                connections[name] = connect(server.url(name))
                stack.callback(connections[name].close)
            yield server, connections, users
    finally:
        server.stop()


def forget_new_users(connection: Connection) -> None:
    """Remove the users that were added, and those whom a server still adds when wrk is gone."""
    while execute(connection, f"DELETE FROM users WHERE id > {USERS}"):
        time.sleep(0.05)
    execute(connection, "VACUUM users")


def versions() -> dict[str, str]:
    """Return the versions of what takes part."""
    listed = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "freeze", "--python", BIN / "python"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    peers = dict(line.split("==") for line in listed.splitlines())
    ours = {name: importlib.metadata.version(name) for name in ("flask", "gunicorn", "granian", "psycopg2-binary")}
    chosen = ("fastapi", "uvicorn", "asyncpg", "tortoise-orm", "sqlalchemy", "django", "djangorestframework")
    return {**ours, **{name: peers[name] for name in chosen}}


def measured(
    servers: list[Running],
    connections: dict[str, Connection],
    postmaster: int,
    routes: list[str],
    rounds: int,
    crowds: int,
    seconds: int,
) -> Iterator[Measurement]:
    """Yield what each run finds: all servers take turns at each route, in each round; the first only warms up."""
    plan = [(0, 8, 1), *((number, 8, seconds) for number in range(1, rounds + 1))]
    plan += [(number, 64, seconds) for number in range(1, crowds + 1)]
    runs = [(*round, route, server) for round in plan for route in routes for server in servers]
    # Not /ping at 64 connections: no goal asks for it.
    runs = [run for run in runs if run[1] == 8 or run[3] != "GET /ping"]
    with tqdm(total=sum(run[2] for run in runs), bar_format=PROGRESS, file=sys.stderr) as progress:
        for number, clients, duration, route, server in runs:
            progress.set_description_str(f"{route} {server.contestant.name} {clients}".ljust(30))
            found = measure(server, postmaster, route, clients, duration, number)
            if route.startswith("POST"):
                forget_new_users(connections[server.contestant.name])
            progress.update(duration)
            if number:
                yield found


@click.command()
@click.option("--rounds", default=6, show_default=True, type=click.IntRange(1), help="Rounds at 8 connections.")
@click.option("--crowds", default=2, show_default=True, type=click.IntRange(0), help="Rounds at 64 connections.")
@click.option("--seconds", default=1, show_default=True, type=click.IntRange(1), help="Of each turn.")
@click.option("--starts", default=3, show_default=True, type=click.IntRange(1), help="Of which each is the median.")
@click.option("--only", multiple=True, type=click.Choice([c.name for c in CONTESTANTS]), help="Who takes part.")
@click.option("--route", "routes", multiple=True, type=click.Choice(list(ROUTES)), help="What is called.")
@click.option("--output", default=HERE, type=click.Path(path_type=Path, file_okay=False), help="Where results go.")
def main(
    rounds: int,
    crowds: int,
    seconds: int,
    starts: int,
    only: tuple[str, ...],
    routes: tuple[str, ...],
    output: Path,
) -> None:
    """Measure this service beside its peers; exit status 1 where one fails or answers otherwise."""
    find_wrk()
    if not BIN.exists():
        raise click.ClickException("The peers are not installed: make bench installs them.")
    # Like Ctrl-C: whoever was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen: list[Contestant] = [contestant for contestant in CONTESTANTS if not only or contestant.name in only]
    with databases([contestant.name for contestant in chosen]) as (postgres, connections, users), ExitStack() as stack:
        folder = postgres.socket_folder
        start = {}
        for contestant in tqdm(chosen, desc="start-up".ljust(30), bar_format=PROGRESS, file=sys.stderr):
            start[contestant.name] = start_seconds(contestant, folder, contestant.name, starts)
        servers = [stack.enter_context(running(contestant, folder, contestant.name)) for contestant in chosen]
        for server in servers:
            answers.check(server, users)
            forget_new_users(connections[server.contestant.name])
        click.echo(f"The answers of {', '.join(c.name for c in chosen)} are equal.", err=True)
        called = [route for route in ROUTES if not routes or route in routes]
        assert postgres.pid
        runs = measured(servers, connections, postgres.pid, called, rounds, crowds, seconds)
        measurements = [found._asdict() for found in runs]
        used = {
            server.contestant.name: {"start_seconds": start[server.contestant.name], **server.memory()}
            for server in servers
        }
        ran = {
            **report.circumstances(),
            "Postgres": connections[chosen[0].name].info.parameter_status("server_version"),
            "workers": WORKERS,
            "threads": THREADS,
            "rounds": rounds,
            "seconds": seconds,
            **versions(),
        }
    verdicts = judge(measurements, used)
    results = {
        "ran": ran,
        "contestants": {contestant.name: contestant.title for contestant in chosen},
        "routes": called,
        "servers": used,
        "goals": [{**found.goal._asdict(), **found._asdict(), "goal": found.goal.title} for found in verdicts],
        "measurements": measurements,
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    report.draw(results, output / "results.png")
    click.echo(report.text(results, verdicts))


if __name__ == "__main__":
    main()
