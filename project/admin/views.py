"""The admin pages: users, notes, summaries and access tokens for people with a browser, behind their own sign-in."""

import re
from collections.abc import Sequence
from typing import Any

from flask import abort, flash, redirect, request
from flask_admin.actions import action
from flask_admin.base import expose
from flask_admin.contrib.sqla.view import ModelView
from flask_admin.form import SecureForm
from sqlalchemy import String, delete, func, update
from sqlalchemy.exc import IntegrityError

from project.admin.forms import ChoiceFilter, RowForm, SinceFilter, form_for, rows_chosen, shown
from project.admin.sign_in import PageView
from project.api.constraints import broken_constraint
from project.api.models import MAX_SEARCH_LENGTH, THIS_SECOND, AccessToken, Note, Row, Summary, User
from project.api.payloads import NoteIn, SummaryWanted, UserIn
from project.api.validation import parse_id
from project.extensions import db
from project.http.errors import VersionConflict
from project.observability.metrics import metrics
from project.transfer.readers import as_text

#: Of an export, which is made in memory; whoever has more takes the API.
MOST_EXPORTED = 100_000
LAST_PAGE = 1_000_000


#: What an address may say of a list: its page, its order, its search and its filters.
LIST_PARAMETER = re.compile("page|page_size|sort|desc|search|flt[0-9]+_[0-9]+")


class Table(PageView, ModelView):
    """A table: its list, its search and its actions."""

    form_base_class = SecureForm
    list_template = "list.html"
    edit_template = create_template = "form.html"
    can_create = can_edit = can_delete = False
    column_display_pk = True
    column_display_actions = False
    page_size = 50
    max_search_length = MAX_SEARCH_LENGTH
    action_disallowed_list = ("delete",)

    def get_list(self, page: int | None, *arguments: Any, **options: Any) -> Any:
        """Return the rows of a page, the last one for those beyond."""
        return super().get_list(min(max(page or 0, 0), LAST_PAGE), *arguments, **options)

    @expose("/")
    def index_view(self) -> Any:
        """Show the list."""
        # Flask-Admin hands words of an address that it does not know on to url_for, which has parameters of its own.
        known = {name: value for name, value in request.args.items() if LIST_PARAMETER.fullmatch(name)}
        if len(known) < len(request.args):
            return redirect(self.get_url(".index_view", **known))
        return super().index_view()

    def get_list_value(self, context: Any, model: Any, name: str) -> str:
        """Return a cell as people read it."""
        return shown(getattr(model, name))

    def get_one(self, id: str | list[str]) -> Any:
        """Return the row of an id, if there is one."""
        # Flask-Admin gives a list where the address names several.
        row_id = parse_id(id) if isinstance(id, str) else None
        return db.session.get(self.model, row_id) if row_id else None

    def handle_action(self, return_view: str | None = None) -> Any:
        """Ask before an action is done, then do it."""
        name, rows = request.form.get("action", ""), rows_chosen(request.form.getlist("rowid"))
        actions, questions = self.get_actions_list()
        if name not in questions:
            abort(400)
        if not rows:
            flash("Choose rows first.", "error")
            return redirect(self.get_url(".index_view"))
        if "confirmed" not in request.form:
            text, question = dict(actions)[name], questions[name]
            return self.render("confirm.html", name=name, text=text, question=question, rows=rows)
        return super().handle_action(return_view)


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
        """Tell the field of the form which constraint the row breaks; return False."""
        db.session.rollback()
        broken = broken_constraint(error)
        if broken is None:
            raise error
        form[broken.member].errors = [broken.message]
        return False

    @action("remove", "Delete", "Delete these for good?")
    def remove(self, rows: Sequence[str]) -> None:
        """Delete rows."""
        chosen = delete(self.model).where(self.model.id.in_(rows_chosen(rows)))
        done = db.session.scalars(chosen.returning(self.model.id)).all()
        db.session.commit()
        flash(f"Deleted: {len(done)}.", "success")


class UserTable(RowTable):
    """The users."""

    noun = "user"
    column_labels = {"id": "Id", "email": "Email address", "created_date": "Created (UTC)"}
    form = form_for(User, UserIn, column_labels)
    column_list = column_export_list = list(User.representation.__annotations__)
    column_sortable_list = column_list
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


class NoteTable(RowTable):
    """The notes."""

    noun = "note"
    column_labels = {"id": "Id", "created_date": "Created (UTC)"}
    form = form_for(Note, NoteIn, column_labels)
    column_list = column_export_list = list(Note.representation.__annotations__)
    column_sortable_list = column_list
    column_searchable_list = ("title", "description")
    column_filters = (SinceFilter(Note.created_date, "Created since"),)


class SummaryTable(RowTable):
    """The summaries, which the summarizer writes."""

    can_edit = False
    noun = "page to summarise"
    column_labels = {"id": "Id", "url": "URL", "created_at": "Created (UTC)"}
    form = form_for(Summary, SummaryWanted, column_labels)
    column_list = column_export_list = ["id", "url", "summary", "state", "reason", "attempts", "created_at"]
    column_sortable_list = ("id", "url", "state", "attempts", "created_at")
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
