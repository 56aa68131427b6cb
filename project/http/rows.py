"""The rows of a table: the statements that read and write one, and Resources that show rows as they are."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Generic, Literal, NoReturn, TypeVar, cast

from flask import abort, request
from sqlalchemy import Table, Text, bindparam, delete, insert, or_, select, update
from sqlalchemy.dialects.postgresql import ARRAY

from project.api.models import Row
from project.api.payloads import Id, Payload
from project.api.queries import PageQuery
from project.api.validation import ID, InvalidPath, fault, parse_id
from project.auth.access import READ, WRITE, scope
from project.http.bodies import query
from project.http.conditional import etag, expected_versions
from project.http.errors import VersionConflict
from project.http.pagination import Listing, next_link
from project.http.resources import Resource
from project.http.response_headers import NewRowHeaders, NextHeaders, NoHeaders, VersionHeaders
from project.storage.statements import Statement

Out = TypeVar("Out")


class Rows(Generic[Out]):
    """The rows of a table, one by one. All writes heed If-Match.

    missing: what the 404 says. also: what PUT and PATCH write beside the members that are sent.
    """

    def __init__(self, model: type[Row], missing: str, also: Mapping[str, Any] | None = None) -> None:
        self.model, self.missing, self.also = model, missing, also or {}
        self.table = cast(Table, model.__table__)
        self.names = list(model.representation.__annotations__)
        self.sparse = model.sparse()
        self.listing = Listing(model, keys={"id": model.id}, filters={})

        self.answered = (*model.columns_shown(), model.version)
        this = model.id == bindparam("row_id")
        # Any version will do where If-Match names none.
        versions = bindparam("versions", type_=ARRAY(Text))
        self.expected = (this, or_(versions.is_(None), model.version.cast(Text) == versions.any_()))
        self.show = Statement(select(*self.answered).where(this))
        self.delete = Statement(delete(model).where(*self.expected).returning(*self.answered))

    # Of both there are as many as sets of members that payloads can have: callers cannot make more of them.
    @cache
    def insert_of(self, members: tuple[str, ...]) -> Statement:
        """Return the statement that adds a row with these members, and leaves the others to the table's defaults."""
        values: dict[str, Any] = {name: bindparam(name) for name in members}
        return Statement(insert(self.model).values(values).returning(*self.answered))

    @cache
    def update_of(self, members: tuple[str, ...]) -> Statement:
        """Return the statement that writes these members of a row and no other, null included.

        It is one statement with the condition of If-Match: no other writer comes in between.
        """
        values: dict[str, Any] = {**{name: bindparam(name) for name in members}, **self.also}
        return Statement(update(self.model).where(*self.expected).values(values).returning(*self.answered))

    def get(self, row_id: int) -> tuple[Out, str]:
        """Return a row and its version, or abort with 404."""
        return self.answer(self.show.row(row_id=row_id) or self.not_there())

    def add(self, members: Mapping[str, Any]) -> tuple[Out, str]:
        """Add a row with the members that were sent, and return it with its version."""
        return self.answer(*self.insert_of(tuple(members)).rows(**members))

    def change(self, row_id: int, members: Mapping[str, Any]) -> tuple[Out, str]:
        """Write the members of a row that were sent, one at least, and return it with its version."""
        written = self.update_of(tuple(members)).row(row_id=row_id, versions=expected_versions(), **members)
        return self.answer(written or self.nothing_written(row_id))

    def remove(self, row_id: int) -> Out:
        """Remove a row, and return it as it was."""
        removed = self.delete.row(row_id=row_id, versions=expected_versions())
        return self.answer(removed or self.nothing_written(row_id))[0]

    def answer(self, row: tuple[Any, ...]) -> tuple[Out, str]:
        """Return a row as the API shows it, and its version."""
        *values, version = row
        members = dict(zip(self.names, values))
        for name in self.sparse:
            if members[name] is None:
                del members[name]
        return cast(Out, members), version

    def nothing_written(self, row_id: int) -> NoReturn:
        """Say why a write found no row to write."""
        if self.show.row(row_id=row_id):
            raise VersionConflict()
        self.not_there()

    def not_there(self) -> NoReturn:
        """Abort with the 404."""
        abort(404, self.missing)


class RowList(Resource, Generic[Out]):
    """Rows, shown as they are. Bad input is a 422."""

    rows: Rows[Any]
    invalid_input = 422

    @scope(READ)
    @query(PageQuery)
    def get(self, asked: PageQuery) -> tuple[list[Out], Literal[200], NextHeaders]:
        """List all, by id."""
        found, cursor = self.rows.listing.page(asked, "id", {})
        headers: NextHeaders = {"Link": next_link(cursor)} if cursor else {}
        return found, 200, headers

    @scope(WRITE)
    def add(self, payload: Payload) -> tuple[Out, Literal[201], NewRowHeaders]:
        """Add one."""
        row, headers = self.added(payload.members())
        return row, 201, headers

    def added(self, members: Mapping[str, Any]) -> tuple[Any, NewRowHeaders]:
        """Add a row, and return it with the headers that tell of it."""
        row, version = self.rows.add(members)
        return row, {"Location": f"/{request.blueprint}/{row['id']}/", **etag(version)}


class RowDetail(Resource, Generic[Out]):
    """One row, shown as it is. Bad input is a 422, an id that is none included."""

    rows: Rows[Any]
    invalid_input = 422

    @scope(READ)
    def get(self, id: Id) -> tuple[Out, Literal[200], VersionHeaders]:
        """Show one."""
        row, version = self.rows.get(self.row_id(id))
        return row, 200, etag(version)

    @scope(WRITE)
    def replace(self, payload: Payload, id: Id) -> tuple[Out, Literal[200], VersionHeaders]:
        """Replace one."""
        row, version = self.rows.change(self.row_id(id), payload.members())
        return row, 200, etag(version)

    @scope(WRITE)
    def delete(self, id: Id) -> tuple[Out, Literal[200], NoHeaders]:
        """Remove one, and show it as it was."""
        return self.rows.remove(self.row_id(id)), 200, {}

    def row_id(self, given: str) -> int:
        """Return the id that a path names, or refuse what is none; one that no row can have is a 404."""
        if not ID.fullmatch(given):
            raise InvalidPath(fault("Must be a whole number of 1 or more.", "id", "path", "id"))
        return parse_id(given) or self.rows.not_there()
