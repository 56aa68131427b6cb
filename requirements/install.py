"""Install a layer of the locked requirements into .venv, as it is locked: python3 requirements/install.py testing.

uv does it, which pip installs first: it takes a third of pip's time. Where uv cannot, pip installs the same lock with
the same hashes, and INSTALLER=pip asks for that. Neither resolves anything, so a newer release of a package changes
nothing.
"""

# Its own version check must be read by an older Python, too.
from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
AS_LOCKED = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--quiet", "--requirement")
OLDEST = (3, 11)


class InstallError(Exception):
    """Say in one line why a command failed."""


class DiskFullError(InstallError):
    """Say that there is no room, which no other way of installing mends."""


def run(*command: object) -> str:
    """Run a command and return what it printed."""
    done = subprocess.run(
        [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        raise failure(done.stderr or done.stdout)
    return done.stdout


def failure(output: str) -> InstallError:
    """Return the error that a failed command's output tells of."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it gave no reason."]
    if any("No space left on device" in line or "Disk quota exceeded" in line for line in lines):
        return DiskFullError(f"the disk is full: {VENV} and the temporary folder need up to 1 GB.")
    if any("after connection broken by" in line or "Failed to fetch" in line for line in lines):
        return InstallError("the package index does not answer.")
    causes = [line for line in lines if line.lower().startswith(("error:", "caused by:", "cause:"))]
    return InstallError((causes or lines)[-1])


def make_environment() -> tuple[object, ...]:
    """Create .venv, unless it is there and works, and return the command of a pip that installs into it."""
    # Python's own pip installs into other environments too, which saves the 5 s of installing one more.
    own_pip = importlib.util.find_spec("pip") is not None
    if not own_pip and not importlib.util.find_spec("ensurepip"):
        raise InstallError("Python has neither pip nor ensurepip. On Debian and Ubuntu: apt install python3-venv")
    try:
        run(PYTHON, "-c", "import sys" if own_pip else "import pip")
    except (InstallError, OSError):
        try:
            venv.create(VENV, clear=True, with_pip=not own_pip, symlinks=True)
        except (subprocess.CalledProcessError, OSError) as error:
            raise failure((getattr(error, "output", None) or b"").decode() or str(error)) from error
    return (sys.executable, "-m", "pip", "--python", PYTHON) if own_pip else (PYTHON, "-m", "pip")


def index_of(pip: tuple[object, ...]) -> list[str]:
    """Return the package index that pip is told to use, in the words of uv, which does not read pip's settings."""
    if "UV_DEFAULT_INDEX" not in os.environ:
        for line in run(*pip, "config", "list").splitlines():
            name, _, value = line.partition("=")
            if name.endswith(".index-url"):
                return ["--default-index", *shlex.split(value)]
    return []


def install(layer: str, pip: tuple[object, ...]) -> None:
    """Install a layer, with uv where it can."""
    lock = ROOT / "requirements" / f"{layer}.txt"
    pip_install = (*pip, "install", "--disable-pip-version-check", *AS_LOCKED)
    if os.environ.get("INSTALLER") != "pip":
        try:
            run(*pip_install, lock.with_name("installer.txt"))
            uv_install = (PYTHON, "-m", "uv", "pip", "install", "--compile-bytecode", "--python", PYTHON)
            run(*uv_install, *index_of(pip), *AS_LOCKED, lock)
            return
        except DiskFullError:
            raise
        except InstallError as error:
            print(f"uv cannot install, so pip does, which takes longer: {error}", file=sys.stderr)
    run(*pip_install, lock)


def main() -> None:
    """Install the layer that the command line names."""
    if sys.version_info < OLDEST:
        sys.exit("Python 3.11 or later is needed, for example: make PYTHON=python3.13 run")
    layer = sys.argv[1]
    print(f"Installing requirements/{layer}.txt into .venv, once.", flush=True)
    try:
        install(layer, make_environment())
    except InstallError as error:
        sys.exit(f"Not installed: {error}")


if __name__ == "__main__":
    main()
