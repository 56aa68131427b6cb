"""What a summarizer tells of its work: lines in the log, and metrics on a port of its own."""

import json
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from urllib.error import HTTPError
from wsgiref.simple_server import WSGIServer

import pytest
from flask import Flask
from prometheus_client import generate_latest

from project import db
from project.cli import summaries
from project.cli.commands import cli
from project.summarizer import metrics
from project.summarizer.metrics import Backlog, SummarizerMetrics
from project.summarizer.worker import MAX_ATTEMPTS, Summarizer
from project.tests.conftest import app_on, execute, free_port, start_manage
from project.tests.test_metrics import Samples, samples
from project.tests.test_monitoring import AWAY, TOKEN, bearer
from project.tests.test_summarizer import add, app, shared_reader, signals, summarizer, until, web
from project.tests.web import Web

__all__ = ["add", "app", "shared_reader", "signals", "summarizer", "web"]


def told(figures: SummarizerMetrics) -> Samples:
    """Return what a summarizer counts."""
    return samples(generate_latest(figures.registry).decode())


@pytest.mark.slow
def test_each_row_is_a_line_and_counts(
    summarizer: Summarizer, add: Callable, open_database: str, web: Web, capfd: pytest.CaptureFixture[str]
) -> None:
    add(f"{web.url}/blog.html", f"{web.url}/gone", f"{web.url}/broken")
    capfd.readouterr()

    summarizer.run_once()

    counted = told(summarizer.figures)
    results = {result: counted["summaries_processed_total", result] for result in metrics.RESULTS}
    assert results == {"done": 1, "failed": 1, "pending": 1, "lost": 0}
    assert counted["summary_processing_seconds_count",] == 3
    lines = capfd.readouterr().err
    assert all(f"summary={row}" in lines for row in (1, 2, 3))
    assert "The server answered with the status 410." in lines and "The server answered with the status 500." in lines
    assert "loaf" not in lines and web.url not in lines


def test_row_that_was_written_in_between_counts_as_lost(
    summarizer: Summarizer, add: Callable, open_database: str, web: Web
) -> None:
    add(f"{web.url}/blog.html")
    lease = summarizer.take()
    execute(open_database, "DELETE FROM summaries")

    summarizer.do(lease)

    assert told(summarizer.figures)["summaries_processed_total", "lost"] == 1


def test_rows_that_wait_are_counted_with_those_that_are_due(app: Flask, add: Callable, open_database: str) -> None:
    add("http://a.test/", "http://b.test/", "http://c.test/")
    execute(open_database, "UPDATE summaries SET next_attempt_at = now() + interval '1 hour' WHERE id = 1")
    execute(open_database, f"UPDATE summaries SET attempts = {MAX_ATTEMPTS}, state = 'done' WHERE id = 2")

    with app.app_context():
        counts = {family.name: family.samples[0].value for family in Backlog(db.engine, lambda: True).collect()}
        db.engine.dispose()

    assert counts == {"summaries_pending": 2, "summaries_due": 1}


@pytest.mark.parametrize("is_up", [True, False])
def test_rows_are_not_counted_while_the_database_is_down(is_up: bool, capfd: pytest.CaptureFixture[str]) -> None:
    with app_on(AWAY).app_context():
        assert list(Backlog(db.engine, lambda: is_up).collect()) == []

    assert ("metrics: " in capfd.readouterr().err) is is_up


@contextmanager
def metrics_server(token: str | None) -> Iterator[str]:
    """Serve the metrics of a summarizer; yield the URL."""
    server = metrics.start_metrics_server(SummarizerMetrics(), free_port(), token)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def status(url: str, **headers: str) -> int:
    """Return the status of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize(
    ("token", "headers", "expected"),
    [
        (None, {}, 200),
        (TOKEN, bearer(TOKEN), 200),
        (TOKEN, {}, 401),
        (TOKEN, bearer(f"{TOKEN}x"), 401),
        (TOKEN, {"Authorization": "Bearer ä"}, 401),
    ],
)
def test_port_answers_the_scraper_alone(token: str | None, headers: dict[str, str], expected: int) -> None:
    with metrics_server(token) as url:
        assert status(f"{url}/metrics", **headers) == expected
        assert status(f"{url}/", **headers) == (404 if expected == 200 else 401)


def test_command_serves_its_metrics(
    app: Flask, add: Callable, web: Web, signals: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("project.summarizer.worker.PAUSE", 0.02)
    servers: list[WSGIServer] = []
    serve = metrics.start_metrics_server
    monkeypatch.setattr(summaries, "start_metrics_server", lambda *arguments: servers.append(serve(*arguments)))
    summarizers: list[Summarizer] = []
    monkeypatch.setattr(
        summaries, "Summarizer", lambda *arguments: summarizers.append(Summarizer(*arguments)) or summarizers[0]
    )
    app.config |= {"SUMMARY_METRICS_PORT": free_port(), "METRICS_TOKEN": TOKEN}
    add(f"{web.url}/gone")
    found: list[Samples] = []

    def scrape() -> None:
        until(lambda: servers)
        request = urllib.request.Request(f"http://127.0.0.1:{servers[0].server_port}/metrics", headers=bearer(TOKEN))

        def has_failed() -> bool:
            found.append(samples(urllib.request.urlopen(request, timeout=10).read().decode()))
            return bool(found[-1]["summaries_processed_total", "failed"])

        until(has_failed)
        summarizers[0].stop()

    scraper = Thread(target=scrape)
    scraper.start()
    result = app.test_cli_runner().invoke(cli, ["summarize"])
    scraper.join()
    servers[0].shutdown()
    servers[0].server_close()

    assert (result.exit_code, result.output) == (0, "")
    assert (found[-1]["database_up",], found[-1]["summaries_pending",], found[-1]["summaries_due",]) == (1, 0, 0)


def test_port_that_is_taken_is_one_line(app: Flask, signals: None) -> None:
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        app.config["SUMMARY_METRICS_PORT"] = port
        result = app.test_cli_runner().invoke(cli, ["summarize"])

    assert (result.exit_code, result.stderr) == (
        1,
        f"Error: SUMMARY_METRICS_PORT: port {port}: Address already in use.\n",
    )


@pytest.mark.slow
def test_process_tells_its_metrics_and_its_lines(add: Callable, open_database: str, web: Web) -> None:
    port = free_port()
    add(f"{web.url}/blog.html", f"{web.url}/gone")
    settings = {"SUMMARY_ALLOWED_HOSTS": f"{web.host}:{web.port}", "SUMMARY_METRICS_PORT": str(port)}
    worker = start_manage("summarize", DATABASE_URL=open_database, LOG_FORMAT="json", **settings)

    def processed() -> float:
        try:
            text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        except OSError:
            return 0
        counted = samples(text)
        return counted["summaries_processed_total", "done"] + counted["summaries_processed_total", "failed"]

    until(lambda: processed() == 2)
    worker.terminate()
    _, errors = worker.communicate(timeout=10)

    first, *rows, last = [json.loads(line) for line in errors.splitlines()]
    assert (first["event"], last["event"]) == ("summarizer started", "summarizer stopped")
    assert [(row["event"], row["summary"], row["state"], row["attempt"], row["reason"]) for row in rows] == [
        ("summary done", 1, "done", 1, None),
        ("summary failed", 2, "failed", 1, "The server answered with the status 410."),
    ]
    assert all(row["seconds"] > 0 and row["logger"] == "project.summarizer.worker" for row in rows)
