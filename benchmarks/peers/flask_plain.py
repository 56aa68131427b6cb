"""The plain Flask form of this service, as tutorials have it: ORM objects, the default session, and no more."""

from datetime import UTC

from email_validator import EmailNotValidError, validate_email
from flask import Flask, request
from flask_restful import Api, Resource
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.exc import IntegrityError

app = Flask(__name__)
# libpq knows the database from PGHOST and PGDATABASE.
app.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg2://"
db = SQLAlchemy(app)
api = Api(app)


class User(db.Model):
    """A user."""

    __tablename__ = "users"

    id = db.Column(db.BigInteger, primary_key=True, autoincrement=True)
    username = db.Column(db.String(128), nullable=False)
    email = db.Column(db.String(128), unique=True, nullable=False)
    active = db.Column(db.Boolean, default=True, nullable=False)
    created_date = db.Column(db.DateTime(timezone=True), server_default=db.func.now(), nullable=False)

    def to_json(self):
        """Return the user as the API shows it."""
        return {
            "id": self.id,
            "username": self.username,
            "email": self.email,
            "active": self.active,
            "created_date": self.created_date.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def is_text(value):
    """Say whether this is a text of 1 to 128 characters."""
    return isinstance(value, str) and 1 <= len(value) <= 128


class Ping(Resource):
    """Whether the service is there."""

    def get(self):
        """Say that the service is there."""
        return {"status": "success", "message": "pong!"}


class UserList(Resource):
    """All users."""

    def get(self):
        """List users."""
        users = User.query.order_by(User.id).limit(100).all()
        return {"status": "success", "data": {"users": [user.to_json() for user in users]}}

    def post(self):
        """Add a user."""
        data = request.get_json()
        if not isinstance(data, dict) or not is_text(data.get("username")) or not is_text(data.get("email")):
            return {"status": "fail", "message": "Invalid payload."}, 400
        try:
            validate_email(data["email"], check_deliverability=False)
        except EmailNotValidError:
            return {"status": "fail", "message": "Invalid payload."}, 400
        if User.query.filter_by(email=data["email"]).first():
            return {"status": "fail", "message": "Sorry. That email already exists."}, 400
        user = User(username=data["username"], email=data["email"])
        db.session.add(user)
        try:
            db.session.commit()
        except IntegrityError:
            db.session.rollback()
            return {"status": "fail", "message": "Sorry. That email already exists."}, 400
        return {"status": "success", "message": f"{user.email} was added!", "data": user.to_json()}, 201


class UserDetail(Resource):
    """One user."""

    def get(self, user_id):
        """Show a user."""
        user = User.query.filter_by(id=user_id).first()
        if not user:
            return {"status": "fail", "message": "User does not exist"}, 404
        return {"status": "success", "data": user.to_json()}


api.add_resource(Ping, "/ping")
api.add_resource(UserList, "/users")
api.add_resource(UserDetail, "/users/<int:user_id>")
