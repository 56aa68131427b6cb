"""The figures for Prometheus, of one process or of all that serve together."""

import atexit
import os
import shutil
import tempfile
from functools import cache, cached_property
from logging import getLogger
from pathlib import Path
from typing import cast

import psutil
from flask import Flask, current_app
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector
from sqlalchemy import Engine, QueuePool

log = getLogger(__name__)

#: A folder in memory, where there is one.
MEMORY = "/dev/shm"
#: In seconds. What is slower than 30 is cut off.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
#: What the database fails with, as a rule, by the names of psycopg2 and SQLAlchemy.
ERROR_KINDS = (
    "DiskFull",
    "LockNotAvailable",
    "OperationalError",
    "QueryCanceled",
    "ReadOnlySqlTransaction",
    "TimeoutError",
)


class Metrics:
    """The figures of an application."""

    def __init__(self, folder: str | None) -> None:
        self.folder = folder
        if folder and values.ValueClass is values.MutexValue:
            # The library decides at its import, which is before a server has chosen the folder.
            setattr(values, "ValueClass", values.get_value_class())
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "http_requests", "Requests that were answered.", ("route", "method", "status"), registry=registry
        )
        self.duration = Histogram(
            "http_request_duration_seconds",
            "How long requests took.",
            ("route", "method"),
            buckets=BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "http_requests_in_flight", "Requests in hand.", multiprocess_mode="livesum", registry=registry
        )
        self.pool_size = Gauge(
            "db_pool_size", "Connections that are kept open.", multiprocess_mode="livesum", registry=registry
        )
        self.checked_out = Gauge(
            "db_pool_checked_out", "Connections in use.", multiprocess_mode="livesum", registry=registry
        )
        self.pool_wait = Histogram(
            "db_pool_wait_seconds",
            "How long callers waited for a connection while all that are kept open were in use.",
            buckets=BUCKETS,
            registry=registry,
        )
        self.db_errors = Counter("db_errors", "Failures of the database, by kind.", ("kind",), registry=registry)
        self.users_created = Counter("users_created", "Users that were added.", registry=registry)
        # What labels() finds anew with each call.
        self.of_route: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    @cached_property
    def database_up(self) -> Gauge:
        """Return the gauge of the database, made in the process that probes it.

        Made with the others, it would say 0 for the process that starts the workers, and for each of them at first.
        Of several workers the one counts that does not reach the database.
        """
        return Gauge(
            "database_up",
            "Whether the database is up, as /health says.",
            multiprocess_mode="livemin",
            registry=self.registry,
        )

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        key = route, method, status
        if key not in self.of_route:
            self.of_route[key] = self.requests.labels(*key), self.duration.labels(route, method)
        requests, duration = self.of_route[key]
        requests.inc()
        duration.observe(seconds)
        self.in_flight.dec()

    def text(self) -> bytes:
        """Return all figures as Prometheus reads them."""
        if not self.folder:
            return generate_latest(self.registry)
        for file in Path(self.folder).glob("gauge_live*.db"):
            # What a process had in hand is gone with it, however it ended.
            if not psutil.pid_exists(int(file.stem.rpartition("_")[2])):
                file.unlink(missing_ok=True)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, self.folder)
        return generate_latest(registry)


def metrics() -> Metrics:
    """Return the figures of the current application."""
    figures: Metrics = current_app.extensions["metrics"]
    return figures


@cache
def share() -> str | None:
    """Let the processes that this one will start count together; return the folder of what they count.

    It is gone when this process ends. None where nothing can be written: each process then counts for itself.
    """
    for parent in (MEMORY, None):
        try:
            folder = tempfile.mkdtemp(prefix="users-metrics-", dir=parent)
        except OSError:
            continue
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        atexit.register(remove, folder, os.getpid())
        return folder
    return None


def warn_of_missing_folder() -> None:
    """Log what the processes do without where they have no folder to write to."""
    if share() is None:
        log.warning(
            "No folder can be written: /metrics tells the figures of the worker that answers, not of all, and workers"
            " have no heartbeat file, but one in memory where the system offers it. Mount a tmpfs at /dev/shm or /tmp."
        )


def remove(folder: str, owner: int) -> None:
    """Remove the folder, but not at the end of a process that was forked from its owner."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def begin_at_zero(app: Flask) -> None:
    """Let the series of failures begin at 0: Prometheus sees no rise where a series begins with its first failure."""
    figures: Metrics = app.extensions["metrics"]
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            figures.requests.labels(rule.rule, method, 500)
    for kind in ERROR_KINDS:
        figures.db_errors.labels(kind)


def init_app(app: Flask, engine: Engine) -> None:
    """Give the application its figures, and those of its pool."""
    figures = app.extensions["metrics"] = Metrics(app.config["PROMETHEUS_MULTIPROC_DIR"])
    figures.pool_size.set(cast(QueuePool, engine.pool).size())
