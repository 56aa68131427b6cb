"""Headers and media types of responses, which the methods' signatures name and mypy holds them to."""

from dataclasses import dataclass
from typing import Annotated, Any, NotRequired

from flask import Response
from pydantic import Field, WithJsonSchema

# pydantic does not take typing's below Python 3.12.
from typing_extensions import TypedDict


@dataclass(frozen=True)
class Served:
    """A note on the type of an answer that is not JSON: its media types and its headers."""

    media_types: tuple[str, ...]
    headers: type


ETag = Annotated[
    str,
    Field(
        description="The version of what is shown, for `If-None-Match` and `If-Match`.",
        pattern='^"[0-9]+"$',
        examples=['"4711"'],
    ),
]

Location = Annotated[str, Field(json_schema_extra={"format": "uri-reference"})]
NoHeaders = TypedDict("NoHeaders", {})
VersionHeaders = TypedDict("VersionHeaders", {"ETag": ETag})

NewRowHeaders = TypedDict(
    "NewRowHeaders",
    {
        "Location": Annotated[Location, Field(description="The address of what is new.", examples=["/users/1"])],
        "ETag": ETag,
    },
)

Link = Annotated[
    str,
    Field(
        description="Where more follows: the next page (RFC 8288).",
        pattern='^<[^>]+>; rel="next"$',
        examples=['</users?limit=2&after=WzJd.c2lnbmF0dXJl>; rel="next"'],
    ),
]

NextHeaders = TypedDict("NextHeaders", {"Link": NotRequired[Link]})

ListingHeaders = TypedDict(
    "ListingHeaders",
    {
        "Link": NotRequired[Link],
        "X-Total-Count": NotRequired[
            Annotated[
                str,
                WithJsonSchema(
                    {
                        "type": "integer",
                        "minimum": 0,
                        "description": "With `count=true`: how many users pass the filters.",
                        "examples": [2],
                    }
                ),
            ]
        ],
    },
)

RetryHeaders = TypedDict(
    "RetryHeaders",
    {
        "Retry-After": Annotated[
            str,
            WithJsonSchema(
                {
                    "type": "integer",
                    "minimum": 0,
                    "description": "After how many seconds to try again.",
                    "examples": [1],
                }
            ),
        ]
    },
)

Vary = Annotated[str, Field(description="What the answer depends on.", examples=["Accept"])]
WelcomeHeaders = TypedDict("WelcomeHeaders", {"Vary": Vary})
ExportHeaders = TypedDict("ExportHeaders", {"Vary": Vary})

ToDocsHeaders = TypedDict(
    "ToDocsHeaders",
    {
        "Location": Annotated[Location, Field(description="The page for people.", examples=["/docs"])],
        "Vary": Vary,
    },
)

CacheControl = Annotated[str, Field(description="How long a copy is good.", examples=["no-cache, max-age=3600"])]
FileHeaders = TypedDict("FileHeaders", {"Cache-Control": CacheControl})

PageHeaders = TypedDict(
    "PageHeaders",
    {
        "Cache-Control": CacheControl,
        "Content-Security-Policy": Annotated[
            str, Field(description="What the page may load: nothing from elsewhere.", examples=["default-src 'self'"])
        ],
    },
)

#: The OpenAPI document.
Document = Annotated[dict[str, Any], Field(description="An OpenAPI 3.1 document.")]
Figures = Annotated[Response, Served(("text/plain",), NoHeaders)]
HtmlPage = Annotated[Response, Served(("text/html",), PageHeaders)]
File = Annotated[Response, Served(("text/css", "text/javascript", "image/png"), FileHeaders)]
