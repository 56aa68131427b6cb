"""Traces for an OpenTelemetry collector; imported only where one is configured."""

from collections.abc import Mapping, Sequence
from typing import Any

from flask import Flask
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.psycopg2 import Psycopg2Instrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status

#: What quotes the path, the query or the row that the database refuses, or says where somebody calls from.
UNTOLD = frozenset(
    "http.target http.url url.full url.path url.query net.peer.ip net.peer.port client.address client.port"
    " http.user_agent user_agent.original exception.message exception.stacktrace".split()
)

#: Asked too often to be of interest.
EXCLUDED = "/ping$,/health$,/metrics$"


class Discreet(SpanExporter):
    """An exporter that tells nothing of people to the one that it stands before."""

    def __init__(self, exporter: SpanExporter) -> None:
        self.exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export spans, but none of a statement that belongs to no request, as those of /health."""
        return self.exporter.export([discreet(span) for span in spans if span.parent or span.kind == SpanKind.SERVER])

    def shutdown(self) -> None:
        """End the other one."""
        self.exporter.shutdown()


def discreet(span: ReadableSpan) -> ReadableSpan:
    """Return a copy of a span that tells nothing of people."""
    attributes = told(span.attributes)
    name = span.name
    if span.kind == SpanKind.SERVER and "http.route" not in attributes:
        # Of an unknown address the path would be a part of the name.
        name = name.partition(" ")[0]
    elif name == "EXECUTE":
        # What a prepared statement does is the first word of its name.
        name = str(attributes["db.statement"]).split()[1].partition("_")[0].upper()
    return ReadableSpan(
        name=name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=attributes,
        events=[Event(event.name, told(event.attributes), event.timestamp) for event in span.events],
        links=span.links,
        kind=span.kind,
        # Without its description, which is the error's message.
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def told(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the attributes that may be told."""
    return {name: value for name, value in (attributes or {}).items() if name not in UNTOLD}


def init_app(app: Flask) -> None:
    """Trace the requests of the application, and the statements of its process."""
    resource = Resource.create({"service.version": app.config["VERSION"]})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "users"}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(Discreet(OTLPSpanExporter())))
    app.extensions["tracer_provider"] = provider
    FlaskInstrumentor().instrument_app(app, tracer_provider=provider, excluded_urls=EXCLUDED)
    Psycopg2Instrumentor().instrument(tracer_provider=provider)
