"""release.sh, against a server that stands for Heroku's API and registry."""

import base64
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from project.tests.conftest import ROOT

TOKEN = "HRKU-5f0c1c1e-secret"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"

pytestmark = [
    pytest.mark.skipif(not shutil.which("curl"), reason="release.sh needs curl, which is not installed here"),
    pytest.mark.skipif(not shutil.which("openssl"), reason="the certificate of this test needs openssl"),
]


class Heroku(ThreadingHTTPServer):
    """What Heroku knows: its answers by method and path, each used up but for the last, and what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"https://127.0.0.1:{self.server_port}"
        self.asked: list[tuple[str, str, dict[str, str], str]] = []
        self.answers: dict[str, list[tuple[int, Any]]] = {
            "GET /v2/users-app/web/manifests/latest": [(200, manifest("a"))],
            "GET /v2/users-app/release/manifests/latest": [(200, manifest("b"))],
            "GET /v2/users-app/worker/manifests/latest": [(200, manifest("c"))],
            "GET /apps/users-app/releases": [(206, [release(7)]), (206, [release(8)])],
            "PATCH /apps/users-app/formation": [(200, [{"type": "web"}, {"type": "worker"}, {"type": "release"}])],
            "GET /apps/users-app/releases/id-8": [(200, release(8, "pending")), (200, release(8, "succeeded"))],
            "GET /output": [(200, "Running upgrade 0001 -> 0002\n")],
        }

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that left."""


class Handler(BaseHTTPRequestHandler):
    """Answers as it is told to."""

    def answer(self) -> None:
        """Keep the request, and send the next answer."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.command, self.path, headers, body))
        answers = self.server.answers[f"{self.command} {self.path}"]
        status, data = answers.pop(0) if len(answers) > 1 else answers[0]
        sent = (data if isinstance(data, str) else json.dumps(data)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    do_GET = do_PATCH = answer

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


def manifest(digit: str, media_type: str = DOCKER) -> dict[str, Any]:
    """Return the manifest of an image whose configuration has a digest of that digit."""
    return {"schemaVersion": 2, "mediaType": media_type, "config": {"digest": f"sha256:{digit * 64}"}}


def release(version: int, status: str = "succeeded", url: str | None = None) -> dict[str, Any]:
    """Return a release as the API shows it."""
    return {"id": f"id-{version}", "version": version, "status": status, "output_stream_url": url}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 and its key, in one file."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*new, *names, "-keyout", file, "-out", f"{file}.crt"], check=True, capture_output=True)
    with open(file, "a") as both:
        both.write(Path(f"{file}.crt").read_text())
    return file


@pytest.fixture
def heroku(certificate: Path) -> Iterator[Heroku]:
    """A Heroku with an app that runs, and with new images in its registry."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with Heroku() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Script:
    """release.sh, with a curl that writes down how it is called."""

    def __init__(self, folder: Path, certificate: Path, url: str) -> None:
        curl = folder / "curl"
        self.calls = folder / "calls"
        recorder = f'{{ printf "%s\\n" "$*"; env; }} >>"{self.calls}"'
        curl.write_text(f'#!/bin/sh\n{recorder}\nexec {shutil.which("curl")} "$@"\n')
        curl.chmod(0o755)
        self.environment = {
            "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CURL_CA_BUNDLE": f"{certificate}.crt",
            "TMPDIR": str(folder),
            "HEROKU_API_URL": url,
            "HEROKU_REGISTRY_URL": url,
            "HEROKU_APP_NAME": "users-app",
            "HEROKU_AUTH_TOKEN": TOKEN,
            "RELEASE_POLL": "0.1",
        }

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run it, and check what holds however it ends: the token is neither said nor given to a program openly."""
        done = subprocess.run(
            ["sh", "-x", "release.sh"],
            cwd=ROOT,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        calls = self.calls.read_text() if self.calls.exists() else ""
        for secret in (TOKEN, base64.b64encode(f"_:{TOKEN}".encode()).decode()):
            assert secret not in done.stdout
            assert secret not in calls
        assert not list(self.calls.parent.glob("tmp.*"))
        return done


@pytest.fixture
def script(heroku: Heroku, certificate: Path, tmp_path: Path) -> Script:
    """release.sh, set up for that Heroku."""
    return Script(tmp_path, certificate, heroku.url)


def test_release_asks_what_heroku_documents(heroku: Heroku, script: Script) -> None:
    done = script.run()

    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "Released v8.")
    assert [f"{method} {path}" for method, path, _, _ in heroku.asked] == [
        "GET /v2/users-app/release/manifests/latest",
        "GET /v2/users-app/worker/manifests/latest",
        "GET /v2/users-app/web/manifests/latest",
        "GET /apps/users-app/releases",
        "PATCH /apps/users-app/formation",
        "GET /apps/users-app/releases",
        "GET /apps/users-app/releases/id-8",
        "GET /apps/users-app/releases/id-8",
    ]
    basic = base64.b64encode(f"_:{TOKEN}".encode()).decode()
    for method, path, headers, body in heroku.asked:
        if path.startswith("/v2/"):
            assert (headers["accept"], headers["authorization"]) == (DOCKER, f"Basic {basic}")
        elif method == "PATCH":
            assert headers["accept"] == "application/vnd.heroku+json; version=3.docker-releases"
            assert headers["content-type"] == "application/json"
            assert json.loads(body) == {
                "updates": [
                    {"type": "web", "docker_image": f"sha256:{'a' * 64}"},
                    {"type": "worker", "docker_image": f"sha256:{'c' * 64}"},
                    {"type": "release", "docker_image": f"sha256:{'b' * 64}"},
                ]
            }
        else:
            assert headers["accept"] == "application/vnd.heroku+json; version=3"
        if not path.startswith("/v2/"):
            assert headers["authorization"] == f"Bearer {TOKEN}"
        if path == "/apps/users-app/releases":
            assert headers["range"] == "version ..; max=1, order=desc"


REFUSALS = [
    (
        "PATCH /apps/users-app/formation",
        (401, {"id": "unauthorized", "message": "Invalid credentials provided."}),
        "status 401: Invalid credentials provided.",
    ),
    (
        "PATCH /apps/users-app/formation",
        (422, {"id": "invalid_params", "message": "Docker image is not found."}),
        "status 422: Docker image is not found.",
    ),
    (
        "GET /v2/users-app/web/manifests/latest",
        (404, {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}),
        "status 404: manifest unknown",
    ),
    ("GET /apps/users-app/releases", (403, "<h1>Forbidden</h1>"), "status 403: <h1>Forbidden</h1>"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("call", "answer", "message"), REFUSALS)
def test_refusal_fails_with_the_message_of_the_server(
    heroku: Heroku, script: Script, call: str, answer: tuple[int, Any], message: str
) -> None:
    heroku.answers[call] = [answer]

    done = script.run()

    assert done.returncode == 1
    assert f"{heroku.url}{call.partition(' ')[2]} answered with {message}" in done.stdout
    assert f"{heroku.asked[-1][0]} {heroku.asked[-1][1]}" == call


@pytest.mark.slow
@pytest.mark.parametrize("status", ["failed", "expired"])
def test_release_that_fails_is_a_failure_with_its_output(heroku: Heroku, script: Script, status: str) -> None:
    heroku.answers["GET /apps/users-app/releases/id-8"][-1] = (200, release(8, status, f"{heroku.url}/output"))

    done = script.run()

    assert done.returncode == 1
    assert "Running upgrade 0001 -> 0002\n" in done.stdout
    assert f"release v8 ended with the status '{status}'" in done.stdout
    assert heroku.asked[-1][1] == "/output"
    assert "authorization" not in heroku.asked[-1][2]


@pytest.mark.slow
def test_release_that_does_not_end_is_a_failure(heroku: Heroku, script: Script) -> None:
    heroku.answers["GET /apps/users-app/releases/id-8"] = [(200, release(8, "pending"))]

    done = script.run(RELEASE_POLLS="2")

    assert done.returncode == 1
    assert "release v8 has not ended yet" in done.stdout


def test_images_that_run_already_are_a_success(heroku: Heroku, script: Script) -> None:
    heroku.answers["GET /apps/users-app/releases"] = [(206, [release(7)])]

    done = script.run()

    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        0,
        "Nothing to release: users-app runs these images already.",
    )


@pytest.mark.slow
def test_first_release_of_an_app_has_none_before_it(heroku: Heroku, script: Script) -> None:
    heroku.answers["GET /apps/users-app/releases"][0] = (200, [])

    assert script.run().returncode == 0


def test_image_of_another_manifest_is_not_released(heroku: Heroku, script: Script) -> None:
    index = "application/vnd.oci.image.index.v1+json"
    heroku.answers["GET /v2/users-app/web/manifests/latest"] = [(200, manifest("a", index))]

    done = script.run()

    assert done.returncode == 1
    assert f"the image web has a manifest of the type '{index}'" in done.stdout
    assert "PATCH" not in [method for method, *_ in heroku.asked]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HEROKU_APP_NAME", ""),
        ("HEROKU_APP_NAME", "users/../other"),
        ("HEROKU_AUTH_TOKEN", ""),
        ("HEROKU_AUTH_TOKEN", f'{TOKEN}"\nurl = "https://elsewhere.invalid'),
    ],
)
def test_unusable_variable_is_named(heroku: Heroku, script: Script, variable: str, value: str) -> None:
    done = script.run(**{variable: value})

    assert done.returncode == 1
    assert f"release.sh: {variable} must be " in done.stdout
    assert heroku.asked == []


def test_token_is_not_sent_in_the_clear(heroku: Heroku, script: Script) -> None:
    done = script.run(HEROKU_REGISTRY_URL=heroku.url.replace("https", "http"))

    assert done.returncode == 1
    assert heroku.asked == []


def test_server_of_an_unknown_certificate_is_not_trusted(heroku: Heroku, script: Script) -> None:
    script.environment.pop("CURL_CA_BUNDLE")

    done = script.run()

    assert done.returncode == 1
    assert f"{heroku.url}/v2/users-app/release/manifests/latest cannot be reached." in done.stdout
    assert heroku.asked == []
