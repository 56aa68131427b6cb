"""Who may call what: access tokens, their scopes, and a refusal of everything else."""

from collections.abc import Callable
from hmac import compare_digest
from typing import Any, TypeVar

from flask import Flask, current_app, g, request
from werkzeug.exceptions import Forbidden, HTTPException, Unauthorized

from project.auth import limits
from project.auth.tokens import Grant, Tokens

#: Open to everybody, whatever the configuration says.
OPEN_PATHS = ("/ping", "/health")
#: The one path that METRICS_TOKEN opens.
METRICS = "/metrics"
#: The pages under this address have a sign-in of their own: a browser sends no token in a header.
ADMIN = "/admin"
#: The scope of a call that any token allows.
ANY = "any"
#: The scopes of methods that several Resources inherit: reading and writing what the blueprint is named after.
READ, WRITE = "read", "write"
F = TypeVar("F", bound=Callable[..., Any])
#: What METRICS_TOKEN allows, by the name that the log has for it.
METRICS_GRANT = Grant("METRICS_TOKEN", frozenset())


class Refusal(HTTPException):
    """A call that is refused for its token."""

    challenge = 'Bearer realm="users"'

    def get_headers(self, *args: Any, **kwargs: Any) -> list[tuple[str, str]]:
        """Return the headers, with what RFC 6750 tells the caller."""
        return [*super().get_headers(*args, **kwargs), ("WWW-Authenticate", self.challenge)]


class TokenNeeded(Refusal, Unauthorized):
    """A call without a token, or with one that is unknown, expired or revoked: nobody is told which."""

    description = (
        "A token is needed, in the header Authorization: Bearer TOKEN. The operator of this service creates one with"
        " python manage.py create_token NAME --scope SCOPE, or lets everybody in with AUTH_REQUIRED=false."
    )


class ScopeNeeded(Refusal, Forbidden):
    """A call that the token does not allow."""

    name = "Insufficient scope"

    def __init__(self, scope: str) -> None:
        super().__init__(f'The token lacks the scope "{scope}".')
        self.challenge = f'{self.challenge}, error="insufficient_scope", scope="{scope}"'


class ClosedToAll(Forbidden):
    """A call that names no scope: somebody has forgotten it, and until then it is closed."""

    description = "This call names no scope, so that no token allows it."


def scope(name: str) -> Callable[[F], F]:
    """Decorate a view, or a Resource's method: calls need a token with this scope, or any token for ANY."""

    def decorator(function: F) -> F:
        setattr(function, "scope", name)
        return function

    return decorator


def is_admin_page(path: str) -> bool:
    """Say whether a path is one of the admin pages, which let nobody in by themselves."""
    return path == ADMIN or path.startswith(f"{ADMIN}/")


def is_open(path: str, opened: tuple[str, ...]) -> bool:
    """Say whether a path is open to everybody, by rule or because the configuration has opened it."""
    under_opened = path.startswith(tuple(f"{parent}/" for parent in opened))
    return path in OPEN_PATHS or path in opened or under_opened or is_admin_page(path)


def in_full(named: str, noun: str) -> str:
    """Return a scope with its noun."""
    return f"{noun}:{named}" if named in (READ, WRITE) else named


def scope_of_call() -> str | None:
    """Return the scope that the current call names."""
    endpoint, method = request.endpoint, request.method
    # An address or a method that does not exist, and a question for the methods, need a token and no more.
    if endpoint is None or method == "OPTIONS":
        return ANY
    view: Any = current_app.view_functions[endpoint]
    if resource := getattr(view, "view_class", None):
        view = getattr(resource, "get" if method == "HEAD" else method.lower(), None)
    named = getattr(view, "scope", None)
    return named and in_full(named, str(request.blueprint))


def bearer() -> Grant | None:
    """Return what the caller's token allows, or None for a caller without a good one."""
    given = request.authorization
    if given is None or given.type != "bearer" or not given.token:
        return None
    if request.path == METRICS and is_metrics_token(given.token):
        return METRICS_GRANT
    tokens: Tokens = current_app.extensions["tokens"]
    return tokens.grant(given.token)


def is_metrics_token(token: str) -> bool:
    """Return whether a token is METRICS_TOKEN, in a time that does not depend on how much of it is right."""
    expected: str | None = current_app.config["METRICS_TOKEN"]
    return expected is not None and compare_digest(token.encode(), expected.encode())


def check_access() -> None:
    """Let a call pass that its token and the rates allow, and no other."""
    config = current_app.config
    required = config["AUTH_REQUIRED"] and not is_open(request.path, config["OPEN_PATHS"])
    # A token that is not needed is not looked up: /ping answers without the database.
    grant = g.grant = bearer() if required else None
    limits.spend(grant and grant.name)
    if not required:
        return
    if grant is None:
        raise TokenNeeded()
    wanted = scope_of_call()
    if wanted is None:
        raise ClosedToAll()
    if wanted != ANY and wanted not in grant.scopes:
        raise ScopeNeeded(wanted)


def init_app(app: Flask) -> None:
    """Close the application to calls without a token, where the configuration says so."""
    app.extensions["tokens"] = Tokens()
    limits.init_app(app)
    app.before_request(check_access)
