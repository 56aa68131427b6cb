"""Exports: users out to CSV or NDJSON, as of one moment."""

import re
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from itertools import count

from psycopg2 import DatabaseError, OperationalError
from psycopg2.extensions import connection as Connection
from psycopg2.sql import SQL, Composable, Literal

from project.api.members import USER_MEMBERS, Member, sql_of
from project.api.models import User, in_utc
from project.transfer.readers import COLUMNS, RUNS
from project.transfer.sessions import execute

#: Of rows that a connection of an export reads together.
CHUNK_ROWS = 20_000
#: How long the connections of an export may be idle in seconds, while its reader takes such a piece of some 2 MB.
IDLE_SECONDS = 60
# What may need the apostrophe comes before the letters, so that most cells are spared the pattern.
CELL = SQL("""CASE WHEN {0} COLLATE "C" < 'A' AND {0} ~ {1} THEN '''' || {0} ELSE {0} END""")


def plain(member: Member) -> Composable:
    """Return a member as text: dates as the API shows them, all else as Postgres does."""
    column = getattr(User, member.name)
    return SQL(f"{sql_of(in_utc(column).element if member.kind is datetime else column)}::text")


def csv_cell(member: Member) -> Composable:
    """Return a member as a cell of CSV."""
    return CELL.format(plain(member), Literal(f"^{RUNS}")) if member.kind is str else plain(member)


def json_value(member: Member) -> Composable:
    """Return a member as JSON."""
    # Neither numbers nor truth values need more, and to_json() takes longer.
    told = plain(member) if member.kind in (int, bool) else SQL("to_json({})::text").format(plain(member))
    return SQL("coalesce({}, 'null')").format(told) if member.is_nullable else told


CSV_CELLS = SQL(", ").join(map(csv_cell, USER_MEMBERS))

# Put together by hand, in two thirds of the time of row_to_json().
OBJECT = SQL("'{{' || {} || '}}'").format(
    SQL(" || ',' || ").join(
        SQL("{} || {}").format(Literal(f'"{member.name}":'), json_value(member)) for member in USER_MEMBERS
    )
)

# JSON text has no control characters, so that nothing in it is ever quoted or escaped.
RAW = SQL(r", DELIMITER E'\x02', QUOTE E'\x01'")
WRITERS = {"csv": (",".join(COLUMNS) + "\n", CSV_CELLS, SQL("")), "ndjson": ("", OBJECT, RAW)}

# What is passed over is read, and not written.
CHUNK = SQL(
    "COPY (SELECT {} FROM (SELECT * FROM users WHERE id > {} AND {} ORDER BY id OFFSET {} LIMIT {}) users"
    " ORDER BY users.id) TO STDOUT (FORMAT csv {})"
)

#: The id in a row of either form, which nothing with a digit precedes.
LEADING_ID = re.compile(b"-?[0-9]+")


class CopiedRows(list[bytes]):
    """Rows as COPY writes them: psycopg2 hands them over one by one."""

    write = list.append


def estimate(connection: Connection) -> int:
    """Return about how many users there are, as the database remembers it."""
    ((users,),) = execute(connection, "SELECT reltuples::bigint FROM pg_class WHERE oid = 'users'::regclass")
    return max(0, int(users))


def begin_snapshot(connections: Sequence[Connection]) -> None:
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


def copy_rows(connection: Connection, statement: Composable) -> CopiedRows:
    """Return the rows that a COPY writes."""
    rows = CopiedRows()
    try:
        with connection.cursor() as cursor:
            cursor.copy_expert(statement, rows)
    except (DatabaseError, SystemError) as error:
        # What psycopg2 says of a connection that is lost in the middle of a COPY is seldom that.
        if connection.closed:
            raise OperationalError("the connection was lost in the middle of a COPY") from error
        raise
    return rows


def write_users(
    connections: Sequence[Connection], format: str, active: bool | None = None
) -> Generator[tuple[bytes, int], None, None]:
    """Yield a file of the users in pieces, by id, each piece with the number of its users: all as of one moment.

    connections: each reads a piece, side by side, and one more while the last ones are written. Then they are idle:
    a reader who stops reading loses them, after IDLE_SECONDS. Whoever stops early closes the generator
    first: only then does nobody use the connections any more.
    """
    start, shown, form = WRITERS[format]
    chosen = SQL("true") if active is None else SQL("active = {}").format(Literal(active))
    begin_snapshot(connections)

    def asked(last: int) -> list[Future[CopiedRows]]:
        """Let each connection read its piece of the users after this one."""
        place = (shown, Literal(last), chosen)
        return [
            threads.submit(copy_rows, connection, CHUNK.format(*place, Literal(passed), Literal(CHUNK_ROWS), form))
            for connection, passed in zip(connections, count(0, CHUNK_ROWS))
        ]

    with ThreadPoolExecutor(len(connections)) as threads:
        coming = asked(1 - 2**63)
        while pieces := [rows for rows in [each.result() for each in coming] if rows]:
            coming = asked(int(LEADING_ID.findall(pieces[-1][-1])[0]))
            for rows in pieces:
                yield start.encode() + b"".join(rows), len(rows)
                start = ""
    if start:
        yield start.encode(), 0
    for connection in connections:
        execute(connection, "COMMIT")
