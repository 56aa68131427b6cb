"""The operations of the OpenAPI document, made from the routes, the Resources, their payloads and their answers."""

import re
import sys
from collections.abc import Iterator
from inspect import cleandoc, unwrap
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from flask import Flask
from pydantic import TypeAdapter
from typing_extensions import get_original_bases
from werkzeug.exceptions import BadRequest, HTTPException, NotFound, UnsupportedMediaType, default_exceptions

from project.api.constraints import constraints_of
from project.api.representations import Error, error_body
from project.api.validation import InvalidFile, InvalidPath, InvalidPayload, InvalidQuery
from project.auth.access import ANY, ScopeNeeded, TokenNeeded, in_full, is_open
from project.auth.limits import UNLIMITED_PATHS
from project.http.bodies import Method
from project.http.errors import VersionConflict, in_our_words
from project.http.resources import Resource
from project.http.response_headers import NoHeaders, Served
from project.openapi.components import (
    BAD_BODY,
    BAD_FILE,
    BAD_PATH,
    BAD_QUERY,
    ERROR_HEADERS,
    FILE_CONTENT,
    REQUEST_ID,
    Json,
    QuerySchemas,
    Schemas,
    apart,
    invalid_example,
    json_content,
    refer,
)
from project.transfer.readers import NO_FILE

#: What a method does with the one thing that a path names, in the order in which the document lists the methods.
VERBS = {"GET": "get", "POST": "create", "PUT": "replace", "PATCH": "update", "DELETE": "delete"}

DONE = {
    200: "It is as it was asked for.",
    201: "It is there now.",
    302: "A browser goes on elsewhere.",
    503: "It cannot be done now.",
}


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
            noun = rule.endpoint.partition(".")[0]
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

        parameters = [self.path_parameter(function, name) for name in re.findall(r"{(\w+)}", path)]
        responses = {status: self.answer(status, *answer) for status, *answer in signature(resource, function)}
        scopes = self.scopes(path, function, noun)
        if query:
            members = self.schema(query, QuerySchemas)["properties"]
            parameters += [{"name": name, "in": "query", **apart(schema)} for name, schema in members.items()]
        if is_versioned(path, resource):
            # json_response() answers 304 by itself; If-Match is the duty of the Resources.
            header = "If-None-Match" if method == "GET" else "If-Match"
            parameters.append({"$ref": f"#/components/parameters/{header}"})
            if method == "GET":
                responses[304] = {"description": "The caller's copy is still good.", "headers": refer("ETag")}
        for status, bodies in self.failures(path, method, resource, scopes).items():
            # The signature of a method says more of a status that it names.
            if status not in responses:
                responses[status] = self.failure(bodies)
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

    def failures(
        self, path: str, method: str, resource: type[Resource], scopes: list[str] | None
    ) -> dict[int, dict[str, Error]]:
        """Return the bodies of the errors of a call, by status and code."""
        function = getattr(resource, method.lower())
        body, query, files = (getattr(function, place, None) for place in ("body", "query", "files"))
        told: dict[int, dict[str, Error]] = {400: {"bad_request": error_body(*in_our_words(BadRequest()), REQUEST_ID)}}
        sent = body.model_fields if body else {}
        for constraint in constraints_of(resource.rows.table) if hasattr(resource, "rows") else ():
            if constraint.member in sent:
                refused = error_body(constraint.status, constraint.message, constraint.code, REQUEST_ID)
                told.setdefault(constraint.status, {})[constraint.code] = refused
        if files:
            told[400][InvalidFile.code] = invalid_example(400, InvalidFile, BAD_FILE)
        status = getattr(resource, "invalid_input", 400)
        invalid_inputs = told.setdefault(status, {})
        if query:
            invalid_inputs[InvalidQuery.code] = invalid_example(status, InvalidQuery, BAD_QUERY)
        if body:
            invalid_inputs[InvalidPayload.code] = invalid_example(status, InvalidPayload, BAD_BODY)
        if "{" in path and status != 400:
            invalid_inputs[InvalidPath.code] = invalid_example(status, InvalidPath, BAD_PATH)
        for error in self.errors(path, method, resource, scopes):
            status, message, code = in_our_words(error)
            told.setdefault(status, {})[code] = error_body(status, message, code, REQUEST_ID)
        return {status: bodies for status, bodies in told.items() if bodies}

    def errors(
        self, path: str, method: str, resource: type[Resource], scopes: list[str] | None
    ) -> Iterator[HTTPException]:
        """Yield the errors of a call that name no member of the input."""
        function = getattr(resource, method.lower())
        yield from (default_exceptions[500](), default_exceptions[503]())
        if scopes is not None:
            yield from (TokenNeeded(), *map(ScopeNeeded, scopes))
        if self.config["RATELIMIT"] and path not in UNLIMITED_PATHS:
            yield default_exceptions[429]()
        if hasattr(function, "body"):
            yield from (default_exceptions[status]() for status in (411, 413, 415))
        if hasattr(function, "files"):
            yield from (default_exceptions[status]() for status in (408, 411, 413))
            yield UnsupportedMediaType(NO_FILE)
        if "{" in path:
            yield NotFound(resource.rows.missing if hasattr(resource, "rows") else None)
        if is_versioned(path, resource) and method != "GET":
            yield VersionConflict()

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

    def schema(self, kind: Any, generator: type[Schemas] = Schemas) -> Json:
        """Return the JSON schema of a type; what it refers to becomes a component."""
        schema = TypeAdapter(kind).json_schema(ref_template="#/components/schemas/{model}", schema_generator=generator)
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


def is_versioned(path: str, resource: type[Resource]) -> bool:
    """Say whether a path names one thing whose version is told in ETag."""
    return "{" in path and any(
        "ETag" in get_type_hints(headers) for _, _, headers in signature(resource, resource.get)
    )


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
