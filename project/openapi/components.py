"""What the operations of the OpenAPI document share: headers, parameters, examples, schemas."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from project.api.representations import Error, Fault, error_body
from project.api.validation import InvalidInput, fault
from project.auth.access import TokenNeeded
from project.http.instrumentation import SANE_REQUEST_ID

Json = dict[str, Any]
REQUEST_ID = "6a4f0c9e8b1d4f7e9a3c5b2d1e0f8a7b"
ETAG = '"4711"'

BAD_BODY = [
    fault("Is required.", "missing", "body", "username"),
    fault("Must be a string.", "string_type", "body", "email"),
]

BAD_PATH = [fault("Must be a whole number of 1 or more.", "id", "path", "id")]
BAD_FILE = [fault("Is required.", "missing", "body", 7, "email")]

#: What a file looks like; that each line is a user, JSON Schema cannot say of either.
FILE_CONTENT = {
    "application/x-ndjson": {
        "schema": {"type": "string", "examples": ['{"username": "michael", "email": "michael@testdriven.io"}\n']}
    },
    "text/csv": {"schema": {"type": "string", "examples": ["username,email\nmichael,michael@testdriven.io\n"]}},
}

BAD_QUERY = [fault("Must be at most 1000.", "less_than_equal", "query", "limit")]


def header(description: str, **schema: Any) -> Json:
    """Return the description of a header that is always sent."""
    return {"description": description, "required": True, "schema": schema}


def header_parameter(description: str, name: str, example: str) -> Json:
    """Return the description of a header that a caller may send."""
    schema = {"type": "string", "examples": [example]}
    return {"name": name, "in": "header", "description": description, "schema": schema}


RESPONSE_HEADERS = {
    "X-Request-ID": header(
        "The request's id, which is in the log too.",
        type="string",
        pattern=f"^{SANE_REQUEST_ID.pattern}$",
        examples=[REQUEST_ID],
    ),
    "Retry-After": header("After how many seconds to try again.", type="integer", minimum=0, examples=[1]),
    "ETag": header("The version that the caller has.", type="string", examples=[ETAG]),
    "WWW-Authenticate": header("What is asked for.", type="string", examples=[TokenNeeded.challenge]),
}

#: The header that an error of this code has, beside its request's id.
ERROR_HEADERS = {
    "service_unavailable": "Retry-After",
    "too_many_requests": "Retry-After",
    "unauthorized": "WWW-Authenticate",
    "insufficient_scope": "WWW-Authenticate",
}

PARAMETERS = {
    "X-Request-ID": header_parameter(
        f"An id for the request. One that is not `{SANE_REQUEST_ID.pattern}` is replaced.", "X-Request-ID", REQUEST_ID
    ),
    "If-None-Match": header_parameter(
        "The `ETag` of the caller's copy: while it is good, the answer is 304.", "If-None-Match", ETAG
    ),
    "If-Match": header_parameter(
        "The `ETag` of what the caller has read: if somebody wrote since, the answer is 412. "
        "A summary that is `pending` gets a new one with each attempt at its page.",
        "If-Match",
        ETAG,
    ),
}


class Schemas(GenerateJsonSchema):
    """JSON schemas as callers need them."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Leave out the defaults that stand for a member that is absent."""
        described = super().default_schema(schema)
        return {name: value for name, value in described.items() if name != "default" or value not in (None, "")}

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Leave out the titles, which repeat the members' names."""
        return False


class QuerySchemas(Schemas):
    """JSON schemas of query parameters."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """Leave null out: here it stands for a parameter that is absent, and no query can write it."""
        return self.generate_inner(schema["schema"])


def invalid_example(status: int, kind: type[InvalidInput], faults: list[Fault]) -> Error:
    """Return the body of an error that names what is at fault."""
    return error_body(status, kind.message, kind.code, REQUEST_ID, faults)


def apart(schema: Json) -> Json:
    """Return a schema and, beside it, its description."""
    return {"description": schema.pop("description"), "schema": schema}


def json_content(schema: Json, **more: Any) -> Json:
    """Return the description of a JSON body."""
    return {"application/json": {"schema": schema, **more}}


def refer(*headers: str) -> Json:
    """Return references to headers."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
