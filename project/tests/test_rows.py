"""What any resource on Rows does: null, what is not sent, and what is left out where it is null."""

from collections.abc import Iterator
from typing import Annotated, Any, NotRequired

import pytest
from flask import Blueprint, Flask
from flask.testing import FlaskClient
from openapi_spec_validator import validate
from pydantic import Field, StringConstraints
from sqlalchemy import String
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.schema import CreateTable
from typing_extensions import TypedDict

from project import db
from project.api.models import Row
from project.api.payloads import NOT_SENT, RowPayload
from project.http.bodies import body
from project.http.resources import Api
from project.http.rows import RowDetail, RowList, Rows
from project.openapi.document import document
from project.tests.conftest import app_on, execute


class ThingOut(TypedDict):
    """A thing."""

    id: int
    name: str
    colour: Annotated[str | None, Field(description="The colour, if it has one.")]
    reason: NotRequired[str]


class Thing(Row):
    """A row with a member that may be null and one that is left out where it is null."""

    __tablename__ = "things"
    representation = ThingOut

    name: Mapped[str] = mapped_column(String(10), server_default="thing")
    colour: Mapped[str | None] = mapped_column(String(10), server_default="grey")
    reason: Mapped[str | None] = mapped_column(String(10))


# The schema of the service has no such table.
db.metadata.remove(Thing.__table__)


class ThingIn(RowPayload):
    """A whole thing."""

    model = Thing
    example = {"name": "box"}

    name: str
    colour: Annotated[str, StringConstraints(max_length=10)] | None = NOT_SENT


class ThingChanges(RowPayload):
    """Some members of a thing."""

    model = Thing
    example = {"name": "box"}

    name: str = NOT_SENT
    reason: str | None = NOT_SENT


THINGS: Rows[ThingOut] = Rows(Thing, missing="Thing not found")


class ThingList(RowList[ThingOut]):
    """All things."""

    rows = THINGS
    post = body(ThingIn)(RowList.add)


class ThingDetail(RowDetail[ThingOut]):
    """One thing."""

    rows = THINGS
    put = body(ThingIn)(RowDetail.replace)
    patch = body(ThingChanges)(RowDetail.replace)


@pytest.fixture
def client(open_database: str) -> Iterator[FlaskClient]:
    """A client of a service with things."""
    app = app_on(open_database)
    blueprint = Blueprint("things", __name__)
    api = Api(blueprint)
    api.add_resource(ThingList, "/things/", "/things")
    api.add_resource(ThingDetail, "/things/<id>/", "/things/<id>")
    app.register_blueprint(blueprint)
    with app.app_context():
        execute(open_database, str(CreateTable(Thing.__table__).compile(dialect=postgresql.dialect())))
        yield app.test_client()
        db.session.remove()
        execute(open_database, "DROP TABLE things")
        db.engine.dispose()


def shown(client: FlaskClient, thing_id: int) -> dict[str, Any]:
    """Return a thing as its detail shows it, which is as the listing and the model do."""
    detail = client.get(f"/things/{thing_id}").get_json()
    assert client.get("/things").get_json() == [detail]
    assert db.session.get(Thing, thing_id, populate_existing=True).to_json() == detail
    return detail


def test_what_is_not_sent_gets_the_default_and_null_is_null(client: FlaskClient) -> None:
    assert client.post("/things", json={"name": "a"}).get_json() == {"id": 1, "name": "a", "colour": "grey"}
    assert client.post("/things", json={"name": "b", "colour": None}).get_json()["colour"] is None


def test_put_writes_what_is_sent_and_leaves_the_rest(client: FlaskClient) -> None:
    client.post("/things", json={"name": "a", "colour": "red"})

    assert client.put("/things/1", json={"name": "b"}).get_json() == {"id": 1, "name": "b", "colour": "red"}
    assert client.put("/things/1", json={"name": "b", "colour": None}).get_json()["colour"] is None
    assert shown(client, 1) == {"id": 1, "name": "b", "colour": None}


def test_what_get_gave_can_be_put_back(client: FlaskClient) -> None:
    client.post("/things", json={"name": "a", "colour": None})

    assert client.put("/things/1", json=shown(client, 1)).get_json() == shown(client, 1)


def test_member_that_is_not_required_is_left_out_where_it_is_null(client: FlaskClient) -> None:
    client.post("/things", json={"name": "ä", "colour": "red"})

    assert client.patch("/things/1", json={"reason": "none"}).get_json()["reason"] == "none"
    assert shown(client, 1) == {"id": 1, "name": "ä", "colour": "red", "reason": "none"}
    client.patch("/things/1", json={"reason": None})
    assert shown(client, 1) == {"id": 1, "name": "ä", "colour": "red"}


def test_version_of_another_write_is_refused_whatever_is_sent(client: FlaskClient) -> None:
    tag = client.post("/things", json={"name": "a"}).headers["ETag"]

    assert client.patch("/things/1", json={"name": "b"}, headers={"If-Match": tag}).status_code == 200
    assert client.patch("/things/1", json={"reason": None}, headers={"If-Match": tag}).status_code == 412
    assert client.patch("/things/2", json={"reason": None}, headers={"If-Match": tag}).status_code == 404


def test_document_says_null_where_null_may_be_sent_or_shown(client: FlaskClient) -> None:
    app: Flask = client.application
    described = document(app)
    validate(described)
    schemas = described["components"]["schemas"]

    null = {"type": "null"}
    assert schemas["ThingIn"]["properties"]["colour"] == {"anyOf": [{"type": "string", "maxLength": 10}, null]}
    assert null in schemas["ThingOut"]["properties"]["colour"]["anyOf"]
    assert schemas["ThingOut"]["required"] == ["id", "name", "colour"]
    assert "default" not in str(schemas["ThingIn"])
    assert "null" not in str(described["paths"]["/users"]["get"]["parameters"])
