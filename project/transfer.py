"""Users in and out of files, as CSV or NDJSON: streamed, all or nothing."""

import csv
import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from gzip import BadGzipFile
from io import BytesIO
from itertools import count
from typing import Any, BinaryIO, NamedTuple, get_args
from zlib import error as ZlibError

from psycopg2 import DatabaseError, OperationalError
from psycopg2.errors import DeadlockDetected, UniqueViolation
from psycopg2.extensions import connection as Connection
from psycopg2.sql import SQL, Composable, Literal
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Engine, text

from project.api.answers import Fault, UserOut
from project.api.schemas import (
    FILES,
    MOST_BRACKETS,
    MOST_ERRORS,
    InvalidFile,
    InvalidInput,
    InvalidPayload,
    OnConflict,
    UserRow,
    fault,
    in_words,
    no_constant,
    unique_members,
)
from project.database import clock

FORMATS = tuple(FILES.values())
ON_CONFLICT: tuple[OnConflict, ...] = get_args(OnConflict)
COLUMNS = tuple(UserOut.__annotations__)
NEEDED = ("username", "email")

#: Of one row, in bytes: what the API takes for a user.
MOST_BYTES = 64 * 1024
#: Of rows that are validated and staged together; a row is some 100 bytes, but may have MOST_BYTES.
BATCH_ROWS, BATCH_BYTES = 2000, 1024 * 1024
#: Of rows that a connection of an export reads together.
CHUNK_ROWS = 20_000
#: How long the connections of an export may be idle in seconds, while its reader takes such a piece of some 2 MB.
IDLE_SECONDS = 60
#: How often a merge begins again when another writer has come in between.
ATTEMPTS = 5
#: The advisory lock that whoever merges holds; the number means nothing.
IMPORT_LOCK = 7_303_014_120

# What makes a spreadsheet run a cell, behind apostrophes or none: one apostrophe more makes it text, and what import
# takes away again is exactly what export has added.
RUNS = "'*[=+@\t\r\n-]"
RUN = re.compile(RUNS)
MADE_TEXT = re.compile(f"'{RUNS}")
BOOLEANS = {"true": True, "false": False}
#: What Python's csv module says, in our words.
CSV_ERRORS = {
    "unexpected end of data": "A quotation mark is opened here and never closed.",
    "new-line character": "A carriage return stands alone.",
    "expected after": "A quotation mark stands inside a cell: it must be doubled, and the cell quoted.",
}


class Counts(NamedTuple):
    """What an import has done, or would do: numbers of rows."""

    added: int
    updated: int
    skipped: int
    refused: int


class Row(NamedTuple):
    """A row as it was read."""

    line: int
    members: dict[str, Any]


class Lines:
    """The lines of a file as text. Raises InvalidFile, which names the line."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.read = self.size = 0
        self.first = 1

    def begin(self) -> int:
        """Begin a record, and return the number of its first line."""
        self.first, self.size = self.read + 1, 0
        return self.first

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        try:
            line = self.file.readline(MOST_BYTES + 1)
        except (EOFError, BadGzipFile, ZlibError):
            raise invalid(self.read + 1, "The gzip stream is damaged or cut off here.", "gzip") from None
        if not line:
            raise StopIteration
        self.read += 1
        self.size += len(line)
        if self.size > MOST_BYTES:
            raise invalid(self.first, f"Must have at most {MOST_BYTES:,} bytes.", "too_long")
        try:
            return line.decode("utf-8-sig" if self.read == 1 else "utf-8")
        except UnicodeDecodeError:
            raise invalid(self.read, "Is not UTF-8.", "encoding") from None


def invalid(line: int, msg: str, type: str, *member: str) -> InvalidFile:
    """Return the error of a line."""
    return InvalidFile(fault(msg, type, "body", line, *member))


def csv_rows(lines: Lines) -> Iterator[Row | InvalidInput]:
    """Yield the rows of a CSV file, or what is wrong with one. Raises InvalidFile where no more can be read."""
    reader = csv.reader(lines, strict=True)
    header: list[str] = []
    while True:
        line = lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            said = next((words for part, words in CSV_ERRORS.items() if part in str(error)), "Is not CSV.")
            raise invalid(line, said, "csv") from None
        if not cells:
            continue
        if not header:
            header = columns(line, cells)
        elif len(cells) == len(header):
            yield Row(line, members(header, cells))
        else:
            yield invalid(line, f"Has {len(cells):,} cells, and the header {len(header)}.", "cells")
    if not header:
        raise invalid(1, "The first line must name the columns: username and email at least.", "header")


def columns(line: int, header: list[str]) -> list[str]:
    """Return the columns that a header names, or refuse it."""
    if not set(header) & set(NEEDED):
        # It is not quoted: it may be somebody's address.
        raise invalid(line, "The first line must name the columns: username and email at least.", "header")
    wrong = [fault("Is required.", "missing", "body", line, name) for name in NEEDED if name not in header]
    for position, name in enumerate(header):
        if name not in COLUMNS:
            wrong.append(fault("Is not a column of users.", "extra_forbidden", "body", line, name))
        elif name in header[:position]:
            wrong.append(fault("Is named twice.", "duplicate", "body", line, name))
    if wrong:
        raise InvalidFile(*wrong[:MOST_ERRORS])
    return header


def members(header: list[str], cells: list[str]) -> dict[str, Any]:
    """Return the members of a user that a CSV row tells; an empty cell is a member that is absent."""
    row: dict[str, Any] = dict(zip(header, cells))
    for name in NEEDED:
        # Compared first, since the pattern costs more and almost no cell begins like that.
        if row[name][:1] == "'" and MADE_TEXT.match(row[name]):
            row[name] = row[name][1:]
    for name in ("id", "active", "created_date"):
        if not (cell := row.get(name, "")):
            row.pop(name, None)
        elif name == "active":
            row[name] = BOOLEANS.get(cell, cell)
        elif name == "id":
            row[name] = int(cell) if re.fullmatch("[0-9]{1,19}", cell) else cell
    return row


#: Made once: json.loads would make one a row.
DECODER = json.JSONDecoder(object_pairs_hook=unique_members, parse_constant=no_constant)


def ndjson_rows(lines: Lines) -> Iterator[Row | InvalidInput]:
    """Yield the rows of an NDJSON file, or what is wrong with one. Raises InvalidFile where no more can be read."""
    number = lines.begin()
    for line in lines:
        if line.count("{") + line.count("[") > MOST_BRACKETS:
            yield invalid(number, "Is nested too deeply.", "too_deep")
        elif line := line.strip(" \t\r\n"):
            try:
                row = DECODER.decode(line)
            except InvalidPayload as error:
                yield InvalidFile(*located(number, error.detail))
            except ValueError:
                yield invalid(number, "Is not valid JSON.", "json_invalid")
            else:
                if isinstance(row, dict):
                    yield Row(number, row)
                else:
                    yield invalid(number, "Must be a JSON object.", "object_type")
        number = lines.begin()


def located(line: int, faults: Iterable[Fault]) -> Iterator[Fault]:
    """Yield the faults of a payload as those of a line."""
    for found in faults:
        yield {**found, "loc": ["body", line, *found["loc"][1:]]}


def as_text(cell: str) -> str:
    """Return a cell that no spreadsheet runs."""
    return f"'{cell}" if RUN.match(cell) else cell


READERS = {"csv": csv_rows, "ndjson": ndjson_rows}
ADAPTER = TypeAdapter(list[UserRow])


def validated(rows: list[Row]) -> tuple[list[tuple[int, UserRow]], list[Fault]]:
    """Return the users of the rows with their lines, and what is wrong with the other rows."""
    try:
        users = ADAPTER.validate_python([row.members for row in rows])
    except ValidationError:
        # One by one: of a batch, the errors would be kept all at once, and there may be hundreds of thousands.
        return one_by_one(rows)
    return list(zip((row.line for row in rows), users)), []


def one_by_one(rows: list[Row]) -> tuple[list[tuple[int, UserRow]], list[Fault]]:
    """Do the same for rows of which some are wrong."""
    good, wrong = [], []
    for row in rows:
        try:
            good.append((row.line, UserRow.model_validate(row.members)))
        except ValidationError as error:
            for found in error.errors(include_url=False, include_input=False)[:MOST_ERRORS]:
                wrong.append(fault(in_words(found), found["type"], "body", row.line, *found["loc"]))
    return good, wrong


@contextmanager
def session(engine: Engine, seconds: int = 0) -> Iterator[Connection]:
    """Yield a database connection of its own, closed in the end: a transfer leaves nothing behind in the pool.

    seconds: how long a statement may take, 0 for no limit.
    """
    pooled = engine.raw_connection()
    connection: Any = pooled.driver_connection
    pooled.detach()
    try:
        connection.autocommit = True
        execute(connection, "SELECT set_config('statement_timeout', %s, false)", f"{seconds}s")
        # Longer than the 10 s after which a transaction ends in which nothing happens: no other holds a row longer.
        execute(connection, "SET lock_timeout = '15s'")
        # The server notices in the middle of a statement that this process was killed. Old servers do not know how.
        name = "client_connection_check_interval"
        execute(connection, "SELECT set_config(name, '1s', false) FROM pg_settings WHERE name = %s", name)
        yield connection
    finally:
        # The pool, which would do it, knows nothing of this connection any more.
        clock.stop(connection)
        connection.close()


def execute(connection: Connection, statement: str | Composable, *values: Any) -> list[tuple[Any, ...]]:
    """Run a statement and return its rows."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def counted(connection: Connection, statement: str | Composable) -> int:
    """Run a statement and return how many rows it has written."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.rowcount


STAGED = ("line", "id", "username", "email", "active", "created_date")
FAULTS = ("line", "member", "msg", "type")
# Folded by the database, as the unique index is: Python's idea of the same address does not count.
TABLES = """
    CREATE TEMPORARY TABLE staged (
        line bigint, id bigint, username text, email text, active boolean, created_date timestamptz,
        key text COLLATE "C" GENERATED ALWAYS AS (lower(email)) STORED
    );
    CREATE TEMPORARY TABLE faults (line bigint, member text, msg text, type text);
    CREATE TEMPORARY VIEW conflicts (line, member, msg, type) AS
        SELECT line, 'email', format('Is on line %s too.', first), 'email_exists'
        FROM (
            SELECT line, first_value(line) OVER same AS first, row_number() OVER same AS n
            FROM staged WINDOW same AS (PARTITION BY key ORDER BY line)
        ) numbered WHERE n > 1
    UNION ALL
        SELECT line, 'email', 'Sorry. That email already exists.', 'email_exists'
        FROM staged WHERE EXISTS (SELECT FROM users WHERE lower(users.email) COLLATE "C" = key)
    UNION ALL
        SELECT line, 'id', format('Is on line %s too.', first), 'id_exists'
        FROM (
            SELECT line, key, first_value(line) OVER same AS first, first_value(key) OVER same AS other
            FROM staged WHERE id IS NOT NULL WINDOW same AS (PARTITION BY id ORDER BY line)
        ) numbered WHERE key <> other
    UNION ALL
        SELECT line, 'id', 'Is the id of another user.', 'id_exists'
        FROM staged JOIN users ON users.id = staged.id AND lower(users.email) COLLATE "C" <> key;
"""
FIND_CONFLICTS = "INSERT INTO faults SELECT * FROM conflicts"
COUNT_CONFLICTS = "SELECT count(DISTINCT line) FROM conflicts"
DROP_SUPERSEDED = """
    DELETE FROM staged USING (
        SELECT line, row_number() OVER (PARTITION BY key ORDER BY line DESC) AS n FROM staged
    ) numbered WHERE n > 1 AND numbered.line = staged.line
"""
# An id of a user who is there does not count: the address says who is meant.
FIND_IDS = """
    INSERT INTO faults SELECT * FROM conflicts WHERE type = 'id_exists' AND line IN (
        SELECT line FROM staged WHERE NOT EXISTS (SELECT FROM users WHERE lower(users.email) COLLATE "C" = key)
    )
"""
DROP_REFUSED = "DELETE FROM staged WHERE line IN (SELECT line FROM faults)"
COUNT_NEW = """
    SELECT count(*) FROM staged WHERE NOT EXISTS (SELECT FROM users WHERE lower(users.email) COLLATE "C" = key)
"""
INSERT = SQL("""
    INSERT INTO users (id, username, email, active, created_date)
    SELECT coalesce(id, nextval(pg_get_serial_sequence('users', 'id'))), username, email,
        coalesce(active, true), coalesce(created_date, date_trunc('second', now()))
    FROM staged {} ORDER BY line {}
    """)
ADD_ALL = INSERT.format(SQL(""), SQL(""))
ADD_NEW = INSERT.format(SQL(""), SQL("ON CONFLICT DO NOTHING"))
REPLACE = SQL("""
    WITH merged AS (
        {} ON CONFLICT (lower(email) COLLATE "C")
        DO UPDATE SET username = excluded.username, email = excluded.email {}
        RETURNING xmax = 0 AS added
    ) SELECT count(*) FILTER (WHERE added) FROM merged
    """)
# A row that does not tell whether the user is active leaves that as it is.
WRITE_ALL = (
    REPLACE.format(INSERT.format(SQL("WHERE active IS NOT NULL"), SQL("")), SQL(", active = excluded.active")),
    REPLACE.format(INSERT.format(SQL("WHERE active IS NULL"), SQL("")), SQL("")),
)


class Import:
    """Users on their way from a file into the table.

    Each step but the merge is over at once, so that a slow file holds no transaction open.
    """

    def __init__(self, connection: Connection, engine: Engine) -> None:
        self.connection = connection
        self.engine = engine
        self.good = self.largest_id = 0
        execute(connection, TABLES)

    def stage(self, file: BinaryIO, format: str, progress: Callable[[int], None]) -> None:
        """Read and validate a file. Raises InvalidFile where it cannot be read to its end.

        progress: is called now and then with the number of rows since the last call.
        """
        rows: list[Row] = []
        wrong: list[Fault] = []
        size = 0
        lines = Lines(file)
        for row in READERS[format](lines):
            size += lines.size
            if isinstance(row, Row):
                rows.append(row)
            else:
                wrong += row.detail
            if len(rows) + len(wrong) >= BATCH_ROWS or size >= BATCH_BYTES:
                self.keep(rows, wrong)
                progress(len(rows))
                rows, wrong, size = [], [], 0
        self.keep(rows, wrong)
        progress(len(rows))

    def keep(self, rows: list[Row], wrong: list[Fault]) -> None:
        """Keep the rows that are users, and what is wrong with the others."""
        good, more = validated(rows)
        self.good += len(good)
        self.largest_id = max(self.largest_id, *(user.id or 0 for _, user in good), 0)
        self.copy("staged", STAGED, (staged(line, user) for line, user in good))
        self.copy("faults", FAULTS, map(kept_fault, (*wrong, *more)))

    def copy(self, table: str, names: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
        """Write rows of text in the form of COPY to a temporary table."""
        data = "".join("\t".join(row) + "\n" for row in rows)
        with self.connection.cursor() as cursor:
            cursor.copy_expert(f"COPY {table} ({', '.join(names)}) FROM STDIN", BytesIO(data.encode()))

    def merge(self, on_conflict: OnConflict, dry_run: bool = False) -> Counts:
        """Write what was staged to the table of users, all of it or nothing, and say what was done.

        With "fail", nothing is written when a row is refused. dry_run: say what would be done.
        """
        execute(self.connection, "ANALYZE staged")
        attempts = 0
        while True:
            attempts += 1
            execute(self.connection, "BEGIN")
            try:
                # Imports wait for each other here, however long one takes: they never wait in a circle.
                execute(self.connection, "SET LOCAL lock_timeout = 0")
                execute(self.connection, "SELECT pg_advisory_xact_lock(%s)", IMPORT_LOCK)
                execute(self.connection, "SET LOCAL lock_timeout = '15s'")
                counts = MERGES[on_conflict](self, dry_run)
            except (UniqueViolation, DeadlockDetected):
                # Somebody has added one of these users in between, or waited for one while this waited for theirs.
                execute(self.connection, "ROLLBACK")
                if attempts == ATTEMPTS:
                    raise
            else:
                execute(self.connection, "COMMIT")
                return counts

    def fail(self, dry_run: bool) -> Counts:
        """Add all users, or none where a row is refused or conflicts."""
        counted(self.connection, FIND_CONFLICTS)
        refused = self.refused()
        if refused or dry_run:
            return Counts(0 if refused else self.good, 0, 0, refused)
        return Counts(self.insert(ADD_ALL), 0, 0, 0)

    def skip(self, dry_run: bool) -> Counts:
        """Add the users who do not conflict."""
        if dry_run:
            ((skipped,),) = execute(self.connection, COUNT_CONFLICTS)
            added = self.good - skipped
        else:
            added = self.insert(ADD_NEW)
        return Counts(added, 0, self.good - added, self.refused())

    def update(self, dry_run: bool) -> Counts:
        """Add the users who are new and write the others; of several rows with one address the last one counts."""
        counted(self.connection, DROP_SUPERSEDED)
        counted(self.connection, FIND_IDS)
        lost = counted(self.connection, DROP_REFUSED)
        if dry_run:
            ((added,),) = execute(self.connection, COUNT_NEW)
        else:
            self.advance()
            added = sum(execute(self.connection, part)[0][0] for part in WRITE_ALL)
        return Counts(added, self.good - lost - added, 0, self.refused())

    def insert(self, statement: str | Composable) -> int:
        """Add users and return how many."""
        self.advance()
        return counted(self.connection, statement)

    def refused(self) -> int:
        """Return how many rows are refused."""
        ((lines,),) = execute(self.connection, "SELECT count(DISTINCT line) FROM faults")
        return int(lines)

    def advance(self) -> None:
        """Let the ids that the table gives by itself begin after those of the file."""
        sequence = "pg_get_serial_sequence('users', 'id')::regclass"
        last = f"SELECT coalesce(pg_sequence_last_value({sequence}), 0)"
        if self.largest_id <= execute(self.connection, last)[0][0]:
            return
        # In a transaction of its own, over at once: whoever adds a user has this lock on the table before he takes an
        # id, so that nobody takes one between the look and the step.
        with self.engine.begin() as own:
            own.execute(text("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE"))
            own.execute(text(f"SELECT setval({sequence}, greatest(({last}), :id))"), {"id": self.largest_id})

    def faults(self, most: int | None = None) -> Iterator[Fault]:
        """Yield what is wrong with the rows that were refused, by line."""
        with self.connection.cursor("faults", withhold=True) as cursor:
            cursor.execute("SELECT line, member, msg, type FROM faults ORDER BY line, ctid LIMIT %s", (most,))
            for line, member, msg, type in cursor:
                yield fault(msg, type, "body", line, *([] if member is None else [member]))


MERGES: dict[OnConflict, Callable[[Import, bool], Counts]] = {
    "fail": Import.fail,
    "skip": Import.skip,
    "update": Import.update,
}


def staged(line: int, user: UserRow) -> tuple[str, ...]:
    """Return a row of the staging table in the form of COPY; no text of a user has a character that ends a cell."""
    return (
        str(line),
        "\\N" if user.id is None else str(user.id),
        user.username.replace("\\", "\\\\"),
        user.email.replace("\\", "\\\\"),
        str(user.active) if "active" in user.model_fields_set else "\\N",
        user.created_date or "\\N",
    )


ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\ufffd"})


def kept_fault(found: Fault) -> tuple[str, ...]:
    """Return a row of the table of faults in the form of COPY."""
    _, line, *member = found["loc"]
    said = (str(part).translate(ESCAPES) for part in (found["msg"], found["type"]))
    return (str(line), str(member[0]).translate(ESCAPES) if member else "\\N", *said)


DATE = SQL("replace((created_date AT TIME ZONE 'UTC')::text, ' ', 'T') || 'Z'")
# What may need the apostrophe comes before the letters, so that most cells are spared the pattern.
CELL = SQL("""CASE WHEN {0} COLLATE "C" < 'A' AND {0} ~ {1} THEN '''' || {0} ELSE {0} END""")
CELLS = SQL("id, {}, {}, active::text, {}").format(
    *(CELL.format(SQL(name), Literal(f"^{RUNS}")) for name in NEEDED), DATE
)
OBJECT = SQL("""
    '{{"id":' || id || ',"username":' || to_json(username)::text || ',"email":' || to_json(email)::text
    || CASE WHEN active THEN ',"active":true' ELSE ',"active":false' END || ',"created_date":"' || {} || '"}}'
    """).format(DATE)
# JSON text has no control characters, so that nothing in it is ever quoted or escaped.
RAW = SQL(r", DELIMITER E'\x02', QUOTE E'\x01'")
WRITERS = {"csv": (",".join(COLUMNS) + "\n", CELLS, SQL("")), "ndjson": ("", OBJECT, RAW)}
# What is passed over is read, and not written.
CHUNK = SQL(
    "COPY (SELECT {} FROM (SELECT * FROM users WHERE id > {} AND {} ORDER BY id OFFSET {} LIMIT {}) chunk ORDER BY id)"
    " TO STDOUT (FORMAT csv {})"
)
#: The id in a row of either form, which nothing with a digit precedes.
ID = re.compile(b"-?[0-9]+")


class Rows(list[bytes]):
    """Rows as COPY writes them: psycopg2 hands them over one by one."""

    write = list.append


def estimate(connection: Connection) -> int:
    """Return about how many users there are, as the database remembers it."""
    ((users,),) = execute(connection, "SELECT reltuples::bigint FROM pg_class WHERE oid = 'users'::regclass")
    return max(0, int(users))


def begin(connections: Sequence[Connection]) -> None:
    """Let all connections see the users as of one moment."""
    first, *others = connections
    execute(first, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    for other in others:
        ((snapshot,),) = execute(first, "SELECT pg_export_snapshot()")
        execute(other, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        execute(other, "SET TRANSACTION SNAPSHOT %s", snapshot)
    for connection in connections:
        # There is an index by id, also for those whom the planner does not know yet.
        execute(connection, "SET LOCAL enable_sort = off")
        # Longer than other transactions: this one holds no row that somebody may wait for.
        execute(connection, f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")


def read(connection: Connection, statement: Composable) -> Rows:
    """Return the rows that a COPY writes."""
    rows = Rows()
    try:
        with connection.cursor() as cursor:
            cursor.copy_expert(statement, rows)
    except (DatabaseError, SystemError) as error:
        # What psycopg2 says of a connection that is lost in the middle of a COPY is seldom that.
        if connection.closed:
            raise OperationalError("the connection was lost in the middle of a COPY") from error
        raise
    return rows


def export_users(
    connections: Sequence[Connection], format: str, active: bool | None = None
) -> Generator[tuple[bytes, int], None, None]:
    """Yield a file of the users in pieces, by id, each piece with the number of its users: all as of one moment.

    connections: each reads a piece, side by side, and one more while the last ones are written. Then they are idle:
    a reader who stops reading loses them, after IDLE_SECONDS. Whoever stops early closes the generator
    first: only then does nobody use the connections any more.
    """
    start, shown, form = WRITERS[format]
    chosen = SQL("true") if active is None else SQL("active = {}").format(Literal(active))
    begin(connections)

    def asked(last: int) -> list[Future[Rows]]:
        """Let each connection read its piece of the users after this one."""
        place = (shown, Literal(last), chosen)
        return [
            threads.submit(read, connection, CHUNK.format(*place, Literal(passed), Literal(CHUNK_ROWS), form))
            for connection, passed in zip(connections, count(0, CHUNK_ROWS))
        ]

    with ThreadPoolExecutor(len(connections)) as threads:
        coming = asked(1 - 2**63)
        while pieces := [rows for rows in [each.result() for each in coming] if rows]:
            coming = asked(int(ID.findall(pieces[-1][-1])[0]))
            for rows in pieces:
                yield start.encode() + b"".join(rows), len(rows)
                start = ""
    if start:
        yield start.encode(), 0
    for connection in connections:
        execute(connection, "COMMIT")
