"""The scanner of make check: it finds what somebody once committed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from project.tests.conftest import ROOT

SCANNER = ROOT / ".ci" / "secrets.py"
pytestmark = pytest.mark.skipif(
    not (SCANNER.exists() and shutil.which("git")), reason="there is no git here, as in an image"
)


def scan(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the scanner in a repository."""
    command = [sys.executable, str(SCANNER)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    "secret",
    [
        "usr_" + "k7Qz" * 10 + "abc",
        "url = 'postgres://users:" + "hunter2" + "@db/users'",
        "-----BEGIN RSA " + "PRIVATE KEY-----",
    ],
)
def test_secret_that_was_removed_is_found_in_the_history(tmp_path: Path, secret: str) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "settings.py").write_text("fine = True\n")
    git("add", ".")
    git("commit", "--message", "Begin")
    assert scan(tmp_path).returncode == 0

    (tmp_path / "settings.py").write_text(f"fine = True\n{secret}\n")
    assert scan(tmp_path).returncode == 1
    git("commit", "--all", "--message", "Leak")
    (tmp_path / "settings.py").write_text("fine = True\n")
    git("commit", "--all", "--message", "Regret")

    found = scan(tmp_path)
    assert (found.returncode, found.stderr[:13]) == (1, "settings.py: ")
    assert "hunter2" not in found.stderr
