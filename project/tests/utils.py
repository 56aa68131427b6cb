"""What tests write by hand, in the words of those who know this kind of service."""

from project import db
from project.api.models import User


def add_user(username: str, email: str) -> User:
    """Add a user to the database of the current application."""
    user = User(username=username, email=email)
    db.session.add(user)
    db.session.commit()
    return user


def recreate_db() -> None:
    """Make the tables of the current application's database anew, empty."""
    db.session.remove()
    db.drop_all()
    db.create_all()
