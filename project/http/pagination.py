"""Pages of a listing that cost the same at any depth, by keyset, written as JSON by Postgres."""

from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import urlencode

import orjson
from flask import current_app, request
from itsdangerous import BadData, URLSafeSerializer
from sqlalchemy import ColumnElement, Integer, Select, Text, bindparam, func, select, tuple_

from project.api.models import Column, Row
from project.api.queries import PageQuery
from project.api.validation import InvalidQuery, fault
from project.storage.statements import Statement


class Listing:
    """What can be listed of a table.

    table: its columns that callers see make a row's JSON object; what rows are ordered by is among them.
    keys: what they may be ordered by, under the names that a query's sort has; "id" is unique and breaks ties.
    filters: conditions with a bindparam of the name under which a query has its value.
    """

    def __init__(
        self, table: type[Row], keys: Mapping[str, Column], filters: Mapping[str, ColumnElement[bool]]
    ) -> None:
        self.table, self.keys, self.filters = table, keys, filters
        self.sparse = table.sparse()

    def order(self, sort: str) -> dict[str, Column]:
        """Return the keys by which a sort orders, together unique."""
        return {name: self.keys[name] for name in (sort.removeprefix("-"), "id")}

    def rows(self, filters: tuple[str, ...]) -> Select[Any]:
        """Return the rows that pass these filters."""
        return select(*self.table.columns_shown()).where(*(self.filters[name] for name in filters))

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
        return Statement(select(func.row_to_json(page.table_valued()).cast(Text)))

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
        shown = [self.shown(row) for row, in found[: query.limit]]
        cursor = None
        if len(found) > query.limit:
            last = orjson.loads(shown[-1])
            cursor = cursors(query).dumps([last[name] for name in keys])
        return orjson.Fragment(f"[{','.join(shown)}]"), cursor

    def shown(self, row: str) -> str:
        """Return the JSON object of a row, without the members that are left out where they are null."""
        if not self.sparse:
            return row
        members = orjson.loads(row).items()
        told = {name: value for name, value in members if value is not None or name not in self.sparse}
        return orjson.dumps(told).decode()

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
