"""The production stack, started from its three files on a Docker engine, with the commands of docs/deployment.md.

STACK_IMAGE names an image that is built already; without it, it is built here.
"""

import http.client
import json
import os
import re
import shutil
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from project.cli.development import compose_program
from project.tests.conftest import ROOT, free_port, wait_until

FILES = ("docker-compose.prod.yml", ".env.example", "deploy/nginx.conf", "deploy/upgrade.sh")
ASK_HEALTH = "import urllib.request as r; r.urlopen('http://127.0.0.1:5001/health')"
HEADS = "python manage.py db heads"
#: What a release after this one has beside its code.
MIGRATION = '''
"""Add a column."""
import sqlalchemy as sa
from alembic import op
revision = "ffffffffffff"
down_revision = "{head}"

def upgrade():
    op.add_column("notes", sa.Column("later", sa.Integer(), nullable=True))

def downgrade():
    op.drop_column("notes", "later")
'''


def succeeds(*command: str) -> bool:
    """Say whether a command can be run and ends well."""
    try:
        return not subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        return False


def what_is_missing() -> str:
    """Return what the tests lack on this machine, nothing if they can run."""
    if not succeeds("docker", "version"):
        return "there is no Docker engine here"
    if not succeeds("docker", "compose", "version") and not shutil.which("docker-compose"):
        return "Docker Compose is not installed here"
    if os.environ.get("DOCKER_HOST", "unix://").startswith("tcp://"):
        return "the Docker engine is on another machine, which has not these files"
    return ""


pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(reason := what_is_missing()), reason=reason or "all is there")]


@dataclass
class Stack:
    """A production stack, the folder of its files and where it listens."""

    folder: Path
    name: str
    port: int

    def sh(self, script: str, **variables: str) -> str:
        """Run a script in the folder, with the name of Docker's program as the documentation has it."""
        environment = os.environ | {"PATH": f"{self.folder}/bin:{os.environ['PATH']}"} | variables
        command = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def set(self, **values: str) -> None:
        """Set variables in .env."""
        text = (self.folder / ".env").read_text()
        for name, value in values.items():
            text = re.sub(f"^#?{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
        (self.folder / ".env").write_text(text)

    def call(self, method: str, path: str, body: object = None) -> tuple[int, dict]:
        """Call the service through nginx, and return the status and the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text)

    def add(self) -> tuple[int, dict]:
        """Add a user, and return the status and the body."""
        return self.call("POST", "/users", {"username": "ada", "email": f"{uuid.uuid4().hex}@example.org"})


def documented(heading: str) -> list[str]:
    """Return the scripts below a heading of docs/deployment.md."""
    text = (ROOT / "docs/deployment.md").read_text()
    (section,) = re.findall(rf"^#+ {heading}\n(.*?)(?=^#+ [A-Z]|\Z)", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """The image of production."""
    for name in re.findall("image: ((?:nginx|postgres):.+)", (ROOT / "docker-compose.prod.yml").read_text()):
        if not succeeds("docker", "image", "inspect", name) and not succeeds("docker", "pull", "--quiet", name):
            pytest.skip(f"{name} is neither here nor in a registry that can be reached")
    if built := os.environ.get("STACK_IMAGE"):
        yield built
        return
    name = f"users-stack:{uuid.uuid4().hex}"
    command = ["docker", "build", "--quiet", "--target", "web", "--file", "Dockerfile.prod", "--tag", name, "."]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    yield name
    subprocess.run(["docker", "image", "rm", name], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def later_image(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image of the same name with the tag of a later release."""
    folder = tmp_path_factory.mktemp("later")
    command = [
        "docker",
        "run",
        "--rm",
        "-e",
        "DATABASE_WAIT=0",
        "-e",
        "DATABASE_URL=postgresql://nowhere/users",
        image,
    ]
    heads = subprocess.run([*command, *HEADS.split()], check=True, capture_output=True, text=True).stdout
    head = heads.split()[0]
    (folder / "later.py").write_text(MIGRATION.format(head=head))
    (folder / "Dockerfile").write_text(f"FROM {image}\nCOPY later.py migrations/versions/\n")
    (folder / "later.py").chmod(0o644)
    name = f"{image.partition(':')[0]}:later-{uuid.uuid4().hex}"
    subprocess.run(
        ["docker", "build", "--quiet", "--tag", name, "."], cwd=folder, check=True, stdout=subprocess.DEVNULL
    )
    yield name
    subprocess.run(["docker", "image", "rm", name], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def stack(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that runs, of this release."""
    folder = tmp_path_factory.mktemp("stack")
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    if compose_program() == ["docker-compose"]:
        # The documentation's `docker compose`, on a machine with the older program alone.
        (folder / "bin").mkdir()
        program = (
            f'[ "$1" != compose ] || {{ shift; exec docker-compose "$@"; }}\nexec {shutil.which("docker")} "$@"\n'
        )
        (folder / "bin/docker").write_text(f"#!/bin/sh\n{program}")
        (folder / "bin/docker").chmod(0o755)
    shutil.copy(folder / ".env.example", folder / ".env")
    running = Stack(folder, f"users-stack-{uuid.uuid4().hex[:8]}", free_port())
    name, _, tag = image.partition(":")
    running.set(COMPOSE_PROJECT_NAME=running.name, USERS_IMAGE=name, IMAGE_TAG=tag, HTTP_PORT=str(running.port))
    # As an operator would write them.
    running.set(
        POSTGRES_PASSWORD=uuid.uuid4().hex, AUTH_REQUIRED="false", IMPORT_MAX_LENGTH="20480", WEB_CONCURRENCY="2"
    )
    try:
        running.sh("docker compose up -d")
        wait_until(lambda: "(healthy)" in running.sh("docker compose ps nginx"), 120)
        yield running
    finally:
        running.sh("docker compose down --volumes --timeout 5")


@contextmanager
def calls(stack: Stack) -> Iterator[list[str]]:
    """Make 40 calls a second, reads and writes in turn, each on a connection of its own; yield what they answer."""
    answers: list[str] = []
    ended = threading.Event()
    made: list[threading.Thread] = []

    def call(number: int) -> None:
        """Make a call."""
        try:
            status, body = stack.add() if number % 2 else stack.call("GET", "/users?limit=5")
            answers.append("good" if status < 300 else f"{status} {body['message']}")
        except (OSError, http.client.HTTPException) as error:
            answers.append(repr(error))

    def go_on() -> None:
        """Start a call every 25 ms."""
        start = time.monotonic()
        while not ended.wait(max(0.0, start + len(made) / 40 - time.monotonic())):
            made.append(threading.Thread(target=call, args=(len(made),)))
            made[-1].start()

    caller = threading.Thread(target=go_on)
    caller.start()
    try:
        yield answers
    finally:
        ended.set()
        caller.join()
        for thread in made:
            thread.join()


def test_three_files_make_a_stack_whose_service_has_what_env_says(stack: Stack) -> None:
    assert stack.call("GET", "/health")[1]["database"] == "up"
    for service in ("users", "users-2", "worker"):
        environment = stack.sh(f"docker compose exec -T {service} env").splitlines()
        assert {"IMPORT_MAX_LENGTH=20480", "TRUSTED_PROXIES=1", "AUTH_REQUIRED=false"} <= set(environment)


def test_one_line_runs_the_image_on_any_database(stack: Stack, image: str) -> None:
    (line,) = [script for script in documented("Docker run") if script.startswith("docker run")]
    password = re.findall("^POSTGRES_PASSWORD=(.+)", (stack.folder / ".env").read_text(), re.MULTILINE)[0]
    name, port = f"{stack.name}-alone", free_port()
    for written, here in {
        "users:password@db.example.org:5432/users": f"postgres:{password}@users-db:5432/alone",
        "registry.example.org/team/users:1.4.0": image,
        "--name users": f"--name {name} --network {stack.name}_default",
        "-p 80:5001": f"-p {port}:5001",
    }.items():
        assert written in line
        line = line.replace(written, here)
    stack.sh("docker compose exec -T users-db createdb -U postgres alone")
    try:
        stack.sh(line)
        alone = Stack(stack.folder, stack.name, port)

        wait_until(lambda: succeeds("docker", "exec", name, "python", "-c", ASK_HEALTH), 120)
        assert alone.call("GET", "/health")[1]["database"] == "up"
        assert alone.call("GET", "/users")[0] == 401
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=True, stdout=subprocess.DEVNULL)


def test_upgrade_and_rollback_fail_no_call(stack: Stack, image: str, later_image: str) -> None:
    tag, later = image.partition(":")[2], later_image.partition(":")[2]
    downgrade = next(script for script in documented("Rollback of the stack") if "db downgrade" in script)
    revision = stack.sh(f"docker compose run --rm --no-deps -T users-migrate {HEADS}").split()[0]
    with calls(stack) as answers:
        wait_until(lambda: len(answers) > 200, 120)
        # A machine that is too slow for 40 calls a second says so before, and in words of the service's own.
        usual = set(answers)
        stack.set(IMAGE_TAG=later)
        stack.sh("deploy/upgrade.sh")
        upgraded = stack.sh("docker compose ps -q | xargs docker inspect --format '{{.Config.Image}}'")
        stack.set(IMAGE_TAG=tag)
        stack.sh("deploy/upgrade.sh --no-migrate")
        stack.sh(downgrade.replace("1.5.0", later).replace("<revision>", revision))
        stack.sh("docker compose up -d")

    assert upgraded.split().count(later_image) >= 3
    assert "good" in usual
    assert Counter(answers).keys() <= usual, Counter(answers)
    assert "ffffffffffff" not in stack.sh("docker compose exec -T users python manage.py db current")


def test_backup_brings_everything_back_when_the_volume_is_lost(stack: Stack) -> None:
    (backup,) = documented("Backup")
    (restore,) = documented("Restore")
    assert stack.add()[0] == 201
    before = stack.sh("docker compose exec -T users python manage.py export_users - --format ndjson")
    stack.sh("docker compose exec -T users python manage.py create_token kept --scope users:read")

    stack.sh(backup)
    stack.sh("docker compose down --volumes")
    (dump,) = stack.folder.glob("users-*.dump")
    stack.sh(restore.replace("users-20261120T120000Z.dump", dump.name))
    wait_until(lambda: "(healthy)" in stack.sh("docker compose ps nginx"), 120)

    assert stack.sh("docker compose exec -T users python manage.py export_users - --format ndjson") == before
    assert "kept" in stack.sh("docker compose exec -T users python manage.py list_tokens")
    assert stack.add()[0] == 201
    dump.unlink()


def test_backup_of_a_database_without_the_tables_is_refused(stack: Stack) -> None:
    (backup,) = documented("Backup")
    stack.sh("docker compose exec -T users-db createdb -U postgres nothing")

    with pytest.raises(AssertionError):
        stack.sh(backup.replace("users_prod", "nothing"))

    assert list(stack.folder.glob("users-*.dump")) == []
