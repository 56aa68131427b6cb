"""The users service: `create_app` builds the application, and `db` is its database.

Importing a part of the package loads that part alone. The arrows between the parts are in setup.cfg.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask import Flask

    from project.extensions import db

__all__ = ["create_app", "db"]


def create_app(config: str | type | None = None) -> "Flask":
    """Build the application from a configuration class or its name, by default the one that APP_SETTINGS names."""
    from project.api import health, models
    from project.api.health import health_blueprint
    from project.api.metrics import metrics_blueprint
    from project.api.notes import notes_blueprint
    from project.api.ping import ping_blueprint
    from project.api.root import root_blueprint
    from project.api.summaries import summaries_blueprint
    from project.api.transfers import transfers_blueprint
    from project.api.users import users_blueprint
    from project.auth import access
    from project.config import APP_SETTINGS, complete
    from project.extensions import db
    from project.http import errors, headers, instrumentation
    from project.observability import logs, metrics
    from project.openapi.docs import docs_blueprint
    from project.openapi.document import openapi_blueprint
    from project.storage import connections

    app = errors.Application(__name__, static_folder=None, template_folder=None)
    app.config.from_object(config or APP_SETTINGS)
    complete(app.config)
    # A path is what it says: /users//1 is not /users/1, and no answer is a redirect.
    app.url_map.merge_slashes = False

    logs.init_app(app)
    db.init_app(app)
    with app.app_context():
        metrics.init_app(app, db.engine)
        health.init_app(app, db.engine)
        connections.init_app(app, db.engine)
    if app.config["OTEL_EXPORTER_OTLP_ENDPOINT"]:
        from project.observability import tracing

        tracing.init_app(app)

    instrumentation.init_app(app)
    errors.init_app(app)
    headers.init_app(app)
    access.init_app(app)
    if app.config["AUTH_ISSUER"]:
        from project.auth import issuer

        issuer.init_app(app)
    app.register_blueprint(ping_blueprint)
    app.register_blueprint(health_blueprint)
    app.register_blueprint(metrics_blueprint)
    app.register_blueprint(users_blueprint)
    app.register_blueprint(notes_blueprint)
    app.register_blueprint(summaries_blueprint)
    app.register_blueprint(transfers_blueprint)
    app.register_blueprint(root_blueprint)
    app.register_blueprint(openapi_blueprint)
    app.register_blueprint(docs_blueprint)
    if app.config["ADMIN_PAGES"]:
        from project.admin import pages

        pages.init_app(app)
    metrics.begin_at_zero(app)
    app.shell_context_processor(models.shell_context)
    return app


def __getattr__(name: str) -> Any:
    """Import db when it is asked for: the process that reads web pages is to load neither Flask nor SQLAlchemy."""
    if name != "db":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from project.extensions import db

    return db
