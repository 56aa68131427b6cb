"""gunicorn's worker in this process: a thread serves real sockets."""

import errno
import json
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection
from queue import SimpleQueue
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.workers import gthread

from project.config import BaseConfig, ProductionConfig
from project.servers import hooks, refusals, response
from project.servers.worker import Worker
from project.tests.conftest import app_on, send_on_and_on, wait_until
from project.tests.test_gunicorn import JSON, request

THREADS = 2
BUSY = "The service is busy at the moment."


class ThreadOfTests(Worker):
    """The worker in a thread, where there are no signals; a test shortens the deadline that it is about."""

    MAX_QUEUE_SECONDS = MAX_READ_SECONDS = MAX_REQUEST_SECONDS = 20.0
    TICK_SECONDS, LINGER_SECONDS = 0.02, 0.2

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
    for name, value in {"threads": THREADS, "keepalive": 20, "graceful_timeout": 5, **settings}.items():
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
        worker.probe_threads.shutdown()


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


def test_requests_of_one_connection_are_answered_in_one_piece_each(worker: Any) -> None:
    keep = {"Connection": "keep-alive"}
    worker.NEXT_REQUEST_MILLISECONDS = 5000
    with open_socket(worker) as client:
        for _ in range(3):
            # No probe: those have threads of their own, which wait for no next request.
            client.sendall(request("GET", "/nothing", keep))
            answer = client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 404 ") and answer.endswith(b"}\n")
        assert worker.nr == 3 and len(worker.in_flight) == 1


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
        conn = next(iter(worker.in_flight))
        assert worker.has_next_request(conn) is False
        waiting = clients.enter_context(open_socket(worker))
        waiting.sendall(request("GET", "/users"))
        wait_until(lambda: len(worker.in_flight) > THREADS)

        conn.sock.close()
        assert worker.has_next_request(conn) is False


def test_body_that_drips_is_refused(worker: Any) -> None:
    worker.MAX_READ_SECONDS = 0.2
    beginning = request("POST", "/users", {**JSON, "Content-Length": "1000"}, '{"username": "ada"')

    assert b" 408 " in drip(worker, beginning)


def test_headers_that_drip_end_the_connection(worker: Any) -> None:
    worker.MAX_READ_SECONDS = 0.2
    assert drip(worker, b"GET /users HTTP/1.1\r\nX-Slow: ") == b""
    worker.MAX_READ_SECONDS = 20
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
    worker.LINGER_SECONDS = 20
    with open_socket(worker) as client:
        client.sendall(request("GET", "/ping"))
        read_to_end(client)
        wait_until(lambda: worker.lingering)
    wait_until(lambda: not worker.lingering)


def test_busy_worker_answers_probes_and_refuses_the_rest(worker: Any) -> None:
    with ExitStack() as clients:
        for _ in range(THREADS):
            block(worker, clients)

        worker.MAX_QUEUE_SECONDS = 0.2
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

        worker.MAX_REQUEST_SECONDS = 0.2
        assert read_to_end(usual) == b""
        worker.app.go_on.set()
        assert b"pong!" in read_to_end(transfer)


def test_client_that_is_gone_is_no_error(worker: Any, caplog: pytest.LogCaptureFixture) -> None:
    worker.log.error_log.setLevel(logging.DEBUG)
    with closing(socket.socket()) as gone:
        conn = SimpleNamespace(sock=gone, client=None, initialized=True)
        worker.refuse(conn)
        worker.shut_down(conn, socket.SHUT_RD)
        gone.close()
        worker.submit = lambda threads, task, conn: None
        worker.enqueue_req(conn)

    assert [record.levelname for record in caplog.records if "gone" in record.getMessage()] == ["DEBUG"] * 4


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
        pass

    Configured.configure({**vars(BaseConfig), **vars(ProductionConfig), "TRANSFER_TIMEOUT": 7})

    assert Configured.MAX_TRANSFER_SECONDS == 12
    assert Configured.fixed_headers["Strict-Transport-Security"] == ProductionConfig.HSTS


def test_too_many_open_files_do_not_end_the_worker(worker: Any) -> None:
    def accept_with(number: int) -> Any:
        def accept() -> Any:
            raise OSError(number, os.strerror(number))

        return SimpleNamespace(accept=accept)

    worker.accept(accept_with(errno.EMFILE))
    with pytest.raises(OSError, match="Input/output"):
        worker.accept(accept_with(errno.EIO))


def test_stopped_worker_answers_connections_that_wait_and_closes_its_listeners(service: Service) -> None:
    with made(service) as worker, ExitStack() as clients:
        waiting = [clients.enter_context(open_socket(worker)) for _ in range(8)]
        for client in waiting:
            client.sendall(request("GET", "/ping"))
        worker.alive = False
        with running(worker):
            assert all(b"pong!" in read_to_end(client) for client in waiting)
        with pytest.raises(ConnectionRefusedError):
            open_socket(worker)


def test_stopped_worker_accepts_no_more_connections_than_can_wait(service: Service) -> None:
    with made(service, backlog=1) as worker, ExitStack() as clients:
        for client in [clients.enter_context(open_socket(worker)) for _ in range(3)]:
            client.sendall(request("GET", "/ping"))
        worker.alive = False
        with running(worker):
            wait_until(lambda: not worker.sockets)
        assert worker.nr == 1


def test_stopped_worker_does_not_wait_for_silent_connections(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gthread, "STOP_KEEPALIVE_LINGER", 0.1)
    with made(service, graceful_timeout=20) as worker, running(worker), open_socket(worker) as silent:
        wait_until(lambda: worker.pending_conns)
        began = time.monotonic()
        worker.handle_exit(signal.SIGTERM, None)
        assert read_to_end(silent) == b""

    assert time.monotonic() - began < 5


def test_worker_ends_with_its_master(service: Service) -> None:
    with made(service) as worker, running(worker):
        worker.ppid = 0
        wait_until(lambda: not worker.alive and not worker.sockets)


@pytest.fixture
def signals() -> Iterator[None]:
    """What a worker does to the signals is undone afterwards."""
    before = {number: signal.getsignal(number) for number in (*Worker.SIGNALS, signal.SIGINT)}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_signals_that_came_since_the_fork_are_handled(service: Service) -> None:
    arbiter = SimpleNamespace(SIG_QUEUE=SimpleQueue())
    for number in (signal.SIGHUP, signal.SIGTERM):
        arbiter.SIG_QUEUE.put(number)
    with made(service, Worker) as worker:
        worker.PIPE = os.pipe()
        os.set_blocking(worker.PIPE[1], False)
        worker.method_queue.init()
        hooks.pre_fork(arbiter, worker)

        worker.init_signals()

        assert not worker.alive
        worker.method_queue.close()


def test_master_refuses_connections_before_it_stops() -> None:
    stopped: list[bool] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as listener, closing(socket.socket(socket.AF_UNIX)) as local:
        arbiter = SimpleNamespace(
            stop=stopped.append,
            reexec_pid=0,
            master_pid=0,
            systemd=False,
            LISTENERS=[SimpleNamespace(sock=listener), SimpleNamespace(sock=local)],
            log=logging.getLogger("test"),
        )
        hooks.when_ready(arbiter)
        arbiter.stop(False)

        assert stopped == [False]
        if sys.platform == "linux":
            assert listener.getsockopt(socket.IPPROTO_IP, hooks.IP_MINTTL) == 255


@pytest.mark.parametrize("reason", ["reexec_pid", "master_pid", "systemd"])
def test_listeners_that_others_use_stay_open(reason: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        others = {"reexec_pid": 0, "master_pid": 0, "systemd": False, reason: True}

        hooks.refuse_connections(SimpleNamespace(LISTENERS=[SimpleNamespace(sock=listener)], **others))

        socket.create_connection(listener.getsockname(), timeout=20).close()


def test_response_of_several_pieces_is_written_as_gunicorn_does(service: Service) -> None:
    server, client = socket.socketpair()
    with closing(server), closing(client), made(service) as worker:
        asked = SimpleNamespace(version=(1, 1), method="GET", should_close=lambda: True, http2=None)
        answer = response.Response(asked, server, worker.cfg)
        answer.start_response("200 OK", [("Content-Length", "4")])
        answer.write(b"ab")
        answer.write(b"cd")
        server.close()

        assert read_to_end(client).endswith(b"\r\n\r\nabcd")


def test_gunicorn_responds_with_the_class_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsgi, "Response", None)

    response.install()

    assert wsgi.Response is response.Response
