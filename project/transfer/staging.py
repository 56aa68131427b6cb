"""Imports: users in from CSV or NDJSON, staged as they come and merged all or nothing."""

from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple, get_args

from psycopg2.errors import DeadlockDetected, UniqueViolation
from psycopg2.extensions import connection as Connection
from psycopg2.sql import Composable
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Engine, text

from project.api.payloads import UserRow
from project.api.queries import OnConflict
from project.api.representations import Fault
from project.api.validation import fault, faults_of
from project.transfer import merge
from project.transfer.readers import READERS, FileRow, Lines
from project.transfer.sessions import counted, execute

ON_CONFLICT: tuple[OnConflict, ...] = get_args(OnConflict)
#: Of rows that are validated and staged together; a row is some 100 bytes, but may have MOST_BYTES.
BATCH_ROWS, BATCH_BYTES = 2000, 1024 * 1024
#: How often a merge begins again when another writer has come in between.
ATTEMPTS = 5
#: The advisory lock that whoever merges holds; the number means nothing.
IMPORT_LOCK = 7_303_014_120


class Counts(NamedTuple):
    """What an import has done, or would do: numbers of rows."""

    added: int
    updated: int
    skipped: int
    refused: int


ADAPTER = TypeAdapter(list[UserRow])


def validated_rows(rows: list[FileRow]) -> tuple[list[tuple[int, UserRow]], list[Fault]]:
    """Return the users of the rows with their lines, and what is wrong with the other rows."""
    try:
        users = ADAPTER.validate_python([row.members for row in rows])
    except ValidationError:
        # One by one: of a batch, the errors would be kept all at once, and there may be hundreds of thousands.
        return one_by_one(rows)
    return list(zip((row.line for row in rows), users)), []


def one_by_one(rows: list[FileRow]) -> tuple[list[tuple[int, UserRow]], list[Fault]]:
    """Do the same for rows of which some are wrong."""
    good: list[tuple[int, UserRow]] = []
    wrong: list[Fault] = []
    for row in rows:
        try:
            good.append((row.line, UserRow.model_validate(row.members)))
        except ValidationError as error:
            wrong += faults_of(error, "body", row.line)
    return good, wrong


class Import:
    """Users on their way from a file into the table.

    Each step but the merge is over at once, so that a slow file holds no transaction open.
    """

    def __init__(self, connection: Connection, engine: Engine) -> None:
        self.connection = connection
        self.engine = engine
        self.good = self.largest_id = 0
        execute(connection, merge.TABLES)

    def stage(self, file: BinaryIO, format: str, progress: Callable[[int], None]) -> None:
        """Read and validate a file. Raises InvalidFile where it cannot be read to its end.

        progress: is called now and then with the number of rows since the last call.
        """
        rows: list[FileRow] = []
        wrong: list[Fault] = []
        size = 0
        lines = Lines(file)
        for row in READERS[format](lines):
            size += lines.size
            if isinstance(row, FileRow):
                rows.append(row)
            else:
                wrong += row.detail
            if len(rows) + len(wrong) >= BATCH_ROWS or size >= BATCH_BYTES:
                self.keep(rows, wrong)
                progress(len(rows))
                rows, wrong, size = [], [], 0
        self.keep(rows, wrong)
        progress(len(rows))

    def keep(self, rows: list[FileRow], wrong: list[Fault]) -> None:
        """Keep the rows that are users, and what is wrong with the others."""
        good, more = validated_rows(rows)
        self.good += len(good)
        self.largest_id = max(self.largest_id, *(user.id or 0 for _, user in good), 0)
        self.copy("staged", merge.STAGED, (staged(line, user) for line, user in good))
        self.copy("faults", merge.FAULTS, map(kept_fault, (*wrong, *more)))

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
        counted(self.connection, merge.FIND_CONFLICTS)
        refused = self.refused()
        if refused or dry_run:
            return Counts(0 if refused else self.good, 0, 0, refused)
        return Counts(self.insert(merge.ADD_ALL), 0, 0, 0)

    def skip(self, dry_run: bool) -> Counts:
        """Add the users who do not conflict."""
        if dry_run:
            ((skipped,),) = execute(self.connection, merge.COUNT_CONFLICTS)
            added = self.good - skipped
        else:
            added = self.insert(merge.ADD_OTHERS)
        return Counts(added, 0, self.good - added, self.refused())

    def update(self, dry_run: bool) -> Counts:
        """Add the users who are new and write the others; of several rows with one address the last one counts."""
        counted(self.connection, merge.DROP_SUPERSEDED)
        counted(self.connection, merge.FIND_IDS)
        lost = counted(self.connection, merge.DROP_REFUSED)
        if dry_run:
            ((added,),) = execute(self.connection, merge.COUNT_NEW)
        else:
            # Before the first write, whose lock of the table this step could not pass.
            self.advance()
            counted(self.connection, merge.WRITE_PRESENT)
            added = counted(self.connection, merge.ADD_NEW)
        return Counts(added, self.good - lost - added, 0, self.refused())

    def insert(self, statement: Composable) -> int:
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

ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\ufffd"})


def staged(line: int, user: UserRow) -> tuple[str, ...]:
    """Return a row of the staging table in the form of COPY."""
    cleared = [name for name in merge.NULLABLE if name in user.model_fields_set and getattr(user, name) is None]
    return (str(line), f"{{{','.join(cleared)}}}", *[copy_cell(getattr(user, member.name)) for member in merge.KEPT])


def copy_cell(value: Any) -> str:
    """Return a value in the form of COPY."""
    return "\\N" if value is None else escaped(str(value))


def escaped(text: str) -> str:
    """Return a text in the form of COPY."""
    # Almost no text has a character to escape, and these two looks at it cost less than a translation.
    return text if text.isprintable() and "\\" not in text else text.translate(ESCAPES)


def kept_fault(found: Fault) -> tuple[str, ...]:
    """Return a row of the table of faults in the form of COPY."""
    _, line, *member = found["loc"]
    return (str(line), copy_cell(member[0] if member else None), escaped(found["msg"]), escaped(found["type"]))
