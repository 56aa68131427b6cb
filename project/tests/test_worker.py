"""gunicorn's worker in this process: a thread serves real sockets."""

import asyncio
import json
import logging
import os
import re
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config

from project.config import BaseConfig, ProductionConfig
from project.servers import hooks, refusals, stop
from project.servers.executor import ConnectionClosed, InFlight
from project.servers.limits import Limits, max_connections
from project.servers.lingering import LingeringClose
from project.servers.stop import StopAfterDrain
from project.servers.worker import Worker
from project.tests.conftest import app_on, send_on_and_on, wait_until
from project.tests.test_gunicorn import JSON, request

THREADS = 2
BUSY = "The service is busy at the moment."


class ShortLimits(Limits):
    """Limits that no test meets by accident; a test shortens the one that it is about."""

    MAX_QUEUE_SECONDS = MAX_READ_SECONDS = MAX_REQUEST_SECONDS = 20.0
    TICK_SECONDS, LINGER_SECONDS = 0.02, 0.2


class ThreadOfTests(Worker):
    """The worker in a thread, where there are no signals."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.limits = ShortLimits()

    def init_signals(self) -> None:
        """Leave the signals to the main thread."""


class Service:
    """The application behind the worker, with two calls that a test controls."""

    def __init__(self) -> None:
        self.app = app_on("postgresql://nobody@127.0.0.1:1/nothing")
        self.blocked, self.go_on = 0, Event()

    def wsgi(self) -> Callable[..., Any]:
        """Return the application, as gunicorn asks for it."""
        return self

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        """Answer a request."""
        if environ["PATH_INFO"] in ("/block", "/users/export"):
            self.blocked += 1
            self.go_on.wait(20)
            environ["PATH_INFO"] = "/ping"
        elif environ["PATH_INFO"] == "/fail":
            raise ValueError("a defect of the application")
        return self.app(environ, start_response)


@contextmanager
def made(service: Service, kind: type[Worker] = ThreadOfTests, **settings: object) -> Iterator[Any]:
    """Yield a worker with a listener of its own, which does not run yet."""
    configuration = Config()
    usual = {"threads": THREADS, "keepalive": 20, "graceful_timeout": 5, "pre_request": hooks.pre_request}
    for name, value in {**usual, **settings}.items():
        configuration.set(name, value)
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    listener.setblocking(False)
    worker = kind(1, os.getppid(), [listener], service, 30, configuration, hooks.Logger(configuration))
    worker.port = listener.getsockname()[1]
    try:
        yield worker
    finally:
        listener.close()
        worker.tmp.close()
        for end in worker.PIPE:
            os.close(end)


@contextmanager
def running(worker: Any) -> Iterator[Any]:
    """Run a worker, and stop it at the end."""
    thread = Thread(target=worker.init_process)
    thread.start()
    try:
        wait_until(lambda: worker.booted)
        yield worker
    finally:
        worker.app.go_on.set()
        worker.handle_exit(signal.SIGTERM, None)
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def service() -> Service:
    """The application."""
    return Service()


@pytest.fixture
def worker(service: Service) -> Iterator[Any]:
    """A worker that runs."""
    with made(service) as worker, running(worker):
        yield worker


def open_socket(worker: Any) -> socket.socket:
    """Return a connection to a worker."""
    return socket.create_connection(("127.0.0.1", worker.port), timeout=20)


def read_to_end(client: socket.socket) -> bytes:
    """Return what comes until the worker closes the connection."""
    answer = b""
    with suppress(ConnectionError):
        while chunk := client.recv(65536):
            answer += chunk
    return answer


def ask(worker: Any, message: bytes) -> tuple[int, dict[str, Any], bytes]:
    """Send a request over a connection of its own; return status, body and head of the answer."""
    with open_socket(worker) as client:
        client.sendall(message)
        head, _, body = read_to_end(client).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body), head


def drip(worker: Any, message: bytes) -> bytes:
    """Send the beginning of a request and then a byte now and then, until the worker has answered or closed."""
    with open_socket(worker) as client:
        client.sendall(message)
        client.settimeout(0.02)
        while True:
            try:
                client.sendall(b" ")
                return client.recv(1) and client.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError:
                return b""


def block(worker: Any, clients: ExitStack, path: str = "/block") -> socket.socket:
    """Occupy a thread; return the connection."""
    blocked = worker.app.blocked
    client = clients.enter_context(open_socket(worker))
    client.sendall(request("GET", path))
    wait_until(lambda: worker.app.blocked == blocked + 1)
    return client


def test_connection_keeps_its_thread_while_its_next_request_comes_at_once(worker: Any) -> None:
    keep = {"Connection": "keep-alive"}
    worker.limits.NEXT_REQUEST_SECONDS = 5.0
    with open_socket(worker) as client:
        for _ in range(3):
            # No probe: those have threads of their own, which wait for no next request.
            client.sendall(request("GET", "/nothing", keep))
            answer = b""
            while not answer.endswith(b"}\n"):
                answer += client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 404 ")
        assert worker.nr == 3 and len(worker.executor.in_flight) == 1


def test_requests_that_come_together_are_answered_in_their_order(worker: Any) -> None:
    keep = {"Connection": "keep-alive"}
    with open_socket(worker) as client:
        client.sendall(request("HEAD", "/ping", keep) + request("POST", "/ping", {**keep, **JSON}, "{}") * 2)
        while b" 405 " not in client.recv(65536):
            pass
        client.sendall(request("GET", "/ping"))
        rest = read_to_end(client)

    assert re.findall(rb"HTTP/1.1 (\d+)", rest)[-1:] == [b"200"]


def test_kept_connection_is_served_by_any_thread_later(worker: Any) -> None:
    with closing(HTTPConnection("127.0.0.1", worker.port, timeout=20)) as client:
        for _ in range(2):
            client.request("GET", "/ping")
            assert client.getresponse().read()
            # The thread has given it back.
            wait_until(lambda: len(worker.keepalived_conns) == 1)


def test_next_request_is_not_waited_for_while_others_wait_for_a_thread(worker: Any) -> None:
    with ExitStack() as clients:
        for _ in range(THREADS):
            block(worker, clients)
        entry = next(iter(worker.executor.in_flight))
        assert worker.executor.has_next_request(entry) is False
        waiting = clients.enter_context(open_socket(worker))
        waiting.sendall(request("GET", "/users"))
        wait_until(lambda: len(worker.executor.in_flight) > THREADS)

        entry.sock.close()
        assert worker.executor.has_next_request(entry) is False


def test_body_that_drips_is_refused(worker: Any) -> None:
    worker.limits.MAX_READ_SECONDS = 0.2
    beginning = request("POST", "/users", {**JSON, "Content-Length": "1000"}, '{"username": "ada"')

    assert b" 408 " in drip(worker, beginning)


def test_headers_that_drip_end_the_connection(worker: Any) -> None:
    worker.limits.MAX_READ_SECONDS = 0.2
    assert drip(worker, b"GET /users HTTP/1.1\r\nX-Slow: ") == b""
    worker.limits.MAX_READ_SECONDS = 20
    assert ask(worker, request("GET", "/ping"))[0] == 200


def test_silent_connections_occupy_no_thread(worker: Any) -> None:
    with ExitStack() as clients:
        silent = [clients.enter_context(open_socket(worker)) for _ in range(4 * THREADS)]

        assert ask(worker, request("GET", "/ping"))[0] == 200
        for client in silent:
            client.sendall(request("GET", "/nothing"))
            assert read_to_end(client).startswith(b"HTTP/1.1 404")


def test_clients_that_stay_after_their_answer_are_closed(worker: Any) -> None:
    with ExitStack() as clients:
        for _ in range(4 * THREADS):
            client = clients.enter_context(open_socket(worker))
            client.sendall(request("GET", "/ping"))
            assert client.recv(12) == b"HTTP/1.1 200"
        assert ask(worker, request("GET", "/ping"))[0] == 200
        wait_until(lambda: not worker.nr_conns)


def test_client_that_sends_on_and_on_after_its_answer_is_cut_off(worker: Any) -> None:
    with open_socket(worker) as client:
        client.sendall(request("GET", "/ping"))

        assert send_on_and_on(client) < 64 * 1024 * 1024


def test_client_that_reads_and_says_no_more_is_waited_for_until_it_closes(worker: Any) -> None:
    worker.limits.LINGER_SECONDS = 20
    with open_socket(worker) as client:
        client.sendall(request("GET", "/ping"))
        read_to_end(client)
        wait_until(lambda: not worker.executor.in_flight)
        assert worker.nr_conns == 1
    wait_until(lambda: worker.nr_conns == 0)


def test_busy_worker_answers_probes_and_refuses_the_rest(worker: Any) -> None:
    with ExitStack() as clients:
        for _ in range(THREADS):
            block(worker, clients)

        worker.limits.MAX_QUEUE_SECONDS = 0.2
        assert ask(worker, request("GET", "/ping"))[0] == 200
        for message in (request("GET", "/users"), request("GET", "/ping", {"Content-Length": "1"}, "x")):
            status, body, head = ask(worker, message)
            assert (status, body["message"], body["code"]) == (503, BUSY, "service_unavailable")
            assert b"\r\nRetry-After: 1" in head
        # A head that comes in pieces is no probe: its rest would be waited for. Its client is not waited for either.
        silent = clients.enter_context(open_socket(worker))
        silent.sendall(b"GET /ping HTTP/1.1\r\nX: ")
        assert b" 503 " in read_to_end(silent)


def test_request_that_takes_too_long_is_ended_unless_it_moves_many_users(worker: Any) -> None:
    with ExitStack() as clients:
        usual = block(worker, clients)
        transfer = block(worker, clients, "/users/export")

        worker.limits.MAX_REQUEST_SECONDS = 0.2
        assert read_to_end(usual) == b""
        worker.app.go_on.set()
        assert b"pong!" in read_to_end(transfer)


def test_client_that_is_gone_is_no_error(worker: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "project.servers")
    results: list[Future[Any]] = []
    for _ in range(2):
        gone = socket.socket()
        entry = InFlight(lambda conn: False, SimpleNamespace(sock=gone))
        results.append(entry.result)
        gone.close()
        entry.shut_down(socket.SHUT_RD)
        worker.executor.refuse(entry)
        results.append(worker.executor.submit(lambda conn: False, SimpleNamespace(sock=gone)))

    assert all(isinstance(result.exception(20), ConnectionClosed) for result in results)
    assert {record.levelname for record in caplog.records if "gone" in record.getMessage()} == {"DEBUG"}


def test_client_that_resets_the_connection_after_its_answer_is_not_waited_for(worker: Any) -> None:
    worker.limits.LINGER_SECONDS = 20.0
    with open_socket(worker) as client:
        client.sendall(request("GET", "/ping"))
        assert client.recv(12) == b"HTTP/1.1 200"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: worker.nr_conns == 0)


def test_client_that_is_gone_is_not_waited_for_to_close() -> None:
    client, other = socket.socketpair()
    closed: list[bool] = []
    with closing(asyncio.new_event_loop()) as loop, client, other:
        lingering = LingeringClose(loop, client, Limits(), lambda: closed.append(True))
        # What a reset leaves: the socket cannot be shut down any more.
        client.close()

        lingering.begin()

    assert closed == [True]


def test_client_that_resets_the_connection_ends_the_lingering_close() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    closed: list[bool] = []
    with closing(asyncio.new_event_loop()) as loop, listener, server:
        lingering = LingeringClose(loop, server, Limits(), lambda: closed.append(True))
        lingering.begin()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

        lingering.drain()

    assert closed == [True]


def test_ended_executor_gives_no_more_results(service: Service) -> None:
    with made(service) as worker:
        executor = worker.get_thread_pool()
        entry = InFlight(lambda conn: True, SimpleNamespace(sock=None))
        executor.shutdown()
        executor.finish(entry, True)
        executor.close(entry)
        executor.note_request("GET", "/users/export")

    assert not entry.result.done()


def test_defect_of_the_handler_closes_the_connection(worker: Any, caplog: pytest.LogCaptureFixture) -> None:
    near, far = socket.socketpair()
    with closing(near), closing(far):
        far.sendall(b"GET / HTTP/1.1")
        result = worker.executor.submit(lambda conn: 1 / 0, SimpleNamespace(sock=near))
        assert read_to_end(far) == b""
        assert isinstance(result.exception(20), ConnectionClosed)

    assert [record.getMessage() for record in caplog.records] == ["Error handling a connection"]


@pytest.mark.parametrize(
    ("message", "status", "code"),
    [
        (request("GET", "/" + "a" * 9000), 414, "request_uri_too_long"),
        (request("GET", "/ping", {"X-Odd": "a" * 9000}), 431, "request_header_fields_too_large"),
        (request("GET", "/ping", {"Expect": "coffee"}), 417, "expectation_failed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, "bad_request"),
        (request("GET", "/fail"), 500, "internal_server_error"),
    ],
)
def test_what_never_becomes_a_request_gets_the_one_error_body(
    worker: Any, message: bytes, status: int, code: str
) -> None:
    answered, body, head = ask(worker, message)

    assert (answered, body["code"], body["detail"]) == (status, code, body["message"])
    assert list(body) == ["status", "message", "code", "detail", "request_id"]
    assert f"X-Request-ID: {body['request_id']}".encode() in head


def test_class_that_fits_first_gives_the_status() -> None:
    assert refusals.status_of(ValueError()) == (500, "Internal Server Error")


def test_worker_takes_its_limits_and_headers_from_the_settings() -> None:
    class Configured(Worker):
        limits = Limits()

    Configured.configure({**vars(BaseConfig), **vars(ProductionConfig), "TRANSFER_TIMEOUT": 7})

    assert (Configured.limits.MAX_TRANSFER_SECONDS, Configured.limits.MAX_SILENT_SECONDS) == (12, 95)
    assert Configured.fixed_headers["Strict-Transport-Security"] == ProductionConfig.HSTS


@pytest.mark.parametrize(
    ("files", "connections"), [(resource.RLIM_INFINITY, 1000), (65536, 1000), (150, 50), (20, THREADS + 1)]
)
def test_worker_takes_no_more_clients_than_it_may_open_files(
    monkeypatch: pytest.MonkeyPatch, files: int, connections: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (files, files))

    assert max_connections(THREADS) == connections


def test_silent_connection_is_closed(worker: Any) -> None:
    worker.limits.MAX_SILENT_SECONDS = 0.1
    with open_socket(worker) as silent:
        assert read_to_end(silent) == b""


def test_stopped_worker_does_not_wait_for_silent_connections(service: Service) -> None:
    with made(service, graceful_timeout=20) as worker, running(worker), open_socket(worker) as silent:
        worker.limits.MAX_SILENT_SECONDS_AT_STOP = 0.1
        wait_until(lambda: worker.executor.watchdog.silent)
        stop = StopAfterDrain(worker.sockets, os.getppid(), worker.limits, worker.executor.watchdog.end_silence)
        stop.handler = worker.handle_exit
        worker.executor.watchdog.checks.append(stop.check)
        began = time.monotonic()
        stop.on_signal(signal.SIGTERM, None)
        assert read_to_end(silent) == b""

    assert time.monotonic() - began < 5


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, StopAfterDrain, list[str]]]:
    """A listener, the stop that waits for it, and what that has done."""
    done: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = StopAfterDrain([listener], os.getppid(), ShortLimits(), lambda: done.append("on_stop"))
        stop.handler = lambda number, frame: done.append(signal.Signals(number).name)
        yield listener, stop, done


def test_worker_stops_once_no_connection_waits(stopped: tuple[socket.socket, StopAfterDrain, list[str]]) -> None:
    listener, stop, done = stopped
    with socket.create_connection(listener.getsockname()):
        stop.check()
        stop.on_signal(signal.SIGTERM, None)
        time.sleep(0.03)
        stop.check()
        assert done == []
        listener.accept()[0].close()
        stop.check()
        stop.check()
        assert done == ["on_stop", "SIGTERM"]


def test_worker_that_others_connect_to_all_the_time_stops_in_the_end(
    stopped: tuple[socket.socket, StopAfterDrain, list[str]],
) -> None:
    listener, stop, done = stopped
    stop.limits.MAX_DRAIN_SECONDS = 0
    with socket.create_connection(listener.getsockname()):
        stop.on_signal(signal.SIGTERM, None)
        stop.check()
        assert done == ["on_stop", "SIGTERM"]


def test_worker_ends_with_its_master(stopped: tuple[socket.socket, StopAfterDrain, list[str]]) -> None:
    _, stop, done = stopped
    stop.master = 0
    stop.check()
    time.sleep(0.03)
    stop.check()
    assert done == ["on_stop", "SIGTERM"]


@pytest.fixture
def signals() -> Iterator[None]:
    """What a test does to the signals is undone afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    hooks.unblock_stop_signals()


@pytest.mark.usefixtures("signals")
def test_signals_that_came_since_the_fork_are_handled(service: Service) -> None:
    stopped: list[int] = []
    started: list[str] = []
    service.app.extensions["probe"] = SimpleNamespace(start=lambda: started.append("probe"))
    with made(service) as worker, running(worker):
        worker.wsgi = service.app
        hooks.pre_fork(None, worker)
        hooks.Master.pid = os.getppid()
        signal.raise_signal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
        hooks.post_worker_init(worker)

        wait_until(lambda: stopped)
    assert started == ["probe"]


@pytest.fixture
def master(monkeypatch: pytest.MonkeyPatch, signals: None) -> Iterator[tuple[socket.socket, list[str]]]:
    """A master with a listener, and the signals that gunicorn's own handlers got."""
    got: list[str] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: got.append(signal.Signals(number).name))
    monkeypatch.setattr(os, "register_at_fork", lambda after_in_parent: None)
    for name in hooks.INHERITED:
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as local:
        hooks.on_starting(None)
        hooks.when_ready(None)
        hooks.pre_fork(None, SimpleNamespace(sockets=[listener, local]))
        hooks.unblock_stop_signals()
        yield listener, got
    monkeypatch.setattr(hooks.Master, "are_shared", False)


def test_master_refuses_connections_before_it_stops(master: tuple[socket.socket, list[str]]) -> None:
    listener, got = master

    signal.raise_signal(signal.SIGTERM)

    assert got == ["SIGTERM"]
    if sys.platform == "linux":
        assert listener.getsockopt(socket.IPPROTO_IP, stop.IP_MINTTL) == 255


@pytest.mark.parametrize("variable", hooks.INHERITED)
def test_listeners_of_systemd_or_a_predecessor_stay_open(
    master: tuple[socket.socket, list[str]], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    listener, got = master
    monkeypatch.setenv(variable, "1")
    hooks.on_starting(None)

    signal.raise_signal(signal.SIGTERM)

    assert got == ["SIGTERM"]
    socket.create_connection(listener.getsockname(), timeout=20).close()


def test_listeners_of_a_successor_stay_open(master: tuple[socket.socket, list[str]]) -> None:
    listener, got = master

    signal.raise_signal(signal.SIGUSR2)
    signal.raise_signal(signal.SIGTERM)

    assert got == ["SIGUSR2", "SIGTERM"]
    socket.create_connection(listener.getsockname(), timeout=20).close()


def test_listeners_stay_open_where_the_system_cannot_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop.refuse_connections([listener])

        socket.create_connection(listener.getsockname(), timeout=20).close()
