"""Users in and out of files, on the command line."""

import gzip
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg2
import pytest
from click.testing import Result
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.sql import SQL, Composable

from project.cli.commands import cli
from project.storage.connections import connections
from project.tests.conftest import ROOT, execute, mostly_slow, start_manage
from project.tests.test_cli import invoke
from project.transfer import readers, sessions, staging, writers

HEADER = b"username,email\n"
DATE = "2026-01-02T03:04:05Z"
ALL = "SELECT id, username, email, active, created_date FROM users ORDER BY id"


@pytest.fixture
def app(open_app: Flask) -> Flask:
    """An application on a migrated database."""
    return open_app


def load(app: Flask, path: Path, content: bytes | str, *options: str) -> Result:
    """Import a file."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return invoke(app, "import_users", str(path), *options)


def dump(app: Flask, path: Path, *options: str) -> bytes:
    """Export to a file, and return what is in it."""
    result = invoke(app, "export_users", str(path), *options)
    assert result.exit_code == 0, result.output
    assert not path.with_name(f"{path.name}.part").exists()
    return path.read_bytes()


def rows(url: str, columns: str = "username, email, active") -> list[tuple]:
    """Return the users of a database."""
    return execute(url, f"SELECT {columns} FROM users ORDER BY id")


@pytest.mark.parametrize("name", ["users.csv", "users.csv.gz", "users.ndjson", "users.ndjson.gz"])
def test_what_was_exported_comes_back_byte_by_byte(app: Flask, open_database: str, tmp_path: Path, name: str) -> None:
    names = [
        "=1+1",
        "+1",
        "-1",
        "@a",
        "'",
        "''",
        "'=x",
        "''-x",
        "o'hara",
        'a "b", c',
        " padded ",
        "名前",
        "🦊",
        "\\N\\",
    ]
    for number, username in enumerate([*names, "\\.", "it's", "null", "NULL", ";=1", "a,b"]):
        execute(
            open_database,
            "INSERT INTO users (id, username, email, active, created_date) VALUES"
            f" ({number * 7 + 3}, $${username}$$, '{'+=-'[number % 3]}Ab{number}@b.test', {number % 3 > 0}, '{DATE}')",
        )
    before = execute(open_database, ALL)
    exported = dump(app, tmp_path / name)
    execute(open_database, "TRUNCATE users RESTART IDENTITY")

    result = invoke(app, "import_users", str(tmp_path / name))

    assert (result.exit_code, result.stderr) == (0, f"added {len(before)}, updated 0, skipped 0, refused 0.\n")
    assert execute(open_database, ALL) == before
    assert dump(app, tmp_path / f"again-{name}") == exported
    # Those who come later have ids of their own.
    assert load(app, tmp_path / "more.csv", HEADER + b"a,new@b.test\n").exit_code == 0
    assert rows(open_database, "id")[-1][0] > before[-1][0]


def test_csv_is_safe_for_spreadsheets_and_ndjson_exact(app: Flask, open_database: str, tmp_path: Path) -> None:
    execute(
        open_database,
        f"INSERT INTO users (username, email, created_date) VALUES ('=1+1', '+a@b.test', '{DATE}'),"
        f" ('o''hara', 'b@b.test', '{DATE}'), ('''=x', 'c@b.test', '{DATE}'), (E'\\tx', 'd@b.test', '{DATE}')",
    )

    expected = [
        "id,username,email,active,created_date",
        f"1,'=1+1,'+a@b.test,true,{DATE}",
        f"2,o'hara,b@b.test,true,{DATE}",
        f"3,''=x,c@b.test,true,{DATE}",
        f"4,'\tx,d@b.test,true,{DATE}",
    ]
    lines = dump(app, tmp_path / "users.csv").decode().splitlines()
    # More columns may follow.
    assert [line[: len(start)] for line, start in zip(lines, expected, strict=True)] == expected
    first = {"id": 1, "username": "=1+1", "email": "+a@b.test", "active": True, "created_date": DATE}
    lines = dump(app, tmp_path / "users.ndjson").decode().splitlines()
    assert json.loads(lines[0]) == {**json.loads(lines[0]), **first}
    assert lines[0] == json.dumps(json.loads(lines[0]), separators=(",", ":"))
    assert json.loads(lines[3])["username"] == "\tx"


TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20).filter(str.strip)
CELLS = st.text(st.sampled_from("=+-@'\"\\,;.N a\u00a0"), min_size=1, max_size=8).filter(str.strip)


@settings(
    max_examples=settings().max_examples // 8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(names=st.lists(TEXT | CELLS, min_size=1, max_size=20), format=st.sampled_from(readers.FORMATS))
def test_any_name_survives_the_way_out_and_in(
    app: Flask, open_database: str, tmp_path: Path, names: list[str], format: str
) -> None:
    execute(open_database, "TRUNCATE users")
    sent = "".join(json.dumps({"username": name, "email": f"a{i}@b.test"}) + "\n" for i, name in enumerate(names))
    assert load(app, tmp_path / "in.ndjson", sent).exit_code == 0
    exported = dump(app, tmp_path / f"out.{format}")
    execute(open_database, "TRUNCATE users")

    assert invoke(app, "import_users", str(tmp_path / f"out.{format}")).exit_code == 0

    assert [name for (name,) in rows(open_database, "username")] == names
    assert dump(app, tmp_path / f"again.{format}") == exported


def test_large_export_is_in_pieces(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = "".join(f"user{number},user{number}@b.test\n" for number in range(10))
    assert load(app, tmp_path / "in.csv", HEADER.decode() + sent).exit_code == 0
    whole = dump(app, tmp_path / "whole.csv")
    monkeypatch.setattr(writers, "CHUNK_ROWS", 3)

    assert dump(app, tmp_path / "pieces.csv") == whole


def test_export_is_as_of_one_moment(app: Flask, open_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    add = "INSERT INTO users (id, username, email) SELECT n, 'a', n || '@b.test' FROM generate_series({}, {}, 2) n"
    execute(open_database, add.format(1, 19))
    monkeypatch.setattr(writers, "CHUNK_ROWS", 2)

    with app.app_context(), sessions.session(connections().engine) as one, sessions.session(
        connections().engine
    ) as other:
        pieces = writers.write_users([one, other], "ndjson")
        begun, _ = next(pieces)
        execute(open_database, add.format(2, 40))
        execute(open_database, "DELETE FROM users WHERE id > 10")
        lines = b"".join([begun, *(piece for piece, _ in pieces)]).splitlines()

    assert [json.loads(line)["id"] for line in lines] == list(range(1, 20, 2))


def test_export_that_the_database_refuses_says_why(app: Flask) -> None:
    with app.app_context(), sessions.session(connections().engine) as connection, pytest.raises(
        psycopg2.errors.DivisionByZero
    ):
        writers.copy_rows(connection, SQL("COPY (SELECT 1 / 0) TO STDOUT"))


def test_export_of_nobody_is_a_header(app: Flask, tmp_path: Path) -> None:
    assert dump(app, tmp_path / "users.csv").decode() == ",".join(readers.COLUMNS) + "\n"
    assert dump(app, tmp_path / "users.ndjson") == b""
    assert invoke(app, "import_users", str(tmp_path / "users.csv")).stderr.startswith("added 0, ")


def test_export_can_be_of_some(app: Flask, tmp_path: Path) -> None:
    load(app, tmp_path / "in.csv", b"username,email,active\na,a@b.test,true\nb,b@b.test,false\nc,c@b.test,\n")

    exported = {active: dump(app, tmp_path / "out.ndjson", "--active", active) for active in ("true", "false")}

    assert [json.loads(line)["username"] for line in exported["true"].splitlines()] == ["a", "c"]
    assert [json.loads(line)["username"] for line in exported["false"].splitlines()] == ["b"]


def test_standard_streams_need_a_format_and_take_one(app: Flask, open_database: str) -> None:
    runner = app.test_cli_runner()

    assert runner.invoke(cli, ["import_users", "-"], input=HEADER).exit_code == 2
    added = runner.invoke(cli, ["import_users", "-", "--format", "csv"], input=HEADER + b"a,a@b.test\n")
    exported = runner.invoke(cli, ["export_users", "-", "--format", "csv"])

    assert added.stderr == "added 1, updated 0, skipped 0, refused 0.\n"
    assert exported.stdout.splitlines()[1].startswith("1,a,a@b.test,true,")
    assert exported.stderr == "Exported 1 users.\n"


GOOD = {
    "BOM and CRLF": (b"\xef\xbb\xbfusername,email\r\na,a@b.test\r\n", [("a", "a@b.test", True)]),
    "no line break at the end": (b"username,email\na,a@b.test", [("a", "a@b.test", True)]),
    "blank lines": (b"\n\nusername,email\n\na,a@b.test\n\n\n", [("a", "a@b.test", True)]),
    "other order": (b"active,email,username\nfalse,a@b.test,a\n", [("a", "a@b.test", False)]),
    "quoted": (b'"username","email"\n"a ""b"", c","a@b.test"\n', [('a "b", c', "a@b.test", True)]),
    "line break around an address": (b'username,email\na,"a@b.test\n"\n', [("a", "a@b.test", True)]),
    "empty cells": (b"id,username,email,active,created_date\n,a,a@b.test,,\n", [("a", "a@b.test", True)]),
    "backslashes": (b"username,email\n\\N\\t\\\\,a@b.test\n", [("\\N\\t\\\\", "a@b.test", True)]),
}


@pytest.mark.parametrize("name", GOOD)
def test_ordinary_csv_is_taken(app: Flask, open_database: str, tmp_path: Path, name: str) -> None:
    content, expected = GOOD[name]

    result = load(app, tmp_path / "users.csv", content)

    assert (result.exit_code, rows(open_database)) == (0, expected), result.output


def test_ordinary_ndjson_is_taken(app: Flask, open_database: str, tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"username": "a", "email": "a@b.test"}\r\n\n \n'
    content += b'{"email":"b@b.test","username":"b","active":false}'

    assert load(app, tmp_path / "users.ndjson", content).exit_code == 0
    assert rows(open_database) == [("a", "a@b.test", True), ("b", "b@b.test", False)]


def test_broken_file_needs_no_report(app: Flask, tmp_path: Path) -> None:
    assert load(app, tmp_path / "users.csv", b"\xff").stderr == "Error: Nothing was written. line 1: Is not UTF-8.\n"


def line(**members: object) -> bytes:
    """Return a line of NDJSON."""
    return json.dumps({"username": "a", "email": "a@b.test", **members}).encode() + b"\n"


NAMES = "The first line must name the columns: username and email at least."
REQUIRED = "Is required."
CONTROL = "Must not contain control characters."
DAMAGED = "The gzip stream is damaged or cut off here."
NOT_JSON = "Is not valid JSON."
TOO_LONG = "Must have at most 65,536 bytes."
OK = b"a,a@b.test\n"
PACKED = gzip.compress(HEADER + b"".join(b"user%d,user%d@b.test\n" % (n, n * n) for n in range(2000)))

#: The broken files: name, content, and what is said of which line.
BROKEN = {
    # CSV as a whole
    "empty": ("csv", b"", f"line 1: {NAMES}"),
    "BOM alone": ("csv", b"\xef\xbb\xbf", f"line 1: {NAMES}"),
    "blank lines alone": ("csv", b"\n\n\n", f"line 1: {NAMES}"),
    "no header": ("csv", OK, f"line 1: {NAMES}"),
    "semicolons": ("csv", b"username;email\na;a@b.test\n", f"line 1: {NAMES}"),
    "JSON for CSV": ("csv", line(), f"line 1: {NAMES}"),
    "UTF-16": ("csv", "username,email\na,a@b.test\n".encode("utf-16"), "line 1: Is not UTF-8."),
    "a column is missing": ("csv", b"username\na\n", f"line 1, email: {REQUIRED}"),
    "a column more": (
        "csv",
        b"username,email,nickname\na,a@b.test,x\n",
        "line 1, nickname: Is not a column of users.",
    ),
    "two columns more": (
        "csv",
        b"username,email,nickname,\xc3\xa4ge\n",
        "line 1, nickname: Is not a column of users.; line 1, \\xe4ge: Is not a column of users.",
    ),
    "header in capitals": (
        "csv",
        b"Username,email\n",
        f"line 1, username: {REQUIRED}; line 1, Username: Is not a column of users.",
    ),
    "column twice": ("csv", b"username,email,email\na,a@b.test,c@b.test\n", "line 1, email: Is named twice."),
    "quote in the header": ("csv", b'username,"email\na,a@b.test\n', "line 1: A quotation mark is opened here"),
    "NUL in the header": ("csv", b"username,email,\0\n", "line 1, \\x00: Is not a column of users."),
    # CSV where a row ends the reading
    "byte that is no UTF-8": ("csv", HEADER + OK + b"\xff,b@b.test\n", "line 3: Is not UTF-8."),
    "Latin-1": ("csv", HEADER + "jürgen,b@b.test\n".encode("latin-1"), "line 2: Is not UTF-8."),
    "half a letter at the end": ("csv", HEADER + OK + b"a\xc3", "line 3: Is not UTF-8."),
    "line of 10 MB": ("csv", HEADER + OK + b"a" * 10_000_000 + b",b@b.test\n" + OK, f"line 3: {TOO_LONG}"),
    "record of many lines": ("csv", HEADER + b'"' + b"a\n" * 40_000 + b'",b@b.test\n', f"line 2: {TOO_LONG}"),
    "open quotation mark": ("csv", HEADER + OK + b'"a,b@b.test\nc,c@b.test\n', "line 3: A quotation mark is opened"),
    "stray quotation mark": ("csv", HEADER + b'"a"b,b@b.test\n', "line 2: A quotation mark stands inside a cell"),
    "carriage returns alone": ("csv", HEADER + b"a,a@b.test\rb,b@b.test\r", "line 2: A carriage return stands alone."),
    # CSV rows
    "a cell too many": ("csv", HEADER + OK + b"b,b@b.test,x\n", "line 3: Has 3 cells, and the header 2."),
    "a cell too few": ("csv", HEADER + b"b\n" + OK, "line 2: Has 1 cells, and the header 2."),
    "unquoted comma": ("csv", HEADER + OK + OK.replace(b",", b",x,"), "line 3: Has 3 cells, and the header 2."),
    "empty username": ("csv", HEADER + OK + b",b@b.test\n", "line 3, username: Must not be blank."),
    "blank username": ("csv", HEADER + b"  ,b@b.test\n", "line 2, username: Must not be blank."),
    "empty address": ("csv", HEADER + b"b,\n", "line 2, email: Is not an email address."),
    "no address": ("csv", HEADER + OK + b"\n\nb,b\n", "line 5, email: Is not an email address."),
    "long username": (
        "csv",
        HEADER + b"x" * 129 + b",b@b.test\n",
        "line 2, username: Must have at most 128 character",
    ),
    "long address": (
        "csv",
        HEADER + b"b," + b"x" * 129 + b"@b.test\n",
        "line 2, email: Must have at most 128 charact",
    ),
    "NUL": ("csv", HEADER + OK + b"b\0,b@b.test\n", f"line 3, username: {CONTROL}"),
    "quoted line break": (
        "csv",
        HEADER + OK + b'"b\nc",b@b.test\n' + OK,
        "2 rows are refused, the first is line 3, us",
    ),
    "after a quoted line break": (
        "csv",
        HEADER + b'b,"b@b.test\r\n\r\n"\r\nc,c\r\n',
        "line 5, email: Is not an email",
    ),
    "tab": ("csv", HEADER + b"b\tc,b@b.test\n", f"line 2, username: {CONTROL}"),
    "active in capitals": (
        "csv",
        b"username,email,active\na,a@b.test,TRUE\n",
        "line 2, active: Must be true or false.",
    ),
    "active as a number": ("csv", b"username,email,active\na,a@b.test,1\n", "line 2, active: Must be true or false."),
    "active in words": ("csv", b"username,email,active\na,a@b.test,yes\n", "line 2, active: Must be true or false."),
    "id that is none": ("csv", b"username,email,id\na,a@b.test,x\n", "line 2, id: Must be a whole number."),
    "id 0": ("csv", b"username,email,id\na,a@b.test,0\n", "line 2, id: Must be at least 1."),
    "enormous id": ("csv", b"username,email,id\na,a@b.test,9999999999999999999\n", "line 2, id: Must be at most"),
    "date that is none": (
        "csv",
        b"username,email,created_date\na,a@b.test,2026-02-30T00:00:00Z\n",
        "line 2, created_d",
    ),
    "date of a spreadsheet": (
        "csv",
        b"username,email,created_date\na,a@b.test,1/2/2026\n",
        "line 2, created_date: Must",
    ),
    "address twice": ("csv", HEADER + OK + b"b,A@B.TEST\n", "line 3, email: Is on line 2 too."),
    "address of somebody": (
        "csv",
        HEADER + OK + b"b,TAKEN@b.test\n",
        "line 3, email: Sorry. That email already exists.",
    ),
    "id twice": ("csv", b"id,username,email\n5,a,a@b.test\n5,b,b@b.test\n", "line 3, id: Is on line 2 too."),
    "id of somebody": ("csv", b"id,username,email\n1,a,a@b.test\n", "line 2, id: Is the id of another user."),
    "two bad rows": (
        "csv",
        HEADER + b"a,a\n" + OK + b",\n",
        "2 rows are refused, the first is line 2, email: Is not an",
    ),
    # gzip
    "cut off": ("csv.gz", PACKED[: len(PACKED) // 2], f": {DAMAGED}"),
    "cut off at the checksum": ("csv.gz", PACKED[:-4], f"line 2002: {DAMAGED}"),
    "wrong checksum": ("csv.gz", PACKED[:-8] + bytes(8), f"line 2002: {DAMAGED}"),
    "no gzip": ("csv.gz", HEADER + OK, f"line 1: {DAMAGED}"),
    "garbage after it": ("csv.gz", gzip.compress(HEADER + OK) + b"garbage", f"line 3: {DAMAGED}"),
    "bomb": ("csv.gz", gzip.compress(HEADER + b"\0" * 50_000_000, 1), f"line 2: {TOO_LONG}"),
    # NDJSON
    "CSV for NDJSON": ("ndjson", HEADER, f"line 1: {NOT_JSON}"),
    "cut off line": ("ndjson", line() + line()[:-3], f"line 2: {NOT_JSON}"),
    "array": ("ndjson", b"[" + line().strip() + b"]\n", "line 1: Must be a JSON object."),
    "document in several lines": (
        "ndjson",
        b"[\n" + line() + b"]\n",
        "2 rows are refused, the first is line 1: Is not",
    ),
    "number": ("ndjson", line() + b"4711\n", "line 2: Must be a JSON object."),
    "null": ("ndjson", b"null\n", "line 1: Must be a JSON object."),
    "NaN": ("ndjson", b'{"username": NaN, "email": "a@b.test"}\n', f"line 1: {NOT_JSON}"),
    "member twice": (
        "ndjson",
        b'{"username": "a", "email": "a@b.test", "email": "b@b.test"}\n',
        "line 1, email: Is name",
    ),
    "member missing": ("ndjson", line() + b'{"username": "b"}\n', f"line 2, email: {REQUIRED}"),
    "member more": ("ndjson", line(nickname="x"), "line 1, nickname: Is not a member of this object."),
    "member with a tab": ("ndjson", line(**{"a\tb": 1}), "line 1, a\\tb: Is not a member of this object."),
    "wrong type": ("ndjson", line(username=1), "line 1, username: Must be a string."),
    "true as text": ("ndjson", line(active="true"), "line 1, active: Must be true or false."),
    "id as text": ("ndjson", line(id="1"), "line 1, id: Must be a whole number."),
    "date as a number": ("ndjson", line(created_date=1), "line 1, created_date: Must be a string."),
    "half a surrogate pair": ("ndjson", line(username="\ud800"), "line 1, username: Must be valid Unicode."),
    "surrogate in a name": ("ndjson", line(**{"\ud800": 1}), f"line 1: {NOT_JSON}"),
    "NUL in JSON": ("ndjson", line(username="a\0b"), f"line 1, username: {CONTROL}"),
    "raw NUL": ("ndjson", line() + b"\0\n", f"line 2: {NOT_JSON}"),
    "20,000 brackets": ("ndjson", b"[" * 20_000 + b"\n", "line 1: Is nested too deeply."),
    "number of 10,000 digits": ("ndjson", b'{"id": ' + b"9" * 10_000 + b"}\n", f"line 1: {NOT_JSON}"),
    "NDJSON line of 10 MB": ("ndjson", line() + b" " * 10_000_000, f"line 2: {TOO_LONG}"),
    "NDJSON that is no UTF-8": ("ndjson", line() + b'"\xff"\n', "line 2: Is not UTF-8."),
}


#: One of each kind.
BROKEN_IN_EVERY_RUN = """
NDJSON that is no UTF-8|surrogate in a name|date of a spreadsheet|stray quotation mark|NUL in the header|member twice|
blank lines alone|garbage after it|bomb|number|semicolons|a cell too many|20,000 brackets|column twice|
date that is none
""".replace("\n", "").split("|")


@pytest.mark.parametrize("name", mostly_slow(BROKEN, BROKEN_IN_EVERY_RUN))
def test_broken_file_is_one_line_and_writes_nothing(app: Flask, open_database: str, tmp_path: Path, name: str) -> None:
    execute(open_database, "INSERT INTO users (username, email) VALUES ('taken', 'taken@b.test')")
    before = execute(open_database, "SELECT *, xmin FROM users")
    ending, content, said = BROKEN[name]
    report = tmp_path / "report"

    result = load(app, tmp_path / f"users.{ending}", content, "--report", str(report))

    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1), result.output
    assert result.stderr.startswith("Error: Nothing was written. ")
    assert said in result.stderr
    assert "b.test" not in result.stderr
    assert execute(open_database, "SELECT *, xmin FROM users") == before
    found = [json.loads(entry) for entry in report.read_text().splitlines()]
    assert f"line {found[0]['line']}" in result.stderr and found[0]["msg"] in result.stderr
    assert found == sorted(found, key=lambda entry: entry["line"])


MIXED = """username,email,active
new,new@b.test,false
bad,bad,true
michael,MICHAEL@b.test,
again,NEW@b.test,
zoe,zoe@b.test,
"""


@pytest.fixture
def michael(open_database: str) -> None:
    """A user who is there already, and does not take part."""
    execute(open_database, "INSERT INTO users (username, email, active) VALUES ('mike', 'michael@b.test', false)")


@pytest.mark.usefixtures("michael")
@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    ("on_conflict", "said", "expected"),
    [
        (
            "skip",
            "added 2, updated 0, skipped 2, refused 1.\n",
            [("mike", "michael@b.test", False), ("new", "new@b.test", False), ("zoe", "zoe@b.test", True)],
        ),
        (
            "update",
            "added 2, updated 2, skipped 0, refused 1.\n",
            [("michael", "MICHAEL@b.test", False), ("again", "NEW@b.test", True), ("zoe", "zoe@b.test", True)],
        ),
    ],
)
def test_good_rows_are_written_and_bad_ones_reported(
    app: Flask,
    open_database: str,
    tmp_path: Path,
    on_conflict: str,
    said: str,
    expected: list[tuple],
    dry_run: bool,
) -> None:
    before = execute(open_database, "SELECT *, xmin FROM users")
    options = ["--on-conflict", on_conflict, "--report", str(tmp_path / "report"), *(["--dry-run"] * dry_run)]

    result = load(app, tmp_path / "users.csv", MIXED, *options)

    assert (result.exit_code, result.stderr) == (0, "Would be: " * dry_run + said)
    (found,) = map(json.loads, (tmp_path / "report").read_text().splitlines())
    assert (found["line"], found["member"], found["type"]) == (3, "email", "email")
    if dry_run:
        assert execute(open_database, "SELECT *, xmin FROM users") == before
    else:
        assert sorted(rows(open_database)) == sorted(expected)


@pytest.mark.usefixtures("michael")
def test_dry_run_of_a_good_file_writes_nothing(app: Flask, open_database: str, tmp_path: Path) -> None:
    result = load(app, tmp_path / "users.csv", HEADER + OK, "--dry-run")

    assert result.stderr == "Would be: added 1, updated 0, skipped 0, refused 0.\n"
    assert len(rows(open_database)) == 1


@pytest.mark.usefixtures("michael")
def test_update_keeps_ids_and_refuses_those_of_others(app: Flask, open_database: str, tmp_path: Path) -> None:
    sent = "id,username,email\n70,mike,michael@b.test\n1,other,other@b.test\n80,eve,eve@b.test\n80,ada,ada@b.test\n"

    result = load(app, tmp_path / "users.csv", sent, "--on-conflict", "update", "--report", str(tmp_path / "report"))

    assert result.stderr == "added 1, updated 1, skipped 0, refused 2.\n"
    assert rows(open_database, "id, username") == [(1, "mike"), (80, "eve")]
    found = [json.loads(entry) for entry in (tmp_path / "report").read_text().splitlines()]
    assert [(entry["line"], entry["member"], entry["type"]) for entry in found] == [
        (3, "id", "id_exists"),
        (5, "id", "id_exists"),
    ]


def test_ids_follow_the_order_of_the_file(app: Flask, open_database: str, tmp_path: Path) -> None:
    load(app, tmp_path / "users.csv", HEADER + b"z,z@b.test\na,a@b.test\nm,m@b.test\n")

    assert rows(open_database, "id, username") == [(1, "z"), (2, "a"), (3, "m")]


def test_bad_rows_of_a_large_file_are_found(
    app: Flask, open_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "BATCH_ROWS", 4)
    sent = "".join(f"a,{'bad' if number % 5 == 0 else f'a{number}@b.test'}\n" for number in range(20))

    result = load(app, tmp_path / "users.csv", HEADER.decode() + sent, "--on-conflict", "skip")

    assert result.stderr == "added 16, updated 0, skipped 0, refused 4.\n"


def test_missing_file_and_folder_are_one_line(app: Flask, tmp_path: Path) -> None:
    for command in (["import_users", f"{tmp_path}/none.csv"], ["export_users", f"{tmp_path}/none/users.csv"]):
        result = invoke(app, *command)
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
        assert "No such file or directory." in result.stderr


def test_user_who_is_added_in_between_is_found_on_the_second_look(
    app: Flask, open_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = staging.Import.insert

    def added_in_between(job: staging.Import, statement: Composable) -> int:
        execute(open_database, "INSERT INTO users (username, email) VALUES ('first', 'a@b.test')")
        return insert(job, statement)

    monkeypatch.setattr(staging.Import, "insert", added_in_between)

    result = load(app, tmp_path / "users.csv", HEADER + OK)

    assert "line 2, email: Sorry. That email already exists." in result.stderr
    assert rows(open_database, "username") == [("first",)]


def test_database_that_never_agrees_is_one_line(
    app: Flask, open_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(open_database, "INSERT INTO users (username, email) VALUES ('first', 'a@b.test')")
    monkeypatch.setattr(staging.Import, "refused", lambda job: 0)

    result = load(app, tmp_path / "users.csv", HEADER + OK)

    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert result.stderr.startswith("Error: The database says: ")
    assert "a@b.test" not in result.stderr


def numbered(first: int, last: int) -> str:
    """Return a file with users of these numbers."""
    return "username,email\n" + "".join(f"user{n},user{n}@b.test\n" for n in range(first, last))


@pytest.mark.slow
def test_two_imports_of_overlapping_files_share_the_users(open_database: str, tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text(numbered(0, 3000))
    (tmp_path / "2.csv").write_text(numbered(1000, 4000))

    def run(name: str) -> str:
        command = start_manage(
            "import_users", str(tmp_path / name), "--on-conflict", "skip", DATABASE_URL=open_database
        )
        return command.communicate(timeout=60)[1]

    with ThreadPoolExecutor() as pool:
        said = list(pool.map(run, ["1.csv", "2.csv"]))

    assert sorted(said) == [
        "added 1,000, updated 0, skipped 2,000, refused 0.\n",
        "added 3,000, updated 0, skipped 0, refused 0.\n",
    ]
    assert len(rows(open_database)) == 4000


def wait_for(url: str, question: str, answer: int) -> None:
    """Wait until the database answers so, 30 s at most."""
    deadline = time.monotonic() + 30
    while execute(url, question) != [(answer,)]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["staging", "merging"])
def test_killed_import_leaves_the_table_as_it_was(open_database: str, tmp_path: Path, moment: str) -> None:
    execute(open_database, "INSERT INTO users (username, email) VALUES ('first', 'first@b.test')")
    before = execute(open_database, "SELECT *, xmin FROM users")
    blocker = psycopg2.connect(open_database.replace("+psycopg2", ""))
    blocker.cursor().execute("INSERT INTO users (username, email) VALUES ('slow', 'user2999@b.test')")
    if moment == "staging":
        reader, writer = os.pipe()
        os.write(writer, numbered(0, 100).encode())
        source = f"/dev/fd/{reader}"
    else:
        (tmp_path / "users.csv").write_text(numbered(0, 3000))
        source = str(tmp_path / "users.csv")
    command = subprocess.Popen(
        [sys.executable, "manage.py", "import_users", source, "--format", "csv"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": open_database},
        pass_fds=[reader] if moment == "staging" else [],
    )
    working = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND query "
        + ("LIKE '%CREATE TEMPORARY TABLE%'" if moment == "staging" else "LIKE '%INSERT INTO users (_id%'")
    )
    wait_for(open_database, working, 1)
    command.send_signal(signal.SIGKILL)
    command.wait()
    blocker.rollback()
    blocker.close()
    wait_for(open_database, working, 0)

    assert execute(open_database, "SELECT *, xmin FROM users") == before


@pytest.mark.slow
def test_progress_is_shown_on_a_terminal(open_database: str, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text(numbered(0, 10))
    import_rate, export_rate = r"100%.* \[\d\d:\d\d<\d\d:\d\d,.*B/s\]", r"\[.* users/s\]"
    for name, file, rate in (("import_users", "users.csv", import_rate), ("export_users", "out.csv", export_rate)):
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        command = [sys.executable, str(ROOT / "manage.py"), name, str(tmp_path / file)]
        environment = {**os.environ, "DATABASE_URL": open_database}
        subprocess.run(command, cwd=ROOT, env=environment, stderr=theirs, check=True, timeout=60)
        os.close(theirs)
        said = os.read(ours, 65536).decode()
        os.close(ours)
        assert re.search(rate, said)
        assert said.rstrip().splitlines()[-1].split("\r")[-1].startswith(("added 10,", "Exported 10 users."))
