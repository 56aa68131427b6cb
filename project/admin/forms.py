"""The forms and the filters of the admin pages."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, cast

from flask_admin.contrib.sqla.filters import BaseSQLAFilter
from flask_admin.form import SecureForm
from pydantic.fields import FieldInfo
from sqlalchemy import Column, Table
from wtforms import BooleanField, HiddenField, StringField

from project.api.members import default_of
from project.api.models import Row
from project.api.payloads import Payload
from project.api.validation import InvalidPayload, parse_id
from project.http.bodies import validated
from project.transfer.readers import whole


def shown(value: Any) -> str:
    """Return a value as people read it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value)
    return "" if value is None else str(value)


def rows_chosen(given: Sequence[str]) -> list[int]:
    """Return the ids of the rows that a form names."""
    return [row_id for row_id in map(parse_id, given) if row_id]


class ChoiceFilter(BaseSQLAFilter):
    """One of a few values of a column, each under a key that an address can have and with a word for people."""

    def __init__(self, column: Any, name: str, choices: Sequence[tuple[str, str, Any]]) -> None:
        super().__init__(column, name, [(key, word) for key, word, _ in choices])
        self.values = {key: value for key, _, value in choices}

    def validate(self, value: str) -> bool:
        """Say whether the filter knows the value."""
        return not value or value in self.values

    def apply(self, query: Any, value: str, alias: Any = None) -> Any:
        """Return the query with the filter."""
        return query.filter(self.column == self.values[value]) if value else query

    def operation(self) -> str:
        """Return what the filter does."""
        return "is"


class SinceFilter(BaseSQLAFilter):
    """The day, UTC, since which a row is there."""

    data_type = "date"

    def validate(self, value: str) -> bool:
        """Say whether the value is a day."""
        try:
            return not value or bool(date.fromisoformat(value))
        except ValueError:
            return False

    def apply(self, query: Any, value: str, alias: Any = None) -> Any:
        """Return the query with the filter."""
        if not value:
            return query
        since: Any = self.column
        return query.filter(since >= datetime.combine(date.fromisoformat(value), datetime.min.time(), UTC))

    def operation(self) -> str:
        """Return what the filter does."""
        return "since"


class RowForm(SecureForm):
    """A row, by the rules of the API."""

    payload: type[Payload]
    version = HiddenField()

    def validate(self, extra_validators: Any = None) -> bool:
        """Say whether the API would take this row, and tell each field what is wrong with it."""
        valid = bool(super().validate(extra_validators))
        members = {name: self[name].data for name in self.payload.model_fields}
        try:
            self.members = validated(self.payload, members, "body", InvalidPayload).members()
        except InvalidPayload as invalid:
            for fault in invalid.detail:
                self[str(fault["loc"][1])].errors = [fault["msg"]]
            return False
        return valid


#: The keyboard of a telephone for a text of this format.
INPUT_MODES = {"idn-email": "email", "iri": "url"}


def form_for(model: type[Row], payload: type[Payload], labels: Mapping[str, str]) -> type[RowForm]:
    """Return the form of a model: a field for each member of the payload."""

    class Form(RowForm):
        """A row."""

    Form.payload = payload
    for name, member in payload.model_fields.items():
        column = cast(Table, model.__table__).columns[name]
        label = labels.get(name, name.replace("_", " ").capitalize())
        setattr(Form, name, field_for(column, label, member))
    return Form


def as_number(value: Any) -> Any:
    """Return the whole number that a field has, or as it is what the payload will refuse."""
    return whole(value) if isinstance(value, str) else value


def as_null(value: Any) -> Any:
    """Return null for an empty field, or the value of another one."""
    return None if value == "" else value


def field_for(column: Column[Any], label: str, member: FieldInfo) -> Any:
    """Return the field for the values of a column."""
    if column.type.python_type is bool:
        return BooleanField(label, default=default_of(column) == "true")
    extra = member.json_schema_extra
    format = extra.get("format") if isinstance(extra, dict) else None
    filters = [*([as_number] if column.type.python_type is int else []), *([as_null] if column.nullable else [])]
    return StringField(label, filters=filters, render_kw={"inputmode": INPUT_MODES.get(str(format), "text")})
