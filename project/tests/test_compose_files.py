"""The files of the deployment with Compose, held against the documentation and the configuration."""

import ast
import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from project.tests.conftest import ROOT

FILES = ("docker-compose.yml", "docker-compose.prod.yml")
#: What the server sets for its own workers.
INTERNAL = {"PROMETHEUS_MULTIPROC_DIR"}
#: The image of production has no tests.
NOT_IN_PRODUCTION = {"DATABASE_TEST_URL"}
#: What means nothing to the service: the names that .env.example sets for Compose alone.
COMPOSE_ALONE = {
    *("COMPOSE_FILE", "COMPOSE_PROJECT_NAME", "USERS_IMAGE", "IMAGE_TAG", "POSTGRES_PASSWORD"),
    *("HTTP_PORT", "USERS_MEMORY", "DATABASE_MEMORY"),
}
#: What each file says by itself, for the containers that it has.
FIXED = {"APP_SETTINGS", "PORT"}


def services(file: str) -> dict[str, dict[str, Any]]:
    """Return the services of a Compose file."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / file).read_text())["services"]
    return found


def variables_that_are_read() -> set[str]:
    """Return the variables that project/config.py and entrypoint.sh read from the environment."""
    calls = [
        node for node in ast.walk(ast.parse((ROOT / "project/config.py").read_text())) if isinstance(node, ast.Call)
    ]
    read = {
        str(call.args[0].value)
        for call in calls
        if re.fullmatch(r"env_\w+|os\.environ\.get", ast.unparse(call.func)) and isinstance(call.args[0], ast.Constant)
    }
    return read | set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "entrypoint.sh").read_text()))


def documented_variables() -> set[str]:
    """Return the variables of the table of the configuration, wherever in the documentation it is."""
    text = "".join(file.read_text() for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))))
    (table,) = re.findall(r"^\| variable \| meaning \| default \|\n\| --- \| --- \| --- \|\n((?:\|.+\n)+)", text, re.M)
    return {name for row in table.splitlines() for name in re.findall("`([A-Z][A-Z_]+)`", row.split("|")[1])}


def test_every_variable_that_is_read_is_documented() -> None:
    assert variables_that_are_read() - INTERNAL <= documented_variables()


@pytest.mark.parametrize("file", FILES)
def test_every_documented_variable_reaches_each_process(file: str) -> None:
    processes = {name: service for name, service in services(file).items() if "APP_SETTINGS" in str(service)}
    expected = documented_variables() - (NOT_IN_PRODUCTION if "prod" in file else set())

    assert {"users", "worker"} <= set(processes)
    for name, service in processes.items():
        assert expected - set(service["environment"]) == set(), name
        assert {name for name in service["environment"] if not name.startswith("PG")} <= documented_variables(), name


def test_the_example_names_every_variable_that_an_operator_may_set() -> None:
    text = (ROOT / ".env.example").read_text()

    named = re.findall("^#?([A-Z_]+)=", text, re.M)

    assert len(named) == len(set(named))
    assert set(named) == (documented_variables() | COMPOSE_ALONE) - FIXED - NOT_IN_PRODUCTION
    used = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.prod.yml").read_text()))
    assert used <= set(named)


SHOW = """
import json, sys
from project import config
print(json.dumps({c: {n: str(v) for n, v in vars(getattr(config, c)).items() if n.isupper()} for c in sys.argv[1:]}))
"""


def settings(**environment: str) -> Any:
    """Return the settings of all classes, as a process with this environment reads them."""
    kept = {name: value for name, value in os.environ.items() if name not in variables_that_are_read()}
    command = [sys.executable, "-c", SHOW, "BaseConfig", "TestingConfig", "ProductionConfig"]
    done = subprocess.run(command, cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=True)
    # An object's address is another one in each process.
    return json.loads(re.sub(" at 0x[0-9a-f]+", "", done.stdout))


@pytest.mark.slow
def test_an_empty_variable_is_as_one_that_is_not_set() -> None:
    empty = dict.fromkeys(variables_that_are_read() - INTERNAL, "")

    assert settings(**empty) == settings()


def test_every_container_of_production_has_limits_and_a_log_that_is_rotated() -> None:
    for name, service in services("docker-compose.prod.yml").items():
        assert {"mem_limit", "pids_limit"} <= set(service), name
        assert {"cpus", "cpu_shares"} & set(service), name
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_two_instances_serve_under_one_name_in_production() -> None:
    production = services("docker-compose.prod.yml")
    aliases = [production[name].pop("networks")["default"]["aliases"] for name in ("users", "users-2")]

    assert aliases == [["users-1"], ["users"]]
    assert production["users"] == production["users-2"]
    assert "/health" in str(production["users"]["healthcheck"]["test"])
    assert "http://users:5001" in (ROOT / "deploy/nginx.conf").read_text()
