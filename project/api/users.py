"""The users."""

import re
from typing import Any, Literal, NoReturn, cast

from flask import Blueprint, abort
from sqlalchemy import Text, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import ARRAY

from project.api.answers import (
    ListingHeaders,
    Message,
    NewUserHeaders,
    UserListing,
    UserOut,
    UserPage,
    UserShown,
    UserWritten,
    VersionHeaders,
)
from project.api.auth import scope
from project.api.errors import Api, Resource, VersionConflict
from project.api.models import EMAIL_FOLDED, EMAIL_ORDER, USER_SHOWN, USERNAME_FOLDED, USERNAME_ORDER, User
from project.api.paging import Listing, next_link
from project.api.schemas import Id, UserChanges, UserIn, UserQuery, body, query
from project.api.versions import etag, expected_versions
from project.metrics import metrics
from project.statements import Row, Statement

users_blueprint = Blueprint("users", __name__)
api = Api(users_blueprint)

LARGEST_ID = 2**63 - 1

LISTING = Listing(
    USER_SHOWN,
    keys={"id": User.id, "username": USERNAME_ORDER, "email": EMAIL_ORDER, "created_date": User.created_date},
    # Each in the form that an index serves.
    filters={
        "email": EMAIL_FOLDED == func.lower(bindparam("email")),
        "username": USERNAME_ORDER == bindparam("username"),
        "active": User.active == bindparam("active"),
        "q": or_(USERNAME_FOLDED.like(func.lower(bindparam("q"))), EMAIL_FOLDED.like(func.lower(bindparam("q")))),
    },
)

MEMBERS = ("username", "email", "active")
USER_NAMES = tuple(UserOut.__annotations__)
ANSWERED = (*USER_SHOWN, User.version)
#: The user of an id, if it has one of the versions that If-Match names; where that is none, any.
EXPECTED = (
    User.id == bindparam("key"),
    or_(
        bindparam("versions", type_=ARRAY(Text)).is_(None),
        User.version.cast(Text) == bindparam("versions", type_=ARRAY(Text)).any_(),
    ),
)
SHOW = Statement(select(*ANSWERED).where(User.id == bindparam("key")))
ADD = Statement(insert(User).values({name: bindparam(name) for name in MEMBERS}).returning(*ANSWERED))
# One statement: no other writer comes in between. A member that the caller did not send stays as it is.
CHANGE = Statement(
    update(User)
    .where(*EXPECTED)
    .values({name: func.coalesce(bindparam(name), getattr(User, name)) for name in MEMBERS})
    .returning(*ANSWERED)
)
REMOVE = Statement(delete(User).where(*EXPECTED).returning(User.email))


class UserList(Resource):
    """All users."""

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
    def post(self, payload: UserIn) -> tuple[UserWritten, Literal[201], NewUserHeaders]:
        """Add a user."""
        user, version = shown(*ADD.rows(username=payload.username, email=payload.email, active=payload.active))
        metrics().users_created.inc()
        answer: UserWritten = {"status": "success", "message": f"{user['email']} was added!", "data": user}
        return answer, 201, {"Location": f"/users/{user['id']}", **etag(version)}


class UserDetail(Resource):
    """One user."""

    missing = "User does not exist"

    @scope("users:read")
    def get(self, user_id: Id) -> tuple[UserShown, Literal[200], VersionHeaders]:
        """Show a user."""
        user, version = shown(SHOW.row(key=user_key(user_id)) or no_such_user())
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
        (email,) = REMOVE.row(**expected(user_id)) or nothing_written(user_id)
        return {"status": "success", "message": f"{email} was removed!"}


def filter_values(asked: UserQuery) -> dict[str, Any]:
    """Return the values of the filters that a query names."""
    values = asked.model_dump(include=set(LISTING.filters), exclude_none=True)
    if asked.email is not None:
        values["email"] = asked.email.strip()
    if asked.q is not None:
        values["q"] = re.sub(r"([\\%_])", r"\\\1", asked.q) + "%"
    return values


def shown(row: Row) -> tuple[UserOut, str]:
    """Return a user as the API shows it, and its version."""
    *values, version = row
    return cast(UserOut, dict(zip(USER_NAMES, values))), version


def user_key(user_id: str) -> int:
    """Return the id that a path names, or abort with 404: user 1 has one address, not /users/01 or /users/١ too."""
    if not re.fullmatch("[1-9][0-9]{0,18}", user_id) or int(user_id) > LARGEST_ID:
        no_such_user()
    return int(user_id)


def expected(user_id: str) -> dict[str, Any]:
    """Return the parameters of a write: the id, and the versions that If-Match names."""
    return {"key": user_key(user_id), "versions": expected_versions()}


def change(user_id: str, payload: UserIn | UserChanges) -> tuple[UserWritten, Literal[200], VersionHeaders]:
    """Write the members that the caller sent."""
    members = {**dict.fromkeys(MEMBERS), **payload.members()}
    user, version = shown(CHANGE.row(**members, **expected(user_id)) or nothing_written(user_id))
    answer: UserWritten = {"status": "success", "message": f"{user['id']} was updated!", "data": user}
    return answer, 200, etag(version)


def nothing_written(user_id: str) -> NoReturn:
    """Say why a write found no user to write."""
    if SHOW.row(key=user_key(user_id)):
        raise VersionConflict()
    no_such_user()


def no_such_user() -> NoReturn:
    """Abort with the contract's 404."""
    abort(404, UserDetail.missing)


api.add_resource(UserList, "/users")
api.add_resource(UserDetail, "/users/<user_id>")
