"""What every answer tells a browser, whoever made it."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from flask import Flask, Response, current_app, request

#: A view may say otherwise, such as a page that has styles and scripts.
FIXED = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    # Almost every answer tells of people, and errors quote what was sent.
    "Cache-Control": "no-store",
}

PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, If-Match, If-None-Match, X-Request-ID",
    "Access-Control-Max-Age": "600",
}

EXPOSED = "ETag, Link, Location, Retry-After, X-Request-ID, X-Total-Count"


def fixed_headers(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers of every answer."""
    return {**FIXED, **({"Strict-Transport-Security": config["HSTS"]} if config["HSTS"] else {})}


def is_from_named_origin() -> bool:
    """Say whether a page of an origin that the configuration names makes this call."""
    return request.headers.get("Origin") in current_app.config["CORS_ORIGINS"]


def answer_preflight() -> Response | None:
    """Answer a browser that asks whether a page may call; it sends no token with that question."""
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers and is_from_named_origin():
        return Response(status=204, headers=PREFLIGHT)
    return None


def send_headers(fixed: Mapping[str, str], response: Response) -> Response:
    """Send the headers with every answer."""
    headers = response.headers
    there = {name.lower() for name, _ in headers}
    for name, value in fixed.items():
        if name.lower() not in there:
            headers.add(name, value)
    if current_app.config["CORS_ORIGINS"]:
        response.vary.add("Origin")
        if is_from_named_origin():
            headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            headers["Access-Control-Expose-Headers"] = EXPOSED
    return response


def init_app(app: Flask) -> None:
    """Give every answer its headers."""
    app.before_request(answer_preflight)
    app.after_request(partial(send_headers, fixed_headers(app.config)))
