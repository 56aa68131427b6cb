"""The OpenAPI document and its address."""

from flask import Blueprint, Flask, current_app

from project.auth.access import ANY, scope
from project.http.resources import Api, Resource
from project.http.response_headers import Document
from project.openapi.components import PARAMETERS, RESPONSE_HEADERS, Json
from project.openapi.operations import Builder

openapi_blueprint = Blueprint("openapi", __name__)
api = Api(openapi_blueprint)

DESCRIPTION = """
A user has a name, which others may share, and an email address, which nobody else has. Notes and summaries are
resources beside them, which answer without an envelope; their paths are good without the closing slash too.

- Every answer has the header `X-Request-ID`.
- Every error has the body `Error`, also those that no call lists: 404 for an unknown path, 405 with `Allow`, 414 and
  431 for a URL or headers over 8 KiB, 417 for an unknown expectation, 429 with `Retry-After`.
- HEAD answers as GET does, without the body. OPTIONS names the methods in `Allow`.
- A call with a lock needs a token, in the header `Authorization`: any, or one with the scope that stands there.
""".strip()


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
            "headers": RESPONSE_HEADERS,
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
