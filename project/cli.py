"""The commands of manage.py: each parses, makes one call and says what happened."""

import gzip
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import click
import orjson
import psycopg2
from flask import Flask, current_app
from flask.cli import AppGroup, FlaskGroup
from psycopg2 import sql
from sqlalchemy import func, inspect, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from tqdm import tqdm

from project import transfer
from project.api.answers import Fault
from project.api.health import Probe
from project.api.models import MAX_LENGTH, PREFIX, SCOPES, THIS_SECOND, AccessToken, Note, Summary, User
from project.api.schemas import InvalidFile, OnConflict
from project.extensions import SCHEMA_LOCK, db
from project.postgres import PostgresError, Server
from project.summarizer import Summarizer
from project.summarizer_metrics import Backlog, serve

EXAMPLE_USERS = [
    {"username": "michael", "email": "hermanmu@gmail.com"},
    {"username": "michaelherman", "email": "michael@mherman.org"},
]


class Commands(FlaskGroup):
    """The group of all commands: a database that refuses is one line and exit status 1, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PostgresError as error:
            raise click.ClickException(str(error)) from error
        except (DBAPIError, psycopg2.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            hint = (
                ". First run: python manage.py db upgrade" if isinstance(cause, psycopg2.errors.UndefinedTable) else ""
            )
            raise click.ClickException(f"The database says: {str(cause).partition(chr(10))[0]}{hint}") from error


@click.command("create_db")
def create_db() -> None:
    """Create the database that the configuration names, if it is missing.

    It holds no tables then: "db upgrade" makes them.
    """
    url = db.engine.url
    if current_app.config["EMBEDDED_POSTGRES"]:
        current_app.config["EMBEDDED_POSTGRES"].start()
    # Every server has a database of this name, and CREATE DATABASE cannot run in a transaction.
    dsn = url.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    connection = psycopg2.connect(dsn, connect_timeout=3)
    connection.autocommit = True
    try:
        connection.cursor().execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(url.database or "")))
        click.echo(f"Created the database {url.database}.")
    except (psycopg2.errors.DuplicateDatabase, psycopg2.errors.UniqueViolation):
        click.echo(f"The database {url.database} is there already.")
    finally:
        connection.close()


@click.command("recreate_db")
@click.option("--force", is_flag=True, help="Do it in production even where there are users, who are lost.")
def recreate_db(force: bool) -> None:
    """Drop the tables and create them anew, empty.

    Refuses in production where there is a user, unless --force.
    """
    with db.engine.begin() as connection:
        connection.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
        if current_app.config["ENVIRONMENT"] == "production" and not force:
            if inspect(connection).has_table("users") and connection.scalar(select(User.id).limit(1)):
                raise click.ClickException("There are users in this database. To lose them all, add --force.")
        db.metadata.drop_all(connection)
        db.metadata.create_all(connection)
    # Not imported at the top: Alembic would take a tenth of every start.
    import_module("flask_migrate").stamp(purge=True)
    click.echo("Recreated the tables.")


@click.command("seed_db")
def seed_db() -> None:
    """Add two example users; a second call adds nothing."""
    added = db.session.scalars(insert(User).values(EXAMPLE_USERS).on_conflict_do_nothing().returning(User.id)).all()
    db.session.commit()
    click.echo(f"Added {len(added)} example users.")


def token_name(context: click.Context, parameter: click.Parameter, name: str) -> str:
    """Return the name of a token, or refuse what nobody could read in a list."""
    if not name.strip() or not name.isprintable() or len(name) > MAX_LENGTH:
        raise click.BadParameter(f"must be printable, not blank, and have at most {MAX_LENGTH} characters.")
    return name


@click.command("create_token")
@click.argument("name", callback=token_name)
@click.option("--scope", "scopes", type=click.Choice(SCOPES), multiple=True, required=True, help="Repeatable.")
@click.option("--expires-in", type=click.IntRange(1, 36500), metavar="DAYS", help="By default it does not expire.")
def create_token(name: str, scopes: Sequence[str], expires_in: int | None) -> None:
    """Print a new access token, which allows its bearer what the scopes say.

    It is printed this once and cannot be shown again: only its digest is kept.
    """
    token = f"{PREFIX}{secrets.token_urlsafe(32)}"
    members = {
        "name": name,
        "digest": AccessToken.digest_of(token),
        "scopes": list(dict.fromkeys(scopes)),
        "expires_at": datetime.now(UTC) + timedelta(days=expires_in) if expires_in else None,
    }
    added = insert(AccessToken).values(members).on_conflict_do_nothing().returning(AccessToken.id)
    if not db.session.scalar(added):
        raise click.ClickException(f"There is a token of the name {name}, or was one before it was revoked.")
    db.session.commit()
    click.echo(token)


@click.command("list_tokens")
def list_tokens() -> None:
    """List the access tokens by name, revoked and expired ones included, but never a token itself."""
    tokens = db.session.scalars(select(AccessToken).order_by(AccessToken.name)).all()
    rows: list[tuple[str, ...]] = [("NAME", "SCOPES", "CREATED", "EXPIRES", "LAST USED", "REVOKED")]
    for token in tokens:
        dates = (token.created_date, token.expires_at, token.last_used_at, token.revoked_at)
        shown = (date.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if date else "-" for date in dates)
        rows.append((token.name, ",".join(token.scopes), *shown))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


@click.command("revoke_token")
@click.argument("name", callback=token_name)
def revoke_token(name: str) -> None:
    """Revoke an access token for good; every worker refuses it within a second."""
    mine = AccessToken.name == name
    revoked = update(AccessToken).where(mine, AccessToken.revoked_at.is_(None)).values(revoked_at=THIS_SECOND)
    if db.session.scalar(revoked.returning(AccessToken.id)):
        db.session.commit()
        click.echo(f"Revoked {name}.")
    elif db.session.scalar(select(AccessToken.id).where(mine)):
        click.echo(f"{name} was revoked before.")
    else:
        raise click.ClickException(f"There is no token of the name {name}.")


def format_of(file: str, chosen: str | None) -> str:
    """Return the format of a file: what was chosen, or else what its name ends in."""
    ending = chosen or Path(file.removesuffix(".gz")).suffix.removeprefix(".")
    if ending not in transfer.FORMATS:
        raise click.UsageError("The name tells no format: add --format csv or --format ndjson.")
    return ending


def progress_bar(total: int | None, unit: str) -> Any:
    """Return a progress bar on standard error, which shows nothing where that is no terminal."""
    return tqdm(
        total=total, unit=unit, unit_scale=True, mininterval=0.5, leave=False, disable=None, dynamic_ncols=True
    )


def in_one_line(found: Fault) -> str:
    """Return what is wrong with a row."""
    return (
        ", ".join((f"line {found['loc'][1]}", *(ascii(name)[1:-1] for name in found["loc"][2:]))) + f": {found['msg']}"
    )


def write_report(report: str, faults: Iterable[Fault]) -> None:
    """Write what is wrong with the rows to a file, a JSON object a line."""
    with open(report, "wb") as file:
        for found in faults:
            _, line, *member = found["loc"]
            entry = {"line": line, "member": member[0] if member else None, "msg": found["msg"], "type": found["type"]}
            file.write(orjson.dumps(entry) + b"\n")


FORMAT = click.option(
    "--format", "chosen", type=click.Choice(transfer.FORMATS), help="By default what the name ends in."
)


@click.command("import_users")
@click.argument("file")
@FORMAT
@click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing.")
@click.option(
    "--on-conflict",
    type=click.Choice(transfer.ON_CONFLICT),
    default="fail",
    show_default=True,
    help="Where an address is taken: refuse the file, leave the row out, or write the user who has it.",
)
@click.option("--report", metavar="FILE", help="Where to write what is wrong with which line, as NDJSON.")
def import_users(file: str, chosen: str | None, dry_run: bool, on_conflict: OnConflict, report: str | None) -> None:
    """Add the users of a CSV or NDJSON file, all of them or none.

    FILE is - for standard input; a name that ends in .gz is that of a compressed file. A row has username and email,
    and may have active, created_date and id, which are kept: other services know a moved user again.

    With "fail", one bad row or conflict refuses the whole file. With "skip" and "update", the good rows are written;
    with "update", a row without active leaves that as it is, a user who is there keeps his id and date, and of several
    rows with one address the last one counts.
    """
    format = format_of(file, chosen)
    faults: list[Fault] = []
    try:
        with ExitStack() as opened:
            raw = opened.enter_context(open(file, "rb")) if file != "-" else sys.stdin.buffer
            data: Any = opened.enter_context(gzip.open(raw)) if file.endswith(".gz") else raw
            bar = opened.enter_context(
                progress_bar(*((os.path.getsize(file), "B") if file != "-" else (None, " users")))
            )
            job = transfer.Import(opened.enter_context(transfer.session(db.engine)), db.engine)
            job.stage(data, format, lambda rows: bar.update(raw.tell() - bar.n if bar.total else rows))
            bar.set_description("writing")
            counts = job.merge(on_conflict, dry_run)
            faults = list(job.faults(1))
            if report:
                write_report(report, job.faults())
    except InvalidFile as error:
        if report:
            write_report(report, error.detail)
        raise click.ClickException(f"Nothing was written. {'; '.join(map(in_one_line, error.detail))}") from None
    except OSError as error:
        raise click.ClickException(f"{error.filename or file}: {error.strerror}.") from error
    if faults and on_conflict == "fail":
        found = f"{counts.refused:,} rows are refused, the first is " if counts.refused > 1 else ""
        raise click.ClickException(f"Nothing was written. {found}{in_one_line(faults[0])}")
    done = ", ".join(f"{name} {number:,}" for name, number in counts._asdict().items())
    click.echo(f"{'Would be: ' if dry_run else ''}{done}.", err=True)


@contextmanager
def written(file: str) -> Iterator[BinaryIO]:
    """Yield where to write a file, which has its name only once it is whole; a name in .gz is a compressed file's."""
    if file == "-":
        yield sys.stdout.buffer
        return
    part = f"{file}.part"
    try:
        with ExitStack() as opened:
            data: Any = opened.enter_context(open(part, "wb"))
            if file.endswith(".gz"):
                # Without a name and a time, so that the same users are the same bytes.
                data = opened.enter_context(gzip.GzipFile("", "wb", fileobj=data, mtime=0))
            yield data
        os.replace(part, file)
    finally:
        Path(part).unlink(missing_ok=True)


@click.command("export_users")
@click.argument("file")
@FORMAT
@click.option("--active", type=click.Choice(["true", "false"]), help="Only users who take part, or who do not.")
def export_users(file: str, chosen: str | None, active: str | None) -> None:
    """Write all users to a CSV or NDJSON file, by id, as they are at one moment.

    FILE is - for standard output; a name that ends in .gz makes a compressed file. A cell of CSV that a spreadsheet
    would run begins with an apostrophe, which an import takes away again.
    """
    format = format_of(file, chosen)
    try:
        with written(file) as data, ExitStack() as opened:
            # Two, since the time goes into Postgres's writing of the rows, and one process of it uses one core.
            connections = [opened.enter_context(transfer.session(db.engine)) for _ in range(2)]
            done, chosen_ones = 0, None if active is None else active == "true"
            # Its threads end before their connections do, whatever happens.
            pieces = opened.enter_context(closing(transfer.export_users(connections, format, chosen_ones)))
            with progress_bar(transfer.estimate(connections[0]), " users") as bar:
                for piece, users in pieces:
                    data.write(piece)
                    done += users
                    bar.update(users)
    except OSError as error:
        raise click.ClickException(f"{error.filename or file}: {error.strerror}.") from error
    click.echo(f"Exported {done:,} users.", err=True)


@click.command("summarize")
@click.option("--once", is_flag=True, help="Do what is to do now, and end.")
def summarize(once: bool) -> None:
    """Fetch the pages of pending summaries and summarise them, until SIGINT or SIGTERM.

    Any number of these may run, on any machine that reaches the database.
    """
    with closing(Summarizer(db.engine, current_app.config)) as summarizer:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, summarizer.stop)
        if once:
            states = summarizer.run_once()
            waiting = f"{states['pending']} wait for another attempt"
            click.echo(f"Summarised {states['done']} pages; {states['failed']} failed, {waiting}.")
        else:
            if port := current_app.config["SUMMARY_METRICS_PORT"]:
                serve_metrics(summarizer, port)
            summarizer.run()


def serve_metrics(summarizer: Summarizer, port: int) -> None:
    """Serve what a summarizer counts, with the gauge of the database, on a port."""
    probe = Probe(current_app.extensions["health"], summarizer.figures.database_up.set)
    summarizer.figures.registry.register(Backlog(summarizer.engine, lambda: probe.up))
    probe.await_first_look()
    try:
        serve(summarizer.figures, port, current_app.config["METRICS_TOKEN"])
    except OSError as error:
        raise click.ClickException(f"SUMMARY_METRICS_PORT: port {port}: {error.strerror}.") from error


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


def init_app(app: Flask) -> None:
    """Give the application its commands, and its shell the models."""
    tokens = (create_token, list_tokens, revoke_token)
    for command in (
        create_db,
        recreate_db,
        seed_db,
        import_users,
        export_users,
        *tokens,
        summarize,
        test,
        compose,
        postgres,
    ):
        app.cli.add_command(command)
    models = {model.__name__: model for model in (AccessToken, Note, Summary, User)}
    app.shell_context_processor(lambda: {"db": db, **models})
