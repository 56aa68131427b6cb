"""gunicorn with slow clients and a slow database: nobody waits for ever, and whoever looks after it is answered."""

import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

import psycopg2
import pytest

from project.tests.conftest import execute, send_on_and_on, served
from project.tests.test_gunicorn import JSON, request, send

pytestmark = pytest.mark.slow

#: The configuration of a deployment, with little patience.
CONFIGURATION = """
from runpy import run_path

globals().update(run_path("gunicorn.conf.py"))
limits = worker_class.limits
limits.MAX_QUEUE_SECONDS, limits.MAX_READ_SECONDS, limits.MAX_REQUEST_SECONDS = 0.5, 1, 10
"""
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
THREADS = 8
AWAY = "The database is not available at the moment."
BUSY = "The service is busy at the moment."


@pytest.fixture(scope="module")
def impatient(open_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service with little patience, which these tests share; yields its URL."""
    folder = tmp_path_factory.mktemp("impatient")
    configuration = folder / "gunicorn.conf.py"
    configuration.write_text(CONFIGURATION)
    with served(open_url, folder / "log", f"--config={configuration}", AUTH_REQUIRED="false") as url:
        yield url


@pytest.fixture
def url(impatient: str, open_database: str) -> str:
    """The URL of that service, on an empty database."""
    return impatient


def open_socket(url: str) -> socket.socket:
    """Return a connection to the service."""
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=20)


def drip(url: str, message: bytes) -> bytes:
    """Send the beginning of a request and then a byte now and then, until the service has answered or closed."""
    with open_socket(url) as client:
        client.sendall(message)
        client.settimeout(0.1)
        answer = b""
        while True:
            try:
                client.sendall(b" ")
                chunk = client.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError:
                return answer
            if not chunk:
                return answer
            answer += chunk


def test_body_that_drips_is_a_408(url: str) -> None:
    answer = drip(url, request("POST", "/users", {**JSON, "Content-Length": "1000"}, '{"username": "ada"'))

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["code"] == "request_timeout"


def test_headers_that_drip_end_the_connection(url: str) -> None:
    assert drip(url, b"GET /users HTTP/1.1\r\nX-Slow: ") == b""
    assert send(url, request("GET", "/ping"))[0] == 200


def test_silent_connections_occupy_no_thread(url: str) -> None:
    silent = [open_socket(url) for _ in range(4 * THREADS)]

    assert send(url, request("GET", "/users"))[0] == 200
    for client in silent:
        client.sendall(request("GET", "/users"))
        assert client.recv(12) == b"HTTP/1.1 200"
        client.close()


def test_clients_that_stay_after_their_answer_hold_nobody_up(open_database: str, tmp_path: Path) -> None:
    log, settings = tmp_path / "log", {"WEB_CONCURRENCY": "1", "AUTH_REQUIRED": "false"}
    with ExitStack() as clients:
        with served(open_database, log, **settings) as url:
            start = time.monotonic()
            for _ in range(5):
                client = clients.enter_context(open_socket(url))
                client.sendall(request("GET", "/ping"))
                assert client.recv(12) == b"HTTP/1.1 200"
            assert send(url, request("GET", "/ping"))[0] == 200
            assert send(url, request("GET", "/users/1"))[0] == 404
            # Each would be waited for, for 2 s.
            assert time.monotonic() - start < 2
            start = time.monotonic()
        # They are not waited for longer when the service is stopped.
        assert time.monotonic() - start < 10


def test_clients_that_dawdle_over_a_ping_do_not_keep_others_from_it(open_database: str, tmp_path: Path) -> None:
    settings = {"WEB_CONCURRENCY": "1", "AUTH_REQUIRED": "false"}
    body = request("GET", "/ping", {"Content-Length": "1", "Connection": "keep-alive"})
    head = b"GET /ping HTTP/1.1\r\nX: "
    with served(open_database, tmp_path / "log", **settings) as url, ExitStack() as clients:
        for beginning in (body, body, head, head):
            clients.enter_context(open_socket(url)).sendall(beginning)
        time.sleep(0.5)
        start = time.monotonic()

        assert send(url, request("GET", "/ping"))[0] == 200
        assert send(url, request("GET", "/health"))[0] == 200
        assert time.monotonic() - start < 3


def test_more_clients_than_files_do_not_end_the_worker(open_database: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    files = tmp_path / "gunicorn.conf.py"
    files.write_text(
        "import resource\nfrom runpy import run_path\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (150, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "globals().update(run_path('gunicorn.conf.py'))\n"
    )
    settings = {"WEB_CONCURRENCY": "1", "AUTH_REQUIRED": "false"}
    with served(open_database, log, f"--config={files}", **settings) as url:
        with ExitStack() as clients:
            first, *_ = [clients.enter_context(open_socket(url)) for _ in range(200)]
            time.sleep(0.5)
            first.sendall(request("GET", "/ping"))
            assert first.recv(12) == b"HTTP/1.1 200"
        assert send(url, request("GET", "/ping"))[0] == 200

    assert "Worker exiting" not in log.read_text().partition("Handling signal: term")[0]


def test_client_that_sends_on_and_on_after_its_answer_is_cut_off(url: str) -> None:
    with open_socket(url) as client:
        client.sendall(request("GET", "/ping"))

        assert send_on_and_on(client) < 64 * 1024 * 1024


def test_busy_service_answers_whoever_looks_after_it_and_refuses_the_rest(url: str, open_database: str) -> None:
    said: Counter[tuple[int, str]] = Counter()

    def ask() -> None:
        status, headers, body = send(url, request("GET", "/users"))
        said[status, json.loads(body)["message"]] += 1
        assert headers["retry-after"] == "1"

    with closing(psycopg2.connect(open_database)) as blocker, ThreadPoolExecutor(3 * THREADS) as clients:
        blocker.cursor().execute("LOCK TABLE users")
        asked = [clients.submit(ask) for _ in range(3 * THREADS)]
        while execute(open_database, WAITING) < [(THREADS // 2,)]:
            time.sleep(0.02)
        assert send(url, request("GET", "/ping"))[0] == 200
        # The database lets them wait for 2 s.
        assert (503, AWAY) not in said
        for one in asked:
            one.result()

    assert set(said) == {(503, AWAY), (503, BUSY)}
    assert said[503, AWAY] <= THREADS
    assert send(url, request("GET", "/users"))[0] == 200


def test_client_that_asks_all_the_time_leaves_the_threads_to_others(open_database: str, tmp_path: Path) -> None:
    done = Event()

    def ask_all_the_time(url: str) -> int:
        asked = 0
        with closing(HTTPConnection(urlsplit(url).netloc, timeout=20)) as client:
            while not done.is_set():
                client.request("GET", "/users")
                assert client.getresponse().read()
                asked += 1
        return asked

    # Who is never given the thread waits in vain for longer than a slow machine makes anybody wait.
    configuration = tmp_path / "gunicorn.conf.py"
    configuration.write_text(f"{CONFIGURATION}limits.MAX_QUEUE_SECONDS = 10\n")
    options = tmp_path / "log", f"--config={configuration}"
    settings = {"WEB_CONCURRENCY": "1", "WEB_THREADS": "1", "AUTH_REQUIRED": "false"}
    with served(open_database, *options, **settings) as url, ThreadPoolExecutor(2) as clients:
        busy = [clients.submit(ask_all_the_time, url) for _ in range(2)]
        statuses = {send(url, request("GET", "/users"))[0] for _ in range(20)}
        done.set()
        asked = [client.result() for client in busy]

    assert statuses == {200}
    assert min(asked) > 10


def test_transfer_may_follow_another_request_and_takes_its_time(url: str, open_database: str) -> None:
    row = b'{"username": "ada", "email": "ada@example.org"}\n'
    with closing(HTTPConnection(urlsplit(url).netloc, timeout=20)) as client:
        client.request("GET", "/users")
        assert client.getresponse().read()
        client.putrequest("POST", "/users/import")
        client.putheader("Content-Type", "application/x-ndjson")
        client.putheader("Content-Length", str(len(row)))
        client.endheaders()
        # Longer than any other request may take to come in.
        time.sleep(1.5)
        client.send(row)

        assert client.getresponse().status == 200
    assert execute(open_database, "SELECT username FROM users") == [("ada",)]
