"""The metrics of a summarizer, on a port of their own."""

from collections.abc import Callable, Iterable
from hmac import compare_digest
from logging import getLogger
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import psycopg2
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from project.api.models import Summary
from project.observability.redact import one_line
from project.storage.deadlines import watchdog

log = getLogger(__name__)
#: In seconds; a page is fetched within SUMMARY_TIMEOUT, and read within as many again.
PAGE_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
#: What becomes of a row that was taken; pending is one that waits for another attempt.
RESULTS = ("done", "failed", "pending", "lost")
#: How long the count of the rows that wait may take.
COUNT_SECONDS = 2

COUNT = select(func.count(), func.count().filter(Summary.next_attempt_at <= func.now())).where(
    Summary.state == "pending"
)


class Backlog(Collector):
    """Counts the rows that wait, whenever a scraper asks."""

    def __init__(self, engine: Engine, is_up: Callable[[], bool]) -> None:
        self.engine = engine
        self.is_up = is_up

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield the counts, or nothing where the database is down or does not answer in time."""
        if not self.is_up():
            return
        try:
            with self.engine.connect() as connection:
                with watchdog.limit(connection.connection.driver_connection, COUNT_SECONDS):
                    pending, due = connection.execute(COUNT).one()
        except (DBAPIError, psycopg2.Error, PoolTimeout) as error:
            log.warning("metrics: %s", one_line(error))
            return
        yield GaugeMetricFamily("summaries_pending", "Rows that wait, those between two attempts included.", pending)
        yield GaugeMetricFamily("summaries_due", "Rows that wait and could be processed now.", due)


class SummarizerMetrics:
    """What one summarizer counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.processed = Counter(
            "summaries_processed", "Rows that were processed, by result.", ("result",), registry=self.registry
        )
        # From the start, so that an alert sees the first one as a rise.
        for result in RESULTS:
            self.processed.labels(result)
        self.seconds = Histogram(
            "summary_processing_seconds", "How long rows took.", buckets=PAGE_BUCKETS, registry=self.registry
        )
        self.database_up = Gauge("database_up", "Whether the database is up.", registry=self.registry)

    def observe(self, result: str, seconds: float) -> None:
        """Count a row that was processed."""
        self.processed.labels(result).inc()
        self.seconds.observe(seconds)


class Handler(WSGIRequestHandler):
    """Handles a scrape without a line in the log; a client that says nothing is cut off."""

    timeout = 10

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing: a scrape every few seconds is no event."""


class MetricsServer(ThreadingMixIn, WSGIServer):
    """A server whose threads do not keep the process."""

    daemon_threads = True


def guarded(figures: WSGIApplication, token: str | None) -> WSGIApplication:
    """Return an application with the metrics at /metrics, for the token's bearer alone where there is one."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        given = environ.get("HTTP_AUTHORIZATION", "")
        if token and not compare_digest(given.encode(), f"Bearer {token}".encode()):
            start_response("401 Unauthorized", [("WWW-Authenticate", 'Bearer realm="users"')])
            return []
        if environ["PATH_INFO"] != "/metrics":
            start_response("404 Not Found", [])
            return []
        return figures(environ, start_response)

    return application


def start_metrics_server(figures: SummarizerMetrics, port: int, token: str | None) -> WSGIServer:
    """Serve the metrics from a thread, on all addresses; return the server."""
    application = guarded(make_wsgi_app(figures.registry), token)
    server = make_server("0.0.0.0", port, application, MetricsServer, Handler)
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
