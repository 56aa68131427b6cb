"""Commands for access tokens."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import click
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert

from project.api.models import MAX_TOKEN_NAME_LENGTH, PREFIX, SCOPES, THIS_SECOND, AccessToken, timestamp
from project.extensions import db


def token_name(context: click.Context, parameter: click.Parameter, name: str) -> str:
    """Return the name of a token, or refuse what nobody could read in a list."""
    if not name.strip() or not name.isprintable() or len(name) > MAX_TOKEN_NAME_LENGTH:
        raise click.BadParameter(f"must be printable, not blank, and have at most {MAX_TOKEN_NAME_LENGTH} characters.")
    return name


@click.command("create_token")
@click.argument("name", callback=token_name)
@click.option("--scope", "scopes", type=click.Choice(SCOPES), multiple=True, required=True, help="Repeatable.")
@click.option("--expires-in", type=click.IntRange(1, 36500), metavar="DAYS", help="By default it does not expire.")
def create_token(name: str, scopes: Sequence[str], expires_in: int | None) -> None:
    """Print a new access token, which allows its bearer what the scopes say.

    It is printed this once and cannot be shown again: only its digest is kept.
    """
    token = f"{PREFIX}{secrets.token_urlsafe(32)}"
    members = {
        "name": name,
        "digest": AccessToken.digest_of(token),
        "scopes": list(dict.fromkeys(scopes)),
        "expires_at": datetime.now(UTC) + timedelta(days=expires_in) if expires_in else None,
    }
    added = insert(AccessToken).values(members).on_conflict_do_nothing().returning(AccessToken.id)
    if not db.session.scalar(added):
        raise click.ClickException(f"There is a token of the name {name}, or was one before it was revoked.")
    db.session.commit()
    click.echo(token)


@click.command("list_tokens")
def list_tokens() -> None:
    """List the access tokens by name, revoked and expired ones included, but never a token itself."""
    tokens = db.session.scalars(select(AccessToken).order_by(AccessToken.name)).all()
    rows: list[tuple[str, ...]] = [("NAME", "SCOPES", "CREATED", "EXPIRES", "LAST USED", "REVOKED")]
    for token in tokens:
        dates = (token.created_date, token.expires_at, token.last_used_at, token.revoked_at)
        shown = (timestamp(date) if date else "-" for date in dates)
        rows.append((token.name, ",".join(token.scopes), *shown))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


@click.command("revoke_token")
@click.argument("name", callback=token_name)
def revoke_token(name: str) -> None:
    """Revoke an access token for good; every worker refuses it within a second."""
    mine = AccessToken.name == name
    revoked = update(AccessToken).where(mine, AccessToken.revoked_at.is_(None)).values(revoked_at=THIS_SECOND)
    if db.session.scalar(revoked.returning(AccessToken.id)):
        db.session.commit()
        click.echo(f"Revoked {name}.")
    elif db.session.scalar(select(AccessToken.id).where(mine)):
        click.echo(f"{name} was revoked before.")
    else:
        raise click.ClickException(f"There is no token of the name {name}.")
