"""Commands that import and export users."""

import gzip
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click
import orjson
from tqdm import tqdm

from project.api.queries import OnConflict
from project.api.representations import Fault
from project.api.validation import InvalidFile
from project.extensions import db
from project.storage.connections import connections
from project.transfer import readers, sessions, staging, writers


def format_of(file: str, chosen: str | None) -> str:
    """Return the format of a file: what was chosen, or else what its name ends in."""
    ending = chosen or Path(file.removesuffix(".gz")).suffix.removeprefix(".")
    if ending not in readers.FORMATS:
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
    "--format", "chosen", type=click.Choice(readers.FORMATS), help="By default what the name ends in."
)


@click.command("import_users")
@click.argument("file")
@FORMAT
@click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing.")
@click.option(
    "--on-conflict",
    type=click.Choice(staging.ON_CONFLICT),
    default="fail",
    show_default=True,
    help="Where an address is taken: refuse the file, leave the row out, or write the user who has it.",
)
@click.option("--report", metavar="FILE", help="Where to write what is wrong with which line, as NDJSON.")
def import_users(file: str, chosen: str | None, dry_run: bool, on_conflict: OnConflict, report: str | None) -> None:
    """Add the users of a CSV or NDJSON file, all of them or none.

    FILE is - for standard input; a name that ends in .gz is that of a compressed file. A row has what the API
    takes for a user, and may have created_date and id, which are kept: other services know a moved user again.

    With "fail", one bad row or conflict refuses the whole file. With "skip" and "update", the good rows are written;
    with "update", an existing user keeps id and date and each member that the row does not tell, and of several rows
    with one address the last one counts. An empty cell of CSV tells nothing; null in NDJSON clears a member.
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
            job = staging.Import(opened.enter_context(sessions.session(connections().engine)), db.engine)
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
            engine = connections().engine
            sources = [opened.enter_context(sessions.session(engine)) for _ in range(2)]
            done, chosen_ones = 0, None if active is None else active == "true"
            # Its threads end before their connections do, whatever happens.
            pieces = opened.enter_context(closing(writers.write_users(sources, format, chosen_ones)))
            with progress_bar(writers.estimate(sources[0]), " users") as bar:
                for piece, users in pieces:
                    data.write(piece)
                    done += users
                    bar.update(users)
    except OSError as error:
        raise click.ClickException(f"{error.filename or file}: {error.strerror}.") from error
    click.echo(f"Exported {done:,} users.", err=True)
