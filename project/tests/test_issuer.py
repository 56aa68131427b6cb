"""Tokens of an issuer, against one that changes its keys, misleads, and dies."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flask import Flask
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import get_default_algorithms
from werkzeug.test import TestResponse

from project import db
from project.auth import issuer as issuer_module
from project.auth.issuer import LIFETIME, REFRESH, RETRY, Issuer
from project.config import ConfigError, ProductionConfig
from project.tests.conftest import app_on, mostly_slow
from project.tests.test_cli import invoke

AUDIENCE = "https://users.example.org"
ALGORITHMS = get_default_algorithms()
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS = {
    "RS256": RSA,
    "PS256": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


class LocalIssuer:
    """An issuer on this machine: what it answers on each path, and what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[str] = []
        self.seconds = 0.0
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.describe()
        self.publish("RS256", "PS256", "ES256", "EdDSA")

    def describe(self, **members: Any) -> None:
        """Answer discovery so."""
        document = {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **members}
        self.answer("/.well-known/openid-configuration", json.dumps(document).encode())

    def publish(self, *algorithms: str, **more: Any) -> None:
        """Have these keys and no others, each under its algorithm's name, and more members with each."""
        keys = [
            {**ALGORITHMS[name].to_jwk(KEYS[name].public_key(), as_dict=True), "kid": name, "alg": name, **more}
            for name in algorithms
        ]
        self.answer("/keys", json.dumps({"keys": keys}).encode())

    def answer(self, path: str, body: bytes, status: int = 200, **headers: str) -> None:
        """Answer a path so."""
        self.answers[path] = status, headers, body

    def token(self, algorithm: str = "RS256", kid: str | None = None, key: Any = None, **claims: Any) -> str:
        """Return a token that is good but for what the arguments say; a claim that is None is left out."""
        now = time.time()
        usual = {"iss": self.url, "aud": AUDIENCE, "sub": "somebody", "exp": now + 600, "scope": "users:read"}
        said = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        return jwt.encode(said, key or KEYS[algorithm], algorithm, headers={"kid": kid or algorithm})


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalIssuer]:
    """An issuer that answers."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            local.asked.append(self.path)
            time.sleep(local.seconds)
            status, headers, body = local.answers.get(self.path, (404, {}, b"{}"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(ConnectionError):  # Who waits no longer is gone.
                self.wfile.write(body)

        def log_message(self, *told: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    local = LocalIssuer(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield local
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def app(issuer: LocalIssuer, open_database: str) -> Iterator[Flask]:
    """An application that trusts the issuer."""
    trusting = {"AUTH_REQUIRED": True, "AUTH_ISSUER": issuer.url, "AUTH_AUDIENCE": AUDIENCE}
    app = app_on(open_database, ProductionConfig, **trusting)
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def known(app: Flask) -> Issuer:
    """What the application knows of the issuer."""
    return app.extensions["tokens"].issuer


def later(known: Issuer, seconds: float) -> None:
    """Let time pass for what is known of an issuer."""
    known.loaded -= seconds
    known.failed -= seconds


@pytest.fixture
def call(app: Flask) -> Callable[..., TestResponse]:
    """A function that calls with a token."""

    def call(token: str, method: str = "GET") -> TestResponse:
        return app.test_client().open("/users", method=method, headers={"Authorization": f"Bearer {token}"})

    return call


Call = Callable[..., TestResponse]


def segment(part: Any) -> str:
    """Return a part of a token."""
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def signed_with_the_public_key(issuer: LocalIssuer) -> str:
    """Return a token that is signed by HS256, with the key that everybody knows as its secret."""
    _, claims, _ = issuer.token().split(".")
    signed = f"{segment({'alg': 'HS256', 'typ': 'JWT', 'kid': 'RS256'})}.{claims}"
    public = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signature = hmac.new(public, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def unsigned(issuer: LocalIssuer, algorithm: str) -> str:
    """Return a token of the algorithm "none", however that is written."""
    _, claims, _ = issuer.token().split(".")
    return f"{segment({'alg': algorithm, 'kid': 'RS256'})}.{claims}."


def tampered(issuer: LocalIssuer) -> str:
    """Return a token with a scope that its issuer did not give."""
    header, _, signature = issuer.token().split(".")
    claims = jwt.decode(issuer.token(), options={"verify_signature": False})
    return f"{header}.{segment({**claims, 'scope': 'users:read users:write'})}.{signature}"


def without_kid(issuer: LocalIssuer) -> str:
    """Return a token that names no key."""
    return jwt.encode(jwt.decode(issuer.token(), options={"verify_signature": False}), RSA, "RS256")


BAD_TOKENS: dict[str, Callable[[LocalIssuer], str]] = {
    "tampered": tampered,
    "expired": lambda issuer: issuer.token(exp=time.time() - 10),
    "without expiry": lambda issuer: issuer.token(exp=None),
    "not yet good": lambda issuer: issuer.token(nbf=time.time() + 60),
    "issued tomorrow": lambda issuer: issuer.token(iat=time.time() + 86400),
    "of another issuer": lambda issuer: issuer.token(iss="https://evil.example"),
    "of no issuer": lambda issuer: issuer.token(iss=None),
    "for another audience": lambda issuer: issuer.token(aud="https://other.example.org"),
    "for no audience": lambda issuer: issuer.token(aud=None),
    "of nobody": lambda issuer: issuer.token(sub=None),
    "of a number": lambda issuer: issuer.token(sub=7),
    "odd expiry": lambda issuer: issuer.token(exp="soon"),
    "unknown key": lambda issuer: issuer.token(kid="unknown"),
    "no key": without_kid,
    "signed by somebody else": lambda issuer: issuer.token(
        key=rsa.generate_private_key(public_exponent=65537, key_size=2048)
    ),
    "key of another algorithm": lambda issuer: issuer.token(kid="ES256"),
    "key of another padding": lambda issuer: issuer.token(kid="PS256"),
    "HS256 with the public key": signed_with_the_public_key,
    "none": lambda issuer: unsigned(issuer, "none"),
    "None": lambda issuer: unsigned(issuer, "None"),
    "no algorithm": lambda issuer: unsigned(issuer, ""),
    "brackets": lambda issuer: f"{base64.urlsafe_b64encode(b'[' * 5000).decode()}.e30.",
    "object as key": lambda issuer: f"{segment({'alg': 'RS256', 'kid': {}})}.e30.x",
    "object as algorithm": lambda issuer: f"{segment({'alg': {}, 'kid': 'RS256'})}.e30.x",
    "critical extension": lambda issuer: f"{segment({'alg': 'RS256', 'kid': 'RS256', 'crit': ['x']})}.e30.x",
    "five parts": lambda issuer: f"{issuer.token()}.x.y",
}


@pytest.mark.parametrize("name", mostly_slow(BAD_TOKENS, ["HS256 with the public key", *list(BAD_TOKENS)[::4]]))
def test_bad_token_is_a_401_like_any_other(call: Call, issuer: LocalIssuer, name: str) -> None:
    answer = call(BAD_TOKENS[name](issuer))

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="users"'
    assert call(issuer.token()).status_code == 200


@settings(deadline=None)
@given(header=st.dictionaries(st.sampled_from(["alg", "kid", "b64", "crit", "jku", "jwk", "typ"]), st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(), st.lists(st.text(), max_size=2), st.just("RS256"),
)), claims=st.one_of(st.none(), st.integers(), st.dictionaries(st.text(), st.text())))  # fmt: skip
def test_odd_token_is_refused_without_an_error(header: dict[str, Any], claims: Any) -> None:
    issuer = Issuer("https://issuer.example", AUDIENCE)
    issuer.keys = {"RS256": jwt.PyJWK(ALGORITHMS["RS256"].to_jwk(RSA.public_key(), as_dict=True))}
    issuer.loaded = time.monotonic()

    assert issuer.claims(f"{segment(header)}.{segment(claims)}.AAAA") is None


@pytest.mark.parametrize("algorithm", KEYS)
def test_every_kind_of_key_is_good(call: Call, issuer: LocalIssuer, algorithm: str) -> None:
    assert call(issuer.token(algorithm)).status_code == 200


@pytest.mark.parametrize(
    ("claims", "statuses"),
    [
        ({"scope": "users:read"}, [200, 403]),
        ({"scope": "openid users:read users:write"}, [200, 400]),
        ({"scope": None, "scp": ["users:write", 7]}, [403, 400]),
        ({"scope": None, "scp": "users:read"}, [200, 403]),
        ({"scope": "users:read", "scp": ["users:write"]}, [200, 400]),
        ({"scope": None}, [403, 403]),
        ({"scope": {"users:read": True}}, [403, 403]),
        ({"aud": ["https://other.example.org", AUDIENCE]}, [200, 403]),
    ],
)
def test_scopes_are_those_that_the_token_names(
    call: Call, issuer: LocalIssuer, claims: dict[str, Any], statuses: list[int]
) -> None:
    token = issuer.token(**claims)

    assert [call(token, method).status_code for method in ("GET", "POST")] == statuses


def test_keys_are_asked_for_once(call: Call, issuer: LocalIssuer, known: Issuer) -> None:
    for number in range(5):
        assert call(issuer.token(sub=str(number))).status_code == 200

    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]
    later(known, LIFETIME)
    assert call(issuer.token(sub="later")).status_code == 200
    assert len(issuer.asked) == 4


def test_new_key_is_found_within_a_minute(call: Call, issuer: LocalIssuer, known: Issuer) -> None:
    issuer.publish("RS256")
    assert call(issuer.token("RS256")).status_code == 200
    issuer.publish("RS256", "ES256")

    assert call(issuer.token("ES256")).status_code == 401
    later(known, REFRESH)
    assert call(issuer.token("ES256")).status_code == 200


def test_withdrawn_key_is_refused_when_the_keys_are_old(call: Call, issuer: LocalIssuer, known: Issuer) -> None:
    assert call(issuer.token("RS256", sub="before")).status_code == 200
    issuer.publish("ES256")
    later(known, LIFETIME)

    assert call(issuer.token("RS256", sub="after")).status_code == 401
    assert call(issuer.token("ES256")).status_code == 200


def test_unknown_keys_make_the_service_ask_once_a_minute(call: Call, issuer: LocalIssuer, known: Issuer) -> None:
    for minute in range(3):
        assert {call(issuer.token(kid=f"unknown{minute}{number}")).status_code for number in range(5)} == {401}
        assert len(issuer.asked) == 2 * (minute + 1)
        later(known, REFRESH)


ISSUERS_THAT_FAIL: dict[str, Callable[[LocalIssuer], None]] = {
    "error": lambda issuer: issuer.answer("/keys", b"{}", 500),
    "no keys": lambda issuer: issuer.answer("/keys", b'{"keys": []}'),
    "keys that are none": lambda issuer: issuer.answer("/keys", b'{"keys": [1, {"kty": "x"}]}'),
    "keys in no list": lambda issuer: issuer.answer("/keys", b'{"keys": {"kty": "RSA"}}'),
    "no JSON": lambda issuer: issuer.answer("/keys", b"<html>"),
    "no text": lambda issuer: issuer.answer("/keys", b"\xff\xfe\xfd"),
    "no object": lambda issuer: issuer.answer("/keys", b"[]"),
    "brackets": lambda issuer: issuer.answer("/keys", b"[" * 100_000),
    "too large": lambda issuer: issuer.answer("/keys", b" " * 600_000 + b"{}"),
    "cut off": lambda issuer: issuer.answer("/keys", b"{", **{"Content-Length": "100"}),
    "redirect": lambda issuer: issuer.answer("/keys", b"", 302, Location=f"{issuer.url}/.well-known/other"),
    "keys in a file": lambda issuer: issuer.describe(jwks_uri="file:///etc/passwd"),
    "keys in the clear elsewhere": lambda issuer: issuer.describe(jwks_uri="http://evil.example/keys"),
    "keys nowhere": lambda issuer: issuer.describe(jwks_uri=None),
    "another issuer": lambda issuer: issuer.describe(issuer="https://evil.example"),
}


@pytest.mark.parametrize("fail", ISSUERS_THAT_FAIL.values(), ids=ISSUERS_THAT_FAIL)
def test_issuer_that_fails_is_a_503(
    call: Call, issuer: LocalIssuer, known: Issuer, fail: Callable[[LocalIssuer], None]
) -> None:
    fail(issuer)

    answer = call(issuer.token())

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, str(RETRY))
    assert answer.get_json()["message"] == "The issuer of tokens is not available at the moment."
    assert "/.well-known/other" not in issuer.asked
    issuer.describe()
    issuer.publish("RS256")
    assert call(issuer.token()).status_code == 503  # not asked again at once
    later(known, RETRY)
    assert call(issuer.token()).status_code == 200


def test_dead_issuer_is_a_503_and_its_known_keys_stay_good(
    app: Flask, call: Call, issuer: LocalIssuer, known: Issuer
) -> None:
    assert call(issuer.token(sub="before")).status_code == 200
    known.url = "http://127.0.0.1:1"
    later(known, REFRESH)

    assert call(issuer.token(kid="unknown")).status_code == 503
    known.url = issuer.url
    assert call(issuer.token(sub="after")).status_code == 200


def test_slow_issuer_is_a_503(call: Call, issuer: LocalIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuer_module, "TIMEOUT", 0.1)
    issuer.seconds = 0.5

    assert call(issuer.token()).status_code == 503


@pytest.mark.slow
def test_slow_issuer_is_asked_once_for_all_who_wait(
    call: Call, issuer: LocalIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_module, "TIMEOUT", 1)
    monkeypatch.setattr(issuer_module, "RETRY", 0.8)
    issuer.seconds = 1.5

    with ThreadPoolExecutor(3) as callers:
        assert [answer.status_code for answer in callers.map(call, [issuer.token()] * 3)] == [503] * 3
    assert len(issuer.asked) == 1


def test_nobody_waits_for_long_while_somebody_else_asks_the_issuer(
    call: Call, issuer: LocalIssuer, known: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_module, "TIMEOUT", 0.1)

    with known.lock:
        assert call(issuer.token()).status_code == 503


def test_own_tokens_do_not_need_the_issuer(app: Flask, call: Call, known: Issuer) -> None:
    known.url = "http://127.0.0.1:1"
    token = invoke(app, "create_token", "own", "--scope", "users:read").stdout.strip()

    assert call(token).status_code == 200
    assert call("usr_unknown").status_code == 401


@pytest.mark.parametrize(("use", "status"), [("sig", 200), ("enc", 401)])
def test_keys_for_encryption_sign_nothing(call: Call, issuer: LocalIssuer, use: str, status: int) -> None:
    issuer.publish("RS256", use=use)

    assert call(issuer.token()).status_code == status


@pytest.mark.parametrize(("kid", "status"), [("RS256", 200), (None, 401), (7, 401)])
def test_keys_without_a_name_are_left_out(call: Call, issuer: LocalIssuer, kid: Any, status: int) -> None:
    issuer.publish("RS256", kid=kid)

    assert call(issuer.token()).status_code == status


def test_symmetric_keys_are_left_out(call: Call, issuer: LocalIssuer) -> None:
    secret = b"k" * 32
    key = {"kty": "oct", "k": base64.urlsafe_b64encode(secret).decode().rstrip("="), "kid": "HS256", "alg": "HS256"}
    issuer.answer("/keys", json.dumps({"keys": [key]}).encode())

    assert call(issuer.token("HS256", key=secret)).status_code == 401


def test_signed_token_is_nothing_without_an_issuer(open_database: str, issuer: LocalIssuer) -> None:
    app = app_on(open_database, ProductionConfig, AUTH_REQUIRED=True)

    answer = app.test_client().get("/users", headers={"Authorization": f"Bearer {issuer.token()}"})

    assert (answer.status_code, issuer.asked) == (401, [])


def test_issuer_needs_an_audience() -> None:
    with pytest.raises(ConfigError, match="^AUTH_AUDIENCE must be set where AUTH_ISSUER is.$"):
        app_on("postgresql://example.test/users", AUTH_ISSUER="https://issuer.example", AUTH_AUDIENCE="")
