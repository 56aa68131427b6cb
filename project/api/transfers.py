"""Users in bulk: in from a file and out to one."""

import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import BufferedReader
from threading import Semaphore
from time import monotonic
from typing import Annotated

from flask import Blueprint, Response, abort, current_app, request
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import ServiceUnavailable

from project import transfer
from project.api.answers import ExportHeaders, ImportDone, Imported, Served
from project.api.auth import scope
from project.api.errors import Api, Resource
from project.api.schemas import FILES, ExportQuery, ImportQuery, InvalidFile, query, users_file
from project.database import allow
from project.extensions import db
from project.metrics import metrics

transfers_blueprint = Blueprint("transfers", __name__)
api = Api(transfers_blueprint)

#: Of refused rows, how many faults an answer lists.
MOST_FAULTS = 1000

File = Annotated[Response, Served(tuple(FILES), ExportHeaders)]


class UserImport(Resource):
    """Users from a file."""

    operation_id = "importUsers"

    @scope("users:write")
    @query(ImportQuery)
    @users_file
    def post(self, file: BufferedReader, format: str, asked: ImportQuery) -> Imported:
        """Add users from a file.

        A row is a user as `POST /users` takes it, and may tell `id` and `created_date`, which are kept. CSV names its
        columns in the first line. With `on_conflict=fail`, one bad row or conflict refuses the whole file; with `skip`
        and `update` the good rows are written.
        """
        seconds = current_app.config["TRANSFER_TIMEOUT"]
        deadline = monotonic() + seconds

        def in_time(rows: int) -> None:
            """Give up on a body that comes too slowly."""
            if monotonic() > deadline:
                abort(408)

        allow(seconds)
        with place(), transfer.session(db.engine, seconds) as connection:
            job = transfer.Import(connection, db.engine)
            job.stage(file, format, in_time)
            counts = job.merge(asked.on_conflict, asked.dry_run)
            faults = list(job.faults(MOST_FAULTS))
        if not asked.dry_run:
            metrics().users_created.inc(counts.added)
        if faults and asked.on_conflict == "fail":
            raise InvalidFile(*faults)
        message = "This is what would be done." if asked.dry_run else "The users were imported."
        data: ImportDone = {
            "added": counts.added,
            "updated": counts.updated,
            "skipped": counts.skipped,
            "refused": counts.refused,
            "faults": faults,
        }
        return {"status": "success", "message": message, "data": data}


class UserExport(Resource):
    """Users to a file."""

    operation_id = "exportUsers"

    @scope("users:read")
    @query(ExportQuery)
    def get(self, asked: ExportQuery) -> File:
        """Write all users to a file.

        By id, all as of one moment; NDJSON, or CSV where `Accept` asks for it. A cell of CSV that a spreadsheet would
        run begins with an apostrophe, which an import takes away again. Where something fails on the way, the
        connection ends before the body does.
        """
        media_type = request.accept_mimetypes.best_match(FILES) or "application/x-ndjson"
        pieces = file_of(FILES[media_type], asked.active)
        client = request.environ.get("gunicorn.socket")
        if client and request.environ["SERVER_PROTOCOL"] == "HTTP/1.0":
            pieces = whole_or_reset(pieces, client)
        # The first piece comes before the status is sent: a database that is away is a 503.
        begun = next(pieces, b"")
        return Response(resumed(begun, pieces), mimetype=media_type, headers={"Vary": "Accept"})


def init_places(state: BlueprintSetupState) -> None:
    """Let no more than half of the threads of a process be busy with imports and exports, which take minutes."""
    state.app.extensions["transfers"] = Semaphore(max(1, state.app.config["WEB_THREADS"] // 2))


@contextmanager
def place() -> Iterator[None]:
    """Take the place of one import or export, or answer 503 where all are taken."""
    places = current_app.extensions["transfers"]
    if not places.acquire(blocking=False):
        raise ServiceUnavailable("Too many imports and exports are under way.", retry_after=10)
    try:
        yield
    finally:
        places.release()


def file_of(format: str, active: bool | None) -> Iterator[bytes]:
    """Yield a file of users in pieces, for as long as an export may take."""
    seconds = current_app.config["TRANSFER_TIMEOUT"]
    deadline = monotonic() + seconds
    allow(seconds)
    with (
        place(),
        transfer.session(db.engine, seconds) as connection,
        closing(transfer.export_users([connection], format, active)) as pieces,
    ):
        for piece, _ in pieces:
            yield piece
            if monotonic() > deadline:
                raise TimeoutError(f"an export took longer than the {seconds} s of TRANSFER_TIMEOUT")


def whole_or_reset(pieces: Iterator[bytes], client: socket.socket) -> Iterator[bytes]:
    """Yield a file in pieces to a client of HTTP/1.0, and reset the connection where one is missing.

    Such a body ends with its connection, so that one that is cut off would look whole.
    """
    whole = False
    try:
        yield from pieces
        whole = True
    finally:
        if not whole:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()


def resumed(begun: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield a file from its first piece on."""
    yield begun
    yield from pieces


transfers_blueprint.record_once(init_places)
api.add_resource(UserImport, "/users/import")
api.add_resource(UserExport, "/users/export")
