"""Access tokens: what each allows, remembered for a second."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg2
from flask import current_app
from sqlalchemy import bindparam, func, or_, select, update

from project.api.models import PREFIX, THIS_SECOND, AccessToken
from project.auth import limits
from project.observability.redact import one_line
from project.storage.statements import Statement

if TYPE_CHECKING:
    from project.auth.issuer import Issuer


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


class Grant(NamedTuple):
    """What a token allows, and under which name."""

    name: str
    scopes: frozenset[str]


class Tokens:
    """The tokens that a process has seen in the last second."""

    def __init__(self) -> None:
        self.issuer: Issuer | None = None
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
    """Write that the token is in use, where the database can be written."""
    try:
        NOTE_USE.rows(key=token_id)
    except psycopg2.Error as error:
        current_app.logger.info("last use of a token not noted: %s", one_line(error))
