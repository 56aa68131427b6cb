"""Look for secrets in every line that was ever committed, and in the files as they are; exit status 1 if there is one.

detect-secrets looks at files, so each path's lines of all times make one file in a temporary folder.
"""

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from detect_secrets import SecretsCollection
from detect_secrets.settings import default_settings

#: What looks like a secret and is none: examples, and what tests use against the service.
KNOWN = {
    "my_precious",
    "hush",
    "a-password",
    "p%40ss",
    "postgres",
    "se%2Fcret",
    "password",
    "eyJhbGciOiJub25lIn0.e30.",
}
#: Files full of hashes that are no secrets.
LOCKED = re.compile(r"requirements/\w+\.txt|benchmarks/peers/requirements\.txt")
OUR_TOKEN = re.compile(r"usr_[A-Za-z0-9_-]{43}")


def git(*arguments: str) -> str:
    """Return what git says."""
    said = subprocess.run(["git", *arguments], check=True, capture_output=True).stdout
    return said.decode(errors="replace")


def lines_by_path() -> dict[str, dict[str, None]]:
    """Return the lines of all commits and of the files as they are, each once, under their paths."""
    lines: dict[str, dict[str, None]] = defaultdict(dict)
    path = ""
    for line in git("log", "--all", "--patch", "--no-renames", "--unified=0", "--format=", "--root").splitlines():
        if line.startswith("+++ "):
            path = line.removeprefix("+++ ").removeprefix("b/")
        elif line.startswith("+"):
            lines[path][line[1:]] = None
    for name in git("ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0"):
        if Path(name).is_file():
            lines[name].update(dict.fromkeys(Path(name).read_text(errors="replace").splitlines()))
    return {path: found for path, found in lines.items() if not LOCKED.fullmatch(path)}


def secrets() -> list[str]:
    """Return where there is a secret, and of what kind."""
    found = []
    with tempfile.TemporaryDirectory() as folder, default_settings():
        for path, lines in lines_by_path().items():
            file = Path(folder, "history", path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(lines))
            collection = SecretsCollection()
            collection.scan_file(str(file))
            found += [f"{path}: {secret.type}" for _, secret in collection if secret.secret_value not in KNOWN]
            found += [f"{path}: access token" for line in lines if OUR_TOKEN.search(line)]
    return found


if __name__ == "__main__":
    found = secrets()
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")
    sys.exit(1 if found else 0)
