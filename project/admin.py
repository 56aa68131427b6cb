"""The admin pages: users, notes, summaries and access tokens for people with a browser, behind their own sign-in."""

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from flask import (
    Flask,
    abort,
    current_app,
    flash,
    g,
    make_response,
    redirect,
    request,
    send_from_directory,
    session,
    url_for,
)
from flask.sessions import SecureCookieSessionInterface
from flask.typing import ResponseReturnValue
from flask_admin.actions import action
from flask_admin.base import Admin, AdminIndexView, BaseView, expose
from flask_admin.contrib.sqla.filters import BaseSQLAFilter
from flask_admin.contrib.sqla.view import ModelView
from flask_admin.form import SecureForm
from sqlalchemy import String, delete, func, update
from sqlalchemy.exc import IntegrityError
from wtforms import BooleanField, HiddenField, StringField

from project.api.auth import ADMIN, Grant, Tokens, is_admin_page
from project.api.errors import EMAIL_EXISTS, VersionConflict, is_duplicate_email
from project.api.models import PREFIX, THIS_SECOND, AccessToken, Note, Row, Summary, User
from project.api.schemas import InvalidPayload, NoteIn, Payload, SummaryWanted, UserIn, validated
from project.extensions import db
from project.metrics import metrics
from project.transfer import as_text

#: What a person's token must allow.
SCOPE = "admin"
#: The pages have no script at all, so none may run; the icon is an empty data: URL.
POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
#: For a browser that keeps no cookie: over plain HTTP it drops one that is for HTTPS alone.
NO_COOKIE = (
    "Your browser sent no cookie back, so you cannot sign in: open this page with https://, or, behind a proxy that"
    " speaks plain HTTP, have the operator set TRUSTED_PROXIES."
)
STATIC = Path(__file__).resolve().parent / "static"

ROW_ID = re.compile("[1-9][0-9]{0,17}")
#: Of an export, which is made in memory; whoever has more takes the API.
MOST_EXPORTED = 100_000
LAST_PAGE = 1_000_000


class Sessions(SecureCookieSessionInterface):
    """The sessions of the admin pages, in a cookie that follows the scheme of the request."""

    def get_cookie_secure(self, app: Flask) -> bool:
        """Return whether the browser is to send the cookie over HTTPS alone.

        So it is over HTTPS, and in production unless a trusted proxy says that the browser speaks plain HTTP.
        """
        # Of several proxies any may be the one that ends TLS.
        told = request.headers.get("X-Forwarded-Proto", "").lower() if app.config["TRUSTED_PROXIES"] else ""
        if request.is_secure or "https" in told:
            return True
        return bool(app.config["SESSION_COOKIE_SECURE"]) and not told


def shown(value: Any) -> str:
    """Return a value as people read it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value)
    return "" if value is None else str(value)


def session_grant() -> Grant | None:
    """Return what the token allows with which somebody has signed in, while it is neither expired nor revoked."""
    tokens: Tokens = current_app.extensions["tokens"]
    grant = tokens.grant_of_digest(bytes.fromhex(session["digest"])) if "digest" in session else None
    return grant if grant and SCOPE in grant.scopes else None


def sign_in_page(status: int, message: str = "") -> ResponseReturnValue:
    """Return the page that asks for a token."""
    view: Page = current_app.extensions["admin"][0].index_view
    response = make_response(view.render("sign_in.html", message=message), status)
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="users"'
    return response


def check() -> ResponseReturnValue | None:
    """Let nobody but an administrator see a page, and take no form that is not from one of these pages."""
    if not is_admin_page(request.path):
        return None
    if request.endpoint == "admin.style":
        return None
    # Postgres holds no text with a NUL.
    if any("\0" in value for value in request.values.values()):
        abort(400)
    if request.method not in ("GET", "HEAD", "OPTIONS") and not SecureForm(request.form).validate():
        if current_app.config["SESSION_COOKIE_NAME"] not in request.cookies and not request.is_secure:
            return sign_in_page(400, NO_COOKIE)
        return sign_in_page(400, "This form was too old, or not from this page. Nothing was changed. Try again.")
    if (request.method, request.endpoint) == ("POST", "admin.sign_in"):
        return None
    g.grant = session_grant()
    return None if g.grant else sign_in_page(401)


def send_policy(response: Any) -> Any:
    """Send the policy of the admin pages with them."""
    if is_admin_page(request.path):
        response.headers["Content-Security-Policy"] = POLICY
    return response


class Page(BaseView):
    """What all pages have."""

    def render(self, template: str, **values: Any) -> str:
        """Return a page, in which forms find their CSRF token."""
        csrf = SecureForm().csrf_token.current_token
        return str(super().render(template, csrf=csrf, grant=g.get("grant"), **values))


class Index(Page, AdminIndexView):
    """The way in and out."""

    def __init__(self) -> None:
        super().__init__(name="Sign in")
        # The files of Flask-Admin's own templates, which are not used.
        self.static_folder = None

    def is_visible(self) -> bool:
        """Leave this page out of the menu."""
        return False

    @expose("/")
    def index(self) -> ResponseReturnValue:
        """Go to the users."""
        return redirect(url_for("admin_users.index_view"))

    @expose("/style.css")
    def style(self) -> ResponseReturnValue:
        """Get the style sheet."""
        return send_from_directory(STATIC, "admin.css", mimetype="text/css", max_age=3600)

    @expose("/sign_in", methods=("POST",))
    def sign_in(self) -> ResponseReturnValue:
        """Take a token of ours that has the scope."""
        token = request.form.get("token", "").strip()
        tokens: Tokens = current_app.extensions["tokens"]
        grant = tokens.grant(token) if token.startswith(PREFIX) else None
        if not grant:
            return sign_in_page(401, "This token is unknown, expired or revoked.")
        if SCOPE not in grant.scopes:
            return sign_in_page(403, f'This token lacks the scope "{SCOPE}".')
        session.clear()
        # The cookie is signed and can be read: it must not hold the token itself.
        session["digest"] = AccessToken.digest_of(token).hex()
        return redirect(url_for("admin.index"), 303)

    @expose("/sign_out", methods=("POST",))
    def sign_out(self) -> ResponseReturnValue:
        """End the session in this browser."""
        session.clear()
        return redirect(url_for("admin.index"), 303)


class Table(Page, ModelView):
    """A table: its list, its search and its actions."""

    form_base_class = SecureForm
    list_template = "list.html"
    edit_template = create_template = "form.html"
    can_create = can_edit = can_delete = False
    column_display_pk = True
    column_display_actions = False
    page_size = 50
    action_disallowed_list = ("delete",)

    def get_list(self, page: int | None, *arguments: Any, **options: Any) -> Any:
        """Return the rows of a page, the last one for those beyond."""
        return super().get_list(min(max(page or 0, 0), LAST_PAGE), *arguments, **options)

    def _get_list_extra_args(self) -> Any:
        """Return what an address says of the list, without words of which the list knows nothing."""
        asked = super()._get_list_extra_args()
        # Flask-Admin would hand them on to url_for, which has parameters of its own.
        asked.extra_args = {}
        return asked

    def get_list_value(self, context: Any, model: Any, name: str) -> str:
        """Return a cell as people read it."""
        return shown(getattr(model, name))

    def get_one(self, id: str | list[str]) -> Any:
        """Return the row of an id, if there is one."""
        # Flask-Admin gives a list where the address names several.
        return db.session.get(self.model, int(id)) if isinstance(id, str) and ROW_ID.fullmatch(id) else None

    def handle_action(self, return_view: str | None = None) -> Any:
        """Ask before an action is done, then do it."""
        name, rows = request.form.get("action", ""), rows_chosen(request.form.getlist("rowid"))
        if name not in self.get_actions_list()[1]:
            abort(400)
        if not rows:
            flash("Choose rows first.", "error")
            return redirect(self.get_url(".index_view"))
        if "confirmed" not in request.form:
            _, text, question = self._actions_data[name]
            return self.render("confirm.html", name=name, text=text, question=question, rows=rows)
        return super().handle_action(return_view)


def rows_chosen(given: Sequence[str]) -> list[int]:
    """Return the ids of the rows that somebody has chosen."""
    return [int(row) for row in given if ROW_ID.fullmatch(row)]


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


class RowTable(Table):
    """A table whose rows people write as callers of the API do."""

    can_create = can_edit = can_export = True
    column_default_sort = "id"
    export_max_rows = MOST_EXPORTED
    model: type[Row]
    #: What one row is called.
    noun: str

    def get_export_value(self, model: Any, name: Any) -> str:
        """Return a cell that no spreadsheet runs."""
        return as_text(shown(getattr(model, name)))

    def create_model(self, form: RowForm) -> Row | bool:
        """Add a row, or tell the form why not."""
        row = self.model(**form.members)
        db.session.add(row)
        try:
            db.session.commit()
        except IntegrityError as error:
            return self.refuse(form, error)
        return row

    def update_model(self, form: RowForm, model: Any) -> bool:
        """Write a row in one statement, or tell the form why not."""
        # As text: whatever a browser sends compares with it.
        mine = (self.model.id == model.id, self.model.version.cast(String) == form.version.data)
        changed = update(self.model).where(*mine).values(**form.members).execution_options(synchronize_session=False)
        try:
            written = db.session.scalar(changed.returning(self.model.id))
        except IntegrityError as error:
            return self.refuse(form, error)
        db.session.commit()
        if not written:
            form.form_errors = [VersionConflict.description]
        return bool(written)

    def refuse(self, form: RowForm, error: IntegrityError) -> bool:
        """Tell the form that somebody has the address; any other constraint is there for our own mistakes."""
        db.session.rollback()
        if not is_duplicate_email(error):
            raise error
        form.email.errors = [EMAIL_EXISTS[0]]
        return False

    @action("remove", "Delete", "Delete these for good?")
    def remove(self, rows: Sequence[str]) -> None:
        """Delete rows."""
        chosen = delete(self.model).where(self.model.id.in_(rows_chosen(rows)))
        done = db.session.scalars(chosen.returning(self.model.id)).all()
        db.session.commit()
        flash(f"Deleted: {len(done)}.", "success")


class UserForm(RowForm):
    """A user."""

    payload = UserIn
    username = StringField("Username")
    email = StringField("Email address", render_kw={"inputmode": "email"})
    active = BooleanField("Active", default=True)


class UserTable(RowTable):
    """The users."""

    noun = "user"
    form = UserForm
    column_list = column_export_list = ["id", "username", "email", "active", "created_date"]
    column_sortable_list = column_list
    column_labels = {"id": "Id", "email": "Email address", "created_date": "Created (UTC)"}
    column_searchable_list = ("username", "email")
    column_filters = (
        ChoiceFilter(User.active, "Active", [("1", "yes", True), ("0", "no", False)]),
        SinceFilter(User.created_date, "Created since"),
    )

    def create_model(self, form: RowForm) -> Row | bool:
        """Add a user, or tell the form why not."""
        user = super().create_model(form)
        if user:
            metrics().users_created.inc()
        return user

    @action("activate", "Activate", "Activate these users?")
    def activate(self, rows: Sequence[str]) -> None:
        """Let users take part."""
        self.switch(rows, True)

    @action("deactivate", "Deactivate", "Deactivate these users?")
    def deactivate(self, rows: Sequence[str]) -> None:
        """Let users no longer take part."""
        self.switch(rows, False)

    def switch(self, rows: Sequence[str], active: bool) -> None:
        """Write whether users take part."""
        done = db.session.scalars(
            update(User).where(User.id.in_(rows_chosen(rows))).values(active=active).returning(User.id)
        ).all()
        db.session.commit()
        flash(f"{'Activated' if active else 'Deactivated'}: {len(done)}.", "success")


class NoteForm(RowForm):
    """A note."""

    payload = NoteIn
    title = StringField("Title")
    description = StringField("Description")


class NoteTable(RowTable):
    """The notes."""

    noun = "note"
    form = NoteForm
    column_list = column_export_list = ["id", "title", "description", "created_date"]
    column_sortable_list = column_list
    column_labels = {"id": "Id", "created_date": "Created (UTC)"}
    column_searchable_list = ("title", "description")
    column_filters = (SinceFilter(Note.created_date, "Created since"),)


class SummaryForm(RowForm):
    """A page to summarise."""

    payload = SummaryWanted
    url = StringField("URL", render_kw={"inputmode": "url"})


class SummaryTable(RowTable):
    """The summaries, which the summarizer writes."""

    can_edit = False
    noun = "page to summarise"
    form = SummaryForm
    column_list = column_export_list = ["id", "url", "summary", "state", "reason", "attempts", "created_at"]
    column_sortable_list = ("id", "url", "state", "attempts", "created_at")
    column_labels = {"id": "Id", "url": "URL", "created_at": "Created (UTC)"}
    column_searchable_list = ("url", "summary")
    column_filters = (
        ChoiceFilter(Summary.state, "State", [(state, state, state) for state in ("pending", "done", "failed")]),
        SinceFilter(Summary.created_at, "Created since"),
    )

    @action("again", "Summarise again", "Summarise these pages again? Their summaries are empty until then.")
    def again(self, rows: Sequence[str]) -> None:
        """Ask for other summaries."""
        anew = {"summary": "", "state": "pending", "reason": None, "attempts": 0, "next_attempt_at": func.now()}
        chosen = update(Summary).where(Summary.id.in_(rows_chosen(rows))).values(anew)
        done = db.session.scalars(chosen.returning(Summary.id)).all()
        db.session.commit()
        flash(f"To be summarised again: {len(done)}.", "success")


class TokenTable(Table):
    """The access tokens; never a token or its digest."""

    column_list = ("name", "scopes", "created_date", "expires_at", "last_used_at", "revoked_at")
    column_sortable_list = ("name", "created_date", "expires_at", "last_used_at", "revoked_at")
    column_default_sort = "name"
    column_labels = {
        "created_date": "Created (UTC)",
        "expires_at": "Expires (UTC)",
        "last_used_at": "Last used (UTC)",
        "revoked_at": "Revoked (UTC)",
    }
    column_searchable_list = ("name",)

    @action("revoke", "Revoke", "Revoke these tokens for good? Every worker refuses them within a second.")
    def revoke(self, rows: Sequence[str]) -> None:
        """Revoke tokens."""
        these = (AccessToken.id.in_(rows_chosen(rows)), AccessToken.revoked_at.is_(None))
        done = db.session.scalars(
            update(AccessToken).where(*these).values(revoked_at=THIS_SECOND).returning(AccessToken.id)
        ).all()
        db.session.commit()
        flash(f"Revoked: {len(done)}.", "success")


def init_app(app: Flask) -> None:
    """Give the application its admin pages."""
    app.session_interface = Sessions()
    app.before_request(check)
    app.after_request(send_policy)
    admin = Admin(app, name="Users", url=ADMIN, index_view=Index())
    admin.add_view(UserTable(User, db, name="Users", endpoint="admin_users", url="users"))
    admin.add_view(NoteTable(Note, db, name="Notes", endpoint="admin_notes", url="notes"))
    admin.add_view(SummaryTable(Summary, db, name="Summaries", endpoint="admin_summaries", url="summaries"))
    admin.add_view(TokenTable(AccessToken, db, name="Tokens", endpoint="admin_tokens", url="tokens"))
