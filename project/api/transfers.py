"""Users in bulk: in from a file and out to one."""

import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import wraps
from io import BufferedReader, RawIOBase
from threading import Semaphore
from time import monotonic
from typing import Annotated, Any

from flask import Blueprint, Response, abort, current_app, request
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import ServiceUnavailable

from project.api.queries import ExportQuery, ImportQuery
from project.api.representations import ImportDone, Imported
from project.api.validation import InvalidFile
from project.auth.access import scope
from project.extensions import db
from project.http.bodies import Method, query
from project.http.connection import client_socket
from project.http.resources import Api, Resource
from project.http.response_headers import ExportHeaders, Served
from project.observability.metrics import metrics
from project.storage.connections import connections
from project.storage.deadlines import set_seconds_left
from project.transfer import sessions, staging, writers
from project.transfer.readers import FILES, NO_FILE

transfers_blueprint = Blueprint("transfers", __name__)
api = Api(transfers_blueprint)
#: Of refused rows, how many faults an answer lists.
MOST_FAULTS = 1000
ExportFile = Annotated[Response, Served(tuple(FILES), ExportHeaders)]


class SentFile(RawIOBase):
    """The request's body, which must arrive whole: aborts with 408 where it ends too early."""

    def __init__(self, length: int) -> None:
        self.stream, self.left = request.stream, length

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read up to as many bytes as the buffer holds, and return how many."""
        piece = b""
        with suppress(OSError):
            piece = self.stream.read(min(len(buffer), self.left))
        if self.left and not piece:
            # The server ends one that does not arrive, and says nothing; its first lines may be good ones.
            abort(408)
        self.left -= len(piece)
        buffer[: len(piece)] = piece
        return len(piece)


def sent_file() -> tuple[BufferedReader, str]:
    """Return the file in the request's body, to be read in pieces, and its format.

    Aborts with 408, 411, 413 and 415 as for any other body.
    """
    if "Transfer-Encoding" in request.headers or request.content_length is None:
        abort(411)
    request.max_content_length = current_app.config["IMPORT_MAX_LENGTH"]
    if request.mimetype not in FILES or "Content-Encoding" in request.headers:
        abort(415, NO_FILE)
    # What comes from the network knows no lines.
    return BufferedReader(SentFile(request.content_length), 64 * 1024), FILES[request.mimetype]


def users_file(method: Method) -> Method:
    """Decorate a Resource's method: it gets the file in the request's body, and its format."""

    @wraps(method)
    def wrapper(self: Any, *arguments: Any, **named: Any) -> Any:
        return method(self, *sent_file(), *arguments, **named)

    setattr(wrapper, "files", tuple(FILES))
    return wrapper


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

        set_seconds_left(seconds)
        with transfer_slot(), sessions.session(connections().engine, seconds) as connection:
            job = staging.Import(connection, db.engine)
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
    def get(self, asked: ExportQuery) -> ExportFile:
        """Write all users to a file.

        By id, all as of one moment; NDJSON, or CSV where `Accept` asks for it. A cell of CSV that a spreadsheet would
        run begins with an apostrophe, which an import takes away again. Where something fails on the way, the
        connection ends before the body does.
        """
        media_type = request.accept_mimetypes.best_match(FILES) or "application/x-ndjson"
        pieces = file_of(FILES[media_type], asked.active)
        client = client_socket.get()
        if client and request.environ["SERVER_PROTOCOL"] == "HTTP/1.0":
            pieces = whole_or_reset(pieces, client)
        # The first piece comes before the status is sent: a database that is away is a 503.
        begun = next(pieces, b"")
        return Response(resumed(begun, pieces), mimetype=media_type, headers={"Vary": "Accept"})


def init_slots(state: BlueprintSetupState) -> None:
    """Let no more than half of the threads of a process be busy with imports and exports, which take minutes."""
    state.app.extensions["transfers"] = Semaphore(max(1, state.app.config["WEB_THREADS"] // 2))


@contextmanager
def transfer_slot() -> Iterator[None]:
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
    set_seconds_left(seconds)
    with (
        transfer_slot(),
        sessions.session(connections().engine, seconds) as connection,
        closing(writers.write_users([connection], format, active)) as pieces,
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


transfers_blueprint.record_once(init_slots)
api.add_resource(UserImport, "/users/import")
api.add_resource(UserExport, "/users/export")
