"""What may stand in a log, an error or a trace: no addresses, no tokens, no values of a database error, one line."""

import re
import traceback
from functools import lru_cache

import psycopg2

#: Of a text that comes from elsewhere, in characters; and of an error, how many causes.
LONGEST, MOST_CAUSES = 1000, 10
# Colours as a whole: without their first character the rest would stay.
CONTROL_CHARACTERS = re.compile("(?:\x1b\\[[0-9;]*m|[\x00-\x1f\x7f-\x9f\u2028\u2029])+")
ADDRESS = re.compile(r"""[^\s"'<>()=,:;[\]]{1,64}@[^\s"'<>()=,:;[\]]+""")
TOKEN = re.compile(r"usr_[\w-]{8,}|eyJ[\w-]+[.][\w-]+[.][\w-]*")
#: Where Postgres begins to quote a value that it could not take.
VALUE = re.compile('".*')


@lru_cache(maxsize=1024)
def harmless(text: str) -> str:
    """Return a text as it may stand in a log: without addresses and tokens, on one line, and not too long."""
    text = CONTROL_CHARACTERS.sub(" ", text[:LONGEST].encode(errors="replace").decode())
    return ADDRESS.sub("<address>", TOKEN.sub("<token>", text))


def driver_error(error: BaseException) -> BaseException:
    """Return psycopg2's error, which SQLAlchemy wraps where a session or an engine runs the statement."""
    return getattr(error, "orig", None) or error


def one_line(error: BaseException) -> str:
    """Return what an error says, without the values that a database error quotes."""
    # Postgres writes the row that it refuses into the lines after the first.
    line = str(error).strip().partition("\n")[0]
    if isinstance(driver_error(error), psycopg2.DataError):
        line = VALUE.sub('"…"', line)
    return harmless(line)


def trace(error: BaseException) -> str:
    """Return an error's traceback and its causes', without values of variables."""
    parts: list[str] = []
    following: BaseException | None = error
    while following and len(parts) < MOST_CAUSES:
        kind = type(following)
        frames = "".join(traceback.format_tb(following.__traceback__))
        parts.insert(0, f"{frames}{kind.__module__}.{kind.__qualname__}: {one_line(following)}")
        hidden = following.__suppress_context__
        following = following.__cause__ or (None if hidden else following.__context__)
    return "\nwhich led to:\n".join(parts)
