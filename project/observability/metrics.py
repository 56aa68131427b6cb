"""The figures for Prometheus, of one process or of all that serve together."""

import struct
from functools import cached_property
from pathlib import Path
from time import sleep
from typing import cast

import psutil
from flask import Flask, current_app
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from sqlalchemy import Engine, QueuePool

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


#: How often the files of all processes are read, where one is just being made, and how long to wait in between.
MAX_READS, READ_AGAIN_SECONDS = 10, 0.02


class Metrics:
    """The figures of an application."""

    def __init__(self, folder: str | None) -> None:
        self.folder = folder
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
        reads_left = MAX_READS
        while True:
            try:
                return generate_latest(registry)
            except struct.error:
                # A worker that starts makes its files empty first, and gives them their size a moment later.
                reads_left -= 1
                if not reads_left:
                    raise
                sleep(READ_AGAIN_SECONDS)


def metrics() -> Metrics:
    """Return the figures of the current application."""
    figures: Metrics = current_app.extensions["metrics"]
    return figures


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
