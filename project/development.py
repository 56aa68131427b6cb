"""The development server with all that it needs: manage.py develop."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

import click
from flask import current_app
from flask.cli import run_command
from werkzeug.serving import is_running_from_reloader

from project.cli import create_db, seed_db

HOST = "127.0.0.1"


@click.command("develop")
@click.pass_context
def develop(context: click.Context) -> None:
    """Run the development server with example users, a summarizer and an embedded Postgres.

    Creates the database where it is missing, brings its tables up to date and adds the example users. A change of the
    code reloads the server. Ctrl-C ends everything that this started; the data stays. With DATABASE_URL the embedded
    Postgres is unused.
    """
    port = current_app.config["PORT"]
    # The reloader starts this command again for each new server.
    if is_running_from_reloader():
        context.invoke(run_command, port=port, reload=True, debugger=False)
        return
    check_port(port)
    # By default a SIGTERM would end this process without its clean-up.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
    with suppress(KeyboardInterrupt), stopped_postgres():
        prepare_database(context)
        click.echo(
            f"Users:   curl -s localhost:{port}/users\nChecks:  make test\nStop:    Ctrl-C; the data stays in var/"
        )
        with started_summarizer():
            context.invoke(run_command, port=port, reload=True, debugger=False)


def check_port(port: int) -> None:
    """Refuse a port that cannot be listened on, before anything is started."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            reason = f"Port {port} cannot be used: {error.strerror}."
            raise click.ClickException(f"{reason} For another one: PORT=5002 make run") from None


def prepare_database(context: click.Context) -> None:
    """Create the database and the example users where they are missing, and bring the tables up to date."""
    context.invoke(create_db)
    import_module("flask_migrate").upgrade()
    context.invoke(seed_db)


@contextmanager
def stopped_postgres() -> Iterator[None]:
    """Stop the embedded server at the end, where it is used."""
    try:
        yield
    finally:
        if server := current_app.config["EMBEDDED_POSTGRES"]:
            server.stop()


@contextmanager
def started_summarizer() -> Iterator[None]:
    """Start a summarizer, and stop it at the end."""
    # In a group of its own: a Ctrl-C in the terminal does not reach it, which while it starts would be a traceback.
    with subprocess.Popen([sys.executable, sys.argv[0], "summarize"], process_group=0) as worker:
        try:
            yield
        finally:
            worker.terminate()
