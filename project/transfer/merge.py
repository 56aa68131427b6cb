"""The SQL of an import: the staging table, its conflicts and the merge into the table of users."""

from psycopg2.sql import SQL, Composable, Identifier, Literal

from project.api.constraints import CONSTRAINTS
from project.api.members import SQL_DIALECT, USER_MEMBERS, Member, default_of, sql_of
from project.api.models import EMAIL_FOLDED
from project.api.payloads import UserIn

#: What an import keeps of a user, and of this what it writes to an existing one, whose id and date stay.
KEPT = [member for member in USER_MEMBERS if member.is_taken]
WRITTEN = [member for member in KEPT if member.name in UserIn.model_fields]
#: The members that a row can set to null. In a staged row, null is else a member that is absent.
NULLABLE = [member.name for member in KEPT if member.is_nullable]
STAGED = ("line", "cleared", *(member.name for member in KEPT))
FAULTS = ("line", "member", "msg", "type")
# Folded by the database, as the unique index is: Python's idea of the same address does not count.
KEY = sql_of(EMAIL_FOLDED)
TAKEN = CONSTRAINTS["users_email_key"]


def column(member: Member) -> Composable:
    """Return the definition of a column of the staging table."""
    return SQL("{} {}").format(Identifier(member.name), SQL(member.column.type.compile(SQL_DIALECT)))


TABLES = SQL("""
    CREATE TEMPORARY TABLE staged (
        line bigint, cleared text[], {columns}, key text COLLATE "C" GENERATED ALWAYS AS ({key_of_row}) STORED
    );
    CREATE TEMPORARY TABLE faults (line bigint, member text, msg text, type text);
    CREATE TEMPORARY VIEW conflicts (line, member, msg, type) AS
        SELECT line, {member}, format('Is on line %s too.', first), {code}
        FROM (
            SELECT line, first_value(line) OVER same AS first, row_number() OVER same AS n
            FROM staged WINDOW same AS (PARTITION BY key ORDER BY line)
        ) numbered WHERE n > 1
    UNION ALL
        SELECT line, {member}, {message}, {code} FROM staged WHERE EXISTS (SELECT FROM users WHERE {key} = key)
    UNION ALL
        SELECT line, 'id', format('Is on line %s too.', first), 'id_exists'
        FROM (
            SELECT line, key, first_value(line) OVER same AS first, first_value(key) OVER same AS other
            FROM staged WHERE id IS NOT NULL WINDOW same AS (PARTITION BY id ORDER BY line)
        ) numbered WHERE key <> other
    UNION ALL
        SELECT line, 'id', 'Is the id of another user.', 'id_exists'
        FROM staged JOIN users ON users.id = staged.id AND {key} <> key;
    """).format(
    columns=SQL(", ").join(map(column, KEPT)),
    key=SQL(KEY),
    key_of_row=SQL(KEY.replace("users.", "")),
    member=Literal(TAKEN.member),
    message=Literal(TAKEN.message),
    code=Literal(TAKEN.code),
)

FIND_CONFLICTS = SQL("INSERT INTO faults SELECT * FROM conflicts")
COUNT_CONFLICTS = SQL("SELECT count(DISTINCT line) FROM conflicts")

DROP_SUPERSEDED = SQL("""
    DELETE FROM staged USING (
        SELECT line, row_number() OVER (PARTITION BY key ORDER BY line DESC) AS n FROM staged
    ) numbered WHERE n > 1 AND numbered.line = staged.line
    """)

IS_NEW = SQL("NOT EXISTS (SELECT FROM users WHERE {} = key)").format(SQL(KEY))

# The id of a row with a known address does not count: the address says which user is meant.
FIND_IDS = SQL("""
    INSERT INTO faults SELECT * FROM conflicts
    WHERE type = 'id_exists' AND line IN (SELECT line FROM staged WHERE {})
    """).format(IS_NEW)

DROP_REFUSED = SQL("DELETE FROM staged WHERE line IN (SELECT line FROM faults)")
COUNT_NEW = SQL("SELECT count(*) FROM staged WHERE {}").format(IS_NEW)
NULL = SQL("NULL")


def staged_value(member: Member, otherwise: Composable) -> Composable:
    """Return the value of a member in a staged row: what the row tells, or another one where it does not tell it."""
    told = SQL("staged.{}").format(Identifier(member.name))
    if member.is_needed or otherwise == NULL:
        return told
    told = SQL("coalesce({}, {})").format(told, otherwise)
    if not member.is_nullable:
        return told
    return SQL("CASE WHEN {} = ANY (staged.cleared) THEN NULL ELSE {} END").format(Literal(member.name), told)


def default(member: Member) -> Composable:
    """Return what a new user gets where the row does not tell a member."""
    return SQL("nextval(pg_get_serial_sequence('users', 'id'))" if member.name == "id" else default_of(member.column))


def present(member: Member) -> Composable:
    """Return what the existing user has."""
    return SQL("users.{}").format(Identifier(member.name))


NAMES = SQL(", ").join(Identifier(member.name) for member in KEPT)

INSERT = SQL("INSERT INTO users ({}) SELECT {} FROM staged").format(
    NAMES, SQL(", ").join(staged_value(member, default(member)) for member in KEPT)
)

ADD_ALL = SQL("{} ORDER BY line").format(INSERT)
ADD_OTHERS = SQL("{} ORDER BY line ON CONFLICT DO NOTHING").format(INSERT)

# In this order: a user that the first statement does not find is new to the second one. Where another writer adds it
# in between, the unique index refuses, and the merge begins again.
WRITE_PRESENT = SQL("UPDATE users SET {} FROM staged WHERE {} = key").format(
    SQL(", ").join(
        SQL("{} = {}").format(Identifier(member.name), staged_value(member, present(member))) for member in WRITTEN
    ),
    SQL(KEY),
)

ADD_NEW = SQL("{} WHERE {} ORDER BY line").format(INSERT, IS_NEW)
