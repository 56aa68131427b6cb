"""What either server does for its workers, and with its settings."""

import runpy
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import psutil
import pytest

from project import config
from project.tests.conftest import ROOT, free_port, start_server, wait_until
from project.tests.test_gunicorn import request, send

SERVERS = ("gunicorn", "granian")
SLOW_ON_GRANIAN = ("gunicorn", pytest.param("granian", marks=pytest.mark.slow))


def is_served(url: str) -> bool:
    """Say whether anybody answers there."""
    with suppress(OSError):
        urllib.request.urlopen(f"{url}/ping", timeout=5).close()
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_ON_GRANIAN)
def test_killed_worker_is_replaced(open_database: str, name: str) -> None:
    with start_server(open_database, subprocess.DEVNULL, WSGI_SERVER=name) as (server, url):
        # gunicorn answers as soon as one worker is there.
        wait_until(lambda: len(psutil.Process(server.pid).children()) == 2)
        killed = psutil.Process(server.pid).children()[0]
        killed.kill()

        wait_until(lambda: len({worker.pid for worker in psutil.Process(server.pid).children()} - {killed.pid}) == 2)
        wait_until(lambda: is_served(url))
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_workers_end_with_the_process_that_looks_after_them(open_database: str, name: str) -> None:
    with start_server(open_database, subprocess.DEVNULL, WSGI_SERVER=name) as (server, url):
        wait_until(lambda: len(psutil.Process(server.pid).children()) == 2)
        workers = psutil.Process(server.pid).children()
        server.kill()

        gone, alive = psutil.wait_procs(workers, timeout=20)
        assert (len(gone), alive) == (2, [])
        assert not is_served(url)


@pytest.mark.slow
# A worker of granian that ends cuts off the connections that it has not yet accepted.
@pytest.mark.parametrize(("name", "cut_off"), [("gunicorn", 0), ("granian", 2)])
def test_workers_are_renewed_without_an_interruption(open_database: str, name: str, cut_off: int) -> None:
    with start_server(open_database, subprocess.DEVNULL, WSGI_SERVER=name, LOG_LEVEL="error") as (server, url):
        wait_until(lambda: len(psutil.Process(server.pid).children()) == 2)
        before = {worker.pid for worker in psutil.Process(server.pid).children()}
        said: Counter[bool] = Counter()
        renewed = threading.Event()

        def call() -> None:
            """Call on and on."""
            while not renewed.is_set():
                said[is_served(url)] += 1

        caller = threading.Thread(target=call)
        caller.start()
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: len({worker.pid for worker in psutil.Process(server.pid).children()} - before) == 2)
        wait_until(lambda: not before & {worker.pid for worker in psutil.Process(server.pid).children()})
        renewed.set()
        caller.join()
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0

    assert said[True] and said[False] <= cut_off


def test_server_header_names_no_version(granian: str) -> None:
    _, headers, _ = send(granian, request("GET", "/ping"))

    assert headers["server"] == "granian"


@pytest.mark.slow
def test_clients_that_dawdle_over_their_headers_hold_nobody_up_on_granian(granian: str) -> None:
    address = urlsplit(granian)
    with ExitStack() as clients:
        for _ in range(32):
            client = clients.enter_context(socket.create_connection((address.hostname, address.port)))
            client.sendall(b"GET /ping HTTP/1.1\r\nHost")

        assert is_served(granian)


@pytest.mark.slow
def test_requests_on_one_connection_are_answered_in_their_order(either_server: str) -> None:
    requests = [request("GET", path, {"Connection": "keep-alive"}) for path in ("/ping", "/users/x")]

    _, _, rest = send(either_server, b"".join(requests) + request("GET", "/users/0"))

    assert [rest.count(found) for found in (b"pong!", b"User does not exist")] == [1, 4]
    assert rest.index(b"pong!") < rest.index(b"HTTP/1.1 404")


@pytest.mark.usefixtures("open_database")
def test_answer_without_news_has_no_body(either_server: str) -> None:
    ada = '{"username": "ada", "email": "ada@example.org"}'
    _, added, _ = send(either_server, request("POST", "/users", {"Content-Type": "application/json"}, ada))

    status, _, body = send(either_server, request("GET", added["location"], {"If-None-Match": added["etag"]}))

    assert (status, body) == (304, b"")


def test_unknown_server_is_refused_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSGI_SERVER", "apache")

    with pytest.raises(SystemExit, match="^WSGI_SERVER must be one of gunicorn, granian.$"):
        runpy.run_path(config.__file__)


@pytest.mark.slow
def test_server_needs_a_database_in_production() -> None:
    command = [sys.executable, "serve.py"]
    environment = {"APP_SETTINGS": "project.config.ProductionConfig", "PORT": str(free_port())}

    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30)

    assert (done.returncode, done.stderr) == (1, "DATABASE_URL must be set in production.\n")
