"""The one error body, and every way into it."""

from typing import Any

import psycopg2
import sqlalchemy.exc
from flask import Flask, Response, current_app, g, request
from psycopg2.errors import ReadOnlySqlTransaction, UndefinedColumn, UndefinedTable
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException, PreconditionFailed, ServiceUnavailable, default_exceptions

from project.api.constraints import broken_constraint
from project.api.representations import Fault, error_body
from project.api.validation import InvalidInput
from project.http.resources import json_response
from project.observability.metrics import metrics
from project.observability.redact import driver_error, one_line

#: What people read where no more is known than the status.
STATUS_MESSAGES = {
    400: "The request is not valid.",
    401: "A token is needed.",
    403: "This is not allowed.",
    404: "There is nothing at this address.",
    405: "This method is not allowed here.",
    408: "The body did not arrive in time.",
    411: "The request must announce the length of its body in Content-Length.",
    413: "The body is too large.",
    415: "The body must be JSON, with the Content-Type application/json.",
    429: "These are too many calls. Come back later.",
    500: "The service failed to answer this request.",
    503: "The database is not available at the moment.",
}


class VersionConflict(PreconditionFailed):
    """A write of what somebody else has written in between."""

    name = "Version conflict"
    description = "Somebody has written this in between. Get it again, and decide anew."


def error_response(
    status: int, message: str, code: str, detail: list[Fault] | None = None, headers: dict[str, str] | None = None
) -> Response:
    """Answer the current request with an error."""
    return json_response(error_body(status, message, code, g.request_id, detail), status, headers)


def in_our_words(error: HTTPException) -> tuple[int, str, str]:
    """Return the status, the message and the code of an error."""
    status = error.code or 500
    # What somebody here wrote, rather than Werkzeug's paragraphs for browsers.
    said = error.description if error.description != default_exceptions[status].description else None
    return status, said or STATUS_MESSAGES.get(status, f"{error.name}."), error.name.lower().replace(" ", "_")


def http_error(error: HTTPException) -> Response:
    """Answer what Werkzeug raises and what abort() says."""
    headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
    return error_response(*in_our_words(error), headers=headers)


def invalid_input(error: InvalidInput) -> Response:
    """Answer a request that is not what the call takes, with the status that its Resource has for that."""
    view: Any = current_app.view_functions[str(request.endpoint)]
    status = getattr(getattr(view, "view_class", view), "invalid_input", 400)
    return error_response(status, error.message, error.code, error.detail)


def integrity_error(error: Any) -> Response:
    """Answer a write that breaks a constraint of constraints.py; any other is a mistake of the program."""
    broken = broken_constraint(error)
    if broken is None:
        raise error
    return error_response(broken.status, broken.message, broken.code)


def kind(error: Exception) -> str:
    """Return what a failure of the database is called: psycopg2's or SQLAlchemy's name for it."""
    return type(driver_error(error)).__name__


def database_error(error: Exception) -> Response:
    """Answer for a database that is away, busy or full."""
    metrics().db_errors.labels(kind(error)).inc()
    current_app.logger.warning("database: %s", one_line(error))
    return http_error(ServiceUnavailable(retry_after=1))


def odd_database_error(error: Exception) -> Response:
    """Answer for a database that has become read-only or lacks a migration; any other such error is our mistake."""
    cause = driver_error(error)
    if isinstance(cause, (UndefinedColumn, UndefinedTable)):
        current_app.logger.error("the database lacks a migration: run python manage.py db upgrade")
    elif not isinstance(cause, ReadOnlySqlTransaction):
        raise error
    return database_error(error)


class Application(Flask):
    """The application, which logs an unhandled exception in the lines of the service."""

    def log_exception(self, exc_info: Any) -> None:
        """Log an unhandled exception; Flask's own words for it have the path in them."""
        if isinstance(exc_info[1], (SQLAlchemyError, psycopg2.Error)):
            metrics().db_errors.labels(kind(exc_info[1])).inc()
        self.logger.error("unhandled exception", exc_info=exc_info)


def init_app(app: Flask) -> None:
    """Give the application its error handlers."""
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(InvalidInput, invalid_input)
    # Single statements raise psycopg2's errors, sessions SQLAlchemy's of the same names.
    for errors in (psycopg2, sqlalchemy.exc):
        app.register_error_handler(errors.IntegrityError, integrity_error)
        app.register_error_handler(errors.OperationalError, database_error)
        app.register_error_handler(errors.InterfaceError, database_error)
        app.register_error_handler(errors.InternalError, odd_database_error)
        app.register_error_handler(errors.ProgrammingError, odd_database_error)
    app.register_error_handler(PoolTimeout, database_error)
