"""The admin pages."""

import csv
import html
import re
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from io import StringIO
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pydantic.fields import FieldInfo
from sqlalchemy import Column, Integer, select
from werkzeug.datastructures import MultiDict
from werkzeug.serving import make_server
from werkzeug.test import TestResponse
from wtforms import Form

from project import db
from project.admin.forms import field_for
from project.api.models import User
from project.auth import tokens
from project.config import ProductionConfig
from project.tests.conftest import app_on, execute
from project.tests.test_cli import invoke
from project.tests.test_docs import CHROMIUM
from project.tests.utils import add_user

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

KEY = "a key of as many as 32 bytes ..."
FORM = {"username": "ada", "email": "ada@example.org", "active": "y"}


class Visitor:
    """Somebody with a browser: sends the CSRF token of the page before with each form."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client
        self.csrf = ""

    def get(self, path: str) -> TestResponse:
        answer = self.client.get(f"/admin/{path}", base_url="https://localhost")
        self.csrf = re.findall('name="csrf_token" value="([^"]+)"', answer.text or "")[0]
        return answer

    def post(self, path: str, **form: object) -> TestResponse:
        fields = {"csrf_token": self.csrf, **form}
        return self.client.post(f"/admin/{path}", data=fields, base_url="https://localhost")

    def sign_in(self, token: str) -> TestResponse:
        self.get("")
        return self.post("sign_in", token=token)


@pytest.fixture(scope="module")
def shared(open_url: str) -> Iterator[Flask]:
    """The application that these tests share."""
    app = app_on(open_url, ProductionConfig, AUTH_REQUIRED=True, SECRET_KEY=KEY)
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def admin_app(shared: Flask, open_database: str) -> Flask:
    """An application of production with admin pages."""
    return shared


@pytest.fixture
def make_token(admin_app: Flask) -> Callable[..., str]:
    """A function that creates a token with a scope."""

    def make_token(scope: str = "admin", name: str = "operator") -> str:
        return invoke(admin_app, "create_token", name, "--scope", scope).stdout.strip()

    return make_token


@pytest.fixture
def visitor(admin_app: Flask, make_token: Callable[..., str]) -> Visitor:
    """An administrator who has signed in."""
    visitor = Visitor(admin_app.test_client())
    assert visitor.sign_in(make_token()).status_code == 303
    visitor.get("users/")
    return visitor


def users(app: Flask) -> list[tuple[str, str, bool]]:
    """Return all users."""
    with app.app_context():
        return [
            (user.username, user.email, user.active) for user in db.session.scalars(select(User).order_by(User.id))
        ]


@pytest.fixture
def michael(admin_app: Flask) -> int:
    """The id of a user."""
    with admin_app.app_context():
        return add_user("michael", "michael@testdriven.io").id


def admin_calls(app: Flask) -> list[tuple[str, str]]:
    """Return every method and path of the admin pages."""
    rules = [rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/admin")]
    return [(method, re.sub("<[^>]+>", "csv", rule.rule)) for rule in rules for method in rule.methods]


def test_every_admin_page_needs_a_session(admin_app: Flask) -> None:
    for method, path in admin_calls(admin_app):
        if path != "/admin/style.css":
            answer = admin_app.test_client().open(path, method=method)
            wanted = (401,) if method in ("GET", "HEAD", "OPTIONS") else (400,)
            assert answer.status_code in wanted, (method, path)
    assert len(admin_calls(admin_app)) > 30
    assert admin_app.test_client().get("/admin/nowhere").status_code == 401
    assert admin_app.test_client().get("/admin").status_code == 401


def test_every_admin_form_needs_its_csrf_token(admin_app: Flask, visitor: Visitor, michael: int) -> None:
    before = users(admin_app)
    for csrf in ("", "made up", visitor.csrf[:-1]):
        for method, path in admin_calls(admin_app):
            if method == "POST":
                form = {"csrf_token": csrf, "action": "remove", "rowid": michael, "confirmed": "yes", **FORM}
                answer = visitor.client.post(path, data=form, base_url="https://localhost")
                assert answer.status_code == 400, path
    assert users(admin_app) == before
    assert visitor.get("users/").status_code == 200


def test_start_page_leads_an_administrator_to_the_users(visitor: Visitor) -> None:
    answer = visitor.client.get("/admin/", base_url="https://localhost")

    assert (answer.status_code, answer.location) == (302, "/admin/users/")


@pytest.mark.parametrize("key", [None, "my_precious", "x" * 31])
def test_production_has_no_admin_pages_without_a_long_key(open_database: str, key: str | None) -> None:
    app = app_on(open_database, ProductionConfig, AUTH_REQUIRED=True, SECRET_KEY=key)

    for path in ("/admin", "/admin/", "/admin/users/"):
        answer = app.test_client().get(path)
        assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found")


def test_development_has_admin_pages_behind_their_sign_in(client: FlaskClient) -> None:
    assert client.get("/admin/").status_code == 401


@pytest.mark.parametrize(
    ("scope", "change", "status"),
    [
        ("admin", "{}x", 401),
        ("admin", "", 401),
        ("admin", "eyJ.{}", 401),
        ("users:read", "{}", 403),
        ("admin", " {}\n", 303),
    ],
)
def test_sign_in_takes_a_token_with_the_scope(
    admin_app: Flask, make_token: Callable[..., str], scope: str, change: str, status: int
) -> None:
    visitor = Visitor(admin_app.test_client())
    token = make_token(scope)

    answer = visitor.sign_in(change.format(token))

    assert answer.status_code == status
    assert token not in answer.text
    assert visitor.get("users/").status_code == (200 if status == 303 else 401)


def test_session_cookie_is_closed_to_scripts_and_to_other_sites(
    admin_app: Flask, make_token: Callable[..., str]
) -> None:
    token = make_token()
    cookie = Visitor(admin_app.test_client()).sign_in(token).headers["Set-Cookie"]

    assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/admin"} <= set(cookie.split("; "))
    assert token not in cookie


@pytest.mark.parametrize("column", ["revoked_at", "expires_at"])
def test_session_ends_with_its_token(
    open_database: str, visitor: Visitor, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(open_database, f"UPDATE access_tokens SET {column} = date_trunc('second', now())")
    later = time.monotonic() + tokens.TRUST
    monkeypatch.setattr(tokens, "time", SimpleNamespace(monotonic=lambda: later))

    assert visitor.get("users/").status_code == 401
    assert visitor.post("users/new/", **FORM).status_code == 401


def test_first_page_leads_to_the_users(visitor: Visitor) -> None:
    answer = visitor.client.get("/admin/", base_url="https://localhost")

    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/users/")


def test_style_sheet_needs_no_session(admin_app: Flask) -> None:
    with admin_app.test_client().get("/admin/style.css") as answer:
        assert (answer.status_code, answer.mimetype) == (200, "text/css")


def test_sign_out_ends_the_session(visitor: Visitor) -> None:
    assert visitor.post("sign_out").status_code == 303
    assert visitor.get("users/").status_code == 401


def test_sign_in_is_limited_with_everything_else(open_database: str) -> None:
    app = app_on(open_database, ProductionConfig, AUTH_REQUIRED=True, SECRET_KEY=KEY, RATELIMIT="5/minute")
    visitor = Visitor(app.test_client())
    visitor.get("")

    assert [visitor.post("sign_in", token="usr_x").status_code for _ in range(6)] == [401] * 3 + [429] * 3


def test_page_runs_nothing_and_comes_from_here_alone(visitor: Visitor, michael: int) -> None:
    for path in ("users/", "tokens/", "users/new/", f"users/edit/?id={michael}"):
        answer = visitor.get(path)
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self';")
        assert answer.headers["Cache-Control"] == "no-store"
        assert re.findall(r"<script|<style| style=| on\w+=|javascript:|//", answer.text) == []
    with visitor.client.get("/admin/style.css", base_url="https://localhost") as style:
        assert (style.status_code, style.mimetype) == (200, "text/css")


def test_admin_adds_a_user(admin_app: Flask, visitor: Visitor) -> None:
    assert visitor.get("users/new/").status_code == 200
    assert visitor.post("users/new/", **FORM).status_code == 302

    assert users(admin_app) == [("ada", "ada@example.org", True)]


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({**FORM, "email": "no address"}, "Is not an email address."),
        ({**FORM, "email": " Michael@TestDriven.io "}, "Sorry. That email already exists."),
        ({**FORM, "username": " "}, "Must not be blank."),
        ({**FORM, "username": "a\tb"}, "Must not contain control characters."),
        ({**FORM, "username": "a" * 129}, "Must have at most 128 characters."),
    ],
)
def test_form_refuses_what_the_api_refuses(
    admin_app: Flask, visitor: Visitor, michael: int, form: dict[str, str], error: str
) -> None:
    with admin_app.app_context():
        other = add_user("other", "other@example.org").id
    before = users(admin_app)

    for path in ("users/new/", f"users/edit/?id={other}"):
        page = visitor.get(path)
        version = re.findall('name="version" type="hidden" value="([^"]*)"', page.text)[0]
        answer = visitor.post(path, version=version, **form)
        assert (answer.status_code, error in answer.text) == (200, True), answer.text
        assert "psycopg" not in answer.text
    assert users(admin_app) == before


def test_edit_is_refused_where_somebody_wrote_in_between(
    admin_app: Flask, open_database: str, visitor: Visitor, michael: int
) -> None:
    path = f"users/edit/?id={michael}"
    version = re.findall('name="version" type="hidden" value="([^"]*)"', visitor.get(path).text)[0]
    execute(open_database, "UPDATE users SET username = 'somebody else'")

    answer = visitor.post(path, version=version, **FORM)

    assert "Somebody has written this in between." in answer.text
    assert users(admin_app) == [("somebody else", "michael@testdriven.io", True)]


@pytest.mark.parametrize("path", ["users/new/", "users/edit/?id={}"])
def test_other_constraint_is_our_mistake(
    admin_app: Flask, open_database: str, visitor: Visitor, michael: int, path: str
) -> None:
    execute(open_database, "ALTER TABLE users ADD CONSTRAINT odd CHECK (username <> 'ada')")
    page = visitor.get(path.format(michael))
    version = re.findall('name="version" type="hidden" value="([^"]*)"', page.text)[0]

    answer = visitor.post(path.format(michael), version=version, **FORM)

    execute(open_database, "ALTER TABLE users DROP CONSTRAINT odd")
    assert (answer.status_code, answer.get_json()["code"]) == (500, "internal_server_error")


@pytest.mark.parametrize(
    ("action", "done"),
    [
        ("activate", [("michael", True), ("other", True)]),
        ("deactivate", [("michael", False), ("other", True)]),
        ("remove", [("other", True)]),
    ],
)
def test_action_is_done_after_a_confirmation(
    admin_app: Flask, visitor: Visitor, michael: int, action: str, done: list[tuple[str, bool]]
) -> None:
    with admin_app.app_context():
        add_user("other", "other@example.org")
    before = users(admin_app)

    asked = visitor.post("users/action/", action=action, rowid=michael)
    assert (asked.status_code, "these " in asked.text, users(admin_app)) == (200, True, before)
    assert visitor.post("users/action/", action=action, rowid=michael, confirmed="yes").status_code == 302

    assert [(username, active) for username, _, active in users(admin_app)] == done
    assert "d: 1." in visitor.get("users/").text


@pytest.mark.parametrize(("text", "value"), [("5", 5), ("", None), ("five", "five")])
def test_field_of_a_nullable_number_has_a_number_or_null(text: str, value: object) -> None:
    class Age(Form):
        age = field_for(Column("age", Integer, nullable=True), "Age", FieldInfo())

    assert Age(MultiDict({"age": text})).age.data == value
    assert 'value="5"' in str(Age(obj=SimpleNamespace(age=5)).age())


def test_user_of_the_largest_id_is_edited_and_removed(
    admin_app: Flask, open_database: str, visitor: Visitor, michael: int
) -> None:
    execute(open_database, f"UPDATE users SET id = {2**63 - 1}")

    assert visitor.get(f"users/edit/?id={2**63 - 1}").status_code == 200
    assert visitor.post("users/action/", action="remove", rowid=2**63 - 1, confirmed="yes").status_code == 302
    assert users(admin_app) == []


def test_action_needs_rows_and_a_name_that_is_known(admin_app: Flask, visitor: Visitor, michael: int) -> None:
    assert visitor.post("users/action/", action="remove", rowid="x", confirmed="yes").status_code == 302
    assert "Choose rows first." in visitor.get("users/").text
    for name in ("", "delete", "unknown"):
        assert visitor.post("users/action/", action=name, rowid=michael, confirmed="yes").status_code == 400
    visitor.post("users/delete/", id=michael)
    assert len(users(admin_app)) == 1


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["michael", "ada", "zoe"]),
        ("sort=1", ["ada", "michael", "zoe"]),
        ("sort=1&desc=1", ["zoe", "michael", "ada"]),
        ("search=ADA", ["ada"]),
        ("search=TESTDRIVEN", ["michael"]),
        ("search=nobody", []),
        ("flt0_0=1", ["michael", "zoe"]),
        ("flt0_0=0", ["ada"]),
        ("flt0_0=&flt1_1=", ["michael", "ada", "zoe"]),
        ("flt0_0=odd&flt1_1=odd", ["michael", "ada", "zoe"]),
        ("flt1_1=2999-01-01", []),
        ("flt1_1=2001-01-01&search=o", ["michael", "ada", "zoe"]),
        ("page=99999999999999999999", []),
        ("page=-1&page_size=-5&sort=99", ["michael", "ada", "zoe"]),
    ],
)
def test_list_is_searched_filtered_and_sorted(
    admin_app: Flask, visitor: Visitor, michael: int, query: str, names: list[str]
) -> None:
    with admin_app.app_context():
        add_user("ada", "ada@example.org").active = False
        db.session.commit()
        add_user("zoe", "zoe@example.org")

    answer = visitor.get(f"users/?{query}")

    assert answer.status_code == 200
    assert re.findall('data-title="Username">([^<]*)<', answer.text) == names


def test_list_drops_the_words_of_an_address_that_it_does_not_know(visitor: Visitor) -> None:
    query = "endpoint=x&_method=x&_external=1&export_type=x&sort=1&flt0_0=1"

    answer = visitor.client.get(f"/admin/users/?{query}", base_url="https://localhost")

    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/users/?sort=1&flt0_0=1")


def test_list_has_pages(admin_app: Flask, visitor: Visitor) -> None:
    with admin_app.app_context():
        db.session.add_all(User(username=str(number), email=f"{number}@b.test") for number in range(60))
        db.session.commit()

    first, second = visitor.get("users/").text, visitor.get("users/?page=1").text

    assert (first.count('data-title="Id"'), second.count('data-title="Id"')) == (50, 10)
    assert "Page 1 of 2" in first and "Page 2 of 2" in second


@pytest.mark.parametrize(
    "path",
    [
        "users/edit/?id=x",
        "users/edit/?id=01",
        "users/edit/?id=99999999999999999999",
        "users/edit/?id=7",
        "users/edit/?id=1&id=2",
    ],
)
def test_row_that_does_not_exist_leads_back(visitor: Visitor, path: str) -> None:
    assert visitor.client.get(f"/admin/{path}", base_url="https://localhost").status_code == 302


def test_nul_is_refused(visitor: Visitor) -> None:
    assert visitor.client.get("/admin/users/?search=%00", base_url="https://localhost").status_code == 400
    assert visitor.post("users/new/", **{**FORM, "username": "\0"}).status_code == 400


def test_script_in_a_username_is_text(admin_app: Flask, visitor: Visitor) -> None:
    with admin_app.app_context():
        row = add_user("<script>alert(1)</script>", "script@example.org").id

    for path in ("users/", f"users/edit/?id={row}"):
        page = visitor.get(path).text
        assert "<script" not in page
        assert "&lt;script&gt;alert(1)" in page


def test_export_has_no_cell_that_a_spreadsheet_runs(admin_app: Flask, visitor: Visitor) -> None:
    names = ["=1+1", "+1", "-1", "@SUM(A1)", 'plain, with "quotes"', "'=1"]
    with admin_app.app_context():
        for number, name in enumerate(names):
            add_user(name, f"{'=' if number == 0 else 'a'}{number}@b.test")

    address = html.unescape(re.findall('href="/admin/(users/export[^"]+)"', visitor.get("users/?sort=0").text)[0])
    assert address.startswith("users/export/csv/?sort=0")
    answer = visitor.client.get(f"/admin/{address}", base_url="https://localhost")

    rows = list(csv.DictReader(StringIO(answer.text)))
    assert [row["Username"] for row in rows] == [*(f"'{name}" for name in names[:4]), names[4], "''=1"]
    assert rows[0]["Email address"] == "'=0@b.test"
    assert (rows[0]["Id"], rows[0]["Active"]) == ("1", "yes")
    assert answer.headers["Content-Disposition"].startswith("attachment;filename=Users_")


def test_notes_are_added_edited_and_removed(open_database: str, visitor: Visitor) -> None:
    notes = "SELECT title, description FROM notes"
    visitor.get("notes/new/")

    refused = visitor.post("notes/new/", title="ab", description="something else")
    assert refused.status_code == 200 and "Must have 3 or more characters." in refused.text
    assert visitor.post("notes/new/", title="something", description="something else").status_code == 302
    assert execute(open_database, notes) == [("something", "something else")]

    page = visitor.get("notes/edit/?id=1").text
    version = re.findall('name="version" type="hidden" value="([^"]+)"', page)[0]
    assert "Edit a note" in page
    for title, status in (("newer", 302), ("newest", 200)):
        form = {"title": title, "description": "something else", "version": version}
        assert visitor.post("notes/edit/?id=1", **form).status_code == status
    assert execute(open_database, notes) == [("newer", "something else")]

    visitor.post("notes/action/", action="remove", rowid=1, confirmed="yes")
    assert "Deleted: 1." in visitor.get("notes/").text
    assert execute(open_database, notes) == []


def test_summaries_are_asked_for_and_made_again(open_database: str, visitor: Visitor) -> None:
    visitor.get("summaries/new/")

    assert "Is not a URL." in visitor.post("summaries/new/", url="ftp://b.test").text
    assert visitor.post("summaries/new/", url="https://b.test").status_code == 302
    assert visitor.client.get("/admin/summaries/edit/?id=1", base_url="https://localhost").status_code == 302
    execute(open_database, "UPDATE summaries SET state = 'failed', reason = 'The page has no text.', attempts = 5")
    assert "The page has no text." in visitor.get("summaries/?flt0_0=failed").text
    assert "b.test" not in visitor.get("summaries/?flt0_0=done").text

    visitor.post("summaries/action/", action="again", rowid=1, confirmed="yes")

    assert "To be summarised again: 1." in visitor.get("summaries/").text
    assert execute(open_database, "SELECT summary, state, reason, attempts FROM summaries") == [
        ("", "pending", None, 0)
    ]


def test_tokens_are_listed_without_their_digest_and_revoked(
    admin_app: Flask, open_database: str, visitor: Visitor, make_token: Callable[..., str]
) -> None:
    token = make_token("users:read", "reporting")
    [(row, digest)] = execute(open_database, "SELECT id, digest FROM access_tokens WHERE name = 'reporting'")
    page = visitor.get("tokens/").text
    assert "reporting" in page and "users:read" in page
    assert token not in page and bytes(digest).hex() not in page and "digest" not in page

    visitor.post("tokens/action/", action="revoke", rowid=row, confirmed="yes")

    assert "Revoked: 1." in visitor.get("tokens/").text
    headers = {"Authorization": f"Bearer {token}"}
    assert admin_app.test_client().get("/users", headers=headers).status_code == 401
    for path in ("new/", f"edit/?id={row}", f"details/?id={row}", "export/csv/"):
        assert visitor.client.get(f"/admin/tokens/{path}", base_url="https://localhost").status_code == 302


@pytest.fixture
def site(admin_app: Flask) -> Iterator[str]:
    """The service for a browser on this machine; yields its URL."""
    server = make_server("127.0.0.1", 0, admin_app, threaded=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def browser() -> "Iterator[Browser]":
    """A browser for which there is nothing but this machine."""
    arguments = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost"]
    # Not imported at the top: it takes a second, and few test runs have a browser.
    playwright_api = import_module("playwright.sync_api")
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


def fits(page: "Page") -> bool:
    """Say whether nothing is wider than the window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


@pytest.mark.skipif(CHROMIUM is None, reason="the pages are used in chromium, which is not installed here")
@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_administrator_works_in_a_browser(
    admin_app: Flask, make_token: Callable[..., str], site: str, browser: "Browser", tmp_path: Path, width: int
) -> None:
    with admin_app.app_context():
        add_user("michael", "hermanmu@gmail.com")
        add_user("<script>document.title = 'run'</script>", "script@example.org")
        add_user("=1+1", "formula@example.org")
    expect = import_module("playwright.sync_api").expect
    page = browser.new_page(viewport={"width": width, "height": 800})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))

    def look(name: str) -> None:
        page.screenshot(path=tmp_path / f"{width}-{name}.png", full_page=True)
        assert fits(page), name

    page.goto(f"{site}/admin/")
    look("sign-in")
    page.get_by_label("Access token").fill("usr_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("This token is unknown, expired or revoked.")
    page.get_by_label("Access token").fill(make_token())
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("tbody tr")).to_have_count(3)
    expect(page.get_by_text("<script>document.title = 'run'</script>")).to_be_visible()
    assert page.title() == "Users - Users"
    look("list")

    page.get_by_label("Search").fill("michael")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Email address").fill("Formula@example.org")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".error")).to_have_text("Sorry. That email already exists.")
    look("refused")
    page.get_by_label("Email address").fill("michael@mherman.org")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("michael@mherman.org")).to_be_visible()

    page.get_by_label("Choose row 1").check()
    page.get_by_role("button", name="Deactivate").click()
    expect(page.get_by_role("heading", name="Deactivate these users?")).to_be_visible()
    look("confirm")
    page.get_by_role("button", name="Deactivate").click()
    expect(page.get_by_role("status")).to_have_text("Deactivated: 1.")
    assert users(admin_app)[0] == ("michael", "michael@mherman.org", False)

    with page.expect_download() as download:
        page.get_by_role("link", name="Export CSV").click()
    assert "'=1+1" in Path(download.value.path()).read_text()

    page.get_by_role("link", name="Notes").click()
    page.get_by_role("link", name="Add").click()
    page.get_by_label("Title").fill("ab")
    page.get_by_label("Description").fill("something else")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".error")).to_have_text("Must have 3 or more characters.")
    look("note-refused")
    page.get_by_label("Title").fill("something")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    look("notes")

    page.get_by_role("link", name="Summaries").click()
    page.get_by_role("link", name="Add").click()
    page.get_by_label("URL").fill(f"https://b.test/{'a-long-path/' * 20}")
    look("page-to-summarise")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("cell", name="pending")).to_be_visible()
    look("summaries")

    page.get_by_role("link", name="Tokens").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    look("tokens")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert [message for message in said if "status of 401" not in message] == []
