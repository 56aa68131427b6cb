"""The sign-in of the admin pages: a session in a cookie, made from an access token with the scope admin."""

from pathlib import Path
from typing import Any

from flask import Flask, abort, current_app, g, make_response, redirect, request, send_from_directory, session, url_for
from flask.sessions import SecureCookieSessionInterface
from flask.typing import ResponseReturnValue
from flask_admin.base import BaseView, expose
from flask_admin.form import SecureForm

from project.api.models import PREFIX, AccessToken
from project.auth.access import ADMIN, is_admin_page
from project.auth.tokens import Grant, Tokens

#: What a person's token must allow.
SCOPE = "admin"

#: The pages have no script at all, so none may run; the icon is an empty data: URL.
ADMIN_POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

#: For a browser that keeps no cookie: over plain HTTP it drops one that is for HTTPS alone.
NO_COOKIE = (
    "Your browser sent no cookie back, so you cannot sign in: open this page with https://, or, behind a proxy that"
    " speaks plain HTTP, have the operator set TRUSTED_PROXIES."
)

STATIC = Path(__file__).resolve().parent / "static"


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


def session_grant() -> Grant | None:
    """Return what the token allows with which somebody has signed in, while it is neither expired nor revoked."""
    tokens: Tokens = current_app.extensions["tokens"]
    grant = tokens.grant_of_digest(bytes.fromhex(session["digest"])) if "digest" in session else None
    return grant if grant and SCOPE in grant.scopes else None


def sign_in_page(status: int, message: str = "") -> ResponseReturnValue:
    """Return the page that asks for a token."""
    view: PageView = current_app.extensions["admin_index"]
    response = make_response(view.render("sign_in.html", message=message), status)
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="users"'
    return response


def check_session() -> ResponseReturnValue | None:
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
        response.headers["Content-Security-Policy"] = ADMIN_POLICY
    return response


class PageView(BaseView):
    """What all pages have."""

    def render(self, template: str, **values: Any) -> str:
        """Return a page, in which forms find their CSRF token."""
        csrf = SecureForm().csrf_token.current_token
        return str(super().render(template, csrf=csrf, grant=g.get("grant"), **values))


class Index(PageView):
    """The way in and out."""

    def __init__(self) -> None:
        # Without AdminIndexView's folder of files for Flask-Admin's own templates, which are not used.
        super().__init__(name="Sign in", endpoint="admin", url=ADMIN)

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
