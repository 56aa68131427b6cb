"""The documentation for people, and the way there."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from flask.testing import FlaskClient

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize("accept", [BROWSER, "text/html", "text/html, application/json;q=0.9"])
def test_browser_is_sent_to_the_documentation(client: FlaskClient, accept: str) -> None:
    response = client.get("/", headers={"Accept": accept})

    assert (response.status_code, response.headers["Location"]) == (302, "/docs")
    assert response.headers["Vary"] == "Accept"


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, text/html", "image/png", None])
def test_program_gets_json(client: FlaskClient, accept: str | None) -> None:
    response = client.get("/", headers={"Accept": accept} if accept else {})

    assert response.status_code == 200
    assert response.get_json()["links"] == {
        "users": "/users",
        "notes": "/notes/",
        "summaries": "/summaries/",
        "ping": "/ping",
        "health": "/health",
        "docs": "/docs",
        "openapi": "/openapi.json",
    }


def test_page_runs_nothing_that_it_does_not_serve(client: FlaskClient) -> None:
    with client.get("/docs") as response:
        page = response.text
        policy = response.headers["Content-Security-Policy"]

    assert policy.startswith("default-src 'self';")
    assert "script-src" not in policy
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(sources) == 4
    assert re.findall(r"<script[^>]*>(.+?)</script>|<style| style=| on\w+=", page) == []
    for source in sources:
        with client.get(f"/{source}") as response:
            assert response.status_code == 200
            assert response.headers["Cache-Control"] == "public, max-age=3600"


def test_page_asks_no_outside_validator(client: FlaskClient) -> None:
    with client.get("/docs/start.js") as response:
        assert "validatorUrl: null" in response.text


@pytest.mark.parametrize("name", ["index.html", "../docs.html", "%2e%2e/docs.html", "swagger-ui.js", ""])
def test_only_the_files_of_the_page_are_served(client: FlaskClient, name: str) -> None:
    assert client.get(f"/docs/{name}").status_code == 404


@pytest.mark.skipif(CHROMIUM is None, reason="the page is looked at in chromium, which is not installed here")
@pytest.mark.usefixtures("open_database")
def test_page_shows_every_call_in_a_browser(gunicorn: str, client: FlaskClient, tmp_path: Path) -> None:
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    options += " --disable-component-update --disable-sync --disable-dev-shm-usage --enable-logging=stderr"
    # Whatever is not this service's is nowhere, as without a network.
    options += " --virtual-time-budget=20000 --dump-dom"
    elsewhere = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    command = [str(CHROMIUM), *options.split(), elsewhere, f"--user-data-dir={tmp_path}", f"{gunicorn}/docs"]

    browser = subprocess.run(command, capture_output=True, text=True, timeout=60)

    paths = client.get("/openapi.json").get_json()["paths"]
    calls = {f"{method.upper()} {path}" for path, calls in paths.items() for method in calls}
    shown = re.findall(r'opblock-summary-method">(\w+)<.*?data-path="([^"]+)"', browser.stdout)
    assert {f"{method} {path}" for method, path in shown} == calls
    assert "CONSOLE" not in browser.stderr
    assert "validator.swagger.io" not in browser.stdout
