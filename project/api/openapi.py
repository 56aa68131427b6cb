"""The OpenAPI document, made from the routes, the Resources, their payloads and their answers."""

import re
import sys
from collections.abc import Callable, Iterator
from inspect import cleandoc, unwrap
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from flask import Blueprint, Flask, current_app
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema
from typing_extensions import get_original_bases
from werkzeug.exceptions import BadRequest, HTTPException, NotFound, UnsupportedMediaType, default_exceptions

from project.api.answers import Document, Error, Fault, NoHeaders, Served
from project.api.auth import ANY, ScopeNeeded, TokenNeeded, in_full, is_open, scope
from project.api.errors import EMAIL_EXISTS, SANE_REQUEST_ID, Api, Resource, VersionConflict, error_body, in_our_words
from project.api.limits import UNLIMITED_PATHS
from project.api.schemas import (
    NO_FILE,
    InvalidFile,
    InvalidInput,
    InvalidPath,
    InvalidPayload,
    InvalidQuery,
    fault,
)

openapi_blueprint = Blueprint("openapi", __name__)
api = Api(openapi_blueprint)

Json = dict[str, Any]
Method = Callable[..., Any]

DESCRIPTION = """
A user has a name, which others may share, and an email address, which nobody else has. Notes and summaries are
resources beside them, which answer without an envelope; their paths are good without the closing slash too.

- Every answer has the header `X-Request-ID`.
- Every error has the body `Error`, also those that no call lists: 404 for an unknown path, 405 with `Allow`, 414 and
  431 for a URL or headers over 8 KiB, 417 for an unknown expectation, 429 with `Retry-After`.
- HEAD answers as GET does, without the body. OPTIONS names the methods in `Allow`.
- A call with a lock needs a token, in the header `Authorization`: any, or one with the scope that stands there.
""".strip()

#: What a method does with the one thing that a path names, in the order in which the document lists the methods.
VERBS = {"GET": "get", "POST": "create", "PUT": "replace", "PATCH": "update", "DELETE": "delete"}
DONE = {
    200: "It is as it was asked for.",
    201: "It is there now.",
    302: "A browser goes on elsewhere.",
    503: "It cannot be done now.",
}

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


HEADERS = {
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

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """Leave null out: here it stands for a member that is absent, and nobody may send it."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Leave out the defaults that stand for a member that is absent."""
        described = super().default_schema(schema)
        return {name: value for name, value in described.items() if name != "default" or value not in (None, "")}

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Leave out the titles, which repeat the members' names."""
        return False


class Builder:
    """The document while it grows."""

    def __init__(self, app: Flask) -> None:
        self.schemas: Json = {}
        self.tags: dict[str, str] = {}
        self.paths: Json = {}
        self.config = app.config
        rules = {rule.rule: rule for rule in app.url_map.iter_rules()}
        for rule in sorted(rules.values(), key=lambda rule: rule.rule):
            resource = getattr(app.view_functions[rule.endpoint], "view_class", None)
            # The admin pages are for people, and a path is told in one of its forms.
            if resource is None or f"{rule.rule}/" in rules:
                continue
            path = re.sub(r"<(?:[^<>]+:)?(\w+)>", r"{\1}", rule.rule)
            noun = resource.__module__.rpartition(".")[2]
            self.tags[noun] = str(sys.modules[resource.__module__].__doc__).partition("\n")[0]
            self.paths[path] = {
                method.lower(): {"tags": [noun], **self.operation(path, method, resource, noun)}
                for method in VERBS
                if method in resource.methods
            }
        for path, operations in self.paths.items():
            if created := operations.get("post", {}).get("responses", {}).get("201"):
                created["links"] = self.links(path, created["content"]["application/json"]["schema"])

    def operation(self, path: str, method: str, resource: type[Resource], noun: str) -> Json:
        """Return the description of one method of one path."""
        function = getattr(resource, method.lower())
        summary, _, description = cleandoc(function.__doc__).partition("\n")
        body, query, files = (getattr(function, place, None) for place in ("body", "query", "files"))
        arguments = re.findall(r"{(\w+)}", path)

        parameters = [self.path_parameter(function, name) for name in arguments]
        responses = {status: self.answer(status, *answer) for status, *answer in signature(resource, function)}
        bad_requests = {"bad_request": error_body(*in_our_words(BadRequest()), REQUEST_ID)}
        invalid_status = getattr(resource, "invalid_input", 400)
        invalid_inputs: dict[str, Error] = {}
        errors: list[HTTPException] = [default_exceptions[500](), default_exceptions[503]()]
        scopes = self.scopes(path, function, noun)
        if scopes is not None:
            errors += [TokenNeeded(), *map(ScopeNeeded, scopes)]
        if self.config["RATELIMIT"] and path not in UNLIMITED_PATHS:
            errors.append(default_exceptions[429]())
        if query:
            members = self.schema(query)["properties"]
            parameters += [{"name": name, "in": "query", **apart(schema)} for name, schema in members.items()]
            invalid_inputs[InvalidQuery.code] = invalid(invalid_status, InvalidQuery, BAD_QUERY)
        if body:
            invalid_inputs[InvalidPayload.code] = invalid(invalid_status, InvalidPayload, BAD_BODY)
            errors += [default_exceptions[status]() for status in (411, 413, 415)]
            taken = [EMAIL_EXISTS] if "email" in body.model_fields else []
            bad_requests.update({code: error_body(400, said, code, REQUEST_ID) for said, code in taken})
        if files:
            bad_requests[InvalidFile.code] = invalid(400, InvalidFile, BAD_FILE)
            errors += [default_exceptions[status]() for status in (408, 411, 413)] + [UnsupportedMediaType(NO_FILE)]
        if arguments:
            if invalid_status != 400:
                invalid_inputs[InvalidPath.code] = invalid(invalid_status, InvalidPath, BAD_PATH)
            errors.append(NotFound(resource.rows.missing if hasattr(resource, "rows") else None))
            if any("ETag" in get_type_hints(headers) for _, _, headers in signature(resource, resource.get)):
                # json_response() answers 304 by itself; If-Match is the Resources' duty.
                if method == "GET":
                    parameters.append({"$ref": "#/components/parameters/If-None-Match"})
                    responses[304] = {"description": "The caller's copy is still good.", "headers": refer("ETag")}
                else:
                    parameters.append({"$ref": "#/components/parameters/If-Match"})
                    errors.append(VersionConflict())

        failures = {400: bad_requests}
        failures[invalid_status] = {**failures.get(invalid_status, {}), **invalid_inputs}
        responses.update({status: self.failure(bodies) for status, bodies in failures.items() if bodies})
        for error in errors:
            status, message, code = in_our_words(error)
            if status in responses:
                # The method's signature says more of it.
                continue
            responses[status] = self.failure({code: error_body(status, message, code, REQUEST_ID)})
        operation = {
            "operationId": operation_id(path, method, resource),
            "summary": summary.rstrip("."),
            "parameters": [*parameters, {"$ref": "#/components/parameters/X-Request-ID"}],
            "responses": {str(status): responses[status] for status in sorted(responses)},
        }
        if scopes is not None:
            operation["security"] = [{"bearer": scopes}]
        if description:
            operation["description"] = description.strip()
        if body:
            operation["requestBody"] = {"required": True, "content": json_content(self.component(body))}
        if files:
            operation["requestBody"] = {"required": True, "content": {name: FILE_CONTENT[name] for name in files}}
        return operation

    def scopes(self, path: str, function: Method, noun: str) -> list[str] | None:
        """Return the scopes that a call needs, or None where it needs no token."""
        if not self.config["AUTH_REQUIRED"] or is_open(path, self.config["OPEN_PATHS"]):
            return None
        named = getattr(function, "scope", ANY)
        return [] if named == ANY else [in_full(named, noun)]

    def path_parameter(self, function: Method, name: str) -> Json:
        """Return the parameter that an argument of the method stands for."""
        schema = self.schema(get_type_hints(unwrap(function), include_extras=True)[name])
        return {"name": name, "in": "path", "required": True, **apart(schema)}

    def answer(self, status: int, body: Any, headers: type) -> Json:
        """Return the description of an answer where nothing is wrong."""
        served = [note for note in getattr(body, "__metadata__", ()) if isinstance(note, Served)]
        content: Json = {media_type: {} for note in served for media_type in note.media_types}
        described = self.schema(served[0].headers if served else headers)
        return {
            "description": DONE[status],
            "headers": {
                **{
                    name: {"required": name in described.get("required", ()), **apart(schema)}
                    for name, schema in described.get("properties", {}).items()
                },
                **refer("X-Request-ID"),
            },
            "content": content or json_content(self.component(body)),
        }

    def failure(self, examples: dict[str, Error]) -> Json:
        """Return the description of an error, given its possible bodies."""
        return {
            "description": " Or: ".join(body["message"] for body in examples.values()),
            "headers": refer("X-Request-ID", *{ERROR_HEADERS[code] for code in examples if code in ERROR_HEADERS}),
            "content": json_content(
                self.component(Error), examples={name: {"value": body} for name, body in examples.items()}
            ),
        }

    def schema(self, kind: Any) -> Json:
        """Return the JSON schema of a type; what it refers to becomes a component."""
        schema = TypeAdapter(kind).json_schema(ref_template="#/components/schemas/{model}", schema_generator=Schemas)
        self.schemas.update(schema.pop("$defs", {}))
        return schema

    def component(self, kind: Any) -> Json:
        """Return a reference to a type's JSON schema, or the schema itself where the type has no name."""
        schema = self.schema(kind)
        if "title" not in schema:
            return schema
        self.schemas[schema["title"]] = schema
        return {"$ref": f"#/components/schemas/{schema['title']}"}

    def links(self, path: str, answer: Json) -> Json:
        """Return what can be done with the thing that a POST to the path has made, given the body of its answer."""
        members = self.schemas[answer["$ref"].rpartition("/")[2]]["properties"]
        where = "/data/id" if "data" in members else "/id"
        return {
            operation["operationId"]: {
                "operationId": operation["operationId"],
                "parameters": {other.rpartition("{")[2].rstrip("}/"): f"$response.body#{where}"},
                "description": operation["summary"],
            }
            for other in self.paths
            if re.fullmatch(re.escape(path.rstrip("/")) + r"/{\w+}/?", other)
            for operation in self.paths[other].values()
        }


def signature(resource: type[Resource], function: Method) -> Iterator[tuple[int, Any, type]]:
    """Yield the status, the body and the headers of each answer that the method's signature names."""
    returned = get_type_hints(unwrap(function), include_extras=True)["return"]
    if getattr(returned, "__parameters__", ()):
        # What several Resources inherit is written of a type that each of them names, as in RowList[NoteOut].
        returned = returned[get_args(get_original_bases(resource)[0])]
    for form in get_args(returned) if isinstance(returned, UnionType) else (returned,):
        if get_origin(form) is tuple:
            body, status, headers = get_args(form)
            yield get_args(status)[0], body, headers
        else:
            yield 200, form, NoHeaders


def operation_id(path: str, method: str, resource: type[Resource]) -> str:
    """Return the name that generated clients give to the call."""
    if named := getattr(resource, "operation_id", None):
        return str(named)
    if method == "GET" and resource.__name__.endswith("List"):
        return f"list{path.strip('/').capitalize()}"
    return VERBS[method] + resource.__name__.removesuffix("List").removesuffix("Detail")


def invalid(status: int, kind: type[InvalidInput], faults: list[Fault]) -> Error:
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


def document(app: Flask) -> Json:
    """Return the OpenAPI document of the application."""
    builder = Builder(app)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Users",
            "version": app.config["VERSION"],
            "summary": "A microservice that owns users.",
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        # In the order in which create_app() lists the blueprints, which are named as the modules are.
        "tags": [{"name": name, "description": builder.tags[name]} for name in app.blueprints if name in builder.tags],
        "paths": builder.paths,
        "components": {
            "schemas": dict(sorted(builder.schemas.items())),
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An access token of this service, or one of the issuer that it trusts.",
                }
            },
        },
        # Said, rather than left out: where a call does not ask for a token, nothing does.
        "security": [],
    }


class OpenAPI(Resource):
    """The description of the API for programs."""

    @scope(ANY)
    def get(self) -> Document:
        """Describe the API.

        This document, for generators of clients and for tests.
        """
        extensions = current_app.extensions
        if "openapi" not in extensions:
            extensions["openapi"] = document(current_app)
        described: Document = extensions["openapi"]
        return described


api.add_resource(OpenAPI, "/openapi.json")
