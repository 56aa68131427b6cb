"""The way in."""

from typing import Literal

from flask import Blueprint, current_app, request

from project.api.representations import Message, Welcome
from project.auth.access import ANY, scope
from project.http.resources import Api, Resource
from project.http.response_headers import ToDocsHeaders, WelcomeHeaders

root_blueprint = Blueprint("root", __name__)
api = Api(root_blueprint)
HereIsAll = tuple[Welcome, Literal[200], WelcomeHeaders]
GoToDocs = tuple[Message, Literal[302], ToDocsHeaders]


class Root(Resource):
    """The service as a whole."""

    @scope(ANY)
    def get(self) -> HereIsAll | GoToDocs:
        """Say what this is and where to go on.

        A browser, which would rather have HTML than JSON, is sent to the documentation.
        """
        if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
            elsewhere: GoToDocs = (
                {"status": "success", "message": "The documentation is at /docs."},
                302,
                {"Location": "/docs", "Vary": "Accept"},
            )
            return elsewhere
        here: HereIsAll = (
            {
                "status": "success",
                "message": "This is the users service.",
                "version": current_app.config["VERSION"],
                "links": {
                    "users": "/users",
                    "notes": "/notes/",
                    "summaries": "/summaries/",
                    "ping": "/ping",
                    "health": "/health",
                    "docs": "/docs",
                    "openapi": "/openapi.json",
                },
            },
            200,
            {"Vary": "Accept"},
        )
        return here


api.add_resource(Root, "/")
