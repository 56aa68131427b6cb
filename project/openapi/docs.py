"""The description of the API for people: Swagger UI, served without anybody's help."""

from pathlib import Path
from typing import Annotated, Literal, get_args

import flask_swagger_ui
from flask import Blueprint, send_from_directory
from pydantic import Field

from project.auth.access import ANY, scope
from project.http.resources import Api, Resource
from project.http.response_headers import File, HtmlPage

docs_blueprint = Blueprint("docs", __name__)
api = Api(docs_blueprint)
# Of the package only these files are used: its own page starts Swagger UI by an inline script.
SWAGGER_UI = Path(flask_swagger_ui.__file__).parent / "dist"
OURS = Path(__file__).parent / "static"
FileName = Literal["start.js", "swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"]
# Swagger UI's style sheet holds its pictures as data: URLs; all else comes from this service.
DOCS_POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
# Said here, since the platform's own table says one thing or another.
MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".png": "image/png"}


def static(folder: Path, name: str) -> File:
    """Return an answer with a file, without ETag and ranges: a copy is good for an hour."""
    media_type = MEDIA_TYPES[Path(name).suffix]
    return send_from_directory(folder, name, mimetype=media_type, conditional=False, etag=False, max_age=3600)


class Docs(Resource):
    """The page."""

    @scope(ANY)
    def get(self) -> HtmlPage:
        """Show the API to people, in Swagger UI."""
        response = static(OURS, "docs.html")
        response.headers["Content-Security-Policy"] = DOCS_POLICY
        return response


class DocsFile(Resource):
    """What the page is made of."""

    @scope(ANY)
    def get(self, name: Annotated[FileName, Field(description="The file.")]) -> File:
        """Get a file of the page."""
        return static(OURS if (OURS / name).exists() else SWAGGER_UI, name)


api.add_resource(Docs, "/docs")
api.add_resource(DocsFile, f"/docs/<any{get_args(FileName)}:name>")
