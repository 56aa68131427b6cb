"""The service as it is deployed, on either server in production's configuration, spoken to through a socket."""

import json
import re
import socket
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from project.tests.test_users import BAD_PAYLOADS, MICHAEL, ODD_IDS

pytestmark = pytest.mark.usefixtures("open_database")

JSON = {"Content-Type": "application/json"}
LIMIT = 64 * 1024


def request(method: str, path: str, headers: dict[str, str] | None = None, body: bytes | str = b"") -> bytes:
    """Return a request as bytes; a header of the same name replaces a usual one."""
    body = body if isinstance(body, bytes) else body.encode()
    usual = {"Host": "localhost", "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"{name}: {value}" for name, value in {**usual, **(headers or {})}.items() if value is not None]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1") + body


def send(url: str, message: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes and return status, headers and body of the answer."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(message)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(status.split()[1]), headers, body


def long_headers(number: int) -> dict[str, str]:
    """Return that many headers."""
    return {f"X-Header-{i}": "x" for i in range(number)}


ODD_REQUESTS: dict[str, tuple[bytes, int]] = {
    **{
        f"{method} {name}": (request(method, path, JSON, payload), 400)
        for name, (payload, _, _) in BAD_PAYLOADS.items()
        for method, path in (("POST", "/users"), ("PATCH", "/users/1"))
    },
    **{f"id {odd_id[:30]}": (request("GET", f"/users/{quote(odd_id, safe='%')}"), 404) for odd_id in ODD_IDS},
    "path of another service": (request("GET", "/wp-login.php"), 404),
    "path that climbs": (request("GET", "/../../etc/passwd"), 404),
    "path that climbs encoded": (request("GET", "/%2e%2e/%2e%2e/etc/passwd"), 404),
    "path with NUL": (request("GET", "/%00"), 404),
    "path that is no UTF-8": (request("GET", "/users/%ff%fe"), 404),
    "path with a bad escape": (request("GET", "/users/%zz"), 404),
    "path with raw bytes": (request("GET", "/users/\xe9"), 400),
    "path with a closing slash": (request("GET", "/users/"), 404),
    "path with two slashes": (request("GET", "/users//1"), 404),
    "path too long": (request("GET", "/" + "a" * 9000), 414),
    "path with a blank": (request("GET", "/users/1 2"), 400),
    "no path": (request("GET", ""), 400),
    "no slash": (request("GET", "users"), 400),
    "asterisk": (request("GET", "*"), 400),
    "query unknown": (request("GET", "/users?page=1"), 400),
    "query without a name": (request("GET", "/users?=1"), 400),
    "query that is no UTF-8": (request("GET", "/users?%ff=%fe"), 400),
    "query with NUL": (request("GET", "/users?%00"), 400),
    "method unknown": (request("BREW", "/users"), 405),
    "method not allowed": (request("DELETE", "/users"), 405),
    "method TRACE": (request("TRACE", "/users"), 405),
    "method CONNECT": (request("CONNECT", "localhost:80"), 404),
    "method in small letters": (request("get", "/users"), 400),
    "method that is none": (request("G(T", "/users"), 400),
    "method too long": (request("G" * 9000, "/users"), 414),
    "version 0.9": (b"GET /users\r\n\r\n", 400),
    "version 3": (b"GET /users HTTP/3.0\r\nHost: localhost\r\n\r\n", 400),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    "header without a colon": (b"GET /users HTTP/1.1\r\nHost localhost\r\n\r\n", 400),
    "header without a name": (b"GET /users HTTP/1.1\r\n: localhost\r\n\r\n", 400),
    "header with NUL": (request("GET", "/users", {"X-Odd": "a\x00b"}), 400),
    "header name with a blank": (request("GET", "/users", {"X Odd": "a"}), 400),
    "header folded": (b"GET /users HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n", 400),
    "header too long": (request("GET", "/users", {"X-Odd": "a" * 9000}), 431),
    "headers too many": (request("GET", "/users", long_headers(200)), 431),
    "type missing": (request("POST", "/users", body=json.dumps(MICHAEL)), 415),
    "type of a form": (request("POST", "/users", {"Content-Type": "application/x-www-form-urlencoded"}, "a=b"), 415),
    "type of an upload": (request("POST", "/users", {"Content-Type": "multipart/form-data; boundary=x"}, "--x"), 415),
    "type text": (request("PUT", "/users/1", {"Content-Type": "text/plain"}, "{}"), 415),
    "type that is none": (request("POST", "/users", {"Content-Type": ";;;"}, "{}"), 415),
    "length not a number": (request("POST", "/users", {**JSON, "Content-Length": "abc"}, "{}"), 400),
    "length negative": (request("POST", "/users", {**JSON, "Content-Length": "-2"}, "{}"), 400),
    "length twice": (
        b"POST /users HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\nHost: localhost\r\n\r\n{}",
        400,
    ),
    "length enormous": (request("POST", "/users", {**JSON, "Content-Length": "9" * 30}), 413),
    "body over the limit": (request("POST", "/users", JSON, " " * (LIMIT + 1)), 413),
    "body far over the limit": (request("PUT", "/users/1", JSON, " " * (16 * LIMIT)), 413),
    "body over the limit, announced": (
        request("POST", "/users", {**JSON, "Expect": "100-continue", "Content-Length": str(LIMIT + 1)}),
        413,
    ),
    "body chunked": (
        request("POST", "/users", {**JSON, "Transfer-Encoding": "chunked", "Content-Length": None})
        + b"2\r\n{}\r\n0\r\n\r\n",
        411,
    ),
    "body chunked past the limit": (
        request("POST", "/users", {**JSON, "Transfer-Encoding": "chunked", "Content-Length": None})
        + b"%x\r\n" % (2 * LIMIT)
        + json.dumps(MICHAEL).encode().ljust(2 * LIMIT)
        + b"\r\n0\r\n\r\n",
        411,
    ),
    "body in odd chunks": (
        request("POST", "/users", {**JSON, "Transfer-Encoding": "chunked", "Content-Length": None}) + b"zz\r\n",
        411,
    ),
    "body encoded": (request("POST", "/users", {**JSON, "Transfer-Encoding": "gzip", "Content-Length": None}), 400),
    "body chunked and measured": (
        request("POST", "/users", {**JSON, "Transfer-Encoding": "chunked", "Content-Length": "2"}) + b"0\r\n\r\n",
        400,
    ),
    "expectation unknown": (request("GET", "/users", {"Expect": "coffee"}), 417),
}


# What granian refuses by itself, before any code of ours sees it: the status is all that its answer says.
REFUSED_BY_GRANIAN = {
    "path with raw bytes": 400,
    "path with a blank": 400,
    "no path": 400,
    "method that is none": 400,
    "version 0.9": 400,
    "version 3": 400,
    "no HTTP": 400,
    "header without a colon": 400,
    "header without a name": 400,
    "header with NUL": 400,
    "header name with a blank": 400,
    "header folded": 400,
    "headers too many": 431,
    "length not a number": 400,
    "length negative": 400,
    "length twice": 400,
    "length enormous": 400,
    "body encoded": 400,
}
# What granian hands over, while gunicorn refuses it by itself.
ANSWERED_OTHERWISE_ON_GRANIAN = {
    "path too long": 404,
    "no slash": 404,
    "asterisk": 404,
    "method too long": 405,
    "method in small letters": 200,
    "header too long": 200,
    "body chunked and measured": 411,
    "expectation unknown": 200,
}


@pytest.mark.slow
@pytest.mark.parametrize(("message", "status"), ODD_REQUESTS.values(), ids=ODD_REQUESTS)
def test_odd_request_gets_the_one_error_body(gunicorn: str, message: bytes, status: int) -> None:
    assert_one_error_body(*send(gunicorn, message), status)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ODD_REQUESTS if name not in REFUSED_BY_GRANIAN])
def test_odd_request_is_answered_on_granian(granian: str, name: str) -> None:
    message, status = ODD_REQUESTS[name]
    status = ANSWERED_OTHERWISE_ON_GRANIAN.get(name, status)

    answered, headers, body = send(granian, message)

    if status == 200:
        assert (answered, json.loads(body)["status"]) == (200, "success")
    else:
        assert_one_error_body(answered, headers, body, status)


@pytest.mark.parametrize(("name", "status"), REFUSED_BY_GRANIAN.items())
def test_what_is_no_request_is_refused_by_granian(granian: str, name: str, status: int) -> None:
    answered, headers, body = send(granian, ODD_REQUESTS[name][0])

    assert (answered, headers["connection"], body) == (status, "close", b"")


def assert_one_error_body(answered: int, headers: dict[str, str], body: bytes, status: int) -> None:
    """Check that an answer is the one error body with that status."""
    error = json.loads(body)
    assert answered == status, error
    assert headers["content-type"] == "application/json"
    assert list(error) == ["status", "message", "code", "detail", "request_id"]
    assert error["request_id"] == headers["x-request-id"]
    assert error["status"] == "fail"


def test_requests_that_come_together_are_answered_in_turn(either_server: str) -> None:
    keep = {"Connection": "keep-alive"}
    together = [
        request("POST", "/users", {**JSON, **keep}, "{}"),
        request("HEAD", "/users", keep),
        request("GET", "/nothing", keep),
        request("DELETE", "/users/1", keep, "a body that nobody reads"),
        request("GET", "/users"),
    ]
    address = urlsplit(either_server)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(b"".join(together))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"400", b"200", b"404", b"404", b"200"]
    assert answer.endswith(b'{"status":"success","data":{"users":[]}}\n')


def test_odd_requests_are_many() -> None:
    assert len(ODD_REQUESTS) >= 100


def test_head_is_get_without_its_body(either_server: str) -> None:
    status, headers, body = send(either_server, request("HEAD", "/ping"))

    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 0


def test_longest_filters_of_a_listing_are_taken(either_server: str) -> None:
    fox = quote("🦊" * 128)

    path = f"/users?q={fox}&username={fox}&email={fox}&after={'a' * 2000}"

    # Read, and found to be no cursor.
    assert send(either_server, request("GET", path))[0] == 400
    assert send(either_server, request("GET", path.partition("&after")[0]))[0] == 200


def test_options_name_the_methods(either_server: str) -> None:
    status, headers, body = send(either_server, request("OPTIONS", "/users"))

    assert (status, body) == (200, b"")
    assert "POST" in headers["allow"]


def test_log_names_the_request_and_no_address(gunicorn: str, gunicorn_log: Path) -> None:
    payload = json.dumps({"username": "private", "email": "private@testdriven.io"})
    messages = [
        request("POST", "/users", JSON, payload),
        request("POST", "/users", JSON, payload),
        request("GET", "/users?email=private@testdriven.io"),
    ]
    request_ids = [send(gunicorn, message)[1]["x-request-id"] for message in messages]

    log = gunicorn_log.read_text()
    assert all(request_id in log for request_id in request_ids)
    assert "private" not in log
