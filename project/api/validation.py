"""Validation of what callers send: faults, texts, addresses, URLs, JSON."""

import json
import re
from datetime import datetime
from typing import Any

import email_validator
from pydantic import AnyHttpUrl, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from project.api.representations import Fault

HTTP_URL = TypeAdapter(AnyHttpUrl)
HTTP_URL_PATTERN = r"(?i:https?)://[^\s\\]+"
# Control characters, and the halves of surrogate pairs, which JSON can write though no text holds them.
SURROGATES = re.compile("[\ud800-\udfff]")
UNPRINTABLE = re.compile(f"[\x00-\x1f\x7f-\x9f]|{SURROGATES.pattern}")

# What most addresses are like. email-validator takes them too, at 17 µs; what is odd in any way is left to it.
PLAIN_ADDRESS = re.compile(
    # No local part and no label of a domain is longer than may be.
    r"(?=[^@]{1,64}@)(?!.*[a-z0-9-]{64})" r"[a-z0-9_+-]+(?:\.[a-z0-9_+-]+)*@(?:[a-z0-9]+(?:-[a-z0-9]+)*\.)+[a-z]+",
    re.ASCII | re.IGNORECASE,
)

#: How an id is written: a positive decimal number in ASCII digits, so that a row has one address and no second one.
ID = re.compile("[1-9][0-9]*")
#: The largest id that the database has.
MAX_ID = 2**63 - 1

#: What callers read for the errors that pydantic finds by itself.
FIELD_MESSAGES = {
    "missing": "Is required.",
    "extra_forbidden": "Is not a member of this object.",
    "string_type": "Must be a string.",
    "string_unicode": "Must be valid Unicode.",
    "string_too_long": "Must have at most {max_length} characters.",
    "string_too_short": "Must have {min_length} or more characters.",
    "bool_type": "Must be true or false.",
    "int_type": "Must be a whole number.",
    "greater_than_equal": "Must be at least {ge}.",
    "less_than_equal": "Must be at most {le}.",
    "literal_error": "Must be one of {expected}.",
}

#: A body of 64 KiB has room for thousands of unknown members; naming the first of them will do.
MOST_ERRORS = 50
#: More than any payload has, also in its texts. Python's parser recurses for each, up to a limit of its version's.
MOST_BRACKETS = 200


class InvalidInput(Exception):
    """A request that is not what the call takes.

    detail: the contract's list of {loc, msg, type}, one for each member at fault.
    """

    message: str
    code: str

    def __init__(self, *detail: Fault) -> None:
        super().__init__(*detail)
        self.detail = list(detail)


class InvalidPayload(InvalidInput):
    """A body that is not what the call takes."""

    message, code = "Invalid payload.", "invalid_payload"


class InvalidQuery(InvalidInput):
    """Query parameters that the call does not take."""

    message, code = "Invalid query parameters.", "invalid_query"


class InvalidPath(InvalidInput):
    """A path that names what cannot be there."""

    message, code = "Invalid path.", "invalid_path"


class InvalidFile(InvalidInput):
    """A file that cannot be imported, or rows of it; loc is "body", the line and the member."""

    message, code = "Invalid file.", "invalid_file"


def fault(msg: str, type: str, *loc: str | int) -> Fault:
    """Return one entry of an error's detail; loc begins with "body", "query" or "path"."""
    return {"loc": list(loc), "msg": msg, "type": type}


def printable(value: str) -> str:
    """Return the text, or refuse a control character in it."""
    if UNPRINTABLE.search(value):
        raise PydanticCustomError("control_character", "Must not contain control characters.")
    return value


def not_blank(value: str) -> str:
    """Return the text, or refuse one that is nothing but white space."""
    if not value.strip():
        raise PydanticCustomError("blank", "Must not be blank.")
    return value


def email_address(value: str) -> str:
    """Return the address as it was written, or refuse what is none."""
    if PLAIN_ADDRESS.fullmatch(value):
        return value
    try:
        email_validator.validate_email(value, check_deliverability=False)
    except email_validator.EmailSyntaxError as error:
        raise PydanticCustomError("email", "Is not an email address. {reason}", {"reason": str(error)}) from error
    return value


def http_url(value: str) -> str:
    """Return the URL as it was written, or refuse what is none of http or https."""
    try:
        HTTP_URL.validate_python(value)
    except ValidationError as invalid:
        (error,) = invalid.errors()
        raise PydanticCustomError("url", "Is not a URL. {reason}", {"reason": f"{error['msg']}."}) from None
    # What parsers forgive, each in its own way, so that one would see another host than the other.
    if not re.fullmatch(HTTP_URL_PATTERN, value):
        raise PydanticCustomError("url", "Is not a URL. It has white space or a backslash, or lacks ://.")
    return value


def parse_id(text: str) -> int | None:
    """Return the id that a text names, or None where no row can have it."""
    # By its length first: Python refuses to read thousands of digits.
    if len(text) > len(str(MAX_ID)) or not ID.fullmatch(text) or int(text) > MAX_ID:
        return None
    return int(text)


def whole_number(value: str) -> int:
    """Read a whole number from a query parameter."""
    if not re.fullmatch("[0-9]{1,9}", value):
        raise PydanticCustomError("int_type", "Must be a whole number.")
    return int(value)


def flag(value: str) -> bool:
    """Read true or false from a query parameter."""
    if value not in ("true", "false"):
        raise PydanticCustomError("bool_type", "Must be true or false.")
    return value == "true"


def moment(value: str) -> str:
    """Return a date as the service writes it, or refuse what is none."""
    try:
        if not re.fullmatch("[0-9-]{10}T[0-9:]{8}Z", value):
            raise ValueError(value)
        datetime.fromisoformat(value)
    except ValueError:
        raise PydanticCustomError("date", "Must be a date such as 2026-11-20T12:00:00Z.") from None
    return value


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object's members, or refuse one that is named twice."""
    members: dict[str, Any] = {}
    for name, value in pairs:
        if SURROGATES.search(name):
            # No answer could name it.
            raise ValueError("a member's name is not text")
        if name in members:
            raise InvalidPayload(fault("Is named twice.", "duplicate", "body", name))
        members[name] = value
    return members


def no_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError(name)


# Made once: json.loads would make one for each call.
DECODER = json.JSONDecoder(object_pairs_hook=unique_members, parse_constant=no_constant)


def faults_of(invalid: ValidationError, *place: str | int) -> list[Fault]:
    """Return what pydantic has found: the first MOST_ERRORS faults, each at its member of that place."""
    found = invalid.errors(include_url=False, include_input=False)[:MOST_ERRORS]
    return [fault(in_words(error), error["type"], *place, *error["loc"]) for error in found]


def in_words(found: ErrorDetails) -> str:
    """Return the message of an error that pydantic found, in our words where we have some."""
    message = FIELD_MESSAGES.get(found["type"])
    return message.format(**found.get("ctx", {})) if message else found["msg"]
