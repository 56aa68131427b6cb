"""The end of a server: whoever is connected is answered."""

import http.client
import signal
import subprocess
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

import pytest

from project.tests.conftest import execute, start_server

CLIENTS = 16
COMMANDS = {
    "gunicorn": ("serve.py",),
    "granian": ("serve.py",),
    # As people start it who know gunicorn.
    "": ("-m", "gunicorn", "manage:app"),
}


def test_workers_leave_the_port_when_the_master_is_killed(open_database: str) -> None:
    gunicorn = COMMANDS[""]
    with start_server(open_database, subprocess.DEVNULL, gunicorn) as (server, url):
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


@pytest.mark.parametrize(("name", "command"), COMMANDS.items(), ids=["gunicorn", "granian", "gunicorn manage:app"])
def test_stop_loses_no_request(open_database: str, name: str, command: tuple[str, ...]) -> None:
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

    variables = {"WSGI_SERVER": name, "WEB_THREADS": "2", "AUTH_REQUIRED": "false"}
    with start_server(open_database, subprocess.DEVNULL, command, **variables) as (server, url):
        writers = [threading.Thread(target=write, args=(number, urlsplit(url).port)) for number in range(CLIENTS)]
        for writer in writers:
            writer.start()
        time.sleep(0.5)
        start = time.monotonic()
        server.send_signal(signal.SIGTERM)
        status = server.wait(timeout=30)
        seconds = time.monotonic() - start
        for writer in writers:
            writer.join()

    assert status == 0
    # Between a worker's last look at who waits and its closing of the door are some microseconds, more where the
    # machine gives the processor to others just then. Without the look all clients or all but one are cut off.
    # granian also closes the connection of who has not begun to ask.
    assert said.pop("cut off", 0) <= CLIENTS // 2
    assert set(said) == {201, "refused"}
    assert execute(open_database, "SELECT count(*) FROM users") == [(said[201],)]
    assert seconds < 10
