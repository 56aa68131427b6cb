"""Readers of CSV and NDJSON: rows, or what is wrong with them."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from gzip import BadGzipFile
from typing import Any, BinaryIO, NamedTuple
from zlib import error as ZlibError

from project.api.members import USER_MEMBERS
from project.api.representations import Fault
from project.api.validation import (
    DECODER,
    MOST_BRACKETS,
    MOST_ERRORS,
    InvalidFile,
    InvalidInput,
    InvalidPayload,
    fault,
)

#: The files that are taken and given, by their media types.
FILES = {"application/x-ndjson": "ndjson", "text/csv": "csv"}
NO_FILE = "The body must be NDJSON or CSV, with the Content-Type application/x-ndjson or text/csv, and not compressed."
FORMATS = tuple(FILES.values())
COLUMNS = tuple(member.name for member in USER_MEMBERS)
NEEDED = tuple(member.name for member in USER_MEMBERS if member.is_needed)
NO_HEADER = f"The first line must name the columns: {' and '.join(NEEDED)} at least."
#: Of one row, in bytes: what the API takes for a user.
MOST_BYTES = 64 * 1024
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


class FileRow(NamedTuple):
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
            raise invalid_line(self.read + 1, "The gzip stream is damaged or cut off here.", "gzip") from None
        if not line:
            raise StopIteration
        self.read += 1
        self.size += len(line)
        if self.size > MOST_BYTES:
            raise invalid_line(self.first, f"Must have at most {MOST_BYTES:,} bytes.", "too_long")
        try:
            return line.decode("utf-8-sig" if self.read == 1 else "utf-8")
        except UnicodeDecodeError:
            raise invalid_line(self.read, "Is not UTF-8.", "encoding") from None


def invalid_line(line: int, msg: str, type: str, *member: str) -> InvalidFile:
    """Return the error of a line."""
    return InvalidFile(fault(msg, type, "body", line, *member))


def csv_rows(lines: Lines) -> Iterator[FileRow | InvalidInput]:
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
            raise invalid_line(line, said, "csv") from None
        if not cells:
            continue
        if not header:
            header = columns(line, cells)
        elif len(cells) == len(header):
            yield FileRow(line, row_members(header, cells))
        else:
            yield invalid_line(line, f"Has {len(cells):,} cells, and the header {len(header)}.", "cells")
    if not header:
        raise invalid_line(1, NO_HEADER, "header")


def columns(line: int, header: list[str]) -> list[str]:
    """Return the columns that a header names, or refuse it."""
    if not set(header) & set(NEEDED):
        # It is not quoted: it may be somebody's address.
        raise invalid_line(line, NO_HEADER, "header")
    wrong = [fault("Is required.", "missing", "body", line, name) for name in NEEDED if name not in header]
    for position, name in enumerate(header):
        if name not in COLUMNS:
            wrong.append(fault("Is not a column of users.", "extra_forbidden", "body", line, name))
        elif name in header[:position]:
            wrong.append(fault("Is named twice.", "duplicate", "body", line, name))
    if wrong:
        raise InvalidFile(*wrong[:MOST_ERRORS])
    return header


def unmarked(cell: str) -> str:
    """Return a text without the apostrophe that as_text() has added."""
    # Compared first, since the pattern costs more and almost no cell begins like that.
    return cell[1:] if cell[:1] == "'" and MADE_TEXT.match(cell) else cell


def whole(cell: str) -> int | str:
    """Return a whole number, or as it is what the payload will refuse."""
    return int(cell) if re.fullmatch("[0-9]{1,19}", cell) else cell


def true_or_false(cell: str) -> bool | str:
    """Return a truth value, or as it is what the payload will refuse."""
    return BOOLEANS.get(cell, cell)


#: What reads a cell, by the type of the member's values.
CELL_READERS: dict[type, Callable[[str], Any]] = {str: unmarked, int: whole, bool: true_or_false, datetime: str}
READ_CELL = {member.name: CELL_READERS[member.kind] for member in USER_MEMBERS}


def row_members(header: list[str], cells: list[str]) -> dict[str, Any]:
    """Return the members of a user that a CSV row tells; an empty cell is a member that is absent."""
    return {name: READ_CELL[name](cell) for name, cell in zip(header, cells) if cell or name in NEEDED}


def ndjson_rows(lines: Lines) -> Iterator[FileRow | InvalidInput]:
    """Yield the rows of an NDJSON file, or what is wrong with one. Raises InvalidFile where no more can be read."""
    number = lines.begin()
    for line in lines:
        if line.count("{") + line.count("[") > MOST_BRACKETS:
            yield invalid_line(number, "Is nested too deeply.", "too_deep")
        elif line := line.strip(" \t\r\n"):
            try:
                row = DECODER.decode(line)
            except InvalidPayload as error:
                yield InvalidFile(*located(number, error.detail))
            except ValueError:
                yield invalid_line(number, "Is not valid JSON.", "json_invalid")
            else:
                if isinstance(row, dict):
                    yield FileRow(number, row)
                else:
                    yield invalid_line(number, "Must be a JSON object.", "object_type")
        number = lines.begin()


def located(line: int, faults: Iterable[Fault]) -> Iterator[Fault]:
    """Yield the faults of a payload as those of a line."""
    for found in faults:
        yield {**found, "loc": ["body", line, *found["loc"][1:]]}


def as_text(cell: str) -> str:
    """Return a cell that no spreadsheet runs."""
    return f"'{cell}" if RUN.match(cell) else cell


READERS = {"csv": csv_rows, "ndjson": ndjson_rows}
