"""The base of every Resource, and the JSON that it answers."""

from collections.abc import Mapping
from typing import Any

import flask_restful
import orjson
from flask import Blueprint, Response, request


class Resource(flask_restful.Resource):
    """A noun with a method for each of HTTP's, all of which answer JSON."""

    # It has nothing that one request could leave to the next.
    init_every_request = False


class Api(flask_restful.Api):
    """An Api that leaves every error to the application's handlers, and JSON to orjson."""

    def __init__(self, blueprint: Blueprint) -> None:
        super().__init__(blueprint)
        self.representation("application/json")(json_response)

    def error_router(self, original_handler: Any, e: Exception) -> Any:
        """Pass the error on: Flask-RESTful's own handling bypasses the application's outside of tests."""
        return original_handler(e)


def json_response(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with the data as its JSON body; 304 without one where If-None-Match names its ETag."""
    body = orjson.dumps(data, option=orjson.OPT_APPEND_NEWLINE)
    response = Response(body, status, headers, mimetype="application/json")
    # Where neither header asks for it, what there is to do costs 10 µs and changes nothing.
    if headers and "ETag" in headers:
        asked = request.environ
        if "HTTP_IF_NONE_MATCH" in asked or "HTTP_IF_MATCH" in asked:
            response.make_conditional(asked)
    return response
