"""The admin pages, put together."""

from flask import Blueprint, Flask
from flask_admin.base import Admin

from project.admin.sign_in import Index, Sessions, check_session, send_policy
from project.admin.views import NoteTable, SummaryTable, TokenTable, UserTable
from project.api.models import AccessToken, Note, Summary, User
from project.auth.access import ADMIN
from project.extensions import db


def init_app(app: Flask) -> None:
    """Give the application its admin pages."""
    app.register_blueprint(Blueprint("admin_pages", __name__, template_folder="templates"))
    app.session_interface = Sessions()
    app.before_request(check_session)
    app.after_request(send_policy)
    index = app.extensions["admin_index"] = Index()
    admin = Admin(app, name="Users", url=ADMIN, index_view=index)
    admin.add_view(UserTable(User, db, name="Users", endpoint="admin_users", url="users"))
    admin.add_view(NoteTable(Note, db, name="Notes", endpoint="admin_notes", url="notes"))
    admin.add_view(SummaryTable(Summary, db, name="Summaries", endpoint="admin_summaries", url="summaries"))
    admin.add_view(TokenTable(AccessToken, db, name="Tokens", endpoint="admin_tokens", url="tokens"))
