"""The OpenAPI document: whole, valid and true."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from werkzeug.exceptions import InternalServerError, ServiceUnavailable
from werkzeug.test import TestResponse

from project.api.models import User
from project.tests.conftest import app_on
from project.tests.test_notes import BAD_NOTES, NOTE
from project.tests.test_users import BAD_PAYLOADS, MICHAEL

MakeUser = Callable[..., User]

#: The words that JSON Schema and OpenAPI know, of those that pydantic writes.
KEYWORDS = set(
    "$ref additionalProperties anyOf const default description enum examples format items maxLength maximum minLength"
    " minimum not pattern properties propertyNames required title type".split()
)


@pytest.fixture(scope="module")
def document(shared_app: Flask) -> dict[str, Any]:
    """The document."""
    return shared_app.test_client().get("/openapi.json").get_json()


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the operations by method and path."""
    return {(method, path): call for path, calls in document["paths"].items() for method, call in calls.items()}


def resolved(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Return what the node is or refers to."""
    for part in node["$ref"].split("/")[1:] if "$ref" in node else ():
        document = document[part]
    return document if "$ref" in node else node


def validator(document: dict[str, Any], schema: dict[str, Any]) -> OAS31Validator:
    """Return a validator that finds the document's components, and checks formats."""
    whole = Resource.from_contents(document, default_specification=DRAFT202012)
    here = {**schema, "$id": "urn:here"} if "$ref" not in schema else {"$ref": f"urn:whole{schema['$ref']}"}
    relative = {"components": document["components"], **here}
    registry = Registry().with_resources([("urn:whole", whole), ("", whole)])
    return OAS31Validator(relative, registry=registry, format_checker=OAS31Validator.FORMAT_CHECKER)


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of the document."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(child)


def test_document_is_valid_openapi(document: dict[str, Any]) -> None:
    validate(document)

    assert document["openapi"].startswith("3.1.")


def test_document_of_an_open_service_asks_for_nothing(document: dict[str, Any]) -> None:
    assert document["security"] == []
    for call in operations(document).values():
        assert "security" not in call and not {"401", "403", "429"} & set(call["responses"])


def test_document_of_a_closed_service_names_the_scope_of_each_call() -> None:
    app = app_on("postgresql://x/y", AUTH_REQUIRED=True, OPEN_PATHS=("/docs", "/openapi.json"), RATELIMIT="9/second")

    closed = app.test_client().get("/openapi.json").get_json()

    validate(closed)
    calls = operations(closed)
    asked = {call: described.get("security") for call, described in calls.items()}
    assert asked[("get", "/users")] == [{"bearer": ["users:read"]}]
    assert asked[("delete", "/users/{user_id}")] == [{"bearer": ["users:write"]}]
    assert asked[("get", "/notes/{id}/")] == [{"bearer": ["notes:read"]}]
    assert asked[("put", "/summaries/{id}/")] == [{"bearer": ["summaries:write"]}]
    assert asked[("get", "/")] == [{"bearer": []}]
    assert {path for (_, path), scopes in asked.items() if scopes is None} == {
        "/ping",
        "/health",
        "/docs",
        "/docs/{name}",
        "/openapi.json",
    }
    for (_, path), described in calls.items():
        refused = {status: described["responses"].get(status) for status in ("401", "403", "429")}
        assert bool(refused["401"]) == ("security" in described)
        assert bool(refused["403"]) == any(described.get("security", [{}])[0].values())
        assert bool(refused["429"]) == (path not in ("/ping", "/health"))
        for status, header in (("401", "WWW-Authenticate"), ("403", "WWW-Authenticate"), ("429", "Retry-After")):
            assert not refused[status] or header in refused[status]["headers"]


def test_document_has_the_version_of_the_service(shared_app: Flask, document: dict[str, Any]) -> None:
    assert document["info"]["version"] == shared_app.config["VERSION"]


def test_document_names_every_route_once_and_no_other(shared_app: Flask, document: dict[str, Any]) -> None:
    both_forms = {rule.rule.rstrip("/") for rule in shared_app.url_map.iter_rules() if rule.rule.endswith("/")} - {""}
    routes = {
        (method.lower(), re.sub(r"<(?:[^<>]+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in shared_app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if hasattr(shared_app.view_functions[rule.endpoint], "view_class") and rule.rule not in both_forms
    }

    assert set(operations(document)) == routes
    assert {("get", "/notes/"), ("delete", "/notes/{id}/"), ("post", "/summaries/")} <= routes


def test_operations_have_stable_names(document: dict[str, Any]) -> None:
    names = {call["operationId"]: key for key, call in operations(document).items()}

    assert len(names) == len(operations(document))
    assert {name: key for name, key in names.items() if "users" in key[1]} == {
        "listUsers": ("get", "/users"),
        "createUser": ("post", "/users"),
        "getUser": ("get", "/users/{user_id}"),
        "replaceUser": ("put", "/users/{user_id}"),
        "updateUser": ("patch", "/users/{user_id}"),
        "deleteUser": ("delete", "/users/{user_id}"),
        "importUsers": ("post", "/users/import"),
        "exportUsers": ("get", "/users/export"),
    }
    assert {name: key for name, key in names.items() if "notes" in key[1]} == {
        "listNotes": ("get", "/notes/"),
        "createNote": ("post", "/notes/"),
        "getNote": ("get", "/notes/{id}/"),
        "replaceNote": ("put", "/notes/{id}/"),
        "deleteNote": ("delete", "/notes/{id}/"),
    }


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in document["tags"] if tag["description"]}

    for key, call in operations(document).items():
        assert call["summary"] and set(call["tags"]) <= tags, key
        parameters = [resolved(document, parameter) for parameter in call["parameters"]]
        assert all(parameter["description"] for parameter in parameters), key
        assert {"200", "201"} & set(call["responses"]) and {"400", "500", "503"} <= set(call["responses"]), key


def test_new_user_links_to_what_can_be_done_with_it(document: dict[str, Any]) -> None:
    links = document["paths"]["/users"]["post"]["responses"]["201"]["links"]

    assert set(links) == {"getUser", "replaceUser", "updateUser", "deleteUser"}
    assert all(link["parameters"] == {"user_id": "$response.body#/data/id"} for link in links.values())


@pytest.mark.parametrize(("noun", "one"), [("notes", "Note"), ("summaries", "Summary")])
def test_what_is_new_links_to_what_can_be_done_with_it(document: dict[str, Any], noun: str, one: str) -> None:
    links = document["paths"][f"/{noun}/"]["post"]["responses"]["201"]["links"]

    assert set(links) == {f"get{one}", f"replace{one}", f"delete{one}"}
    assert all(link["parameters"] == {"id": "$response.body#/id"} for link in links.values())


@pytest.mark.parametrize(("noun", "answer"), [("notes", "NoteOut"), ("summaries", "SummaryOut")])
def test_what_resources_inherit_is_described_with_their_own_answers(
    document: dict[str, Any], noun: str, answer: str
) -> None:
    calls, schema = document["paths"], {"$ref": f"#/components/schemas/{answer}"}
    bodies = {
        (method, path): call["responses"]["200"]["content"]["application/json"]["schema"]
        for path in (f"/{noun}/", f"/{noun}/{{id}}/")
        for method, call in calls[path].items()
        if "200" in call["responses"]
    }

    assert bodies.pop(("get", f"/{noun}/")) == {"type": "array", "items": schema}
    assert bodies == {(method, f"/{noun}/{{id}}/"): schema for method in ("get", "put", "delete")}


def test_schemas_use_no_word_that_json_schema_does_not_know(document: dict[str, Any]) -> None:
    schemas = [node for node in nodes(document) if isinstance(node.get("type"), str) and "scheme" not in node]
    examples = [node for node in schemas if "msg" in node]

    assert len(schemas) > 50
    assert all(set(schema) <= KEYWORDS for schema in schemas if schema not in examples)


def test_every_example_is_valid(document: dict[str, Any]) -> None:
    examples = []
    for node in nodes(document):
        if isinstance(node.get("examples"), list):
            examples += [(node, example) for example in node["examples"]]
        elif isinstance(node.get("examples"), dict):
            examples += [(node["schema"], example["value"]) for example in node["examples"].values()]
        if "default" in node:
            examples.append((node, node["default"]))

    assert len(examples) > 100
    for schema, example in examples:
        validator(document, schema).validate(example)


def test_document_is_made_once(client: FlaskClient, shared_app: Flask) -> None:
    first = client.get("/openapi.json").data
    made = shared_app.extensions["openapi"]

    assert client.get("/openapi.json").data == first
    assert shared_app.extensions["openapi"] is made


def check(document: dict[str, Any], method: str, path: str, response: TestResponse) -> None:
    """See that an answer is as the document says."""
    described = document["paths"][path][method]["responses"][str(response.status_code)]
    for name, header in described["headers"].items():
        header = resolved(document, header)
        assert name in response.headers or not header["required"], name
        value: Any = response.headers.get(name)
        if value is not None:
            value = int(value) if header["schema"]["type"] == "integer" else value
            validator(document, header["schema"]).validate(value)
    content = described.get("content", {"": None})
    assert response.mimetype in content or (response.status_code == 304 and not response.data)
    if response.mimetype == "application/json":
        validator(document, content["application/json"]["schema"]).validate(response.get_json())


def test_answers_are_as_described(client: FlaskClient, make_user: MakeUser, document: dict[str, Any]) -> None:
    other = make_user("other", "other@testdriven.io")
    one = f"/users/{other.id}"
    tag = client.get(one).headers["ETag"]
    browser = {"Accept": "text/html"}
    calls: list[tuple[str, str, str, dict[str, Any], int]] = [
        ("get", "/ping", "/ping", {}, 200),
        ("get", "/health", "/health", {}, 200),
        ("get", "/metrics", "/metrics", {}, 200),
        ("get", "/", "/", {}, 200),
        ("get", "/", "/", {"headers": browser}, 302),
        ("get", "/openapi.json", "/openapi.json", {}, 200),
        ("get", "/docs", "/docs", {}, 200),
        ("get", "/docs/{name}", "/docs/start.js", {}, 200),
        ("get", "/docs/{name}", "/docs/swagger-ui.css", {}, 200),
        ("get", "/docs/{name}", "/docs/favicon-32x32.png", {}, 200),
        ("get", "/docs/{name}", "/docs/nothing.js", {}, 404),
        ("post", "/users", "/users", {"json": MICHAEL}, 201),
        ("post", "/users", "/users", {"json": MICHAEL}, 400),
        ("post", "/users", "/users", {"json": {}}, 400),
        ("post", "/users", "/users", {"data": "a=b", "content_type": "text/plain"}, 415),
        ("post", "/users", "/users", {"json": {}, "headers": {"Transfer-Encoding": "chunked"}}, 411),
        ("post", "/users", "/users", {"data": b" " * 65537, "content_type": "application/json"}, 413),
        ("get", "/users", "/users", {}, 200),
        ("get", "/users", "/users?limit=1&count=true", {}, 200),
        ("get", "/users", "/users?limit=0", {}, 400),
        ("get", "/users/{user_id}", one, {}, 200),
        ("get", "/users/{user_id}", one, {"headers": {"If-None-Match": tag}}, 304),
        ("get", "/users/{user_id}", "/users/blah", {}, 404),
        ("put", "/users/{user_id}", one, {"json": MICHAEL, "headers": {"If-Match": '"1"'}}, 412),
        ("put", "/users/{user_id}", one, {"json": {**MICHAEL, "email": "a@b.test"}}, 200),
        ("patch", "/users/{user_id}", one, {"json": {"active": False}}, 200),
        ("patch", "/users/{user_id}", one, {"json": {"id": 1}}, 400),
        ("delete", "/users/{user_id}", one, {}, 200),
        ("delete", "/users/{user_id}", one, {}, 404),
        ("post", "/notes/", "/notes/", {"json": NOTE}, 201),
        ("post", "/notes/", "/notes", {"json": {}}, 422),
        ("get", "/notes/", "/notes", {}, 200),
        ("get", "/notes/", "/notes/?limit=0", {}, 422),
        ("get", "/notes/{id}/", "/notes/0/", {}, 422),
        ("put", "/notes/{id}/", "/notes/999", {"json": NOTE}, 404),
        ("delete", "/notes/{id}/", "/notes/999", {}, 404),
        ("post", "/summaries/", "/summaries/", {"json": {"url": "https://b.test"}}, 201),
        ("post", "/summaries/", "/summaries", {"json": {"url": "b.test"}}, 422),
        ("get", "/summaries/", "/summaries", {}, 200),
        ("get", "/summaries/{id}/", "/summaries/x", {}, 422),
        ("put", "/summaries/{id}/", "/summaries/999", {"json": {"url": "https://b.test", "summary": ""}}, 404),
    ]

    for method, path, url, request, status in calls:
        with client.open(url, method=method.upper(), **request) as response:
            assert response.status_code == status, (method, url, response.get_json(silent=True))
            check(document, method, path, response)


@pytest.mark.parametrize("error", [InternalServerError(), ServiceUnavailable(retry_after=1)])
def test_failures_are_as_described(
    client: FlaskClient, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("project.api.users.LISTING.page", fail)

    check(document, "get", "/users", client.get("/users"))


#: What JSON Schema cannot say: that there is a body, that it is JSON, that no member is named twice, and the syntax of
#: addresses; and what it has no need to say, since no payload of the schema is nested.
UNTOLD = ("missing", "json_invalid", "too_deep", "duplicate", "email")
TOLD = [name for name, (_, _, kind) in BAD_PAYLOADS.items() if kind and kind not in UNTOLD]


@pytest.mark.parametrize("name", [name for name in TOLD if name != "email NUL"])
def test_what_is_refused_is_not_valid_by_the_document(
    client: FlaskClient, document: dict[str, Any], name: str
) -> None:
    payload = BAD_PAYLOADS[name][0]
    schema = document["components"]["schemas"]["UserIn"]

    assert client.post("/users", data=payload, content_type="application/json").status_code == 400
    assert not validator(document, schema).is_valid(json.loads(payload))


@pytest.mark.parametrize("name", BAD_NOTES)
def test_note_that_is_refused_is_not_valid_by_the_document(document: dict[str, Any], name: str) -> None:
    assert not validator(document, document["components"]["schemas"]["NoteIn"]).is_valid(BAD_NOTES[name][0])


@pytest.mark.parametrize("username", ["a", " padded ", "x" * 128, "名前", "🦊", "o'; DROP TABLE users; --", "\ufeff"])
def test_what_is_taken_is_valid_by_the_document(client: FlaskClient, document: dict[str, Any], username: str) -> None:
    payload = {"username": username, "email": " jürgen@exämple.de ", "id": None, "created_date": [1]}
    schema = document["components"]["schemas"]["UserIn"]

    assert client.post("/users", json=payload).status_code == 201
    validator(document, schema).validate(payload)


@pytest.mark.parametrize("changes", [{}, {"id": 1}, {"id": 1, "created_date": 1}])
def test_document_says_that_a_change_is_needed(document: dict[str, Any], changes: dict[str, Any]) -> None:
    schema = document["components"]["schemas"]["UserChanges"]

    assert not validator(document, schema).is_valid(changes)
    assert validator(document, schema).is_valid({**changes, "active": False})


def test_no_member_of_a_payload_has_a_default_that_a_client_would_send(document: dict[str, Any]) -> None:
    for call in operations(document).values():
        content = call.get("requestBody", {}).get("content", {}).get("application/json")
        if content:
            schema = resolved(document, content["schema"])
            assert [name for name, member in schema["properties"].items() if "default" in member] == []
