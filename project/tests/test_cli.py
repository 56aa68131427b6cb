"""The commands of manage.py."""

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import make_url

import manage
from project.cli.commands import cli, run
from project.config import DevelopmentConfig, ProductionConfig
from project.postgres.server import Server
from project.tests.conftest import ROOT, app_on, execute, start_manage
from project.tests.utils import add_user

TOKENS = ["create_token", "list_tokens", "revoke_token"]
TRANSFERS = ["export_users", "import_users"]
#: Prints what was imported, of what takes long and few need.
LOADED = """
import sys, manage
wanted = ("flask_admin", "jwt", "opentelemetry")
print(*(name for name in wanted if name in sys.modules))
"""
EXAMPLES = [("michael", "hermanmu@gmail.com"), ("michaelherman", "michael@mherman.org")]


def invoke(app: Flask, *arguments: str) -> Result:
    """Run a command of the application as manage.py does."""
    return app.test_cli_runner().invoke(cli, arguments)


def users_in(url: str) -> list[tuple]:
    """Return the users of a database."""
    return execute(url, "SELECT username, email FROM users ORDER BY id")


def test_help_names_every_command(open_shared: Flask) -> None:
    output = invoke(open_shared, "--help").output

    for name in (
        "create_db",
        "db",
        "postgres",
        "recreate_db",
        "routes",
        "run",
        "seed_db",
        "shell",
        "summarize",
        "test",
        *TOKENS,
        *TRANSFERS,
    ):
        assert f"\n  {name} " in output


@pytest.mark.parametrize(
    "command", ["create_db", "recreate_db", "seed_db", "summarize", "test", "postgres", *TOKENS, *TRANSFERS]
)
def test_every_command_explains_itself(open_app: Flask, command: str) -> None:
    result = invoke(open_app, command, "--help")

    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "loaded"),
    [
        ({}, ""),
        ({"SECRET_KEY": "x" * 32}, "flask_admin"),
        ({"AUTH_ISSUER": "https://issuer.example", "AUTH_AUDIENCE": "users"}, "jwt"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, "opentelemetry"),
    ],
)
def test_start_imports_nothing_that_is_not_configured(settings: dict[str, str], loaded: str) -> None:
    environment = {
        "APP_SETTINGS": "project.config.ProductionConfig",
        "DATABASE_URL": "postgresql://127.0.0.1:1/nothing",
        **settings,
    }
    done = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )

    assert done.stdout == f"{loaded}\n", done.stderr


def test_unknown_option_is_a_usage_error(open_app: Flask) -> None:
    assert invoke(open_app, "seed_db", "--forse").exit_code == 2


def test_run_serves_on_the_configured_port(monkeypatch: pytest.MonkeyPatch) -> None:
    served = []
    monkeypatch.setattr("flask.cli.run_simple", lambda host, port, *arguments, **more: served.append(port))
    monkeypatch.setattr("sys.argv", ["manage.py", "run", "--no-reload"])

    with pytest.raises(SystemExit, match="^0$"):
        run(manage.app)

    assert served == [manage.app.config["PORT"]]


@pytest.mark.slow
def test_shell_queries_the_models(open_database: str) -> None:
    execute(open_database, "INSERT INTO users (username, email) VALUES ('michael', 'hermanmu@gmail.com')")
    typed = """
import json, sys
by_name = User.query.filter_by(username="michael").first()
found = [User.query.count(), by_name.email, User.query.get(2), AccessToken.query.all()]
print(json.dumps(found), file=sys.stderr)
"""

    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "manage.py", "shell"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": open_database},
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert '[1, "hermanmu@gmail.com", null, []]' in done.stderr
    assert "Traceback" not in done.stderr


def test_shell_knows_the_models(open_app: Flask) -> None:
    with open_app.app_context():
        known = {"app", "db", "AccessToken", "Note", "Summary", "User"}
        assert known <= open_app.make_shell_context().keys()


def test_seed_db_adds_two_users_once(open_app: Flask, open_database: str) -> None:
    outputs = [invoke(open_app, "seed_db").output for _ in range(2)]

    assert outputs == ["Added 2 example users.\n", "Added 0 example users.\n"]
    assert users_in(open_database) == EXAMPLES


def test_create_token_prints_the_token_alone_and_keeps_its_digest(open_app: Flask, open_database: str) -> None:
    result = invoke(open_app, "create_token", "ci", "--scope", "users:read", "--scope", "admin", "--scope", "admin")

    assert re.fullmatch(r"usr_[A-Za-z0-9_-]{43}\n", result.stdout)
    kept = execute(open_database, "SELECT name, encode(digest, 'hex'), scopes, expires_at FROM access_tokens")
    digest = hashlib.sha256(result.stdout.strip().encode()).hexdigest()
    assert kept == [("ci", digest, ["users:read", "admin"], None)]


def test_create_token_can_expire(open_app: Flask, open_database: str) -> None:
    invoke(open_app, "create_token", "ci", "--scope", "users:read", "--expires-in", "30")

    days = execute(open_database, "SELECT extract(epoch FROM expires_at - now()) / 86400 FROM access_tokens")
    assert float(days[0][0]) == pytest.approx(30, abs=0.01)


def test_create_token_takes_a_name_once(open_app: Flask) -> None:
    first, second = (invoke(open_app, "create_token", "ci", "--scope", "users:read") for _ in range(2))

    assert (first.exit_code, second.exit_code, second.stdout) == (0, 1, "")
    assert second.stderr == "Error: There is a token of the name ci, or was one before it was revoked.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["ci"],
        ["ci", "--scope", "users:delete"],
        ["ci", "--scope", "admin", "--expires-in", "0"],
        ["ci", "--scope", "admin", "--expires-in", "99999999999"],
        [" ", "--scope", "admin"],
        ["a\nb", "--scope", "admin"],
        ["\udcff", "--scope", "admin"],
        ["x" * 129, "--scope", "admin"],
    ],
)
def test_create_token_refuses_what_makes_no_token(open_app: Flask, open_database: str, arguments: list[str]) -> None:
    assert invoke(open_app, "create_token", *arguments).exit_code == 2
    assert execute(open_database, "SELECT count(*) FROM access_tokens") == [(0,)]


def test_list_tokens_shows_no_token_and_no_digest(open_app: Flask, open_database: str) -> None:
    token = invoke(open_app, "create_token", "ci", "--scope", "users:read", "--expires-in", "30").stdout.strip()

    output = invoke(open_app, "list_tokens").stdout

    head, line = output.splitlines()
    assert head.split("  ")[0] == "NAME"
    assert re.fullmatch(r"ci +users:read +\S+Z +\S+Z +- +-", line)
    digest = execute(open_database, "SELECT digest FROM access_tokens")[0][0].tobytes()
    for secret in (token, token[4:20], digest.hex(), repr(digest)):
        assert secret not in output


def test_revoke_token_revokes_once(open_app: Flask, open_database: str) -> None:
    invoke(open_app, "create_token", "ci", "--scope", "users:read")

    outputs = [invoke(open_app, "revoke_token", "ci").output for _ in range(2)]

    assert outputs == ["Revoked ci.\n", "ci was revoked before.\n"]
    assert execute(open_database, "SELECT revoked_at <= now() FROM access_tokens") == [(True,)]


def test_revoke_token_needs_a_token(open_app: Flask) -> None:
    result = invoke(open_app, "revoke_token", "nobody")

    assert (result.exit_code, result.stderr) == (1, "Error: There is no token of the name nobody.\n")


def test_recreate_db_empties_the_tables(open_app: Flask, open_database: str) -> None:
    invoke(open_app, "seed_db")

    result = invoke(open_app, "recreate_db")

    assert (result.exit_code, users_in(open_database)) == (0, [])
    assert invoke(open_app, "db", "upgrade").exit_code == 0


def test_recreate_db_makes_the_first_tables(make_database: Callable[[], str]) -> None:
    app = app_on(make_database(), ProductionConfig)

    assert invoke(app, "recreate_db").exit_code == 0
    assert invoke(app, "db", "upgrade").exit_code == 0
    assert invoke(app, "seed_db").exit_code == 0


def test_recreate_db_spares_users_in_production(open_database: str) -> None:
    app = app_on(open_database, ProductionConfig)
    with app.app_context():
        add_user("michael", "michael@testdriven.io")

    refused = invoke(app, "recreate_db")

    assert (refused.exit_code, len(refused.stderr.splitlines()), len(users_in(open_database))) == (1, 1, 1)
    assert invoke(app, "recreate_db", "--force").exit_code == 0
    assert users_in(open_database) == []


def test_create_db_creates_the_database_once(make_database: Callable[[], str]) -> None:
    url = make_url(make_database())
    name = f"{url.database}_new"
    app = app_on(url.set(database=name).render_as_string(hide_password=False))

    outputs = [invoke(app, "create_db").output for _ in range(2)]

    execute(url.render_as_string(hide_password=False), f"DROP DATABASE {name}")
    assert outputs == [f"Created the database {name}.\n", f"The database {name} is there already.\n"]


def test_missing_tables_are_one_line_that_says_what_to_do(make_database: Callable[[], str]) -> None:
    result = invoke(app_on(make_database()), "seed_db")

    assert result.exit_code == 1
    assert result.stderr == (
        'Error: The database says: relation "users" does not exist. First run: python manage.py db upgrade\n'
    )


def test_embedded_server_is_started_and_stopped(place: Path) -> None:
    server = Server(place / "postgres", databases=["users_dev"], durable=False)

    class Embedded(DevelopmentConfig):
        SQLALCHEMY_DATABASE_URI = None
        EMBEDDED_POSTGRES = server

    app = app_on("", Embedded)
    try:
        assert invoke(app, "postgres", "status").output.startswith("stopped\n")
        assert invoke(app, "create_db").output == "The database users_dev is there already.\n"
        assert invoke(app, "postgres", "stop").output == "Postgres stopped.\n"
        assert invoke(app, "postgres", "stop").output == "Postgres was not running.\n"
        assert str(server.data) in invoke(app, "postgres", "start").output
        assert invoke(app, "postgres", "status").output.startswith("running\n")
        url = invoke(app, "postgres", "url").output.strip()
        assert execute(url, "SELECT current_database()") == [("users_dev",)]
        server.stop()
        assert app.test_client().get("/users").status_code == 503  # A connection has started it; it has no tables.
        assert invoke(app, "db", "upgrade").exit_code == 0
        assert app.test_client().get("/users").status_code == 200
        deadline = time.monotonic() + 30
        while app.test_client().get("/health").status_code != 200:
            assert time.monotonic() < deadline
    finally:
        server.stop()


def test_embedded_server_that_cannot_start_is_one_line(place: Path) -> None:
    (place / "data").mkdir()

    class Embedded(DevelopmentConfig):
        SQLALCHEMY_DATABASE_URI = None
        EMBEDDED_POSTGRES = Server(place)

    result = invoke(app_on("", Embedded), "postgres", "start")

    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)


def test_embedded_server_is_unused_where_another_is_configured(open_app: Flask) -> None:
    result = invoke(open_app, "postgres", "start")

    assert (result.exit_code, result.stderr) == (
        1,
        "Error: DATABASE_TEST_URL is set: the embedded server is unused.\n",
    )


@pytest.fixture
def own_coverage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the coverage data of a test run within a test apart: it would take this run's for its own."""
    monkeypatch.setenv("COVERAGE_FILE", str(tmp_path / "coverage"))


@pytest.mark.parametrize("status", [0, 4])
def test_test_hands_its_arguments_to_pytest(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(subprocess, "call", lambda command: called.append(command) or status)

    result = manage.app.test_cli_runner().invoke(cli, ["test", "-k", "ping", "--no-such-option"])

    assert result.exit_code == status
    assert called == [[sys.executable, "-m", "pytest", "--cov", "-k", "ping", "--no-such-option"]]


@pytest.mark.slow
@pytest.mark.usefixtures("own_coverage")
def test_tests_run_from_the_command_line(server_url: str) -> None:
    command = start_manage(
        "test",
        "-q",
        "-p",
        "no:randomly",
        "-k",
        "ping_answers",
        "project/tests/test_ping.py",
        DATABASE_TEST_URL=server_url,
    )
    output, _ = command.communicate(timeout=60)

    assert command.returncode == 0, output
    assert "1 passed" in output and "TOTAL" in output
