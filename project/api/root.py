"""The way in."""

from typing import Any

from flask import Blueprint, current_app
from flask_restful import Resource

from project.api.errors import Api

root_blueprint = Blueprint("root", __name__)
api = Api(root_blueprint)


class Root(Resource):
    """The service as a whole."""

    def get(self) -> dict[str, Any]:
        """Say what this is and where to go on."""
        return {
            "status": "success",
            "message": "This is the users service.",
            "version": current_app.config["VERSION"],
            "links": {"users": "/users", "ping": "/ping"},
        }


api.add_resource(Root, "/")
