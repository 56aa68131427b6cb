"""Who may call what: access tokens, their scopes, and a refusal of everything else."""

import time
from collections.abc import Callable
from datetime import timedelta
from hmac import compare_digest
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from flask import Flask, current_app, g, request
from sqlalchemy import bindparam, func, or_, select, update
from sqlalchemy.exc import DBAPIError
from werkzeug.exceptions import Forbidden, HTTPException, Unauthorized

from project.api import limits
from project.api.models import PREFIX, THIS_SECOND, AccessToken
from project.logs import one_line
from project.statements import Statement

if TYPE_CHECKING:
    from project.api.issuer import Issuer

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
#: How long a process trusts what it knows of a token, in seconds: so long may a revoked or expired one pass.
TRUST = 1
#: How many tokens a process knows at most; it then forgets them all.
MOST_KNOWN = 1024

FIND_TOKEN = Statement(
    select(
        AccessToken.id,
        AccessToken.name,
        AccessToken.scopes,
        or_(AccessToken.last_used_at.is_(None), AccessToken.last_used_at < func.now() - timedelta(minutes=1)),
    ).where(
        AccessToken.digest == bindparam("digest"),
        AccessToken.revoked_at.is_(None),
        or_(AccessToken.expires_at.is_(None), AccessToken.expires_at > func.now()),
    )
)
# Of two requests one writes, and none waits for the other.
NOTE_USE = Statement(
    update(AccessToken)
    .where(
        AccessToken.id.in_(
            select(AccessToken.id).where(AccessToken.id == bindparam("key")).with_for_update(skip_locked=True)
        )
    )
    .values(last_used_at=THIS_SECOND)
    .returning(AccessToken.id)
)

F = TypeVar("F", bound=Callable[..., Any])


class Grant(NamedTuple):
    """What a token allows, and under which name."""

    name: str
    scopes: frozenset[str]


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


class Tokens:
    """The tokens that a process has seen in the last second."""

    def __init__(self, issuer: "Issuer | None") -> None:
        self.issuer = issuer
        self.known: dict[bytes, tuple[float, Grant]] = {}

    def grant(self, token: str) -> Grant | None:
        """Return what the token allows, or None for one that is unknown, expired or revoked."""
        digest = AccessToken.digest_of(token)
        ours = token.startswith(PREFIX)
        return self.remembered(digest, lambda: look_up(digest) if ours else self.ask_issuer(token))

    def grant_of_digest(self, digest: bytes) -> Grant | None:
        """Return what the token of ours with this digest allows, or None as above."""
        return self.remembered(digest, lambda: look_up(digest))

    def remembered(self, digest: bytes, ask: Callable[[], Grant | None]) -> Grant | None:
        """Return what is known of a token, or else what whoever knows it says."""
        now = time.monotonic()
        until, grant = self.known.get(digest, (now, None))
        if now < until:
            return grant
        # Else a flood of tokens that somebody made up would reach the database.
        limits.check_address()
        grant = ask()
        if grant:
            if len(self.known) >= MOST_KNOWN:
                self.known.clear()
            self.known[digest] = now + TRUST, grant
        return grant

    def ask_issuer(self, token: str) -> Grant | None:
        """Return what a token of the issuer allows, or None where it is not valid or nobody trusts an issuer."""
        claims = self.issuer.claims(token) if self.issuer else None
        return Grant(f"{claims['iss']} {claims['sub']}", scopes(claims)) if claims else None


def scopes(claims: dict[str, Any]) -> frozenset[str]:
    """Return the scopes that a token of the issuer names: in scope or scp, as a list or as words in one string."""
    named: list[Any] = []
    for claim in (claims.get("scope"), claims.get("scp")):
        named += claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
    return frozenset(name for name in named if isinstance(name, str))


def look_up(digest: bytes) -> Grant | None:
    """Return what the database says of a token, and note its use."""
    found = FIND_TOKEN.row(digest=digest)
    if not found:
        return None
    token_id, name, allowed, unused = found
    if unused:
        note_use(token_id)
    return Grant(name, frozenset(allowed))


def note_use(token_id: int) -> None:
    """Write that the token is in use; who cannot write may read nevertheless."""
    try:
        NOTE_USE.rows(key=token_id)
    except DBAPIError as error:
        current_app.logger.info("last use of a token not noted: %s", one_line(error))


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


def check() -> None:
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
    issuer = None
    if url := app.config["AUTH_ISSUER"]:
        # Not imported at the top: nobody else is to pay for the cryptography.
        issuer = import_module("project.api.issuer").Issuer(url, app.config["AUTH_AUDIENCE"])
    app.extensions["tokens"] = Tokens(issuer)
    limits.init_app(app)
    app.before_request(check)
