"""What nginx does before the service, with deploy/nginx.conf as it is but for the addresses."""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from project.http.errors import STATUS_MESSAGES
from project.http.headers import FIXED
from project.http.instrumentation import SANE_REQUEST_ID
from project.tests.conftest import ROOT, free_port, wait_until
from project.tests.web import http, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed here"),
]


@dataclass
class Proxy:
    """An nginx that runs, and the file of its log."""

    port: int
    log: Path

    def send(self, message: bytes) -> bytes:
        """Send bytes, and return what comes back until the connection is closed."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(message)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def call(self, start: str, *headers: str, body: bytes = b"") -> tuple[int, dict[str, str], Any]:
        """Send a request, and return the status, the headers and the JSON of the answer."""
        lines = [f"{start} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {len(body)}", *headers]
        return parsed(self.send("\r\n".join([*lines, "", ""]).encode() + body))

    def line(self, request_id: str) -> dict[str, Any]:
        """Return the one line of the log about a request, when it is there."""
        wait_until(lambda: request_id in self.log.read_text())
        (line,) = (json.loads(line) for line in self.log.read_text().splitlines() if request_id in line)
        return dict(line)


def parsed(answer: bytes) -> tuple[int, dict[str, str], Any]:
    """Return the status, the headers and the JSON of an answer."""
    head, _, body = answer.decode().partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), json.loads(body)


def is_open(port: int) -> bool:
    """Say whether there is a listener."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def proxying(folder: Path, service: str, **changes: str) -> Iterator[Proxy]:
    """Run nginx before a service, with some settings of its configuration replaced."""
    proxy = Proxy(free_port(), folder / "access.log")
    text = (ROOT / "deploy/nginx.conf").read_text()
    for written, here in {
        "listen 80 ": f"listen 127.0.0.1:{proxy.port} ",
        "/run/nginx.pid": f"{folder}/pid",
        "access_log /dev/stdout": f"access_log {proxy.log}",
        "http://users:5001": service,
        **changes,
    }.items():
        assert written in text
        text = text.replace(written, here)
    # Several processes, as many as cores, are of no use here.
    (folder / "nginx.conf").write_text(text.replace("worker_processes auto", "worker_processes 1"))
    command = ["nginx", "-c", str(folder / "nginx.conf"), "-e", "stderr", "-g", "daemon off;"]
    with (folder / "error.log").open("wb") as errors, subprocess.Popen(command, stderr=errors) as nginx:
        try:
            wait_until(lambda: is_open(proxy.port))
            yield proxy
        finally:
            nginx.terminate()


@pytest.fixture(scope="module")
def proxy(gunicorn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """An nginx before the service."""
    with proxying(tmp_path_factory.mktemp("nginx"), gunicorn) as running:
        yield running


@pytest.fixture(scope="module")
def lonely_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """An nginx whose service is away."""
    with proxying(tmp_path_factory.mktemp("nginx"), f"http://127.0.0.1:{free_port()}") as running:
        yield running


def test_id_of_the_caller_is_in_the_answer_and_in_both_logs(proxy: Proxy, gunicorn_log: Path) -> None:
    status, headers, _ = proxy.call("GET /users?q=a", "X-Request-ID: from-the-caller")

    assert (status, headers["X-Request-ID"]) == (200, "from-the-caller")
    line = proxy.line("from-the-caller")
    assert (line["method"], line["path"], line["status"], line["upstream_status"]) == ("GET", "/users", 200, "200")
    wait_until(lambda: '"request_id":"from-the-caller"' in gunicorn_log.read_text())


@pytest.mark.parametrize("headers", [(), ("X-Request-ID: no good",), ("X-Request-ID: " + "x" * 129,)])
def test_id_is_made_where_the_caller_sent_none_that_is_sane(
    proxy: Proxy, gunicorn_log: Path, headers: tuple[str, ...]
) -> None:
    _, answered, _ = proxy.call("GET /users", *headers)

    made = answered["X-Request-ID"]
    assert len(made) == 32 and SANE_REQUEST_ID.fullmatch(made)
    assert proxy.line(made)["request_id"] == made
    wait_until(lambda: f'"request_id":"{made}"' in gunicorn_log.read_text())


def test_nginx_takes_the_ids_that_the_service_takes() -> None:
    assert f'"~^{SANE_REQUEST_ID.pattern}$" $http_x_request_id;' in (ROOT / "deploy/nginx.conf").read_text()


def start(verb: str = "GET", path: str = "/users", version: str = "1.1", *headers: str) -> bytes:
    """Return the head of a request that ends its connection."""
    return "\r\n".join(
        [f"{verb} {path} HTTP/{version}", "Host: localhost", "Connection: close", *headers, "", ""]
    ).encode()


MINE = "id-of-the-caller"
REFUSED = {
    "no request": (b"BAD\r\n\r\n", 400, "bad_request"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "bad_request"),
    "no host": (b"GET / HTTP/1.1\r\nX-Request-ID: %b\r\n\r\n" % MINE.encode(), 400, "bad_request"),
    "NUL": (start("GET", "/%00"), 400, "bad_request"),
    "own address": (start("GET", "/error", "1.1", f"X-Request-ID: {MINE}"), 404, "not_found"),
    "TRACE": (start("TRACE"), 405, "method_not_allowed"),
    "large body": (
        start("POST", "/users", "1.1", "Content-Length: 1048577", f"X-Request-ID: {MINE}"),
        413,
        "request_entity_too_large",
    ),
    "large file": (
        start("POST", "/users/import", "1.1", "Content-Length: 270000000"),
        413,
        "request_entity_too_large",
    ),
    "long path": (start("GET", "/" + "x" * 9000), 414, "request_uri_too_long"),
    "long header": (start("GET", "/ping", "1.1", "X-Long: " + "x" * 9000), 431, "request_header_fields_too_large"),
    "coding": (start("POST", "/users", "1.1", "Transfer-Encoding: gzip"), 501, "not_implemented"),
    "version": (start("GET", "/ping", "3.7"), 505, "http_version_not_supported"),
    "no service": (start("DELETE", "/users/1", "1.1", f"X-Request-ID: {MINE}"), 503, "service_unavailable"),
}


@pytest.mark.parametrize(("message", "status", "code"), REFUSED.values(), ids=REFUSED)
def test_what_never_reaches_the_service_has_the_one_error_body(
    lonely_proxy: Proxy, message: bytes, status: int, code: str
) -> None:
    answered, headers, body = parsed(lonely_proxy.send(message))

    assert answered == status
    assert list(body) == ["status", "message", "code", "detail", "request_id"]
    assert (body["status"], body["code"]) == ("fail" if status < 500 else "error", code)
    assert body["detail"] == body["message"]
    assert status == 503 or body["message"] == STATUS_MESSAGES.get(status, body["message"])
    assert headers["X-Request-ID"] == body["request_id"]
    assert MINE.encode() not in message or body["request_id"] == MINE
    assert SANE_REQUEST_ID.fullmatch(body["request_id"])
    assert headers["Content-Type"] == "application/json"
    assert set(FIXED) <= set(headers)
    assert ("Retry-After" in headers) == (status == 503)
    assert ("Allow" in headers) == (status == 405)
    assert body["request_id"] == MINE or lonely_proxy.line(body["request_id"])["status"] == status


def test_log_has_the_method_of_a_call_that_is_refused(lonely_proxy: Proxy) -> None:
    lonely_proxy.call("DELETE /users/1?secret=1", "X-Request-ID: removal")

    line = lonely_proxy.line("removal")
    assert (line["method"], line["path"], line["client"]) == ("DELETE", "/users/1", "127.0.0.1")
    assert "secret" not in str(line)


def test_client_cannot_break_a_line_of_the_log(lonely_proxy: Proxy) -> None:
    lonely_proxy.call('GET /a"b\\c', 'User-Agent: a"}\tb', "X-Request-ID: quotes")

    line = lonely_proxy.line("quotes")
    assert (line["path"], line["user_agent"]) == ('/a"b\\c', 'a"}\tb')


def test_client_that_dawdles_is_logged_with_the_status_that_nginx_cannot_send(tmp_path: Path) -> None:
    with proxying(tmp_path, "http://127.0.0.1:1", **{"client_body_timeout 15s": "client_body_timeout 200ms"}) as proxy:
        answer = proxy.send(start("POST", "/users", "1.1", "Content-Length: 100", "X-Request-ID: slow") + b"{")

        assert answer == b""
        assert proxy.line("slow")["status"] == 408


def test_service_is_told_the_scheme_and_the_address_by_each_proxy(tmp_path: Path) -> None:
    with serving() as service, proxying(tmp_path, service.url) as proxy:
        service.answers["/ping"] = http(b"{}")
        proxy.call("GET /ping", "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https")
        behind_another = service.last
        proxy.call("GET /ping")

    assert "X-Forwarded-For: 192.0.2.7, 127.0.0.1\r\n" in behind_another
    assert "X-Forwarded-Proto: https, http\r\n" in behind_another
    assert "X-Forwarded-For: 127.0.0.1\r\n" in service.last
    assert "X-Forwarded-Proto: http\r\n" in service.last


def test_next_instance_answers_while_one_refuses(tmp_path: Path) -> None:
    with serving() as service:
        service.answers["/users"] = http(b'{"status":"success"}')
        addresses = (f"server 127.0.0.1:{port} max_fails=0;" for port in (free_port(), service.port))
        both = f"upstream instances {{ {' '.join(addresses)} }}"
        changes = {"http {\n": f"http {{\n{both}\n"}
        with proxying(tmp_path, "http://instances", **changes) as proxy:
            answers = [proxy.call("POST /users", body=b"{}")[0] for _ in range(10)]

    assert answers == [200] * 10
