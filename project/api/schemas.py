"""The payloads that callers send."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import wraps
from io import BufferedReader, RawIOBase
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import email_validator
from flask import abort, current_app, request
from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from project.api.answers import Fault
from project.api.models import MAX_LENGTH, MAX_URL_LENGTH, NOTE_LENGTHS

# An address is judged by its syntax: someone@corp.local and a@b.test are addresses inside somebody's network.
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()

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

#: What callers read for the errors that pydantic finds by itself.
MESSAGES = {
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


P = TypeVar("P", bound="Payload")


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


# What the functions above check, for the OpenAPI document; it cannot write half a surrogate pair, and need not.
CONTROL = r"\u0000-\u001f\u007f-\u009f"
BLANK = r"\u0020\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
PRINTABLE = {"pattern": f"^[^{CONTROL}]*$"}
NOT_BLANK = {"pattern": f"^[^{CONTROL}]*[^{CONTROL}{BLANK}][^{CONTROL}]*$"}

Username = Annotated[
    str,
    StringConstraints(max_length=MAX_LENGTH),
    AfterValidator(printable),
    AfterValidator(not_blank),
    Field(
        description="A name, which others may have too: not blank, and without control characters.",
        json_schema_extra={**NOT_BLANK},
        examples=["michael"],
    ),
]
Email = Annotated[
    str,
    StringConstraints(max_length=MAX_LENGTH, strip_whitespace=True),
    AfterValidator(printable),
    AfterValidator(email_address),
    Field(
        description="An email address, which nobody else has in whatever case: a local part of at most 64 characters,"
        " and a domain name with a dot in it, which need not exist. Both may be international. White space around it"
        " is dropped and does not count.",
        json_schema_extra={"format": "idn-email"},
        examples=["michael@testdriven.io"],
    ),
]
NoteText = Annotated[
    str,
    StringConstraints(min_length=NOTE_LENGTHS[0], max_length=NOTE_LENGTHS[1]),
    AfterValidator(printable),
    Field(description="A text without control characters.", json_schema_extra={**PRINTABLE}),
]
Url = Annotated[
    str,
    StringConstraints(max_length=MAX_URL_LENGTH, strip_whitespace=True),
    AfterValidator(printable),
    AfterValidator(http_url),
    Field(
        description="An http or https URL, which is kept as it was written. White space around it is dropped.",
        json_schema_extra={"format": "iri"},
        examples=["https://example.org/article"],
    ),
]
SummaryText = Annotated[
    str,
    StringConstraints(max_length=10_000),
    AfterValidator(printable),
    Field(description="The text; an empty one asks for another.", json_schema_extra={**PRINTABLE}),
]
Active = Annotated[bool, Field(description="Whether the user takes part.")]

#: The id of a row, in a path. All that is no such number is nobody's id, so it stays text until somebody looks.
Id = Annotated[
    str, WithJsonSchema({"type": "integer", "format": "int64", "minimum": 1, "description": "An id.", "examples": [1]})
]


class Payload(BaseModel):
    """An object in which every member is known and of its own type."""

    model_config = ConfigDict(extra="forbid", strict=True)

    def members(self) -> dict[str, Any]:
        """Return the members that the caller sent."""
        return self.model_dump(exclude_unset=True)


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


Flag = Annotated[bool, BeforeValidator(flag)]
Search = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_LENGTH),
    AfterValidator(printable),
    Field(json_schema_extra={**PRINTABLE}),
]


class PageQuery(Payload):
    """What every listing takes."""

    limit: Annotated[
        # The bounds stand first: after a validator of ours, JSON Schema would not know their names.
        int,
        Field(ge=1, le=1000, description="How many to show at most."),
        BeforeValidator(whole_number),
    ] = 100
    after: Annotated[
        Annotated[
            str,
            StringConstraints(min_length=1, max_length=2000),
            # The letters that cursors are made of; no other text is one.
            Field(json_schema_extra={"pattern": "^[A-Za-z0-9_.-]+$"}),
        ]
        | None,
        Field(
            description="Show what comes after: the cursor of the page before, from its `Link` or its `data.next`. It"
            " is good for the listing, the sort and the filters that it came with."
        ),
    ] = None


class UserQuery(PageQuery):
    """What the listing of users takes."""

    email: Annotated[Search | None, Field(description="Only the user of this address, in whatever case.")] = None
    username: Annotated[Search | None, Field(description="Only users of exactly this name.")] = None
    active: Annotated[Flag | None, Field(description="Only users who take part, or only those who do not.")] = None
    q: Annotated[
        Search | None,
        Field(description="Only users whose name or address begins with this, in whatever case."),
    ] = None
    sort: Annotated[
        Literal["id", "username", "email", "created_date", "-id", "-username", "-email", "-created_date"],
        Field(description="The order, descending with a minus sign; where it leaves a tie, by id."),
    ] = "id"
    count: Annotated[Flag, Field(description="Whether to count all that pass the filters, in `X-Total-Count`.")] = (
        False
    )


def allow_what_the_service_sets(schema: dict[str, Any], payload: type["RowPayload"]) -> None:
    """Add the members that are ignored to a payload's JSON schema, and leave them out of its example."""
    for name in payload.set_by_the_service:
        schema["properties"][name] = {"description": "Set by the service; whatever is sent is ignored."}
    schema["examples"] = [payload.example]


class RowPayload(Payload):
    """What payloads of rows have in common: what GET answers can be sent back, changed or not."""

    model_config = ConfigDict(json_schema_extra=allow_what_the_service_sets)

    #: The members that a caller may send back but not choose.
    set_by_the_service: ClassVar[tuple[str, ...]] = ("id", "created_date")
    example: ClassVar[dict[str, Any]]

    @model_validator(mode="before")
    @classmethod
    def ignore_what_the_service_sets(cls, members: dict[str, Any]) -> dict[str, Any]:
        """Drop the members that a caller may send back but not choose."""
        return {name: value for name, value in members.items() if name not in cls.set_by_the_service}


def demand_a_change(schema: dict[str, Any], payload: type[RowPayload]) -> None:
    """Say in a payload's JSON schema that a member must be there which is not ignored."""
    allow_what_the_service_sets(schema, payload)
    schema["not"] = {"propertyNames": {"enum": list(payload.set_by_the_service)}}


class UserIn(RowPayload):
    """A whole user."""

    example = {"username": "michael", "email": "michael@testdriven.io"}

    username: Username
    email: Email
    active: Active = True


#: The ids that a file may bring: others come after them, and JavaScript knows them all exactly.
LARGEST_KEPT_ID = 2**52


def moment(value: str) -> str:
    """Return a date as the service writes it, or refuse what is none."""
    try:
        if not re.fullmatch("[0-9-]{10}T[0-9:]{8}Z", value):
            raise ValueError(value)
        datetime.fromisoformat(value)
    except ValueError:
        raise PydanticCustomError("date", "Must be a date such as 2026-11-20T12:00:00Z.") from None
    return value


class UserRow(UserIn):
    """A whole user from a file, which may tell what elsewhere only the service sets: moved users keep their ids."""

    id: Annotated[int, Field(ge=1, le=LARGEST_KEPT_ID)] | None = None
    created_date: Annotated[str, AfterValidator(moment)] | None = None

    @model_validator(mode="before")
    @classmethod
    def ignore_what_the_service_sets(cls, members: dict[str, Any]) -> dict[str, Any]:
        """Drop nothing."""
        return members


OnConflict = Literal["fail", "skip", "update"]


class ImportQuery(Payload):
    """What an import takes beside the file."""

    on_conflict: Annotated[
        OnConflict,
        Field(
            description="Where an address is taken, or stands in the file twice: refuse the whole file, leave the row"
            " out, or write the user who has it."
        ),
    ] = "fail"
    dry_run: Annotated[Flag, Field(description="Whether to write nothing, and only say what would be done.")] = False


class ExportQuery(Payload):
    """What an export takes."""

    active: Annotated[Flag | None, Field(description="Only users who take part, or only those who do not.")] = None


class UserChanges(RowPayload):
    """Some members of a user: one at least that is the caller's to choose."""

    model_config = ConfigDict(json_schema_extra=demand_a_change)
    example = {"active": False}

    # The defaults make the members optional and are never used: null stays refused, which "| None" would let in.
    username: Username = ""
    email: Email = ""
    active: Active = True

    @model_validator(mode="after")
    def change_something(self) -> "UserChanges":
        """Refuse an object without a member to change."""
        if not self.model_fields_set:
            raise PydanticCustomError("empty", "Must have a member to change: username, email or active.")
        return self


class NoteIn(RowPayload):
    """A whole note."""

    example = {"title": "something", "description": "something else"}

    title: NoteText
    description: NoteText


class SummaryWanted(Payload):
    """A page of the web to summarise."""

    url: Url


class SummaryIn(RowPayload):
    """A whole summary."""

    set_by_the_service = ("id", "created_at", "state", "reason")
    example = {"url": "https://example.org/article", "summary": "It says what it says."}

    url: Url
    summary: SummaryText


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


def json_object() -> dict[str, Any]:
    """Return the request's body, a JSON object.

    Raises InvalidPayload, or aborts with 408 for a body that did not arrive whole, 411 for one of unannounced length,
    413 for one over the limit, which is not read, and 415 for one that is not JSON by its Content-Type.
    """
    if "Transfer-Encoding" in request.headers:
        # The server would end such a body at the limit without a word, and its first part may be valid JSON.
        abort(411)
    body = request.get_data(cache=False)
    if len(body) < (request.content_length or 0):
        # The server ends one that does not arrive, and says nothing.
        abort(408)
    if not body:
        raise InvalidPayload(fault("Is required.", "missing", "body"))
    if not request.is_json:
        abort(415)
    if body.count(b"{") + body.count(b"[") > MOST_BRACKETS:
        raise InvalidPayload(fault("Is nested too deeply.", "too_deep", "body"))
    try:
        document = DECODER.decode(body.decode())
    except ValueError:
        raise InvalidPayload(fault("Is not valid JSON.", "json_invalid", "body")) from None
    if not isinstance(document, dict):
        raise InvalidPayload(fault("Must be a JSON object.", "object_type", "body"))
    return document


def query_parameters() -> dict[str, Any]:
    """Return the request's query parameters, or refuse one that is named twice."""
    repeated = [name for name, values in request.args.lists() if len(values) > 1]
    if repeated:
        raise InvalidQuery(*(fault("Is named twice.", "duplicate", "query", name) for name in repeated[:MOST_ERRORS]))
    return request.args.to_dict()


def validated(schema: type[P], members: dict[str, Any], place: str, error: type[InvalidInput]) -> P:
    """Return the members as a payload of the schema, or refuse them with all that is at fault."""
    try:
        return schema.model_validate(members)
    except ValidationError as invalid:
        faults = invalid.errors(include_url=False, include_input=False)[:MOST_ERRORS]
        raise error(*(fault(in_words(found), found["type"], place, *found["loc"]) for found in faults)) from None


def in_words(found: ErrorDetails) -> str:
    """Return the message of an error that pydantic found, in our words where we have some."""
    message = MESSAGES.get(found["type"])
    return message.format(**found.get("ctx", {})) if message else found["msg"]


Method = Callable[..., Any]


def body(schema: type[Payload]) -> Callable[[Method], Method]:
    """Decorate a Resource's method: it gets the request's body as a payload of the schema, before anything else."""
    return takes("body", schema, json_object, InvalidPayload)


def query(schema: type[Payload]) -> Callable[[Method], Method]:
    """Decorate a Resource's method: it gets the query parameters as a payload of the schema."""
    return takes("query", schema, query_parameters, InvalidQuery)


def takes(
    place: str, schema: type[Payload], read: Callable[[], dict[str, Any]], error: type[InvalidInput]
) -> Callable[[Method], Method]:
    """Decorate a Resource's method: it gets what is read from that place of the request as a payload of the schema.

    The OpenAPI document finds the schema as the method's attribute of the place's name.
    """

    def decorator(method: Method) -> Method:
        @wraps(method)
        def wrapper(self: Any, **arguments: Any) -> Any:
            return method(self, validated(schema, read(), place, error), **arguments)

        setattr(wrapper, place, schema)
        return wrapper

    return decorator


#: The files that are taken and given, by their media types.
FILES = {"application/x-ndjson": "ndjson", "text/csv": "csv"}
NO_FILE = "The body must be NDJSON or CSV, with the Content-Type application/x-ndjson or text/csv, and not compressed."


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
