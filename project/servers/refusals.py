"""The one error body for what never becomes a request."""

import logging
import socket
import uuid
from collections.abc import Mapping

import orjson
from gunicorn.http.errors import ExpectationFailed, LimitRequestHeaders, LimitRequestLine, ParseException

from project.api.representations import error_body

log = logging.getLogger(__name__)

#: What is not HTTP, or not within the limits; the first class that fits decides.
STATUSES: tuple[tuple[type[Exception], int, str], ...] = (
    (LimitRequestLine, 414, "Request URI Too Long"),
    (LimitRequestHeaders, 431, "Request Header Fields Too Large"),
    (ExpectationFailed, 417, "Expectation Failed"),
    (ParseException, 400, "Bad Request"),
)


def status_of(error: BaseException) -> tuple[int, str]:
    """Return the status and the reason phrase for an error that came up while a request was read."""
    for kind, status, reason in STATUSES:
        if isinstance(error, kind):
            return status, reason
    return 500, "Internal Server Error"


def refusal(status: int, reason: str, message: str, fixed: Mapping[str, str]) -> bytes:
    """Return a whole response with the one error body, and log it under its request id."""
    request_id = uuid.uuid4().hex
    body = orjson.dumps(error_body(status, message, reason.lower().replace(" ", "_"), request_id)) + b"\n"
    fields = {
        "Connection": "close",
        "Content-Type": "application/json",
        "Content-Length": len(body),
        "X-Request-ID": request_id,
        **({"Retry-After": 1} if status == 503 else {}),
        **fixed,
    }
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    refused = {"request_id": request_id, "method": "unknown", "route": "unknown", "status": status}
    log.info("refused before it became a request", extra={"members": refused})
    return "\r\n".join(lines).encode() + body


def send_refusal(client: socket.socket, status: int, reason: str, message: str, fixed: Mapping[str, str]) -> None:
    """Write the one error body to a client, without a request to answer."""
    try:
        client.sendall(refusal(status, reason, message, fixed))
    except OSError as error:
        log.debug("The client is gone: %s", error)
