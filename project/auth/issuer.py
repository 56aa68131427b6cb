"""Tokens of an OpenID Connect issuer: its keys, and what the tokens that it signed say."""

import json
import time
from http.client import HTTPException
from logging import getLogger
from threading import Lock
from typing import Any
from urllib.request import (
    BaseHandler,
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

import jwt
from flask import Flask
from werkzeug.exceptions import ServiceUnavailable

log = getLogger(__name__)
#: None by which somebody could sign with a key that everybody knows.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
#: How long keys are good, how often an unknown one makes us ask again, and a silent issuer; in seconds.
LIFETIME, REFRESH, RETRY = 600, 60, 5
#: How long the issuer may take for one answer, in seconds, and its largest answer, in bytes.
TIMEOUT, LARGEST = 2, 512 * 1024
#: How far the issuer's clock may be from ours, in seconds.
LEEWAY = 5

# All but those for redirects, files and FTP.
HANDLERS: tuple[type[BaseHandler], ...] = (
    ProxyHandler,
    UnknownHandler,
    HTTPHandler,
    HTTPSHandler,
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
)


class IssuerUnavailable(ServiceUnavailable):
    """A token that cannot be checked now, good or not."""

    description = "The issuer of tokens is not available at the moment."

    def __init__(self) -> None:
        super().__init__(retry_after=RETRY)


class Issuer:
    """An issuer, and its keys as far as we know them.

    PyJWT's own client of key sets checks tokens of any issuer, and asks it again for every unknown key.
    """

    def __init__(self, url: str, audience: str) -> None:
        self.url = url
        self.audience = audience
        self.keys: dict[str, jwt.PyJWK] = {}
        self.loaded = self.failed = float("-inf")
        self.lock = Lock()

    def claims(self, token: str) -> dict[str, Any] | None:
        """Return what a token says, or None for one that is not valid for us now.

        Raises IssuerUnavailable where the issuer does not tell its keys.
        """
        try:
            key = self.key(jwt.get_unverified_header(token).get("kid", ""))
            if key is None:
                return None
            return jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self.audience,
                issuer=self.url,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
            )
        except jwt.PyJWTError:
            return None

    def key(self, kid: str) -> jwt.PyJWK | None:
        """Return the key of this id, or None where the issuer has none."""
        if not self.is_known(kid):
            # Two answers are waited for, whose headers may take longer than they should.
            if not self.lock.acquire(timeout=2 * TIMEOUT):
                raise IssuerUnavailable()
            try:
                if not self.is_known(kid) and time.monotonic() - self.loaded >= REFRESH:
                    self.load()
            finally:
                self.lock.release()
        return self.keys.get(kid)

    def is_known(self, kid: str) -> bool:
        """Say whether there is a good key of this id."""
        return kid in self.keys and time.monotonic() - self.loaded < LIFETIME

    def load(self) -> None:
        """Ask the issuer for its keys."""
        now = time.monotonic()
        if now - self.failed < RETRY:
            raise IssuerUnavailable()
        try:
            self.keys = self.fetch_keys()
        except (OSError, HTTPException, ValueError, RecursionError, jwt.PyJWTError) as error:
            # Not when it was asked: each who waits for the lock would ask a slow issuer anew.
            self.failed = time.monotonic()
            log.warning("issuer %s: %s", self.url, error)
            raise IssuerUnavailable() from error
        self.loaded = now

    def fetch_keys(self) -> dict[str, jwt.PyJWK]:
        """Return the issuer's public keys for signatures, found by OpenID Connect discovery."""
        described = fetch_document(f"{self.url.rstrip('/')}/.well-known/openid-configuration")
        keys_url = described.get("jwks_uri")
        if described.get("issuer") != self.url:
            raise ValueError("it says that it is another")
        # In the clear only from an issuer on this machine.
        if not isinstance(keys_url, str) or not keys_url.startswith(("https://", f"{self.url.rstrip('/')}/")):
            raise ValueError("it does not say where its keys are, or not by https")
        keys = jwt.PyJWKSet.from_dict(fetch_document(keys_url))
        return {
            key.key_id: key
            for key in keys
            if isinstance(key.key_id, str) and key.algorithm_name in ALGORITHMS and key.public_key_use in (None, "sig")
        }


def fetch_document(url: str) -> dict[str, Any]:
    """Return the JSON object at a URL; a redirect is an error, and so is an answer that is large or late."""
    opener = OpenerDirector()
    for handler in HANDLERS:
        opener.add_handler(handler())
    deadline = time.monotonic() + TIMEOUT
    body = b""
    with opener.open(Request(url, headers={"Accept": "application/json"}), timeout=TIMEOUT) as response:
        while chunk := response.read1(LARGEST):
            body += chunk
            if len(body) > LARGEST or time.monotonic() > deadline:
                raise ValueError("its answer is too large or too late")
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError("its answer is no JSON object")
    return document


def init_app(app: Flask) -> None:
    """Let the application accept the tokens of the issuer that it trusts."""
    app.extensions["tokens"].issuer = Issuer(app.config["AUTH_ISSUER"], app.config["AUTH_AUDIENCE"])
