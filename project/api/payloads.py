"""The payloads that callers send."""

from typing import Annotated, Any, ClassVar, Literal

import email_validator
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from project.api.models import (
    MAX_EMAIL_LENGTH,
    MAX_SEARCH_LENGTH,
    MAX_URL_LENGTH,
    MAX_USERNAME_LENGTH,
    NOTE_LENGTHS,
)
from project.api.validation import (
    email_address,
    flag,
    http_url,
    moment,
    not_blank,
    printable,
    whole_number,
)

# An address is judged by its syntax: someone@corp.local and a@b.test are addresses inside somebody's network.
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()


# What the functions above check, for the OpenAPI document; it cannot write half a surrogate pair, and need not.
CONTROL = r"\u0000-\u001f\u007f-\u009f"


BLANK = r"\u0020\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


PRINTABLE = {"pattern": f"^[^{CONTROL}]*$"}


NOT_BLANK = {"pattern": f"^[^{CONTROL}]*[^{CONTROL}{BLANK}][^{CONTROL}]*$"}


Username = Annotated[
    str,
    StringConstraints(max_length=MAX_USERNAME_LENGTH),
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
    StringConstraints(max_length=MAX_EMAIL_LENGTH, strip_whitespace=True),
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


Flag = Annotated[bool, BeforeValidator(flag)]


Search = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_SEARCH_LENGTH),
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
