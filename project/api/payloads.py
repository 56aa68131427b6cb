"""The payloads that callers send."""

from functools import cache
from typing import Annotated, Any, ClassVar, get_type_hints

import email_validator
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from project.api.models import (
    MAX_EMAIL_LENGTH,
    MAX_URL_LENGTH,
    MAX_USERNAME_LENGTH,
    NOTE_LENGTHS,
    Note,
    Row,
    Summary,
    User,
)
from project.api.validation import email_address, http_url, moment, not_blank, printable

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

Active = Annotated[bool, Field(description="Whether the user takes part; a new one does unless this says otherwise.")]

#: The id of a row, in a path. All that is no such number is nobody's id, so it stays text until somebody looks.
Id = Annotated[
    str, WithJsonSchema({"type": "integer", "format": "int64", "minimum": 1, "description": "An id.", "examples": [1]})
]

#: The default of a member that may be left out. It is never used: what is not sent is not written.
NOT_SENT: Any = None


class Payload(BaseModel):
    """An object in which every member is known and of its own type."""

    model_config = ConfigDict(extra="forbid", strict=True)

    def members(self) -> dict[str, Any]:
        """Return the members that the caller sent."""
        return self.model_dump(exclude_unset=True)


def allow_what_the_service_sets(schema: dict[str, Any], payload: type["RowPayload"]) -> None:
    """Add the members that are ignored to a payload's JSON schema, and leave them out of its example."""
    for name in payload.set_by_the_service():
        schema["properties"][name] = {"description": "Set by the service; whatever is sent is ignored."}
    schema["examples"] = [payload.example]


class RowPayload(Payload):
    """What payloads of rows have in common: what GET answers can be sent back, changed or not."""

    model_config = ConfigDict(json_schema_extra=allow_what_the_service_sets)

    model: ClassVar[type[Row]]
    example: ClassVar[dict[str, Any]]

    @classmethod
    @cache
    def set_by_the_service(cls) -> tuple[str, ...]:
        """Return the members that a caller may send back but not choose: all that are shown and no fields."""
        return tuple(name for name in cls.model.representation.__annotations__ if name not in cls.model_fields)

    @model_validator(mode="before")
    @classmethod
    def ignore_what_the_service_sets(cls, members: dict[str, Any]) -> dict[str, Any]:
        """Drop the members that a caller may send back but not choose."""
        ignored = cls.set_by_the_service()
        return {name: value for name, value in members.items() if name not in ignored}


def demand_a_change(schema: dict[str, Any], payload: type[RowPayload]) -> None:
    """Say in a payload's JSON schema that a member must be there which is not ignored."""
    allow_what_the_service_sets(schema, payload)
    schema["not"] = {"propertyNames": {"enum": list(payload.set_by_the_service())}}


class UserIn(RowPayload):
    """A whole user."""

    model = User
    example = {"username": "michael", "email": "michael@testdriven.io"}

    username: Username
    email: Email
    active: Active = NOT_SENT


def optional(payload: type[RowPayload]) -> dict[str, Any]:
    """Return the fields of a payload, each of which may be left out."""
    annotations = get_type_hints(payload, include_extras=True)
    return {name: (annotations[name], NOT_SENT) for name in payload.model_fields}


#: Any, since mypy takes no other class as a base that a function has made.
SomeOfUser: Any = create_model("SomeOfUser", __base__=RowPayload, **optional(UserIn))


class UserChanges(SomeOfUser):
    """Some members of a user: one at least that is the caller's to choose."""

    model_config = ConfigDict(json_schema_extra=demand_a_change)
    model = User
    example = {"active": False}

    @model_validator(mode="after")
    def change_something(self) -> "UserChanges":
        """Refuse an object without a member to change."""
        if not self.model_fields_set:
            *names, last = type(self).model_fields
            raise PydanticCustomError("empty", f"Must have a member to change: {', '.join(names)} or {last}.")
        return self


#: The ids that a file may bring: others come after them, and JavaScript knows them all exactly.
LARGEST_KEPT_ID = 2**52


class UserRow(UserIn):
    """A whole user from a file, which may tell what elsewhere only the service sets: moved users keep their ids."""

    id: Annotated[int, Field(ge=1, le=LARGEST_KEPT_ID)] | None = NOT_SENT
    created_date: Annotated[str, AfterValidator(moment)] | None = NOT_SENT


class NoteIn(RowPayload):
    """A whole note."""

    model = Note
    example = {"title": "something", "description": "something else"}

    title: NoteText
    description: NoteText


class SummaryWanted(Payload):
    """A page of the web to summarise."""

    url: Url


class SummaryIn(RowPayload):
    """A whole summary."""

    model = Summary
    example = {"url": "https://example.org/article", "summary": "It says what it says."}

    url: Url
    summary: SummaryText
