"""Pages of a listing that cost the same at any depth, by keyset."""

from typing import Any, TypeVar
from urllib.parse import urlencode

from flask import current_app, request
from itsdangerous import BadData, URLSafeSerializer
from sqlalchemy import ColumnElement, Select, literal, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from project.api.schemas import InvalidQuery, PageQuery, fault
from project.extensions import db

Model = TypeVar("Model")
Key = ColumnElement[Any] | InstrumentedAttribute[Any]


def page(
    rows: Select[Model], keys: dict[str, Key], descending: bool, query: PageQuery
) -> tuple[list[Model], str | None]:
    """Return a page's rows, and the cursor of the next page where more follows.

    keys: what the rows are ordered by, each under the name of its attribute; together they are unique.
    """
    order = tuple_(*keys.values())
    if query.after:
        position = tuple_(*map(literal, read_cursor(query.after, query), (key.type for key in keys.values())))
        rows = rows.where(order < position if descending else order > position)
    ordered = rows.order_by(*(key.desc() if descending else key for key in keys.values()))
    # One more than asked for tells whether more follows.
    found = list(db.session.scalars(ordered.limit(query.limit + 1)))
    if len(found) <= query.limit:
        return found, None
    found.pop()
    return found, cursors(query).dumps([getattr(found[-1], name) for name in keys])


def cursors(query: PageQuery) -> URLSafeSerializer:
    """Return what signs the cursors of a listing; those of another order or filter have another signature."""
    listing = f"{type(query).__name__} {query.model_dump_json(exclude={'limit', 'after', 'count'})}"
    return URLSafeSerializer(current_app.config["CURSOR_KEY"], salt=listing, serializer_kwargs={"default": str})


def read_cursor(cursor: str, query: PageQuery) -> list[Any]:
    """Return the keys of the row that the cursor stands after."""
    try:
        keys: list[Any] = cursors(query).loads(cursor)
    except BadData:
        message = "Is not a cursor of this listing, with this sort and these filters."
        raise InvalidQuery(fault(message, "cursor", "query", "after")) from None
    return keys


def next_link(cursor: str) -> str:
    """Return the Link header of RFC 8288 that leads to the next page."""
    parameters = urlencode({**request.args.to_dict(), "after": cursor})
    return f'<{request.path}?{parameters}>; rel="next"'
