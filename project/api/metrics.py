"""The figures of the service, for Prometheus."""

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST

from project.api.answers import Figures
from project.api.auth import ANY, scope
from project.api.errors import Api, Resource
from project.metrics import metrics

metrics_blueprint = Blueprint("metrics", __name__)
api = Api(metrics_blueprint)


class MetricsText(Resource):
    """The figures of all workers together."""

    @scope(ANY)
    def get(self) -> Figures:
        """Get the figures."""
        return Response(metrics().text(), content_type=CONTENT_TYPE_LATEST)


api.add_resource(MetricsText, "/metrics")
