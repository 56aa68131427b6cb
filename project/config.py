"""Every setting of the service; the only reader of the environment."""

import json
import os
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from limits import parse_many
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from project.postgres.server import Server
from project.version import VERSION

# A convenience outside production. In production complete() takes it away, so that it never signs anything.
KNOWN_SECRET_KEY = "my_precious"
#: In bytes: with less, somebody could find the key by trying, and sign a session of the admin pages.
SHORTEST_SECRET_KEY = 32
#: In characters, of a token that the environment sets.
SHORTEST_TOKEN = 32
ROOT = Path(__file__).resolve().parent.parent
VAR = ROOT / "var"
MIGRATIONS = ROOT / "migrations"
PROFILES = ROOT / "config"
VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")
# libpq's form of several hosts: postgresql://user@one:5432,two:5432/users
HOST_PATTERN = r"(\[[0-9A-Fa-f:.]+\]|[^][:@/?,]+)(?::([0-9]*))?"
SEVERAL_HOSTS = re.compile(
    rf"(?P<scheme>[^:/]+://(?:[^@/]*@)?)(?P<hosts>{HOST_PATTERN}(?:,{HOST_PATTERN})+)(?P<rest>(?:[/?].*)?)", re.DOTALL
)


class ConfigError(SystemExit):
    """An unusable setting: ends the process with one line on standard error and exit status 1.

    A SystemExit, so that the line is all that the operator sees wherever the setting is read: at the command line, in
    gunicorn's configuration file, or in a shell.
    """


def read_profile(name: str, folder: Path = PROFILES) -> None:
    """Read the file <name>.json, a list of {"name", "value"}, into the environment; what is set there already wins."""
    if not name:
        return
    if not re.fullmatch(r"[\w-]+", name):
        raise ConfigError("APPLICATION_CONFIG must be the name of a file in config/, without .json.")
    file = f"{folder.name}/{name}.json"
    try:
        profile = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}, line {error.lineno}: {error.msg}.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}, which APPLICATION_CONFIG names, cannot be read: {error}.") from None
    if not isinstance(profile, list):
        raise ConfigError(f'{file}, line 1: must be a list of {{"name": "...", "value": "..."}}.')
    for number, entry in enumerate(profile, 1):
        match entry:
            case {"name": str(variable), "value": str(value), **rest} if (
                not rest and VARIABLE.fullmatch(variable) and "\0" not in value
            ):
                # Empty is not set: Compose passes on so what .env has without a value.
                os.environ[variable] = os.environ.get(variable) or value
            case _:
                raise ConfigError(f'{file}, entry {number}: must be {{"name": "...", "value": "..."}}, both strings.')


read_profile(os.environ.get("APPLICATION_CONFIG", ""))


def env_int(name: str, default: int, lowest: int, highest: int) -> int:
    """Read a whole number from the environment."""
    value = os.environ.get(name, "")
    if not value:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", value) or not lowest <= int(value) <= highest:
        raise ConfigError(f"{name} must be a whole number from {lowest} to {highest}.")
    return int(value)


def env_choice(name: str, default: str, choices: tuple[str, ...]) -> str:
    """Read one of a few words from the environment."""
    value = os.environ.get(name) or default
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}.")
    return value


def env_flag(name: str, default: bool) -> bool:
    """Read true or false from the environment."""
    return env_choice(name, str(default).lower(), ("true", "false")) == "true"


def env_list(name: str, pattern: str, example: str) -> tuple[str, ...]:
    """Read words with commas between them from the environment, none by default."""
    values = tuple(value.strip() for value in os.environ.get(name, "").split(",") if value.strip())
    if not all(re.fullmatch(pattern, value) for value in values):
        raise ConfigError(f"{name} must be a list such as {example}.")
    return values


def env_rates(name: str) -> str | None:
    """Read how often a caller may call from the environment."""
    value = os.environ.get(name) or None
    try:
        parse_many(value or "1/second")
    except ValueError:
        raise ConfigError(f"{name} must be one rate or several, such as 100/minute or 10/second;1000/hour.") from None
    return value


def env_token(name: str) -> str | None:
    """Read a bearer token (RFC 6750, 2.1) that is too long to be guessed from the environment, none by default."""
    value = os.environ.get(name) or None
    if value and not re.fullmatch(rf"(?=.{{{SHORTEST_TOKEN},}})[A-Za-z0-9._~+/-]+=*", value):
        raise ConfigError(
            f"{name} must have {SHORTEST_TOKEN} characters or more, of letters, digits and -._~+/, such as"
            " openssl rand -hex 32 prints."
        )
    return value


def env_url(name: str, default: str, *schemes: str) -> str:
    """Read a URL that begins with one of these from the environment."""
    value = os.environ.get(name) or default
    if value and not value.startswith(schemes):
        raise ConfigError(f"{name} must begin with {' or '.join(schemes)}.")
    return value


def database_url(name: str, value: str) -> URL:
    """Return a Postgres URL in the form that SQLAlchemy needs for psycopg2.

    SQLAlchemy takes a bare postgresql:// for psycopg 3 and refuses postgres://, which is what Heroku sets. Of several
    hosts it knows only those in the query.
    """
    hosts: list[tuple[str, str]] = []
    if several := SEVERAL_HOSTS.fullmatch(value):
        hosts = re.findall(HOST_PATTERN, several["hosts"])
        value = several["scheme"] + several["rest"]
    try:
        url = make_url(value)
        if hosts:
            names, ports = zip(*hosts)
            url = url.update_query_dict(
                {"host": ",".join(unquote(name).strip("[]") for name in names), "port": ",".join(ports)}
            )
    except (ArgumentError, ValueError):
        # Without its cause: that one quotes the URL, and with it a password.
        raise ConfigError(f"{name} is not a database URL.") from None
    if url.drivername not in ("postgres", "postgresql", "postgresql+psycopg2"):
        raise ConfigError(f"{name} must begin with postgresql:// or postgres://.")
    return url.set(drivername="postgresql+psycopg2")


class BaseConfig:
    """What all environments share."""

    ENVIRONMENT = "development"
    TESTING = False
    VERSION = VERSION

    WSGI_SERVER = env_choice("WSGI_SERVER", "gunicorn", ("gunicorn", "granian"))
    PORT = env_int("PORT", 5001, 1, 65535)
    WEB_CONCURRENCY = env_int("WEB_CONCURRENCY", min(os.cpu_count() or 1, 4), 1, 256)
    WEB_THREADS = env_int("WEB_THREADS", 4, 1, 256)
    # Seconds for a stopping worker to finish what it has: Heroku kills after 30.
    GRACEFUL_TIMEOUT = 25
    # Longer than the 90 s for which Heroku's router keeps its connections: it must be the one who closes.
    KEEP_ALIVE = 95
    LOG_LEVEL = env_choice("LOG_LEVEL", "info", ("debug", "info", "warning", "error", "critical"))
    LOG_FORMAT = env_choice("LOG_FORMAT", "console", ("json", "console"))
    # Where the collector of traces is; the SDK reads its other variables, such as OTEL_SERVICE_NAME, by itself.
    OTEL_EXPORTER_OTLP_ENDPOINT = env_url("OTEL_EXPORTER_OTLP_ENDPOINT", "", "http://", "https://")

    SECRET_KEY: str | None = os.environ.get("SECRET_KEY") or KNOWN_SECRET_KEY

    # Of the admin pages alone; everything else knows no cookie.
    SESSION_COOKIE_NAME = "users_admin"
    SESSION_COOKIE_PATH = "/admin"
    SESSION_COOKIE_HTTPONLY = True
    SESSION_COOKIE_SAMESITE = "Strict"
    SESSION_COOKIE_SECURE = False

    AUTH_REQUIRED = env_flag("AUTH_REQUIRED", False)
    # What needs no token, beside /ping and /health.
    OPEN_PATHS = env_list("OPEN_PATHS", "/(metrics|docs|openapi[.]json)", "/docs,/openapi.json,/metrics")

    # Opens /metrics and nothing else, and is compared without the database.
    METRICS_TOKEN = env_token("METRICS_TOKEN")

    # An OpenID Connect issuer whose tokens are taken too, if they are meant for this audience.
    AUTH_ISSUER = env_url("AUTH_ISSUER", "", "https://", "http://127.0.0.1:", "http://localhost:")
    AUTH_AUDIENCE = os.environ.get("AUTH_AUDIENCE", "")

    # Of all requests but those for /ping and /health, by token or by address.
    RATELIMIT = env_rates("RATELIMIT")
    RATELIMIT_STORAGE = env_url("RATELIMIT_STORAGE", "memory://", "memory://", "redis://", "rediss://")
    # How many proxies stand in front and add to X-Forwarded-For; what callers write there is never believed.
    TRUSTED_PROXIES = env_int("TRUSTED_PROXIES", 0, 0, 9)
    # The origins of the pages that may call from a browser.
    CORS_ORIGINS = env_list("CORS_ORIGINS", r"https?://[^/\s*]+", "https://app.example.org,https://example.org")
    HSTS: str | None = None

    # Where pages to summarise may be fetched from: these ports of public addresses, and these hosts whatever they are.
    SUMMARY_PORTS = tuple(int(port) for port in env_list("SUMMARY_PORTS", "[1-9][0-9]{1,4}", "80,443") or (80, 443))
    SUMMARY_ALLOWED_HOSTS = env_list(
        "SUMMARY_ALLOWED_HOSTS", r"([a-z0-9.-]+|\[[0-9a-f:]+\]):[0-9]{2,5}", "wiki.internal:8080,[fd00::1]:80"
    )
    # Seconds for fetching a page, and as many for reading it.
    SUMMARY_TIMEOUT = env_int("SUMMARY_TIMEOUT", 15, 1, 300)
    # Where `summarize` serves its metrics, to METRICS_TOKEN if there is one; 0 is nowhere.
    SUMMARY_METRICS_PORT = env_int("SUMMARY_METRICS_PORT", 0, 1, 65535)

    MAX_CONTENT_LENGTH = 64 * 1024
    # Of a file that POST /users/import takes, in bytes; a million users have some 100 MB.
    IMPORT_MAX_LENGTH = env_int("IMPORT_MAX_LENGTH", 256 * 1024 * 1024, 1024, 999_999_999)
    # How many seconds an import or an export over HTTP may take.
    TRANSFER_TIMEOUT = env_int("TRANSFER_TIMEOUT", 300, 1, 3600)
    # The one error body answers a failure in every environment; Flask would re-raise it under TESTING and DEBUG.
    PROPAGATE_EXCEPTIONS = False

    SQLALCHEMY_DATABASE_URI = os.environ.get("DATABASE_URL") or None
    DATABASE_VARIABLE = "DATABASE_URL"
    EMBEDDED_POSTGRES: Server | None = Server(VAR / "postgres", databases=["users_dev"])
    EMBEDDED_DATABASE = "users_dev"

    SQLALCHEMY_ENGINE_OPTIONS: dict[str, Any] = {
        # Of sessions, which admin pages and imports use; each thread has a connection of its own beside it.
        "pool_size": max(1, WEB_THREADS // 2),
        "max_overflow": 0,
        "pool_timeout": 2,
        "hide_parameters": True,
        "connect_args": {
            "connect_timeout": 3,
            # A host that vanishes says nothing: ask after 30 s of silence, and wait 10 s for what is not confirmed.
            "keepalives_idle": 30,
            "keepalives_interval": 5,
            "keepalives_count": 2,
            "tcp_user_timeout": 10_000,
            "application_name": "users",
            "options": "-c timezone=UTC -c statement_timeout=5s -c lock_timeout=2s"
            " -c idle_in_transaction_session_timeout=10s",
        },
    }


class DevelopmentConfig(BaseConfig):
    """A developer's machine."""


class TestingConfig(BaseConfig):
    """The test suite, on a database of its own."""

    ENVIRONMENT = "testing"
    TESTING = True
    PRESERVE_CONTEXT_ON_EXCEPTION = False
    SQLALCHEMY_DATABASE_URI = os.environ.get("DATABASE_TEST_URL") or None
    DATABASE_VARIABLE = "DATABASE_TEST_URL"
    EMBEDDED_POSTGRES = Server(VAR / "test-postgres", databases=["users_test"], durable=False)
    EMBEDDED_DATABASE = "users_test"


class ProductionConfig(BaseConfig):
    """A deployment."""

    ENVIRONMENT = "production"
    AUTH_REQUIRED = env_flag("AUTH_REQUIRED", True)
    LOG_FORMAT = env_choice("LOG_FORMAT", "json", ("json", "console"))
    HSTS = "max-age=31536000"
    SESSION_COOKIE_SECURE = True
    EMBEDDED_POSTGRES = None


SETTINGS = tuple(f"project.config.{name}Config" for name in ("Development", "Testing", "Production"))
# The environment as it was at the start decides, whatever is set later.
APP_SETTINGS = env_choice("APP_SETTINGS", SETTINGS[0], SETTINGS)


def complete(config: MutableMapping[str, Any]) -> None:
    """Complete an application's configuration, or end the process where it cannot serve.

    SQLALCHEMY_DATABASE_URI becomes a URL that SQLAlchemy takes, the embedded server's where none is configured;
    EMBEDDED_POSTGRES becomes None where it is not used; ADMIN_PAGES says whether there are any.
    """
    variable = config["DATABASE_VARIABLE"]
    if config["SQLALCHEMY_DATABASE_URI"]:
        config["EMBEDDED_POSTGRES"] = None
    elif config["EMBEDDED_POSTGRES"]:
        config["SQLALCHEMY_DATABASE_URI"] = config["EMBEDDED_POSTGRES"].url(config["EMBEDDED_DATABASE"])
    else:
        raise ConfigError(f"{variable} must be set in production.")
    config["SQLALCHEMY_DATABASE_URI"] = database_url(variable, config["SQLALCHEMY_DATABASE_URI"])
    if config["ENVIRONMENT"] == "production" and config["SECRET_KEY"] == KNOWN_SECRET_KEY:
        config["SECRET_KEY"] = None
    long_enough = len((config["SECRET_KEY"] or "").encode()) >= SHORTEST_SECRET_KEY
    config["ADMIN_PAGES"] = long_enough or config["ENVIRONMENT"] != "production"
    if config["AUTH_ISSUER"] and not config["AUTH_AUDIENCE"]:
        raise ConfigError("AUTH_AUDIENCE must be set where AUTH_ISSUER is.")
    # A server of several processes sets it for those that it starts, which is after the classes above were made.
    config["PROMETHEUS_MULTIPROC_DIR"] = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    # Every instance must take the others' cursors, and the database is what they all know.
    config["CURSOR_KEY"] = config["SECRET_KEY"] or config["SQLALCHEMY_DATABASE_URI"].render_as_string(False)
