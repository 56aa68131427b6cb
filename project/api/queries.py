"""The query parameters that callers send."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from project.api.models import MAX_SEARCH_LENGTH
from project.api.payloads import PRINTABLE, Payload
from project.api.validation import flag, printable, whole_number

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
