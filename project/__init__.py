"""The users service."""

from flask import Flask
from sqlalchemy import event

from project import admin, cli, database
from project.api import auth, errors, headers
from project.api.docs import docs_blueprint
from project.api.openapi import openapi_blueprint
from project.api.ping import ping_blueprint
from project.api.root import root_blueprint
from project.api.users import users_blueprint
from project.config import APP_SETTINGS, complete
from project.extensions import db, migrate

__all__ = ["create_app", "db"]


def create_app(config: str | type | None = None) -> Flask:
    """Build the application from a configuration class or its name, by default the one that APP_SETTINGS names."""
    app = Flask(__name__, static_folder=None)
    app.config.from_object(config or APP_SETTINGS)
    complete(app.config)
    # A path is what it says: /users//1 is not /users/1, and no answer is a redirect.
    app.url_map.merge_slashes = False

    db.init_app(app)
    migrate.init_app(app, db)
    if postgres := app.config["EMBEDDED_POSTGRES"]:
        with app.app_context():
            event.listen(db.engine, "do_connect", lambda *connection: postgres.start())
    database.init_app(app)

    errors.init_app(app)
    headers.init_app(app)
    auth.init_app(app)
    app.register_blueprint(ping_blueprint)
    app.register_blueprint(users_blueprint)
    app.register_blueprint(root_blueprint)
    app.register_blueprint(openapi_blueprint)
    app.register_blueprint(docs_blueprint)
    admin.init_app(app)
    cli.init_app(app)
    return app
