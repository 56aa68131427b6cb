"""Request bodies and query parameters, read and validated before a method runs."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from flask import abort, request
from pydantic import ValidationError

from project.api.payloads import Payload
from project.api.validation import (
    DECODER,
    MOST_BRACKETS,
    MOST_ERRORS,
    InvalidInput,
    InvalidPayload,
    InvalidQuery,
    fault,
    faults_of,
)

P = TypeVar("P", bound="Payload")


def json_object() -> dict[str, Any]:
    """Return the request's body, a JSON object.

    Raises InvalidPayload, or aborts with 408 for a body that did not arrive whole, 411 for one of unannounced length,
    413 for one over the limit, which is not read, and 415 for one that is not JSON by its Content-Type.
    """
    if "Transfer-Encoding" in request.headers:
        # The server would end such a body at the limit without a word, and its first part may be valid JSON.
        abort(411)
    body = request.get_data(cache=False)
    if len(body) < (request.content_length or 0):
        # The server ends one that does not arrive, and says nothing.
        abort(408)
    if not body:
        raise InvalidPayload(fault("Is required.", "missing", "body"))
    if not request.is_json:
        abort(415)
    if body.count(b"{") + body.count(b"[") > MOST_BRACKETS:
        raise InvalidPayload(fault("Is nested too deeply.", "too_deep", "body"))
    try:
        document = DECODER.decode(body.decode())
    except ValueError:
        raise InvalidPayload(fault("Is not valid JSON.", "json_invalid", "body")) from None
    if not isinstance(document, dict):
        raise InvalidPayload(fault("Must be a JSON object.", "object_type", "body"))
    return document


def query_parameters() -> dict[str, Any]:
    """Return the request's query parameters, or refuse one that is named twice."""
    repeated = [name for name, values in request.args.lists() if len(values) > 1]
    if repeated:
        raise InvalidQuery(*(fault("Is named twice.", "duplicate", "query", name) for name in repeated[:MOST_ERRORS]))
    return request.args.to_dict()


def validated(schema: type[P], members: dict[str, Any], place: str, error: type[InvalidInput]) -> P:
    """Return the members as a payload of the schema, or refuse them with all that is at fault."""
    try:
        return schema.model_validate(members)
    except ValidationError as invalid:
        raise error(*faults_of(invalid, place)) from None


Method = Callable[..., Any]


def body(schema: type[Payload]) -> Callable[[Method], Method]:
    """Decorate a Resource's method: it gets the request's body as a payload of the schema, before anything else."""
    return takes("body", schema, json_object, InvalidPayload)


def query(schema: type[Payload]) -> Callable[[Method], Method]:
    """Decorate a Resource's method: it gets the query parameters as a payload of the schema."""
    return takes("query", schema, query_parameters, InvalidQuery)


def takes(
    place: str, schema: type[Payload], read: Callable[[], dict[str, Any]], error: type[InvalidInput]
) -> Callable[[Method], Method]:
    """Decorate a Resource's method: it gets what is read from that place of the request as a payload of the schema.

    The OpenAPI document finds the schema as the method's attribute of the place's name.
    """

    def decorator(method: Method) -> Method:
        @wraps(method)
        def wrapper(self: Any, **arguments: Any) -> Any:
            return method(self, validated(schema, read(), place, error), **arguments)

        setattr(wrapper, place, schema)
        return wrapper

    return decorator
