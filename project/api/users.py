"""The users."""

import re
from typing import Literal, NoReturn

from flask import Blueprint, abort
from flask_restful import Resource
from sqlalchemy import ColumnElement, delete, func, or_, select, update

from project.api.answers import (
    ListingHeaders,
    Message,
    NewUserHeaders,
    UserListing,
    UserPage,
    UserShown,
    UserWritten,
    VersionHeaders,
)
from project.api.auth import scope
from project.api.errors import Api, VersionConflict
from project.api.models import EMAIL_FOLDED, EMAIL_ORDER, USERNAME_FOLDED, USERNAME_ORDER, User
from project.api.paging import Key, next_link, page
from project.api.schemas import Id, UserChanges, UserIn, UserQuery, body, query
from project.api.versions import etag, expected_versions
from project.extensions import db

users_blueprint = Blueprint("users", __name__)
api = Api(users_blueprint)

LARGEST_ID = 2**63 - 1
ORDERS: dict[str, Key] = {
    "id": User.id,
    "username": USERNAME_ORDER,
    "email": EMAIL_ORDER,
    "created_date": User.created_date,
}


class UserList(Resource):
    """All users."""

    @scope("users:read")
    @query(UserQuery)
    def get(self, asked: UserQuery) -> tuple[UserListing, Literal[200], ListingHeaders]:
        """List users."""
        users = select(User).where(*filters(asked))
        sort = asked.sort.removeprefix("-")
        keys = {sort: ORDERS[sort], "id": User.id}
        found, cursor = page(users, keys, asked.sort != sort, asked)

        data: UserPage = {"users": [user.to_json() for user in found]}
        headers: ListingHeaders = {}
        if cursor:
            data["next"] = cursor
            headers["Link"] = next_link(cursor)
        if asked.count:
            headers["X-Total-Count"] = str(db.session.scalar(select(func.count()).select_from(users.subquery())))
        return {"status": "success", "data": data}, 200, headers

    @scope("users:write")
    @body(UserIn)
    def post(self, payload: UserIn) -> tuple[UserWritten, Literal[201], NewUserHeaders]:
        """Add a user."""
        user = User(**payload.members())
        db.session.add(user)
        db.session.commit()
        answer: UserWritten = {"status": "success", "message": f"{user.email} was added!", "data": user.to_json()}
        return answer, 201, {"Location": f"/users/{user.id}", **etag(user.version)}


class UserDetail(Resource):
    """One user."""

    missing = "User does not exist"

    @scope("users:read")
    def get(self, user_id: Id) -> tuple[UserShown, Literal[200], VersionHeaders]:
        """Show a user."""
        user = db.session.get(User, user_key(user_id)) or no_such_user()
        return {"status": "success", "data": user.to_json()}, 200, etag(user.version)

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
        removed = delete(User).where(*expected(user_id)).returning(User.email)
        email = db.session.scalar(removed) or nothing_written(user_id)
        db.session.commit()
        return {"status": "success", "message": f"{email} was removed!"}


def filters(asked: UserQuery) -> list[ColumnElement[bool]]:
    """Return the conditions of a listing, each in the form that an index serves."""
    conditions = []
    if asked.email is not None:
        conditions.append(EMAIL_FOLDED == func.lower(asked.email.strip()))
    if asked.username is not None:
        conditions.append(USERNAME_ORDER == asked.username)
    if asked.active is not None:
        conditions.append(User.active == asked.active)
    if asked.q is not None:
        prefix = func.lower(re.sub(r"([\\%_])", r"\\\1", asked.q) + "%")
        conditions.append(or_(USERNAME_FOLDED.like(prefix), EMAIL_FOLDED.like(prefix)))
    return conditions


def user_key(user_id: str) -> int:
    """Return the id that a path names, or abort with 404: user 1 has one address, not /users/01 or /users/١ too."""
    if not re.fullmatch("[1-9][0-9]{0,18}", user_id) or int(user_id) > LARGEST_ID:
        no_such_user()
    return int(user_id)


def expected(user_id: str) -> list[ColumnElement[bool]]:
    """Return the conditions under which a user may be written: the id, and the versions that If-Match names."""
    versions = expected_versions()
    return [User.id == user_key(user_id), *([] if versions is None else [User.version.in_(versions)])]


def change(user_id: str, payload: UserIn | UserChanges) -> tuple[UserWritten, Literal[200], VersionHeaders]:
    """Write the members that the caller sent, in one statement: no other writer comes in between."""
    changed = update(User).where(*expected(user_id)).values(**payload.members()).returning(User)
    user = db.session.scalar(changed) or nothing_written(user_id)
    db.session.commit()
    answer: UserWritten = {"status": "success", "message": f"{user.id} was updated!", "data": user.to_json()}
    return answer, 200, etag(user.version)


def nothing_written(user_id: str) -> NoReturn:
    """Say why a write found no user to write."""
    if db.session.scalar(select(User.id).where(User.id == user_key(user_id))):
        raise VersionConflict()
    no_such_user()


def no_such_user() -> NoReturn:
    """Abort with the contract's 404."""
    abort(404, UserDetail.missing)


api.add_resource(UserList, "/users")
api.add_resource(UserDetail, "/users/<user_id>")
