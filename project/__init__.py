"""The users service."""

import gc

# What is imported here stays: to search it for garbage again and again would take a fifth of the start.
gc.disable()

from collections.abc import Callable
from importlib import import_module
from typing import Any

from flask import Flask
from sqlalchemy import event

from project import cli, database, logs, metrics
from project.api import auth, errors, headers, health, watch
from project.api.docs import docs_blueprint
from project.api.health import health_blueprint
from project.api.metrics import metrics_blueprint
from project.api.notes import notes_blueprint
from project.api.openapi import openapi_blueprint
from project.api.ping import ping_blueprint
from project.api.root import root_blueprint
from project.api.summaries import summaries_blueprint
from project.api.transfers import transfers_blueprint
from project.api.users import users_blueprint
from project.config import APP_SETTINGS, complete
from project.development import develop
from project.extensions import db, migrations

__all__ = ["create_app", "db"]

# Left alone at the end of the process too, and shared by the workers that are forked from it.
gc.freeze()
gc.enable()


class Service(Flask):
    """The application."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as it is: none is a coroutine, and every request would look anew."""
        return func


def create_app(config: str | type | None = None) -> Flask:
    """Build the application from a configuration class or its name, by default the one that APP_SETTINGS names."""
    app = Service(__name__, static_folder=None)
    app.config.from_object(config or APP_SETTINGS)
    complete(app.config)
    # A path is what it says: /users//1 is not /users/1, and no answer is a redirect.
    app.url_map.merge_slashes = False

    logs.init_app(app)
    db.init_app(app)
    migrations.init_app(app)
    with app.app_context():
        metrics.init_app(app, db.engine)
        health.init_app(app, db.engine)
        if postgres := app.config["EMBEDDED_POSTGRES"]:
            event.listen(db.engine, "do_connect", lambda *connection: postgres.start())
        database.guard(db.engine)
    if app.config["OTEL_EXPORTER_OTLP_ENDPOINT"]:
        # Not imported at the top: nobody else is to pay for its many modules, in memory and in time.
        import_module("project.tracing").init_app(app)

    watch.init_app(app)
    errors.init_app(app)
    headers.init_app(app)
    auth.init_app(app)
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
        # As for the traces.
        import_module("project.admin").init_app(app)
    metrics.begin_at_zero(app)
    cli.init_app(app)
    app.cli.add_command(develop)
    return app
