"""The service where no file can be written: neither /dev/shm nor a temporary folder."""

import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from gunicorn.workers import base

from project.observability import multiprocess
from project.servers import heartbeat
from project.tests.conftest import gunicorn_with, start_server, wait_until
from project.tests.test_metrics import samples

#: Runs a program in a process, and those that it forks, to which every file system is read-only.
READ_ONLY = """
import errno, os, runpy, sys

def refuse(event, arguments):
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes and isinstance(arguments[0], (str, bytes)) and arguments[0] != os.devnull or event == "os.mkdir":
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), arguments[0])

sys.addaudithook(refuse)
sys.argv = sys.argv[1:]
if sys.argv[0].endswith(".py"):
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    runpy.run_module(sys.argv[0], run_name="__main__")
"""
MISSING = "No folder can be written"

needs_memfd = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="memory without a name is Linux's, memfd_create is missing"
)


@pytest.fixture
def uncached_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The choice of the folder is made anew, and forgotten afterwards."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    multiprocess.share.cache_clear()
    yield
    multiprocess.share.cache_clear()


@pytest.mark.usefixtures("uncached_folder")
def test_processes_count_for_themselves_where_no_folder_can_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(multiprocess, "MEMORY_FOLDER", str(tmp_path / "none"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))

    assert multiprocess.share() is None
    multiprocess.warn_of_missing_folder()

    assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == ""
    assert [record.getMessage()[: len(MISSING)] for record in caplog.records] == [MISSING]


@pytest.mark.usefixtures("uncached_folder")
def test_temporary_folder_does_where_there_is_no_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(multiprocess, "MEMORY_FOLDER", str(tmp_path / "none"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    folder = multiprocess.share()
    multiprocess.warn_of_missing_folder()

    assert folder and Path(folder).parent == tmp_path
    assert caplog.records == []
    multiprocess.remove(folder, os.getpid())


def test_heartbeat_is_a_file_beside_the_figures_where_it_can_be() -> None:
    assert heartbeat.heartbeat_folder("/dev/shm/users-metrics-x") == "/dev/shm"


@needs_memfd
def test_heartbeat_is_in_memory_where_no_file_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "WorkerTmp", base.WorkerTmp)

    assert heartbeat.heartbeat_folder(None) is None
    beat = base.WorkerTmp(None)
    before = time.monotonic()
    beat.notify()

    assert isinstance(beat, heartbeat.Heartbeat)
    assert before <= beat.last_update() <= time.monotonic()
    assert os.fstat(beat.fileno()).st_nlink == 0
    beat.close()


def test_system_without_such_memory_keeps_the_heartbeat_of_gunicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    own = base.WorkerTmp
    monkeypatch.delattr(os, "memfd_create", raising=False)

    assert heartbeat.heartbeat_folder(None) is None
    assert base.WorkerTmp is own


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "server_name"),
    [(("serve.py",), "gunicorn"), (("gunicorn", "manage:app"), "gunicorn"), (("serve.py",), "granian")],
)
def test_service_starts_and_serves_where_nothing_can_be_written(
    open_database: str, tmp_path: Path, program: tuple[str, ...], server_name: str
) -> None:
    variables = {"AUTH_REQUIRED": "false", "WSGI_SERVER": server_name}
    with open(tmp_path / "log", "wb") as log:
        with start_server(open_database, log, ("-c", READ_ONLY, *program), **variables) as (server, url):
            with urllib.request.urlopen(f"{url}/users", timeout=10) as answer:
                assert json.load(answer)["status"] == "success"
            with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
                counted = samples(answer.read().decode())
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=30) == 0

    assert (counted["database_up",], counted["db_pool_size",]) == (1, 2)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [json.loads(line)["level"] for line in lines if MISSING in line] == ["warning"]
    assert not any("Traceback" in line for line in lines)


def heartbeats(master: int) -> list[float]:
    """Return when the workers of a gunicorn were last alive by the monotonic clock, the date before the first time."""
    found = []
    for file in Path(f"/proc/{master}/fd").iterdir():
        with suppress(FileNotFoundError):
            if os.readlink(file).startswith("/memfd:heartbeat"):
                found.append(file.stat().st_mtime)
    return found


@pytest.mark.slow
@needs_memfd
def test_worker_that_hangs_is_replaced_where_nothing_can_be_written(open_database: str, tmp_path: Path) -> None:
    configuration = gunicorn_with(tmp_path, "timeout = 2\n")
    program = ("-c", READ_ONLY, "gunicorn", "--config", configuration)
    with start_server(open_database, subprocess.DEVNULL, program) as (server, _):

        def workers() -> set[int]:
            return {worker.pid for worker in psutil.Process(server.pid).children()}

        # Like gunicorn's own file, a heartbeat tells nothing of a worker that is still starting.
        wait_until(lambda: sum(beat <= time.monotonic() for beat in heartbeats(server.pid)) == len(workers()) == 2)
        hung = min(workers())
        os.kill(hung, signal.SIGSTOP)
        wait_until(lambda: len(workers() - {hung}) == 2)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0
