"""The users."""

import re
from typing import Any, NoReturn

from flask import Blueprint, abort, request
from flask_restful import Resource
from sqlalchemy import delete, select, update

from project.api.errors import Api
from project.api.models import User
from project.api.schemas import InvalidQuery, UserChanges, UserIn, body, fault
from project.extensions import db

users_blueprint = Blueprint("users", __name__)
api = Api(users_blueprint)

Answer = dict[str, Any]

LARGEST_ID = 2**63 - 1


def user_key(user_id: str) -> int:
    """Return the id that a path names, or abort with 404; user 1 has one address, not also /users/01 or /users/١."""
    if not re.fullmatch("[1-9][0-9]{0,18}", user_id) or int(user_id) > LARGEST_ID:
        no_such_user()
    return int(user_id)


def no_such_user() -> NoReturn:
    """Abort with the contract's 404."""
    abort(404, "User does not exist")


class UserList(Resource):
    """All users."""

    def get(self) -> Answer:
        """List the users."""
        if request.args:
            raise InvalidQuery(
                *(fault("Is not a parameter of this call.", "extra_forbidden", "query", name) for name in request.args)
            )
        users = db.session.scalars(select(User).order_by(User.id))
        return {"status": "success", "data": {"users": [user.to_json() for user in users]}}

    @body(UserIn)
    def post(self, payload: UserIn) -> tuple[Answer, int, dict[str, str]]:
        """Add a user."""
        user = User(**payload.members())
        db.session.add(user)
        db.session.commit()
        answer = {"status": "success", "message": f"{user.email} was added!", "data": user.to_json()}
        return answer, 201, {"Location": f"/users/{user.id}"}


class UserDetail(Resource):
    """One user."""

    def get(self, user_id: str) -> Answer:
        """Show a user."""
        user = db.session.get(User, user_key(user_id)) or no_such_user()
        return {"status": "success", "data": user.to_json()}

    @body(UserIn)
    def put(self, payload: UserIn, user_id: str) -> Answer:
        """Replace a user."""
        return change(user_id, payload)

    @body(UserChanges)
    def patch(self, payload: UserChanges, user_id: str) -> Answer:
        """Change some members of a user."""
        return change(user_id, payload)

    def delete(self, user_id: str) -> Answer:
        """Remove a user."""
        removed = delete(User).where(User.id == user_key(user_id)).returning(User.email)
        email = db.session.scalar(removed) or no_such_user()
        db.session.commit()
        return {"status": "success", "message": f"{email} was removed!"}


def change(user_id: str, payload: UserIn | UserChanges) -> Answer:
    """Write the members that the caller sent, in one statement: no other writer comes in between."""
    changed = update(User).where(User.id == user_key(user_id)).values(**payload.members()).returning(User)
    user = db.session.scalar(changed) or no_such_user()
    db.session.commit()
    return {"status": "success", "message": f"{user.id} was updated!", "data": user.to_json()}


api.add_resource(UserList, "/users")
api.add_resource(UserDetail, "/users/<user_id>")
