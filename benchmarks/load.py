"""Put a server under load with wrk, and measure what a request costs."""

import json
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import NamedTuple

import click

from benchmarks.contestants import Running, cpu_seconds

SCRIPT = Path(__file__).with_name("load.lua")
#: What is called, and its path. Only the last one writes.
ROUTES = {"GET /ping": "/ping", "GET /users/1": "/users/1", "GET /users": "/users", "POST /users": "/users"}


class LoadError(click.ClickException):
    """Say why a run cannot count."""


class Measurement(NamedTuple):
    """What one run of wrk against one server found; times are a request's."""

    round: int
    route: str
    contestant: str
    connections: int
    requests: int
    requests_per_second: float
    application_us: float
    postgres_us: float
    p50_ms: float
    p99_ms: float


def find_wrk() -> str:
    """Return wrk's path."""
    wrk = shutil.which("wrk")
    if not wrk:
        raise LoadError("wrk is missing: apt-get install wrk, brew install wrk, or github.com/wg/wrk.")
    return wrk


def measure(server: Running, postmaster: int, route: str, connections: int, seconds: int, number: int) -> Measurement:
    """Call one route of a server for some seconds; any answer but a success fails the whole run.

    postmaster: the process id of the Postgres that serves nobody else meanwhile
    """
    command = [find_wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=10s", f"-s{SCRIPT}"]
    command += [server.url + ROUTES[route], "--"]
    if route.startswith("POST"):
        command.append(f"b{uuid.uuid4().hex[:12]}")
    before = server.cpu_seconds(), cpu_seconds(postmaster)
    done = subprocess.run(command, capture_output=True, text=True)
    after = server.cpu_seconds(), cpu_seconds(postmaster)
    if done.returncode:
        raise LoadError(f"wrk: {done.stderr.strip() or done.stdout.strip()}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["refused"] or found["broken"] or not found["requests"]:
        raise LoadError(f"{server.contestant.name}, {route}: {done.stdout.strip()}. See {server.log}.")
    application, postgres = ((end - start) / found["requests"] * 1e6 for start, end in zip(before, after))
    rate = found["requests"] / found["seconds"]
    return Measurement(
        number,
        route,
        server.contestant.name,
        connections,
        found["requests"],
        round(rate, 1),
        round(application, 1),
        round(postgres, 1),
        round(found["p50_ms"], 3),
        round(found["p99_ms"], 3),
    )
