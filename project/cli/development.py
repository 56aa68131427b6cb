"""The development server with all that it needs: manage.py develop."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click
from flask import current_app
from flask.cli import run_command
from flask_migrate import upgrade
from werkzeug.serving import is_running_from_reloader

from project.cli.schema import create_db, seed_db


@click.command("test", context_settings={"ignore_unknown_options": True})
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def test(pytest_arguments: tuple[str, ...]) -> None:
    """Run the test suite with coverage, on a database of its own that is gone afterwards.

    All tests run, slow ones included. The arguments are pytest's, for example: -k ping, or -m "not slow".
    """
    # A process of its own: what this one has imported already would not count as covered.
    sys.exit(subprocess.call([sys.executable, "-m", "pytest", "--cov", *pytest_arguments]))


@click.command("compose", context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("compose_arguments", nargs=-1, type=click.UNPROCESSED)
def compose(compose_arguments: tuple[str, ...]) -> None:
    """Run docker compose with the environment of the chosen configuration.

    The arguments are its own, for example: up --detach
    """
    command = compose_program()
    # In this process's place: its signals, its terminal and its exit status are compose's.
    os.execvp(command[0], [*command, *compose_arguments])


def compose_program() -> list[str]:
    """Return the command of Docker Compose: the plugin, or else the program that was there before it."""
    if shutil.which("docker") and not subprocess.call(
        ["docker", "compose", "version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ):
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise click.ClickException("Neither docker compose nor docker-compose is installed here.")


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
    upgrade()
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
