"""The end of a server: whoever is connected is answered."""

import http.client
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from project.tests.conftest import execute, gunicorn_with, start_server
from project.tests.test_gunicorn import request, send

pytestmark = pytest.mark.slow

CLIENTS = 16
# As people start it who know gunicorn.
GUNICORN = ("-m", "gunicorn", "manage:app")
#: On macOS nothing keeps callers from the socket while it closes; granian also closes the connection of who has not
#: begun to ask.
SOME = CLIENTS // 2
CUT_OFF = 0 if sys.platform == "linux" else SOME


def test_workers_leave_the_port_when_the_master_is_killed(open_database: str) -> None:
    with start_server(open_database, subprocess.DEVNULL, GUNICORN) as (server, url):
        caller = http.client.HTTPConnection("127.0.0.1", urlsplit(url).port, timeout=30)
        caller.request("GET", "/ping")
        caller.getresponse().read()
        server.kill()
    deadline = time.monotonic() + 20
    refused = False
    while not refused and time.monotonic() < deadline:
        # Over the same connection as long as it is kept alive, which must keep no worker from its end.
        try:
            caller.request("GET", "/ping")
            caller.getresponse().read()
        except ConnectionRefusedError:
            refused = True
        except (OSError, http.client.HTTPException):
            caller.close()

    assert refused


@pytest.mark.parametrize(
    ("name", "command", "everybody", "cut_off"),
    [
        pytest.param("gunicorn", ("serve.py",), False, CUT_OFF, id="gunicorn"),
        pytest.param("", GUNICORN, False, CUT_OFF, id="gunicorn manage:app"),
        # Heroku's SIGTERM goes to the workers as well.
        pytest.param("", GUNICORN, True, CUT_OFF, id="every process of gunicorn"),
        pytest.param("granian", ("serve.py",), False, SOME, id="granian"),
    ],
)
def test_stop_loses_no_request(
    open_database: str, name: str, command: tuple[str, ...], everybody: bool, cut_off: int
) -> None:
    said, seconds = stop_under_load(open_database, command, everybody, WSGI_SERVER=name)

    assert said.pop("cut off", 0) <= cut_off
    assert set(said) == {201, "refused"}
    assert execute(open_database, "SELECT count(*) FROM users") == [(said[201],)]
    assert seconds < 10


def test_stop_is_noticed_by_slow_workers_with_callers_all_the_time(open_database: str, tmp_path: Path) -> None:
    slow = gunicorn_with(
        tmp_path,
        "import time\n"
        "from gunicorn.workers.gthread import ThreadWorker\n"
        "accept, is_parent_alive = ThreadWorker.accept, ThreadWorker.is_parent_alive\n"
        "ThreadWorker.accept = lambda *arguments: time.sleep(0.002) or accept(*arguments)\n"
        "ThreadWorker.is_parent_alive = lambda *arguments: time.sleep(0.05) or is_parent_alive(*arguments)\n",
    )

    said, seconds = stop_under_load(open_database, ("-m", "gunicorn", "-c", slow, "manage:app"))

    assert said.pop("cut off", 0) <= CUT_OFF
    assert set(said) == {201, "refused"}
    assert seconds < 10


def test_worker_that_is_stopped_as_it_begins_to_accept_ends_in_order(open_database: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    at_once = gunicorn_with(
        tmp_path,
        "import os, signal\n"
        "from gunicorn.workers.gthread import ThreadWorker\n"
        "set_accept_enabled = ThreadWorker.set_accept_enabled\n"
        "def stopped(worker, enabled):\n"
        "    set_accept_enabled(worker, enabled)\n"
        "    if enabled and worker.age == 2:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "ThreadWorker.set_accept_enabled = stopped\n",
    )
    command = ("serve.py", f"--config={at_once}")
    settings = {"WEB_CONCURRENCY": "1", "AUTH_REQUIRED": "false"}
    with open(log, "wb") as file, start_server(open_database, file, command, **settings) as (server, url):
        server.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 30
        while log.read_text().count("Worker exiting") < 2:
            assert time.monotonic() < deadline
            assert send(url, request("GET", "/ping"))[0] == 200
        server.terminate()
        assert server.wait(timeout=30) == 0

    assert "Exception in worker process" not in log.read_text()


def test_stop_reaches_a_worker_that_has_just_been_forked(open_database: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    forked = gunicorn_with(
        tmp_path,
        "import time\n" "def post_fork(arbiter, worker):\n" "    time.sleep(2 if worker.age == 2 else 0)\n",
    )
    command = ("serve.py", f"--config={forked}")
    with open(log, "wb") as file, start_server(open_database, file, command, WEB_CONCURRENCY="1") as (server, _):
        server.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 30
        while log.read_text().count("Booting worker") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        server.terminate()

        # Else it is killed, 25 s later.
        assert server.wait(timeout=15) == 0


def stop_under_load(
    database_url: str, command: tuple[str, ...], everybody: bool = False, **variables: str
) -> tuple[Counter[object], float]:
    """Stop a server, or its workers as well, while users are added; return what writers were told, and the seconds."""
    said: Counter[object] = Counter()

    def write(client: int, port: int | None) -> None:
        """Add users, each over a connection of its own, until the service is gone."""
        for number in range(100_000):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                connection.connect()
            except ConnectionRefusedError:
                said["refused"] += 1
                return
            except ConnectionResetError:
                said["cut off"] += 1
                continue
            body = f'{{"username": "writer", "email": "{client}-{number}@example.org"}}'
            try:
                connection.request("POST", "/users", body, {"Content-Type": "application/json"})
                said[connection.getresponse().status] += 1
            except OSError as error:
                said["cut off" if isinstance(error, ConnectionError) else type(error)] += 1
            finally:
                connection.close()

    variables = {"WEB_THREADS": "2", "AUTH_REQUIRED": "false", **variables}
    with start_server(database_url, subprocess.DEVNULL, command, **variables) as (server, url):
        writers = [threading.Thread(target=write, args=(number, urlsplit(url).port)) for number in range(CLIENTS)]
        for writer in writers:
            writer.start()
        time.sleep(0.5)
        workers = psutil.Process(server.pid).children() if everybody else []
        start = time.monotonic()
        for worker in workers:
            worker.terminate()
        server.send_signal(signal.SIGTERM)
        status = server.wait(timeout=30)
        seconds = time.monotonic() - start
        for writer in writers:
            writer.join()
    assert status == 0
    return said, seconds
