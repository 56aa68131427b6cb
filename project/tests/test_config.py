"""The settings, and the one line where one is unusable."""

import os

import pytest
from flask import Flask
from sqlalchemy import create_engine

from project import create_app
from project.config import (
    BaseConfig,
    ConfigError,
    DevelopmentConfig,
    ProductionConfig,
    TestingConfig,
    database_url,
    env_choice,
    env_flag,
    env_int,
    env_list,
    env_rates,
    env_url,
)
from project.tests.conftest import app_on, start_manage


def test_testing_configuration(app: Flask) -> None:
    app = create_app()
    app.config.from_object("project.config.TestingConfig")

    assert app.config["TESTING"] is True
    assert app.config["PRESERVE_CONTEXT_ON_EXCEPTION"] is False
    assert app.config["SQLALCHEMY_DATABASE_URI"] == os.environ.get("DATABASE_TEST_URL")
    assert app.config["SECRET_KEY"] == os.environ.get("SECRET_KEY", "my_precious")


@pytest.mark.parametrize(("name", "auth_required"), [("Development", False), ("Production", True)])
def test_development_and_production_configuration(name: str, auth_required: bool) -> None:
    app = create_app()
    app.config.from_object(f"project.config.{name}Config")

    assert app.config["TESTING"] is False
    assert app.config["ENVIRONMENT"] == name.lower()
    assert app.config["AUTH_REQUIRED"] is auth_required
    assert app.config["SQLALCHEMY_DATABASE_URI"] == os.environ.get("DATABASE_URL")
    assert app.config["SECRET_KEY"] == os.environ.get("SECRET_KEY", "my_precious")


def test_development_uses_the_embedded_server() -> None:
    class Development(DevelopmentConfig):
        SQLALCHEMY_DATABASE_URI = None

    app = create_app(Development)

    assert app.config["SQLALCHEMY_DATABASE_URI"].database == "users_dev"
    assert app.config["EMBEDDED_POSTGRES"] is BaseConfig.EMBEDDED_POSTGRES


def test_testing_uses_an_embedded_server_of_its_own() -> None:
    class Testing(TestingConfig):
        SQLALCHEMY_DATABASE_URI = None

    app = create_app(Testing)

    assert app.config["SQLALCHEMY_DATABASE_URI"].database == "users_test"
    assert app.config["EMBEDDED_POSTGRES"] is not BaseConfig.EMBEDDED_POSTGRES


def test_configured_url_leaves_the_embedded_server_alone() -> None:
    app = app_on("postgres://user@example.test/users")

    assert app.config["EMBEDDED_POSTGRES"] is None


def test_production_needs_a_database() -> None:
    class Production(ProductionConfig):
        SQLALCHEMY_DATABASE_URI = None

    with pytest.raises(ConfigError, match="^DATABASE_URL must be set in production.$"):
        create_app(Production)


@pytest.mark.parametrize(("given", "used"), [("my_precious", None), ("x" * 32, "x" * 32)])
def test_known_secret_key_signs_nothing_in_production(given: str, used: str | None) -> None:
    app = app_on("postgresql://example.test/users", ProductionConfig, SECRET_KEY=given)

    assert app.config["SECRET_KEY"] == used


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_spelling_of_postgres_is_taken(scheme: str) -> None:
    url = database_url("DATABASE_URL", f"{scheme}://user:p%40ss@example.test:5433/users?sslmode=require")

    assert url.render_as_string(hide_password=False) == (
        "postgresql+psycopg2://user:p%40ss@example.test:5433/users?sslmode=require"
    )


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        ("u:p@one:5433,two:5434/users?target_session_attrs=read-write", "one,two", "5433,5434"),
        ("u:p@one,two:5434/users?target_session_attrs=read-write", "one,two", ",5434"),
        ("u:p@[::1]:5433,%2Ftmp%2Fpg/users?target_session_attrs=read-write", "::1,/tmp/pg", "5433,"),
        ("u:p@/users?host=one:5433&host=two:5434&target_session_attrs=read-write", "one,two", "5433,5434"),
        ("u:p@/users?host=one,two&port=5433,5434&target_session_attrs=read-write", "one,two", "5433,5434"),
    ],
)
def test_several_hosts_are_libpqs_to_choose_from(written: str, host: str, port: str) -> None:
    url = database_url("DATABASE_URL", f"postgres://{written}")

    assert create_engine(url).dialect.create_connect_args(url)[1] == {
        "user": "u",
        "password": "p",
        "dbname": "users",
        "host": host,
        "port": port,
        "target_session_attrs": "read-write",
    }


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:hush@x/y",
        "sqlite://",
        "users",
        "://",
        "postgres://u:hush@x:port/y",
        "postgres://u:hush@x:1,y:port/z",
        "postgres://u:hush@x:1,/z",
    ],
)
def test_unusable_url_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ConfigError, match="^DATABASE_URL [^:]*(:// or postgres://)?[.]$") as error:
        database_url("DATABASE_URL", url)

    assert "hush" not in str(error.value)


@pytest.mark.parametrize("value", ["0", "65536", "-1", "1.5", "abc", " 1", "١", "9" * 5000])
def test_unusable_number_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PORT", value)

    with pytest.raises(ConfigError, match="^PORT must be a whole number from 1 to 65535.$"):
        env_int("PORT", 5001, 1, 65535)


@pytest.mark.parametrize(("value", "number"), [("", 5001), ("1", 1), ("65535", 65535)])
def test_number_is_read(monkeypatch: pytest.MonkeyPatch, value: str, number: int) -> None:
    monkeypatch.setenv("PORT", value)

    assert env_int("PORT", 5001, 1, 65535) == number


@pytest.mark.parametrize(("value", "choice"), [("", "info"), ("debug", "debug")])
def test_choice_is_read(monkeypatch: pytest.MonkeyPatch, value: str, choice: str) -> None:
    monkeypatch.setenv("LOG_LEVEL", value)

    assert env_choice("LOG_LEVEL", "info", ("debug", "info")) == choice


@pytest.mark.parametrize(("value", "flag"), [("", True), ("true", True), ("false", False)])
def test_flag_is_read(monkeypatch: pytest.MonkeyPatch, value: str, flag: bool) -> None:
    monkeypatch.setenv("AUTH_REQUIRED", value)

    assert env_flag("AUTH_REQUIRED", True) is flag


@pytest.mark.parametrize("value", ["no", "0", "False", "off"])
def test_unclear_flag_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("AUTH_REQUIRED", value)

    with pytest.raises(ConfigError, match="^AUTH_REQUIRED must be one of true, false.$"):
        env_flag("AUTH_REQUIRED", True)


@pytest.mark.parametrize(("value", "words"), [("", ()), ("/a", ("/a",)), (" /a, /b ,", ("/a", "/b"))])
def test_list_is_read(monkeypatch: pytest.MonkeyPatch, value: str, words: tuple[str, ...]) -> None:
    monkeypatch.setenv("OPEN_PATHS", value)

    assert env_list("OPEN_PATHS", "/[ab]", "/a,/b") == words


def test_unknown_word_of_a_list_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPEN_PATHS", "/a,/users")

    with pytest.raises(ConfigError, match="^OPEN_PATHS must be a list such as /a,/b.$"):
        env_list("OPEN_PATHS", "/[ab]", "/a,/b")


@pytest.mark.parametrize("value", ["", "100/minute", "10/second;1000/hour", "5 per 2 minutes"])
def test_rates_are_read(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("RATELIMIT", value)

    assert env_rates("RATELIMIT") == (value or None)


@pytest.mark.parametrize("value", ["100", "many", "1/fortnight", "-1/second", "yes"])
def test_rate_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("RATELIMIT", value)

    with pytest.raises(ConfigError, match="^RATELIMIT must be one rate or several, such as"):
        env_rates("RATELIMIT")


@pytest.mark.parametrize(("value", "url"), [("", "memory://"), ("redis://:p@redis:6379/0", "redis://:p@redis:6379/0")])
def test_storage_url_is_read(monkeypatch: pytest.MonkeyPatch, value: str, url: str) -> None:
    monkeypatch.setenv("RATELIMIT_STORAGE", value)

    assert env_url("RATELIMIT_STORAGE", "memory://", "memory://", "redis://") == url


def test_storage_url_of_another_kind_is_refused_without_quoting_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATELIMIT_STORAGE", "memcached://:hush@x")

    with pytest.raises(ConfigError, match="^RATELIMIT_STORAGE must begin with memory:// or redis://.$"):
        env_url("RATELIMIT_STORAGE", "memory://", "memory://", "redis://")


def test_unknown_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "loud")

    with pytest.raises(ConfigError, match="^LOG_LEVEL must be one of debug, info.$"):
        env_choice("LOG_LEVEL", "info", ("debug", "info"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"PORT": "http"}, "PORT must be a whole number from 1 to 65535."),
        pytest.param(
            {"APP_SETTINGS": "project.config.ProductionConfig"},
            "DATABASE_URL must be set in production.",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"DATABASE_URL": "postgres://u:hush@127.0.0.1:1/users"},
            'Error: The database says: connection to server at "127.0.0.1", port 1 failed: Connection refused',
            marks=pytest.mark.slow,
        ),
    ],
)
def test_unusable_setting_ends_the_command_with_one_line(environment: dict[str, str], line: str) -> None:
    command = start_manage("seed_db", **environment)
    output, errors = command.communicate(timeout=30)

    assert (command.returncode, output, errors) == (1, "", f"{line}\n")
