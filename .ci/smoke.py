"""Use the production image in every way in which it is used, and hold it to its size: python .ci/smoke.py

It runs in the image, in the folder of the code, with nothing but what the image has. DATABASE_URL must name an empty
database.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

#: What the image may have on top of its base, in bytes.
MAX_IMAGE_BYTES = 120_000_000
SCOPES = ("users:read", "users:write", "notes:read", "notes:write", "summaries:read", "summaries:write", "admin")
PARAGRAPH = (
    "<p>The old lighthouse has stood on the cliff since 1871. It warns ships of the reef. Nobody lives there.</p>"
)
PAGE = f"<html><head><title>Light</title></head><body><article>{PARAGRAPH * 5}</article></body></html>".encode()


class Neighbour(BaseHTTPRequestHandler):
    """A web site with one page, which is a collector of traces as well."""

    traces = 0

    def do_GET(self) -> None:
        """Send the page."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def do_POST(self) -> None:
        """Take traces."""
        self.rfile.read(int(self.headers["Content-Length"]))
        Neighbour.traces += 1
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


def check(holds: bool, name: str) -> None:
    """Print what was checked, or end with it."""
    if not holds:
        sys.exit(f"FAILED  {name}")
    print(f"ok      {name}", flush=True)


def manage(*arguments: str) -> str:
    """Run a command of manage.py, and return what it prints."""
    done = subprocess.run([sys.executable, "manage.py", *arguments], stdout=subprocess.PIPE, text=True)
    check(done.returncode == 0, f"manage.py {' '.join(arguments[:2])}")
    return done.stdout


def wait(holds: object, seconds: float, name: str) -> None:
    """Wait until a function returns a true value."""
    assert callable(holds)
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            sys.exit(f"FAILED  {name}: not within {seconds} s")
        time.sleep(0.2)
    print(f"ok      {name}", flush=True)


@contextmanager
def running(*command: str, **variables: str) -> Iterator[None]:
    """Run a process of the service, and stop it in the end as a container's host does."""
    with subprocess.Popen([sys.executable, *command], env={**os.environ, **variables}) as process:
        try:
            yield
            process.terminate()
            check(process.wait(timeout=30) == 0, f"{' '.join(command)} ends well after a SIGTERM")
        finally:
            process.kill()


class Client:
    """A caller of the service, with a token or without."""

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def call(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> tuple[int, str]:
        """Return the status and the body of an answer."""
        headers = {**self.headers, **({"Content-Type": kind} if body is not None else {})}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""


def check_server(name: str, port: int, neighbour: int, token: str) -> None:
    """Check the service on a server."""
    traces = Neighbour.traces
    variables = {
        "WSGI_SERVER": name,
        "PORT": str(port),
        "RATELIMIT": "1000/minute",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{neighbour}",
    }
    with running("serve.py", **variables):
        stranger = Client(f"http://127.0.0.1:{port}")
        client = Client(stranger.url, token)
        wait(lambda: stranger.call("GET", "/ping")[0] == 200, 30, f"{name} serves")
        check(stranger.call("GET", "/users")[0] == 401, f"{name}: a call without a token is 401")
        wait(lambda: '"up"' in client.call("GET", "/health")[1], 30, f"{name}: /health knows the database")
        user = json.dumps({"username": name, "email": f"{name}@münchen.de"}).encode()
        check(client.call("POST", "/users", user)[0] == 201, f"{name}: POST /users")
        check(f"{name}@münchen.de" in client.call("GET", "/users?q=" + name)[1], f"{name}: GET /users")
        check(client.call("GET", "/users?limit=x")[0] == 400, f"{name}: a bad parameter is 400")
        check('"3.1' in client.call("GET", "/openapi.json")[1], f"{name}: the OpenAPI document")
        page = client.call("GET", "/docs")[1]
        files = re.findall(r'(?:src|href)="(docs/[^"]+)"', page)
        check(len(files) > 2 and all(client.call("GET", f"/{file}")[0] == 200 for file in files), f"{name}: /docs")
        check("http_requests" in client.call("GET", "/metrics")[1], f"{name}: /metrics")
        check("csrf_token" in stranger.call("GET", "/admin/users/")[1], f"{name}: the admin pages ask to sign in")
        check(stranger.call("GET", "/admin/style.css")[0] == 200, f"{name}: the admin pages have their style")
        wait(lambda: Neighbour.traces > traces, 30, f"{name}: traces are sent")


def main() -> None:
    """Check everything."""
    files = [path for root in (sys.prefix, ".") for path in Path(root).rglob("*") if not path.is_symlink()]
    size = sum(path.stat().st_size for path in files if path.is_file())
    check(size <= MAX_IMAGE_BYTES, f"{size / 1e6:.1f} MB on top of the base, of {MAX_IMAGE_BYTES / 1e6:.0f}")

    # Never printed; long enough for the admin pages.
    os.environ["SECRET_KEY"] = os.urandom(32).hex()
    manage("db", "upgrade")
    manage("db", "check")
    token = manage("create_token", "smoke", *(f"--scope={scope}" for scope in SCOPES)).strip()
    check("smoke" in manage("list_tokens"), "list_tokens shows the token")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "users.csv")
        file.write_text("username,email\nmichael,michael@testdriven.io\n")
        manage("import_users", str(file))
        check(
            "michael@testdriven.io" in manage("export_users", "--format", "csv", "-"),
            "export_users writes what was imported",
        )

    with HTTPServer(("127.0.0.1", 0), Neighbour) as neighbour:
        threading.Thread(target=neighbour.serve_forever, daemon=True).start()
        for port, name in enumerate(("gunicorn", "granian"), start=5011):
            check_server(name, port, neighbour.server_port, token)
        place = f"127.0.0.1:{neighbour.server_port}"
        with running("serve.py", PORT="5013"), running("manage.py", "summarize", SUMMARY_ALLOWED_HOSTS=place):
            client = Client("http://127.0.0.1:5013", token)
            wait(lambda: client.call("GET", "/ping")[0] == 200, 30, "the service for the summarizer serves")
            body = json.dumps({"url": f"http://{place}/light.html"}).encode()
            path = f"/summaries/{json.loads(client.call('POST', '/summaries/', body)[1])['id']}/"
            wait(lambda: "lighthouse" in client.call("GET", path)[1], 60, "a page is summarised")
        neighbour.shutdown()
    manage("revoke_token", "smoke")


if __name__ == "__main__":
    main()
