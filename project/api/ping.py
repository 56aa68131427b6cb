"""The sign of life."""

from flask import Blueprint

from project.api.representations import Pong
from project.http.resources import Api, Resource

ping_blueprint = Blueprint("ping", __name__)
api = Api(ping_blueprint)


class Ping(Resource):
    """The service itself, without its database."""

    def get(self) -> Pong:
        """Answer, whatever else is broken."""
        return {"status": "success", "message": "pong!"}


api.add_resource(Ping, "/ping")
