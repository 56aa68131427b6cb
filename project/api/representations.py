"""Representations: what callers get for each noun."""

from typing import Annotated, Literal, NotRequired

from pydantic import Field

# pydantic does not take typing's below Python 3.12.
from typing_extensions import TypedDict

Success = Literal["success"]


class Fault(TypedDict):
    """What is wrong with one member of the input."""

    loc: Annotated[
        list[str | int],
        Field(description="Where it is: `body`, `query` or `path`, then the member.", examples=[["body", "email"]]),
    ]
    msg: Annotated[str, Field(description="A sentence for people.", examples=["Is required."])]
    type: Annotated[str, Field(description="A stable word for programs.", examples=["missing"])]


class Error(TypedDict):
    """The one body of every error."""

    status: Annotated[
        Literal["fail", "error"], Field(description="`fail` for a status of 400 to 499, `error` from 500 on.")
    ]
    message: Annotated[str, Field(description="One sentence for people.")]
    code: Annotated[str, Field(description="A stable word for programs.", pattern="^[a-z_]+$")]
    detail: Annotated[
        list[Fault] | str,
        Field(description="The members of the input that are at fault, all at once; elsewhere the message again."),
    ]
    request_id: Annotated[str, Field(description="The request's id, as in the header `X-Request-ID`.")]


class Message(TypedDict):
    """That it went well."""

    status: Success
    message: Annotated[str, Field(examples=["michael@testdriven.io was removed!"])]


class Pong(TypedDict):
    """A sign of life."""

    status: Success
    message: Literal["pong!"]


DatabaseState = Literal["up", "down", "read-only", "behind"]


class Healthy(TypedDict):
    """That the service can do its work. More members may follow."""

    status: Success
    environment: Annotated[str, Field(examples=["production"])]
    testing: bool
    database: Literal["up"]
    version: Annotated[str, Field(examples=["0.1.0"])]


class Unhealthy(Error):
    """Why the service cannot do its work: an error, with what is told of a healthy service."""

    environment: Annotated[str, Field(examples=["production"])]
    testing: bool
    database: Annotated[
        Literal["down", "read-only", "behind"],
        Field(description="`down` if it does not answer, `behind` if its migrations have not run."),
    ]
    version: Annotated[str, Field(examples=["0.1.0"])]


class Links(TypedDict):
    """Where to go on."""

    users: Literal["/users"]
    notes: Literal["/notes/"]
    summaries: Literal["/summaries/"]
    ping: Literal["/ping"]
    health: Literal["/health"]
    docs: Literal["/docs"]
    openapi: Literal["/openapi.json"]


class Welcome(TypedDict):
    """What the service is."""

    status: Success
    message: Annotated[str, Field(examples=["This is the users service."])]
    version: Annotated[str, Field(examples=["0.1.0"])]
    links: Links


RowId = Annotated[int, Field(ge=1, json_schema_extra={"format": "int64"}, examples=[1])]

TakenIn = Annotated[
    str,
    Field(
        description="When the service took it in: whole seconds, UTC.",
        json_schema_extra={"format": "date-time"},
        examples=["2026-11-20T12:00:00Z"],
    ),
]


class UserOut(TypedDict):
    """A user. More members may follow."""

    id: RowId
    username: Annotated[str, Field(examples=["michael"])]
    email: Annotated[
        str,
        Field(
            description="The address, as it was written.",
            json_schema_extra={"format": "idn-email"},
            examples=["michael@testdriven.io"],
        ),
    ]
    active: Annotated[bool, Field(examples=[True])]
    created_date: TakenIn


class UserShown(TypedDict):
    """One user."""

    status: Success
    data: UserOut


class UserWritten(TypedDict):
    """One user, as it is now."""

    status: Success
    message: Annotated[str, Field(examples=["1 was updated!"])]
    data: UserOut


class UserPage(TypedDict):
    """Some of the users, in the order that was asked for."""

    users: list[UserOut]
    next: NotRequired[
        Annotated[str, Field(description="Where more users follow: what `after` takes for the next page.")]
    ]


class UserListing(TypedDict):
    """A page of the listing."""

    status: Success
    data: UserPage


class NoteOut(TypedDict):
    """A note. More members may follow."""

    id: RowId
    title: Annotated[str, Field(examples=["something"])]
    description: Annotated[str, Field(examples=["something else"])]
    created_date: TakenIn


PageUrl = Annotated[
    str,
    Field(
        description="The address of the page, as it was written.",
        json_schema_extra={"format": "iri"},
        examples=["https://example.org/article"],
    ),
]


class SummaryAsked(TypedDict):
    """A page of the web whose summary is still to be made. More members may follow."""

    id: RowId
    url: PageUrl


class SummaryOut(TypedDict):
    """A page of the web and its summary. More members may follow."""

    id: RowId
    url: PageUrl
    summary: Annotated[
        str,
        Field(
            description="At most five sentences of the page, in their order; empty until it is done.", examples=[""]
        ),
    ]
    created_at: TakenIn
    state: Annotated[
        Literal["pending", "done", "failed"],
        Field(description="`pending` until the page is summarised, then `done`, or `failed` where it cannot be."),
    ]
    reason: NotRequired[
        Annotated[str, Field(description="Why it failed.", examples=["The page has no text to summarise."])]
    ]


class ImportDone(TypedDict):
    """What was done, in rows of the file."""

    added: Annotated[int, Field(ge=0, examples=[998])]
    updated: Annotated[int, Field(ge=0, examples=[0])]
    skipped: Annotated[int, Field(ge=0, description="Left out, for `on_conflict=skip`.", examples=[1])]
    refused: Annotated[int, Field(ge=0, description="Rows that are no users.", examples=[1])]
    faults: Annotated[
        list[Fault],
        Field(description="What is wrong with the refused rows, by line: the first 1000 of all."),
    ]


class Imported(TypedDict):
    """What an import has done, or would do."""

    status: Success
    message: Annotated[str, Field(examples=["The users were imported."])]
    data: ImportDone
