"""Traces: what a collector hears."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.instrumentation.psycopg2 import Psycopg2Instrumentor
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from project import db
from project.config import ProductionConfig
from project.tests.conftest import app_on
from project.tests.test_users import MICHAEL


class Collector(ThreadingHTTPServer):
    """A collector that keeps what it hears."""

    heard: list[ExportTraceServiceRequest]


class Hearing(BaseHTTPRequestHandler):
    """What a collector does with a request."""

    server: Collector

    def do_POST(self) -> None:
        """Take spans."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        self.server.heard.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector on a port of its own."""
    server = Collector(("127.0.0.1", 0), Hearing)
    server.heard = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_collector_hears_of_requests_and_statements_and_of_no_person(
    collector: Collector, open_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    app = app_on(open_database, ProductionConfig, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    try:
        client = app.test_client()
        said = [
            client.post("/users", json=MICHAEL),
            client.post("/users", json=MICHAEL),
            client.get(f"/users?email={MICHAEL['email']}", headers={"User-Agent": "michael's browser"}),
            client.get(f"/{MICHAEL['email']}"),
            client.get("/health"),
            client.get("/ping"),
        ]
        with app.app_context():
            db.engine.dispose()
    finally:
        Psycopg2Instrumentor().uninstrument()
        app.extensions["tracer_provider"].shutdown()

    assert [response.status_code for response in said] == [201, 400, 200, 404, 200, 200]
    resources = [spans for heard in collector.heard for spans in heard.resource_spans]
    spans = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
    named = {attribute.key: attribute.value.string_value for attribute in resources[0].resource.attributes}
    assert (named["service.name"], named["service.version"]) == ("users", app.config["VERSION"])
    requests = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    assert [span.name for span in requests] == ["POST /users", "POST /users", "GET /users", "GET"]
    insert = next(span for span in spans if span.name.startswith("INSERT"))
    assert (insert.parent_span_id, insert.trace_id) == (requests[0].span_id, requests[0].trace_id)
    assert all(span.parent_span_id for span in spans if span not in requests)
    assert "michael" not in str(collector.heard)


def test_service_has_the_name_that_the_environment_gives_it(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "other-users")
    app = app_on("postgresql://x/y", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.server_port}")
    Psycopg2Instrumentor().uninstrument()
    provider = app.extensions["tracer_provider"]
    provider.shutdown()

    assert provider.resource.attributes["service.name"] == "other-users"
