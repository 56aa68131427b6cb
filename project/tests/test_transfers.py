"""Users in and out of files, over HTTP."""

import gzip
import http.client
import json
import re
import socket
import struct
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextvars import ContextVar
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from project.api import transfers
from project.tests.conftest import app_on, execute, served, start_server
from project.tests.test_metrics import figures
from project.tests.test_openapi import check
from project.tests.test_transfer import wait_for
from project.transfer import staging, writers

CSV, NDJSON = "text/csv", "application/x-ndjson"
FILE = "username,email\na,a@b.test\nb,b@b.test\n"


@pytest.fixture
def app(open_app: Flask) -> Flask:
    """An application on a migrated database."""
    return open_app


@cache
def document() -> dict[str, Any]:
    """Return the document of the API, which takes a second to make."""
    described: dict[str, Any] = app_on("postgresql://x/y").test_client().get("/openapi.json").get_json()
    return described


def send(client: FlaskClient, data: str | bytes, query: str = "", content_type: str = CSV) -> TestResponse:
    """Import a file; the answer must be as the document says."""
    response = client.post(f"/users/import{query}", data=data, content_type=content_type)
    check(document(), "post", "/users/import", response)
    return response


def names(url: str) -> list[str]:
    """Return the names of the users in a database."""
    return [name for (name,) in execute(url, "SELECT username FROM users ORDER BY id")]


def test_file_is_imported(client: FlaskClient, open_database: str) -> None:
    response = send(client, FILE)

    assert response.status_code == 200
    assert response.get_json() == {
        "status": "success",
        "message": "The users were imported.",
        "data": {"added": 2, "updated": 0, "skipped": 0, "refused": 0, "faults": []},
    }
    assert names(open_database) == ["a", "b"]


def test_ndjson_is_imported(client: FlaskClient, open_database: str) -> None:
    lines = "".join(json.dumps({"username": name, "email": f"{name}@b.test"}) + "\n" for name in "xyz")

    assert send(client, lines, content_type=f"{NDJSON}; charset=utf-8").get_json()["data"]["added"] == 3
    assert names(open_database) == ["x", "y", "z"]


def test_users_who_are_added_are_counted(app: Flask, client: FlaskClient) -> None:
    before = figures(app)["users_created_total",]
    send(client, FILE, "?dry_run=true")
    send(client, FILE)
    send(client, FILE)
    send(client, FILE + "c,c@b.test\n", "?on_conflict=skip")

    assert figures(app)["users_created_total",] == before + 3


def test_dry_run_writes_nothing(client: FlaskClient, open_database: str) -> None:
    response = send(client, FILE, "?dry_run=true")

    assert response.get_json()["message"] == "This is what would be done."
    assert response.get_json()["data"]["added"] == 2
    assert names(open_database) == []


def test_bad_row_refuses_the_file(client: FlaskClient, open_database: str) -> None:
    response = send(client, FILE + "c,A@b.test\nd,\n")

    body = response.get_json()
    assert (response.status_code, body["code"], body["message"]) == (400, "invalid_file", "Invalid file.")
    assert body["detail"][0] == {"loc": ["body", 4, "email"], "msg": "Is on line 2 too.", "type": "email_exists"}
    assert body["detail"][1]["loc"] == ["body", 5, "email"]
    assert names(open_database) == []


def test_file_that_cannot_be_read_is_refused(client: FlaskClient) -> None:
    response = send(client, b"username,email\n\xff", "?on_conflict=skip")

    assert response.get_json()["detail"] == [{"loc": ["body", 2], "msg": "Is not UTF-8.", "type": "encoding"}]


def test_good_rows_are_written_and_faults_told(client: FlaskClient, open_database: str) -> None:
    send(client, FILE)

    response = send(client, FILE + "c,c@b.test\nd,d\n", "?on_conflict=skip")

    data = response.get_json()["data"]
    assert (data["added"], data["skipped"], data["refused"]) == (1, 2, 1)
    assert [fault["loc"] for fault in data["faults"]] == [["body", 5, "email"]]
    assert names(open_database) == ["a", "b", "c"]


def test_faults_are_told_up_to_a_number(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "MOST_FAULTS", 3)

    data = send(client, "username,email\n" + "a,\n" * 9, "?on_conflict=update").get_json()["data"]

    assert (data["refused"], len(data["faults"])) == (9, 3)


@pytest.mark.parametrize("query", ["?on_conflict=x", "?dry_run=1", "?format=csv", "?dry_run=true&dry_run=true"])
def test_odd_query_is_refused(client: FlaskClient, query: str) -> None:
    assert send(client, FILE, query).get_json()["code"] == "invalid_query"


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", ""])
def test_other_bodies_are_415(client: FlaskClient, content_type: str) -> None:
    response = send(client, FILE, content_type=content_type)

    assert (response.status_code, "text/csv" in response.get_json()["message"]) == (415, True)


def test_compressed_body_is_415(client: FlaskClient) -> None:
    headers = {"Content-Encoding": "gzip"}

    response = client.post("/users/import", data=gzip.compress(FILE.encode()), content_type=CSV, headers=headers)

    assert response.status_code == 415


def test_body_of_unannounced_length_is_411(client: FlaskClient) -> None:
    headers = {"Transfer-Encoding": "chunked"}

    assert client.post("/users/import", data=FILE, content_type=CSV, headers=headers).status_code == 411


def test_body_over_the_limit_of_its_own_is_413(open_database: str) -> None:
    client = app_on(open_database, IMPORT_MAX_LENGTH=200_000).test_client()
    large = "username,email\n" + "".join(f"user{number},user{number}@b.test\n" for number in range(5000))

    assert send(client, large).get_json()["data"]["added"] == 5000
    assert send(client, large + "x" * 100_000).status_code == 413


def test_body_that_comes_too_slowly_is_408(open_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = app_on(open_database).test_client()
    moments = iter([0.0, float("inf")])
    monkeypatch.setattr(transfers, "monotonic", lambda: next(moments))

    response = send(client, FILE)

    assert response.status_code == 408
    assert names(open_database) == []


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [("", NDJSON), ("*/*", NDJSON), (CSV, CSV), (f"{CSV};q=0.5, {NDJSON}", NDJSON), ("image/png", NDJSON)],
)
def test_export_has_the_form_that_is_asked_for(client: FlaskClient, accept: str, media_type: str) -> None:
    send(client, FILE)

    response = client.get("/users/export", headers={"Accept": accept})

    assert (response.status_code, response.mimetype) == (200, media_type)
    check(document(), "get", "/users/export", response)
    lines = response.get_data(as_text=True).splitlines()
    if media_type == CSV:
        assert lines[0].startswith("id,username,email,active,created_date")
        assert lines[1].startswith("1,a,a@b.test,true,")
    else:
        assert json.loads(lines[0]) == client.get("/users/1").get_json()["data"]


def test_export_can_be_of_some(client: FlaskClient) -> None:
    send(client, "username,email,active\na,a@b.test,true\nb,b@b.test,false\n")

    assert client.get("/users/export?active=false").get_data(as_text=True).count("\n") == 1
    assert client.get("/users/export?active=x").get_json()["code"] == "invalid_query"


def test_export_of_nobody_is_empty(client: FlaskClient) -> None:
    assert (client.get("/users/export").status_code, client.get("/users/export").data) == (200, b"")


def test_export_comes_back(client: FlaskClient, open_database: str) -> None:
    send(client, FILE)
    exported = client.get("/users/export").data
    execute(open_database, "TRUNCATE users")

    assert send(client, exported, content_type=NDJSON).status_code == 200
    assert client.get("/users/export").data == exported


@pytest.mark.parametrize(("method", "path"), [("GET", "/users/import"), ("PUT", "/users/export")])
def test_other_methods_are_405(client: FlaskClient, method: str, path: str) -> None:
    assert client.open(path, method=method).status_code == 405


def test_scopes_are_those_of_reading_and_writing() -> None:
    assert transfers.UserImport.post.scope == "users:write"
    assert transfers.UserExport.get.scope == "users:read"


@pytest.mark.slow
def test_import_may_take_longer_than_other_calls(
    client: FlaskClient, open_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("project.storage.deadlines.REQUEST_SECONDS", 0.5)
    merge = staging.Import.merge

    def slow(job: staging.Import, *how: object) -> staging.Counts:
        execute(open_database, "SELECT pg_sleep(1.5)")
        return merge(job, *how)

    monkeypatch.setattr(staging.Import, "merge", slow)

    assert send(client, FILE).get_json()["data"]["added"] == 2


def test_transfers_leave_threads_to_everybody_else(client: FlaskClient) -> None:
    send(client, FILE)
    exports = [client.get("/users/export") for _ in range(2)]

    for refused in (client.get("/users/export"), send(client, FILE, "?on_conflict=skip")):
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
        assert refused.get_json()["message"] == "Too many imports and exports are under way."
    assert client.get("/users").status_code == 200

    for export in exports:
        export.close()
    for _ in range(3):
        # Whatever comes of them, they make room for the next.
        assert client.get("/users/export").get_data()
        client.head("/users/export").close()
        assert send(client, FILE).status_code == 400
        assert send(client, "x").status_code == 400


@pytest.fixture
def pieces_of_nine(open_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine users, whose export has three pieces."""
    execute(
        open_database, "INSERT INTO users (username, email) SELECT 'a', n || '@b.test' FROM generate_series(1, 9) n"
    )
    monkeypatch.setattr(writers, "CHUNK_ROWS", 3)


@pytest.mark.slow
@pytest.mark.usefixtures("pieces_of_nine")
def test_export_waits_longer_for_its_reader_than_other_transactions(open_database: str) -> None:
    arguments = {"options": "-c idle_in_transaction_session_timeout=100ms"}
    app = app_on(open_database, SQLALCHEMY_ENGINE_OPTIONS={"connect_args": arguments})
    with app.test_request_context():
        pieces = transfers.file_of("ndjson", None)
        begun = next(pieces)
        time.sleep(0.5)

        assert len(b"".join([begun, *pieces]).splitlines()) == 9


@pytest.mark.usefixtures("pieces_of_nine")
def test_export_does_not_wait_for_ever_for_its_reader(
    app: Flask, open_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "IDLE_SECONDS", 1)
    with app.test_request_context():
        pieces = transfers.file_of("ndjson", None)
        next(pieces)
        wait_for(open_database, EXPORTS + " AND pid <> pg_backend_pid()", 0)

        with pytest.raises(psycopg2.OperationalError):
            list(pieces)


@pytest.mark.usefixtures("pieces_of_nine")
def test_export_gives_up_after_its_time(open_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_on(open_database)
    with app.test_request_context():
        pieces = transfers.file_of("csv", None)
        next(pieces)
        monkeypatch.setattr(transfers, "monotonic", lambda: float("inf"))
        with pytest.raises(TimeoutError):
            next(pieces)


def test_database_that_is_away_is_a_503() -> None:
    client = app_on("postgresql://nobody@127.0.0.1:1/none").test_client()

    assert client.get("/users/export").status_code == 503
    assert client.post("/users/import", data=FILE, content_type=CSV).status_code == 503


EXPORTS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY (SELECT%'"
LOSE_EXPORTS = EXPORTS.replace("count(*)", "pg_terminate_backend(pid, 5000)") + " AND pid <> pg_backend_pid()"


@pytest.fixture
def many(open_database: str) -> None:
    """So many users that no buffer holds them all."""
    execute(
        open_database,
        "INSERT INTO users (username, email)"
        " SELECT repeat('x', 120), n || repeat('x', 50) || '@b.test' FROM generate_series(1, 100000) n",
    )


def begun_export(url: str, version: str = "HTTP/1.1") -> socket.socket:
    """Ask for an export and read its beginning."""
    address = urlsplit(url)
    client = socket.create_connection((address.hostname, address.port), timeout=60)
    client.sendall(f"GET /users/export {version}\r\nHost: x\r\n\r\n".encode())
    assert client.recv(1000).startswith(f"{version} 200 OK\r\n".encode())
    return client


@pytest.mark.slow
@pytest.mark.parametrize("end", ["half-closes", "goes away", "resets"])
def test_file_that_ends_too_early_is_not_imported(either_server: str, open_database: str, end: str) -> None:
    address = urlsplit(either_server)
    length = len(FILE) + 200_000
    head = f"POST /users/import HTTP/1.1\r\nHost: x\r\nContent-Type: {CSV}\r\nContent-Length: {length}\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=60) as client:
        client.sendall((head + FILE).encode())
        if end == "half-closes":
            client.shutdown(socket.SHUT_WR)
        elif end == "resets":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    # By then the server has noticed: it has nothing else in hand.
    in_flight = r"^http_requests_in_flight(?:\{.*\})? 1\.0$"
    figures, deadline = "", time.monotonic() + 30
    while not re.search(in_flight, figures, re.MULTILINE):
        assert time.monotonic() < deadline, figures
        figures = urllib.request.urlopen(f"{either_server}/metrics", timeout=60).read().decode()
    assert names(open_database) == []
    assert not re.search(r'route="/users/import",status="5\d\d"} [1-9]', figures)


class Reset(BytesIO):
    """A body whose sender goes away."""

    def read(self, size: int | None = -1) -> bytes:
        """Fail as a socket does."""
        raise ConnectionResetError


@pytest.mark.parametrize("body", [BytesIO(FILE.encode()), Reset()])
def test_file_that_ends_too_early_is_408(client: FlaskClient, open_database: str, body: BytesIO) -> None:
    # As gunicorn hands it over.
    cut = {"wsgi.input": body, "wsgi.input_terminated": True, "CONTENT_LENGTH": str(len(FILE) + 1)}

    assert client.post("/users/import", content_type=CSV, environ_overrides=cut).status_code == 408
    assert names(open_database) == []


@pytest.mark.slow
@pytest.mark.usefixtures("many")
def test_database_that_is_lost_before_an_export_has_begun_is_a_503(
    client: FlaskClient, open_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(rows: writers.CopiedRows, row: bytes) -> None:
        if not rows:
            execute(open_database, LOSE_EXPORTS)
        rows.append(row)

    monkeypatch.setattr(writers.CopiedRows, "write", write)

    assert client.get("/users/export").status_code == 503


@pytest.mark.slow
@pytest.mark.usefixtures("many")
def test_export_that_fails_on_the_way_ends_without_its_end(gunicorn: str, open_database: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(gunicorn).netloc, timeout=60)
    connection.request("GET", "/users/export")
    response = connection.getresponse()
    assert response.status == 200
    response.read(10)

    execute(open_database, LOSE_EXPORTS)

    with pytest.raises(http.client.IncompleteRead):
        response.read()
    connection.close()


@pytest.mark.slow
@pytest.mark.usefixtures("many")
def test_export_that_fails_on_the_way_cuts_nobody_off_at_a_stop(open_database: str) -> None:
    settings = {"WEB_CONCURRENCY": "1", "AUTH_REQUIRED": "false"}
    with start_server(open_database, subprocess.DEVNULL, **settings) as (server, url):
        with begun_export(url) as client:
            execute(open_database, LOSE_EXPORTS)
            while client.recv(1024 * 1024):
                pass
        caller = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        caller.request("GET", "/ping")
        caller.getresponse().read()
        server.terminate()
        # In the moment that a kept connection has for a request that is on its way.
        time.sleep(0.5)
        caller.request("GET", "/ping")

        assert caller.getresponse().read()
        assert server.wait(timeout=30) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("many")
def test_export_over_http_1_0_is_whole_or_ends_with_a_reset(gunicorn: str, open_database: str) -> None:
    with begun_export(gunicorn, "HTTP/1.0") as client:
        whole = client.makefile("rb").read()
    assert whole.endswith(b"\n")

    with begun_export(gunicorn, "HTTP/1.0") as client:
        execute(open_database, LOSE_EXPORTS)
        with pytest.raises(ConnectionResetError):
            client.makefile("rb").read()


def test_connection_is_reset_where_a_piece_of_an_export_is_missing(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"begun"
        raise TimeoutError

    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as caller:
        ours, _ = server.accept()
        monkeypatch.setattr(transfers, "client_socket", ContextVar("client_socket", default=ours))
        send(client, FILE)
        over_1_0 = {"SERVER_PROTOCOL": "HTTP/1.0"}
        assert client.get("/users/export", environ_overrides=over_1_0).data == client.get("/users/export").data

        with pytest.raises(TimeoutError):
            list(transfers.whole_or_reset(pieces(), ours))
        with pytest.raises(ConnectionResetError):
            caller.recv(1)


@pytest.mark.slow
@pytest.mark.usefixtures("many")
def test_client_who_goes_away_frees_the_connection(gunicorn: str, open_database: str) -> None:
    begun_export(gunicorn).close()

    wait_for(open_database, EXPORTS + " AND pid <> pg_backend_pid()", 0)


@pytest.mark.slow
@pytest.mark.usefixtures("many")
def test_client_who_stops_reading_loses_the_connection(open_database: str, tmp_path: Path) -> None:
    with served(open_database, tmp_path / "log", AUTH_REQUIRED="false", TRANSFER_TIMEOUT="2") as url:
        client = begun_export(url)

        wait_for(open_database, EXPORTS + " AND pid <> pg_backend_pid()", 0)

        client.close()
