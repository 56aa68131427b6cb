"""Commands for the embedded Postgres server."""

import click
from flask import current_app
from flask.cli import AppGroup

from project.postgres.server import Server


def embedded_postgres() -> Server:
    """Return the embedded server, or fail where the configuration names another."""
    server: Server | None = current_app.config["EMBEDDED_POSTGRES"]
    if not server:
        raise click.ClickException(f"{current_app.config['DATABASE_VARIABLE']} is set: the embedded server is unused.")
    return server


postgres = AppGroup("postgres", help="The embedded Postgres server of development and tests.")


@postgres.command("start")
def start() -> None:
    """Start the server, unless it runs."""
    embedded_postgres().start()
    click.echo(f"Postgres runs in {embedded_postgres().data}.")


@postgres.command("stop")
def stop() -> None:
    """Stop the server, if it runs."""
    click.echo("Postgres stopped." if embedded_postgres().stop() else "Postgres was not running.")


@postgres.command("status")
def status() -> None:
    """Say whether the server runs, and where its data and its log are."""
    server = embedded_postgres()
    click.echo("running" if server.is_running() else "stopped")
    click.echo(f"data: {server.data}\nlog: {server.log}")


@postgres.command("url")
def url() -> None:
    """Print the URL of the database, for psql and for DATABASE_URL."""
    click.echo(embedded_postgres().url(current_app.config["EMBEDDED_DATABASE"]))
