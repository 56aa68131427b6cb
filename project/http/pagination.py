"""Pages of a listing that cost the same at any depth, by keyset, written as JSON by Postgres."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import urlencode

import orjson
from flask import current_app, request
from itsdangerous import BadData, URLSafeSerializer
from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    Text,
    bindparam,
    func,
    select,
    tuple_,
)
from sqlalchemy.orm import InstrumentedAttribute

from project.api.payloads import PageQuery
from project.api.validation import InvalidQuery, fault
from project.storage.statements import Statement

Column = ColumnElement[Any] | InstrumentedAttribute[Any]


class Listing:
    """What can be listed of a table.

    shown: the columns that make a row's JSON object; what rows are ordered by is among them.
    keys: what they may be ordered by, under the names that a query's sort has; "id" is unique and breaks ties.
    filters: conditions with a bindparam of the name under which a query has its value.
    sparse: whether to leave out members that are null; where none is, that is time saved.
    """

    def __init__(
        self,
        shown: Sequence[Column],
        keys: Mapping[str, Column],
        filters: Mapping[str, ColumnElement[bool]],
        sparse: bool = False,
    ) -> None:
        self.shown, self.keys, self.filters, self.sparse = shown, keys, filters, sparse

    def order(self, sort: str) -> dict[str, Column]:
        """Return the keys by which a sort orders, together unique."""
        return {name: self.keys[name] for name in (sort.removeprefix("-"), "id")}

    def rows(self, filters: tuple[str, ...]) -> Select[Any]:
        """Return the rows that pass these filters."""
        return select(*self.shown).where(*(self.filters[name] for name in filters))

    # There are as many as orders and sets of filters: callers cannot make more of them.
    @cache
    def page_of(self, filters: tuple[str, ...], sort: str, later: bool) -> Statement:
        """Return the statement of a page, one JSON object a row; of a later page, it begins after a position."""
        keys = self.order(sort)
        order, descending = tuple_(*keys.values()), sort.startswith("-")
        rows = self.rows(filters)
        if later:
            position = tuple_(*(bindparam(f"after_{name}", type_=key.type) for name, key in keys.items()))
            rows = rows.where(order < position if descending else order > position)
        rows = rows.order_by(*(key.desc() if descending else key for key in keys.values()))
        page = rows.limit(bindparam("limit", type_=Integer)).subquery("page")
        # As text: psycopg2 would parse JSON.
        row = func.row_to_json(page.table_valued())
        return Statement(select((func.json_strip_nulls(row) if self.sparse else row).cast(Text)))

    @cache
    def count_of(self, filters: tuple[str, ...]) -> Statement:
        """Return the statement that counts the rows that pass these filters."""
        return Statement(select(func.count()).select_from(self.rows(filters).subquery()))

    def page(self, query: PageQuery, sort: str, values: Mapping[str, Any]) -> tuple[Any, str | None]:
        """Return a page's rows, a list that is JSON already, and the cursor of the next page where more follows.

        values: those of the filters that the query names.
        """
        keys = self.order(sort)
        after = dict(zip((f"after_{name}" for name in keys), read_cursor(query.after, query))) if query.after else {}
        # One more than asked for tells whether more follows.
        found = self.page_of(tuple(values), sort, bool(after)).rows(**values, **after, limit=query.limit + 1)
        shown = [row for row, in found[: query.limit]]
        cursor = None
        if len(found) > query.limit:
            last = orjson.loads(shown[-1])
            cursor = cursors(query).dumps([last[name] for name in keys])
        return orjson.Fragment(f"[{','.join(shown)}]"), cursor

    def count(self, values: Mapping[str, Any]) -> int:
        """Return how many rows pass the filters."""
        ((count,),) = self.count_of(tuple(values)).rows(**values)
        return int(count)


def cursors(query: PageQuery) -> URLSafeSerializer:
    """Return what signs the cursors of a listing; those of another order or filter have another signature."""
    listing = f"{request.endpoint} {query.model_dump_json(exclude={'limit', 'after', 'count'})}"
    return URLSafeSerializer(current_app.config["CURSOR_KEY"], salt=listing)


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
