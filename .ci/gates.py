"""Break one thing at a time in a copy of the repository, and show that the pipeline's job for it turns red.

.venv/bin/python .ci/gates.py [NAME...] runs the script of the job as .gitlab-ci.yml has it, with .venv in the place of
the job's image; what builds an image is tried where a Docker engine answers. The last line counts what turned red.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
IMAGE = "users-gates"
BUILD = f"docker build --file Dockerfile.prod --tag {IMAGE} ."
SMOKE = f"docker run --rm --entrypoint python --volume $PWD/.ci:/ci:ro {IMAGE} /ci/smoke.py"
#: 43 characters, put together here so that the search for secrets does not find them in this file.
TOKEN = "usr_" + "k7Qz" * 10 + "abc"


def write(path: str, text: str) -> Callable[[Path], None]:
    """Return a change that puts a text at the end of a file."""

    def change(copy: Path) -> None:
        with open(copy / path, "a") as file:
            file.write(text)

    return change


def replace(path: str, pattern: str, new: str) -> Callable[[Path], None]:
    """Return a change that replaces what matches a pattern in a file."""

    def change(copy: Path) -> None:
        text, found = re.subn(pattern, new, (copy / path).read_text())
        assert found, f"{path} has no {pattern}"
        (copy / path).write_text(text)

    return change


def commit_a_secret(copy: Path) -> None:
    """Commit a token, and remove it with the next commit."""
    for text in (f"{TOKEN}\n", ""):
        (copy / "forgotten.txt").write_text(text)
        commit(copy)


def commit(copy: Path) -> None:
    """Commit everything."""
    git = ["git", "-c", "user.name=gates", "-c", "user.email=gates@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "add", "--all"], cwd=copy, check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "Break"], cwd=copy, check=True)


#: A name, the job or the command with which the change is tried, the change, what is said then, and variables.
Fault = tuple[str, str, Callable[[Path], None], str, dict[str, str]]
RED = "\n\ndef test_red() -> None:\n    assert 1 == 2\n"
ONLY_RED = {"PYTEST_ADDOPTS": "-k test_red -p no:randomly"}
FAULTS: list[Fault] = [
    ("flake8", "lint", write("project/observability/tracing.py", "\nimport os\n"), "F401", {}),
    ("black", "lint", write("project/observability/tracing.py", "\n\nNAME = 'x'\n"), r"\+NAME", {}),
    ("isort", "lint", write("project/new.py", "import sys\nimport os\n\nprint(os, sys)\n"), r"\+import os", {}),
    ("mypy", "lint", write("project/new.py", "def half(of: int) -> str:\n    return of\n"), "return-value", {}),
    ("imports", "lint", write("project/storage/new.py", "import project.http\n\nprint(project.http)\n"), "BROKEN", {}),
    ("bandit", "lint", write("project/new.py", "def run(code: str) -> None:\n    eval(code)\n"), "B307", {}),
    ("secrets", "lint", commit_a_secret, "forgotten.txt: access token", {}),
    ("hadolint", "lint", write("Dockerfile.prod", "RUN sudo true\n"), "DL3004", {}),
    ("hadolint-test", "lint", write("Dockerfile.test", "RUN sudo true\n"), "DL3004", {}),
    ("shellcheck", "lint", write("release.sh", "echo $app\n"), "SC2086", {}),
    ("compose", "lint", replace("docker-compose.prod.yml", "image: nginx", "imagine: nginx"), "imagine", {}),
    ("pipeline", "lint", replace(".gitlab-ci.yml", "interruptible: false", "interruptible: never"), "never", {}),
    ("test", "unit", write("project/tests/test_ping.py", RED), "FAILED .*::test_red", ONLY_RED),
    (
        "coverage",
        "unit",
        write("project/observability/tracing.py", "\n\ndef unused() -> int:\n    return 1\n"),
        "coverage of 100",
        {},
    ),
    (
        "process",
        "process",
        write("project/tests/test_ping.py", f"\n\nimport pytest\n\n\n@pytest.mark.slow{RED[1:]}"),
        "FAILED .*::test_red",
        ONLY_RED,
    ),
    ("tag", "notes", replace("project/version.py", 'VERSION = ".*"', 'VERSION = "7.0.0"'), "is not v7.0.0", {}),
    ("changelog", "notes", replace("project/version.py", 'VERSION = ".*"', 'VERSION = "9.9.9"'), "no section", {}),
    ("build", BUILD, write("Dockerfile.prod", "COPY missing.txt /\n"), "missing.txt", {}),
    ("hashes", BUILD, replace("requirements/production.txt", "sha256:.", "sha256:0"), "DO NOT MATCH", {}),
    ("unused", BUILD, replace("deploy/slim.py", '"alembic/testing"', '"alembic/tests"'), "Take it from", {}),
    ("size", f"{BUILD} && {SMOKE}", replace("deploy/slim.py", "    remove_locales..\n", ""), "FAILED +1.* MB", {}),
]


def script(job: str) -> str:
    """Return what a job runs."""
    jobs = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text())
    return "\n".join(jobs[job]["script"]) if job in jobs else job


def try_fault(fault: Fault) -> bool:
    """Break a copy, and say whether the job turned red for that reason."""
    name, job, change, says, variables = fault
    with tempfile.TemporaryDirectory(prefix="users-gates-") as folder:
        copy = Path(folder, "users")
        # The embedded database has a user of its own where root runs this.
        Path(folder).chmod(0o755)
        subprocess.run(["git", "clone", "--quiet", "--single-branch", ROOT, copy], check=True)
        (copy / ".venv").symlink_to(ROOT / ".venv")
        change(copy)
        # Older than what is installed, so that make installs nothing.
        for file in (copy / "requirements").iterdir():
            os.utime(file, (0, 0))
        environment = {
            **os.environ,
            **variables,
            "PATH": f"{copy}/.venv/bin:{os.environ['PATH']}",
            "CI_PROJECT_DIR": str(copy),
            "CI_COMMIT_TAG": "v9.9.9",
        }
        start = time.monotonic()
        done = subprocess.run(
            ["sh", "-e", "-c", script(job)], cwd=copy, env=environment, capture_output=True, text=True
        )
        said = done.stdout + done.stderr
        red = done.returncode != 0 and re.search(says, said) is not None
        seconds = time.monotonic() - start
        print(
            f"{'red' if red else 'GREEN':6} {name:14} {seconds:5.0f} s  {job if len(job) < 10 else 'docker'}",
            flush=True,
        )
        if not red:
            print(f"  exit status {done.returncode}, and not: {says}\n{said[-2000:]}", file=sys.stderr)
        return red


def main(names: list[str]) -> int:
    """Try the named faults, or all."""
    engine = shutil.which("docker") and not subprocess.call(["docker", "version"], stdout=-3, stderr=-3)
    faults = [fault for fault in FAULTS if not names or fault[0] in names]
    tried = [fault for fault in faults if engine or not fault[1].startswith("docker")]
    green = [fault[0] for fault in tried if not try_fault(fault)]
    left_out = f"; left out without an engine: {len(faults) - len(tried)}" if len(faults) > len(tried) else ""
    print(f"{len(tried) - len(green)} of {len(tried)} gates turned red{left_out}.")
    return 1 if green or not tried else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
