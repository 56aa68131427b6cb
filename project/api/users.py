"""The users."""

import re
from typing import Any, Literal

from flask import Blueprint
from sqlalchemy import bindparam, func, or_
from werkzeug.routing import BaseConverter

from project.api.models import EMAIL_FOLDED, EMAIL_ORDER, USERNAME_FOLDED, USERNAME_ORDER, User
from project.api.payloads import Id, UserChanges, UserIn
from project.api.queries import UserQuery
from project.api.representations import Message, UserListing, UserOut, UserPage, UserShown, UserWritten
from project.api.validation import parse_id
from project.auth.access import scope
from project.http.bodies import body, query
from project.http.conditional import etag
from project.http.pagination import Listing, next_link
from project.http.resources import Api, Resource
from project.http.response_headers import ListingHeaders, NewRowHeaders, VersionHeaders
from project.http.rows import Rows
from project.observability.metrics import metrics

users_blueprint = Blueprint("users", __name__)
api = Api(users_blueprint)


class UserKey(BaseConverter):
    """What a path may name: everything but the names of other calls, which answer 405 for a wrong method."""

    regex = "(?!(?:import|export)$)[^/]+"
    # One part of a path, which Werkzeug would not see from the pattern.
    part_isolating = True


# In the default's place: the text of the rule, which logs and figures show, stays as it is.
users_blueprint.record_once(lambda state: state.app.url_map.converters.update(default=UserKey))

LISTING = Listing(
    User,
    keys={"id": User.id, "username": USERNAME_ORDER, "email": EMAIL_ORDER, "created_date": User.created_date},
    # Each in the form that an index serves.
    filters={
        "email": EMAIL_FOLDED == func.lower(bindparam("email")),
        "username": USERNAME_ORDER == bindparam("username"),
        "active": User.active == bindparam("active"),
        "q": or_(USERNAME_FOLDED.like(func.lower(bindparam("q"))), EMAIL_FOLDED.like(func.lower(bindparam("q")))),
    },
)

USERS: Rows[UserOut] = Rows(User, missing="User does not exist")


class UserList(Resource):
    """All users."""

    rows = USERS

    @scope("users:read")
    @query(UserQuery)
    def get(self, asked: UserQuery) -> tuple[UserListing, Literal[200], ListingHeaders]:
        """List users."""
        values = filter_values(asked)
        users, cursor = LISTING.page(asked, asked.sort, values)
        data: UserPage = {"users": users}
        headers: ListingHeaders = {}
        if cursor:
            data["next"] = cursor
            headers["Link"] = next_link(cursor)
        if asked.count:
            headers["X-Total-Count"] = str(LISTING.count(values))
        return {"status": "success", "data": data}, 200, headers

    @scope("users:write")
    @body(UserIn)
    def post(self, payload: UserIn) -> tuple[UserWritten, Literal[201], NewRowHeaders]:
        """Add a user."""
        user, version = USERS.add(payload.members())
        metrics().users_created.inc()
        answer: UserWritten = {"status": "success", "message": f"{user['email']} was added!", "data": user}
        return answer, 201, {"Location": f"/users/{user['id']}", **etag(version)}


class UserDetail(Resource):
    """One user."""

    rows = USERS

    @scope("users:read")
    def get(self, user_id: Id) -> tuple[UserShown, Literal[200], VersionHeaders]:
        """Show a user."""
        user, version = USERS.get(user_key(user_id))
        return {"status": "success", "data": user}, 200, etag(version)

    @scope("users:write")
    @body(UserIn)
    def put(self, payload: UserIn, user_id: Id) -> tuple[UserWritten, Literal[200], VersionHeaders]:
        """Replace a user."""
        return change(user_id, payload)

    @scope("users:write")
    @body(UserChanges)
    def patch(self, payload: UserChanges, user_id: Id) -> tuple[UserWritten, Literal[200], VersionHeaders]:
        """Change some members of a user."""
        return change(user_id, payload)

    @scope("users:write")
    def delete(self, user_id: Id) -> Message:
        """Remove a user."""
        user = USERS.remove(user_key(user_id))
        return {"status": "success", "message": f"{user['email']} was removed!"}


def filter_values(asked: UserQuery) -> dict[str, Any]:
    """Return the values of the filters that a query names."""
    values = asked.model_dump(include=set(LISTING.filters), exclude_none=True)
    if asked.email is not None:
        values["email"] = asked.email.strip()
    if asked.q is not None:
        values["q"] = re.sub(r"([\\%_])", r"\\\1", asked.q) + "%"
    return values


def user_key(user_id: str) -> int:
    """Return the id that a path names, or abort with 404."""
    return parse_id(user_id) or USERS.not_there()


def change(user_id: str, payload: UserIn | UserChanges) -> tuple[UserWritten, Literal[200], VersionHeaders]:
    """Write the members that the caller sent."""
    user, version = USERS.change(user_key(user_id), payload.members())
    answer: UserWritten = {"status": "success", "message": f"{user['id']} was updated!", "data": user}
    return answer, 200, etag(version)


api.add_resource(UserList, "/users")
api.add_resource(UserDetail, "/users/<user_id>")
