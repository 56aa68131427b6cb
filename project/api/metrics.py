"""The figures of the service, for Prometheus."""

from flask import Blueprint, Response, current_app
from prometheus_client import CONTENT_TYPE_LATEST

from project.api.health import Probe
from project.auth.access import ANY, scope
from project.http.resources import Api, Resource
from project.http.response_headers import Figures
from project.observability.metrics import metrics

metrics_blueprint = Blueprint("metrics", __name__)
api = Api(metrics_blueprint)


class MetricsText(Resource):
    """The figures of all workers together."""

    @scope(ANY)
    def get(self) -> Figures:
        """Get the figures."""
        probe: Probe = current_app.extensions["probe"]
        probe.await_first_look()
        return Response(metrics().text(), content_type=CONTENT_TYPE_LATEST)


api.add_resource(MetricsText, "/metrics")
