"""The log: one line an event on standard error, as JSON for programs or in colours for people."""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import click
import orjson
from flask import Flask, g, has_request_context
from flask.globals import request_ctx

from project.observability.redact import harmless, trace

COLORS = {"debug": "blue", "info": "green", "warning": "yellow", "error": "red", "critical": "red"}
STANDARD_ERROR = 2
#: What is told apart; a caller may invent others, and no log or metric is to grow by that.
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
Members = dict[str, Any]


def call() -> Members:
    """Return what names the current call: its path is not told, since it may hold anything."""
    # Once: a name of the proxy would look for it each time.
    known = request_ctx.request
    method, rule = known.method, known.url_rule
    return {
        "request_id": g.get("request_id"),
        "method": method if method in METHODS else "other",
        "route": rule.rule if rule else "unknown",
    }


def record_members(record: logging.LogRecord) -> Members:
    """Return the members of a record's line."""
    error = record.exc_info[1] if record.exc_info else None
    return {
        "time": datetime.now(UTC),
        "level": record.levelname.lower(),
        "event": harmless(record.getMessage()),
        "logger": record.name,
        **(call() if has_request_context() else {}),
        **getattr(record, "members", {}),
        **({"exception": trace(error)} if error else {}),
    }


def as_json(line: Members) -> bytes:
    """Return a line for programs."""
    return orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z)


def for_people(line: Members) -> bytes:
    """Return a line for people: time, level, event, the other members, and a traceback on lines of its own."""
    rest = {name: value for name, value in line.items() if value is not None}
    moment: datetime = rest.pop("time")
    level: str = rest.pop("level")
    event, exception = rest.pop("event"), rest.pop("exception", None)
    parts = [f"{moment.astimezone():%H:%M:%S}", f"[{click.style(level, fg=COLORS.get(level))}]", event]
    parts += [f"{name}={readable(value)}" for name, value in rest.items()]
    text = " ".join(parts) + (f"\n{exception}" if exception else "")
    return f"{text if sys.stderr.isatty() else click.unstyle(text)}\n".encode()


def readable(value: Any) -> str:
    """Return a value, quoted where it would not stand as one word."""
    text = str(value)
    return text if text.isprintable() and " " not in text else repr(text)


class Log(logging.Handler):
    """Where every line goes."""

    def __init__(self) -> None:
        super().__init__()
        self.render: Callable[[Members], bytes] = as_json

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record's line."""
        self.write(record_members(record))

    def write(self, line: Members) -> None:
        """Write a line, in one call, so that those of several processes do not mingle."""
        # A log that nobody takes any more must not fail the requests.
        with suppress(OSError):
            os.write(STANDARD_ERROR, self.render(line))


LOG = Log()


def is_no_access_line(record: logging.LogRecord) -> bool:
    """Say whether a record of Flask's development server is to be kept: its access lines quote the query."""
    return '"%s" %s %s' not in str(record.msg)


def configure(config: Mapping[str, Any]) -> None:
    """Make every logger of the process write lines of ours."""
    LOG.render = for_people if config["LOG_FORMAT"] == "console" else as_json
    logging.getLogger().addHandler(LOG)
    logging.getLogger("project").setLevel(config["LOG_LEVEL"].upper())
    # What a migration does.
    logging.getLogger("alembic").setLevel(logging.INFO)
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    # SQLAlchemy names the pool's logger by its class, which is ours.
    logging.getLogger("project.storage.connections.Pool").setLevel(logging.WARNING)
    logging.getLogger("werkzeug").addFilter(is_no_access_line)


def init_app(app: Flask) -> None:
    """Give the application its log."""
    configure(app.config)
