"""The one error body, and every way into it."""

from typing import Any

import psycopg2
from flask import Flask, Response, current_app, g, request
from psycopg2.errors import ReadOnlySqlTransaction, UndefinedColumn, UndefinedTable
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import (
    HTTPException,
    PreconditionFailed,
    ServiceUnavailable,
    default_exceptions,
)

from project.api.constraints import broken_constraint
from project.api.representations import Error, Fault
from project.api.validation import InvalidInput
from project.http.instrumentation import choose_request_id, send_request_id
from project.http.resources import json_response
from project.observability.logs import one_line
from project.observability.metrics import metrics

#: What people read where no more is known than the status.
MESSAGES = {
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


def error_body(status: int, message: str, code: str, request_id: str, detail: list[Fault] | None = None) -> Error:
    """Return the one error body.

    detail: a list of {loc, msg, type} where members of the input are at fault, by default the message.
    """
    return {
        "status": "fail" if status < 500 else "error",
        "message": message,
        "code": code,
        "detail": detail or message,
        "request_id": request_id,
    }


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
    return status, said or MESSAGES.get(status, f"{error.name}."), error.name.lower().replace(" ", "_")


def http_error(error: HTTPException) -> Response:
    """Answer what Werkzeug raises and what abort() says."""
    headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
    return error_response(*in_our_words(error), headers=headers)


def invalid_input(error: InvalidInput) -> Response:
    """Answer a request that is not what the call takes, with the status that its Resource has for that."""
    view: Any = current_app.view_functions[str(request.endpoint)]
    status = getattr(getattr(view, "view_class", view), "invalid_input", 400)
    return error_response(status, error.message, error.code, error.detail)


def integrity_error(error: IntegrityError | psycopg2.IntegrityError) -> Response:
    """Answer a write that breaks a constraint of constraints.py; any other is a mistake of the program."""
    broken = broken_constraint(error)
    if broken is None:
        raise error
    return error_response(broken.status, broken.message, broken.code)


def kind(error: Exception) -> str:
    """Return what a failure of the database is called: psycopg2's or SQLAlchemy's name for it."""
    return type(getattr(error, "orig", None) or error).__name__


def database_error(error: Exception) -> Response:
    """Answer for a database that is away, busy or full."""
    metrics().db_errors.labels(kind(error)).inc()
    current_app.logger.warning("database: %s", one_line(error))
    return http_error(ServiceUnavailable(retry_after=1))


def odd_database_error(error: DBAPIError | psycopg2.Error) -> Response:
    """Answer for a database that is read-only or lacks a migration; another such error is a mistake of the program."""
    cause = getattr(error, "orig", error)
    if isinstance(cause, (UndefinedColumn, UndefinedTable)):
        current_app.logger.error("the database lacks a migration: run python manage.py db upgrade")
    elif not (isinstance(cause, ReadOnlySqlTransaction) or getattr(error, "connection_invalidated", False)):
        raise error
    return database_error(error)


def log_exception(error: Any) -> None:
    """Log an error that no handler answers; the message of Flask's own would contain the path."""
    if isinstance(error[1], (SQLAlchemyError, psycopg2.Error)):
        metrics().db_errors.labels(kind(error[1])).inc()
    current_app.logger.error("unhandled exception", exc_info=error)


def init_app(app: Flask) -> None:
    """Give the application its error handlers and its request ids."""
    setattr(app, "log_exception", log_exception)
    app.before_request(choose_request_id)
    app.after_request(send_request_id)
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(InvalidInput, invalid_input)
    # SQLAlchemy's of sessions, psycopg2's of single statements.
    for refusal in (IntegrityError, psycopg2.IntegrityError):
        app.register_error_handler(refusal, integrity_error)
    driver_failures = (psycopg2.OperationalError, psycopg2.InterfaceError)
    for database_failure in (OperationalError, InterfaceError, PoolTimeout, *driver_failures):
        app.register_error_handler(database_failure, database_error)
    for perhaps in (InternalError, ProgrammingError, psycopg2.InternalError, psycopg2.ProgrammingError):
        app.register_error_handler(perhaps, odd_database_error)
