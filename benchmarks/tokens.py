"""Measure what a token costs: the CPU time of calls with one, beside the same calls where none is needed.

Makes a database of its own and drops it. The kinds of calls take turns, so that all of them meet the same machine; the
look-up of a token that happens once a second is in the figures.

    .venv/bin/python -m benchmarks.tokens
"""

import statistics
import time

import click
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from flask import Flask
from jwt.algorithms import get_default_algorithms

from benchmarks.in_process import call, database
from project import db
from project.api.models import AccessToken, User
from project.auth.issuer import Issuer

ISSUER, AUDIENCE = "https://issuer.example.org", "https://users.example.org"
OPAQUE = "usr_" + "benchmark" * 4
KINDS = ("no token", "token", "issuer's token")


def microseconds(app: Flask, path: str, token: str, calls: int) -> float:
    """Return the CPU time of one call."""
    app.config["AUTH_REQUIRED"] = bool(token)
    call(app, "GET", path, token=token)
    return sum(call(app, "GET", path, token=token).cpu for _ in range(calls)) / calls * 1e6


def tokens_of(app: Flask) -> dict[str, str]:
    """Return a token of each kind that the application takes."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    issuer = Issuer(ISSUER, AUDIENCE)
    issuer.keys = {"1": jwt.PyJWK(get_default_algorithms()["RS256"].to_jwk(key.public_key(), as_dict=True))}
    issuer.loaded = time.monotonic()
    app.extensions["tokens"].issuer = issuer
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "exp": time.time() + 3600, "scope": "users:read"}
    signed = jwt.encode(claims, key, "RS256", headers={"kid": "1"})

    db.session.add(User(username="michael", email="michael@testdriven.io"))
    db.session.add(AccessToken(name="benchmark", digest=AccessToken.digest_of(OPAQUE), scopes=["users:read"]))
    db.session.commit()
    return dict(zip(KINDS, ("", OPAQUE, signed)))


@click.command()
@click.option("--url", help="The URL of a database on the server to use; by default the embedded one.")
@click.option("--rounds", default=41, help="How often each kind takes its turn.")
@click.option("--calls", default=200, help="Calls in one turn.")
def main(url: str | None, rounds: int, calls: int) -> None:
    """Print a table of CPU times in microseconds."""
    with database(url) as app:
        with app.app_context():
            tokens = tokens_of(app)
        click.echo("| call | " + " | ".join(KINDS) + " | token costs | issuer's token costs |")
        click.echo("| --- " * 6 + "|")
        for path in ("/", "/users/1"):
            turns = [{kind: microseconds(app, path, tokens[kind], calls) for kind in KINDS} for _ in range(rounds)]
            medians = [statistics.median(turn[kind] for turn in turns) for kind in KINDS]
            costs = [statistics.median(turn[kind] - turn["no token"] for turn in turns) for kind in KINDS[1:]]
            ratios = [f"{cost:+.0f} µs ({1 + cost / medians[0]:.2f})" for cost in costs]
            click.echo(
                f"| `GET {path}` | "
                + " | ".join(f"{median:.0f}" for median in medians)
                + " | "
                + " | ".join(ratios)
                + " |"
            )


if __name__ == "__main__":
    main()
