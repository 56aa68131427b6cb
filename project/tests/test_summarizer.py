"""The summarizer: pending rows, the process that reads pages, and what happens when one of the two dies."""

import io
import json
import logging
import os
import re
import resource
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from threading import Thread
from typing import Any

import psutil
import pytest
from flask import Flask
from sqlalchemy import make_url

from project import db
from project.cli.commands import cli
from project.summarizer import reader
from project.summarizer.worker import MAX_ATTEMPTS, Lease, Reader, Summarizer
from project.tests.conftest import ROOT, app_on, execute, mostly_slow, start_manage
from project.tests.test_pages import ANSWERS, URLS
from project.tests.web import ARTICLES, Web, endless, http, serving

SLOW = "The page took longer than 0.2 seconds."
UNREADABLE = "The page cannot be read."

#: What would go on for longer than a page may take.
ENDLESS = {
    "/slow-header": endless(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x", pause=0.05),
    "/slow-body": endless(b"HTTP/1.1 200 OK\r\n\r\n", b"A sentence. ", pause=0.05),
    "/continue": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.01),
    "/slow-to-read": http(b"<p>A b c. " * 200_000),
}


@pytest.fixture(scope="session")
def web() -> Iterator[Web]:
    """A web server with all that is hostile, and with the articles."""
    with serving() as web:
        web.answers.update((path, answer) for path, (answer, _) in ANSWERS.items())
        web.answers.update(ENDLESS)
        yield web


@pytest.fixture
def app(open_database: str, web: Web) -> Flask:
    """An application that commits for real, and fetches from that server."""
    return app_on(open_database, SUMMARY_ALLOWED_HOSTS=(f"{web.host}:{web.port}",))


@pytest.fixture(scope="session")
def shared_reader() -> Iterator[Reader]:
    """The process that the workers of these tests share: it takes a second to start."""
    with closing(Reader()) as shared_reader:
        yield shared_reader


@pytest.fixture
def summarizer(app: Flask, shared_reader: Reader, monkeypatch: pytest.MonkeyPatch) -> Iterator[Summarizer]:
    """A worker of that application, which does not pause for long."""
    monkeypatch.setattr("project.summarizer.worker.PAUSE", 0.02)
    with app.app_context():
        summarizer = Summarizer(db.engine, app.config)
        summarizer.reader = shared_reader
        yield summarizer
        db.engine.dispose()
    if summarizer.stopping:
        # It has killed the process, which is dying while the next test begins.
        summarizer.close()
        shared_reader.stopped = False


@pytest.fixture
def add(open_database: str) -> Callable[..., None]:
    """A function that adds pending summaries of these URLs."""

    def add(*urls: str) -> None:
        connection_values = ", ".join("('" + url.replace("'", "''") + "')" for url in urls)
        execute(open_database, f"INSERT INTO summaries (url) VALUES {connection_values}")

    return add


def rows(url: str, columns: str = "state, reason") -> list[tuple]:
    """Return these columns of all summaries."""
    return execute(url, f"SELECT {columns} FROM summaries ORDER BY id")


def until(holds: Callable[[], object]) -> None:
    """Wait until it holds, 30 s at most."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_articles_are_summarised(summarizer: Summarizer, add: Callable, open_database: str, web: Web) -> None:
    add(*(f"{web.url}/{file.name}" for file in sorted(ARTICLES.iterdir())))

    assert summarizer.run_once() == {"done": 3}

    blog, news, old = rows(open_database, "summary, state, reason, attempts")
    assert blog[0].startswith("For a whole month every loaf")
    assert news[0].startswith("The river port of Altstadt")
    assert old[0].startswith("The lighthouse of Kap Nord was built in 1867 by the engineer Søren Åberg.")
    assert [row[1:] for row in (blog, news, old)] == [("done", None, 1)] * 3


@pytest.mark.slow
def test_every_hostile_url_fails_with_its_reason_and_the_worker_lives(
    summarizer: Summarizer, add: Callable, open_database: str, web: Web
) -> None:
    add(*(url for url, _ in URLS), f"{web.url}/blog.html")
    process = summarizer.reader.process

    assert summarizer.run_once() == {"failed": len(URLS), "done": 1}

    assert rows(open_database) == [*(("failed", reason) for _, reason in URLS), ("done", None)]
    assert process is None or summarizer.reader.process is process
    assert len(URLS) >= 70


@pytest.mark.slow
def test_every_hostile_answer_fails_with_its_reason_and_the_worker_lives(
    summarizer: Summarizer, add: Callable, open_database: str, web: Web
) -> None:
    add(*(f"{web.url}{path}" for path in ANSWERS), f"{web.url}/blog.html")
    execute(open_database, f"UPDATE summaries SET attempts = {MAX_ATTEMPTS - 1}")

    assert summarizer.run_once() == {"failed": len(ANSWERS), "done": 1}

    assert rows(open_database) == [*(("failed", reason) for _, reason in ANSWERS.values()), ("done", None)]


@pytest.mark.parametrize("paths", [["/slow-body"], pytest.param(list(ENDLESS), marks=pytest.mark.slow)])
def test_pages_that_take_too_long_are_given_up_and_the_worker_lives(
    summarizer: Summarizer, add: Callable, open_database: str, web: Web, paths: list[str]
) -> None:
    # Connections to it are accepted by the kernel, and nobody ever answers.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        summarizer.task |= {"allowed_hosts": (*summarizer.task["allowed_hosts"], place), "timeout": 0.2}
        add(f"https://{place}/", *(f"{web.url}{path}" for path in paths))
        execute(open_database, f"UPDATE summaries SET attempts = {MAX_ATTEMPTS - 1}")

        assert summarizer.run_once() == {"failed": 1 + len(paths)}

    summarizer.task["timeout"] = 15
    add(f"{web.url}/blog.html")
    assert summarizer.run_once() == {"done": 1}
    assert rows(open_database) == [*[("failed", SLOW)] * (1 + len(paths)), ("done", None)]


@pytest.mark.parametrize("attempts", range(MAX_ATTEMPTS))
def test_attempts_wait_four_times_as_long_each_and_then_fail(
    summarizer: Summarizer, add: Callable, open_database: str, web: Web, attempts: int
) -> None:
    add(f"{web.url}/broken")
    execute(open_database, f"UPDATE summaries SET attempts = {attempts}")

    summarizer.run_once()
    assert summarizer.run_once() == {}

    if attempts < MAX_ATTEMPTS - 1:
        ((state, reason, tried, wait),) = rows(
            open_database, "state, reason, attempts, extract(epoch FROM next_attempt_at - now())::float"
        )
        assert (state, reason, tried) == ("pending", None, attempts + 1)
        assert 10 * 4**attempts * 0.5 - 5 < wait < 10 * 4**attempts * 1.5
    else:
        assert rows(open_database) == [("failed", "The server answered with the status 500.")]


def test_row_whose_workers_all_died_is_given_up(
    summarizer: Summarizer, add: Callable, open_database: str, web: Web
) -> None:
    add(f"{web.url}/never-asked")
    execute(open_database, f"UPDATE summaries SET attempts = {MAX_ATTEMPTS}")

    assert summarizer.run_once() == {"failed": 1}

    assert rows(open_database) == [("failed", UNREADABLE)]
    assert web.asked["/never-asked"] == 0


def test_row_is_taken_once_and_again_when_its_lease_has_ended(
    summarizer: Summarizer, add: Callable, open_database: str
) -> None:
    add("http://example.org/")

    assert summarizer.take() == Lease(1, "http://example.org/", 1)
    assert summarizer.take() is None
    assert rows(open_database, "next_attempt_at > now() + interval '2 seconds'") == [(True,)]
    execute(open_database, "UPDATE summaries SET next_attempt_at = now()")
    assert summarizer.take() == Lease(1, "http://example.org/", 2)


def test_row_in_another_transaction_is_passed_by(summarizer: Summarizer, add: Callable) -> None:
    add("http://example.org/1", "http://example.org/2")
    with db.engine.begin() as other:
        other.exec_driver_sql("SELECT * FROM summaries WHERE id = 1 FOR UPDATE")

        assert summarizer.take() == Lease(2, "http://example.org/2", 1)
        assert summarizer.take() is None


@pytest.mark.parametrize(
    "meanwhile",
    mostly_slow(
        [
            "UPDATE summaries SET url = 'http://example.org/other', summary = 'Mine.', state = 'done'",
            "UPDATE summaries SET url = 'http://example.org/other'",
            "UPDATE summaries SET attempts = attempts + 1",
            "UPDATE summaries SET state = 'failed', reason = 'No.'",
            "DELETE FROM summaries",
        ],
        ["DELETE FROM summaries"],
    ),
)
def test_result_is_dropped_where_somebody_wrote_in_between(
    summarizer: Summarizer, add: Callable, open_database: str, web: Web, meanwhile: str
) -> None:
    add(f"{web.url}/blog.html")
    lease = summarizer.take()
    execute(open_database, meanwhile)
    before = rows(open_database, "*")

    assert summarizer.do(lease) == "lost"

    assert rows(open_database, "*") == before


@pytest.mark.slow
def test_page_that_kills_the_process_fails_and_the_next_one_is_read(
    summarizer: Summarizer, add: Callable, open_database: str, web: Web
) -> None:
    web.answers["/deadly"] = lambda connection, ended: summarizer.reader.kill()
    add(f"{web.url}/deadly", f"{web.url}/news.html")
    execute(open_database, f"UPDATE summaries SET attempts = {MAX_ATTEMPTS - 1}")

    assert summarizer.run_once() == {"failed": 1, "done": 1}

    assert rows(open_database) == [("failed", UNREADABLE), ("done", None)]


def test_no_page_is_blamed_for_a_process_that_died_before(
    summarizer: Summarizer, add: Callable, open_database: str, web: Web
) -> None:
    process = summarizer.reader.process or summarizer.reader.start()
    process.kill()
    process.wait()
    add(f"{web.url}/blog.html")

    assert summarizer.run_once() == {"done": 1}

    assert rows(open_database, "state, attempts") == [("done", 1)]


def test_stopped_worker_gives_its_row_back(
    summarizer: Summarizer, add: Callable, open_database: str, web: Web
) -> None:
    add(f"{web.url}/slow-body", f"{web.url}/blog.html")
    web.asked.clear()
    worker = Thread(target=summarizer.run)
    worker.start()
    until(lambda: web.asked["/slow-body"])

    summarizer.stop()

    worker.join()
    assert rows(open_database, "state, attempts, next_attempt_at <= now()") == [("pending", 0, True)] * 2


def test_worker_that_is_stopped_before_it_asks_asks_nothing(
    summarizer: Summarizer, add: Callable, open_database: str, web: Web
) -> None:
    summarizer.reader = Reader()
    add(f"{web.url}/not-asked")
    lease = summarizer.take()

    summarizer.stop()

    assert summarizer.do(lease) == "pending"
    assert rows(open_database, "state, attempts") == [("pending", 0)]
    assert web.asked["/not-asked"] == 0
    summarizer.run()


def test_worker_that_is_stopped_while_its_reader_starts_asks_nothing(
    summarizer: Summarizer, add: Callable, open_database: str, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    summarizer.reader = Reader()
    add(f"{web.url}/slow-body")
    lease = summarizer.take()
    web.asked.clear()
    start = subprocess.Popen

    def stopped_meanwhile(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        process = start(*arguments, **options)
        summarizer.stop()
        return process

    monkeypatch.setattr(subprocess, "Popen", stopped_meanwhile)

    assert summarizer.do(lease) == "pending"
    assert rows(open_database, "state, attempts") == [("pending", 0)]
    assert web.asked["/slow-body"] == 0


def test_worker_that_is_stopped_while_it_asks_starts_no_other_reader(
    summarizer: Summarizer, add: Callable, open_database: str, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    summarizer.reader = Reader()
    process = summarizer.reader.start()
    add(f"{web.url}/slow-body")
    lease = summarizer.take()
    web.asked.clear()

    dumps = json.dumps

    def stopped_meanwhile(task: dict[str, Any]) -> str:
        if not summarizer.stopping:
            summarizer.stop()
            process.wait()
        return dumps(task)

    monkeypatch.setattr(json, "dumps", stopped_meanwhile)

    assert summarizer.do(lease) == "pending"
    assert rows(open_database, "state, attempts") == [("pending", 0)]
    assert web.asked["/slow-body"] == 0


def test_reader_answers_line_by_line(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []
    monkeypatch.setattr(resource, "setrlimit", lambda *limit: limits.append(limit))
    allowed = {"ports": [80], "allowed_hosts": [f"{web.host}:{web.port}"], "timeout": 60}
    tasks = [{"url": f"{web.url}/{path}", **allowed} for path in ("blog.html", "gone", "broken")]
    answers = io.StringIO()

    reader.main(io.StringIO("".join(json.dumps(task) + "\n" for task in tasks)), answers)

    blog, gone, broken = map(json.loads, answers.getvalue().splitlines())
    assert blog["summary"].startswith("For a whole month")
    assert gone == {"reason": "The server answered with the status 410.", "again": False}
    assert broken == {"reason": "The server answered with the status 500.", "again": True}
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert limits == [(resource.RLIMIT_DATA, (reader.MAX_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_DATA)[1]))]


def test_reader_ends_with_its_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(resource, "setrlimit", lambda *limit: None)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))

    runpy.run_path(reader.__file__, run_name="__main__")

    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_reader_whose_worker_is_gone_ends_without_a_word(web: Web, capfd: pytest.CaptureFixture[str]) -> None:
    process = Reader().start()
    process.stdout.close()

    process.stdin.write(json.dumps({"url": "", "ports": [], "allowed_hosts": [], "timeout": 60}) + "\n")
    process.stdin.flush()

    # Its input is still open.
    assert process.wait(timeout=60) == 0
    process.stdin.close()
    assert capfd.readouterr() == ("", "")


def test_reader_that_nobody_hears_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "setrlimit", lambda *limit: None)
    reading, writing = os.pipe()
    os.close(reading)
    task = json.dumps({"url": "", "ports": [], "allowed_hosts": [], "timeout": 60})
    tasks = io.StringIO(f"{task}\n{task}\n")

    with io.TextIOWrapper(io.FileIO(writing, "w"), write_through=True) as answers:
        reader.main(tasks, answers)

    assert tasks.read() == f"{task}\n"


def test_reader_has_no_secrets(summarizer: Summarizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:hush@127.0.0.1/users")
    monkeypatch.setenv("SECRET_KEY", "hush")
    summarizer.reader.kill()
    summarizer.reader.close()

    process = psutil.Process(summarizer.reader.start().pid)
    # It has none until it runs its program.
    until(process.environ)

    assert "PATH" in process.environ()
    assert "hush" not in str(process.environ())


def test_worker_waits_for_a_database_that_is_away(
    summarizer: Summarizer,
    add: Callable,
    open_database: str,
    server_url: str,
    web: Web,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = make_url(open_database).database
    worker = Thread(target=summarizer.run)
    worker.start()
    execute(
        server_url,
        f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
    )
    until(lambda: "away" in caplog.text)
    execute(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    until(lambda: "back" in caplog.text)
    add(f"{web.url}/blog.html")
    until(lambda: rows(open_database) == [("done", None)])
    summarizer.stop()
    worker.join()

    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [(record.levelno, record.getMessage().partition(":")[0]) for record in warnings] == [
        (logging.WARNING, "The database is away, and the summarizer waits"),
        (logging.WARNING, "The database is back."),
    ]


@pytest.fixture
def signals() -> Iterator[None]:
    """What the command does to the signals is undone afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_command_does_what_is_there_and_counts(app: Flask, add: Callable, web: Web, signals: None) -> None:
    add(f"{web.url}/blog.html", f"{web.url}/news.html", f"{web.url}/gone", f"{web.url}/broken")

    result = app.test_cli_runner().invoke(cli, ["summarize", "--once"])

    assert (result.exit_code, result.output) == (
        0,
        "Summarised 2 pages; 1 failed, 1 wait for another attempt.\n",
    )


@pytest.mark.slow
def test_command_ends_with_a_signal(
    app: Flask, add: Callable, open_database: str, web: Web, signals: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("project.summarizer.worker.PAUSE", 0.02)
    web.answers["/signal"] = lambda connection, ended: os.kill(os.getpid(), signal.SIGTERM)
    add(f"{web.url}/signal")

    result = app.test_cli_runner().invoke(cli, ["summarize"])

    assert (result.exit_code, result.output) == (0, "")
    assert rows(open_database, "state, attempts") == [("pending", 0)]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_ends_within_seconds_and_gives_its_row_back(
    add: Callable, open_database: str, web: Web, number: int
) -> None:
    web.asked.clear()
    add(f"{web.url}/slow-body")
    settings = {"SUMMARY_ALLOWED_HOSTS": f"{web.host}:{web.port}", "LOG_FORMAT": "json"}
    worker = start_manage("summarize", DATABASE_URL=open_database, **settings)
    until(lambda: web.asked["/slow-body"])

    worker.send_signal(number)
    output, errors = worker.communicate(timeout=10)

    assert (worker.returncode, output) == (0, "")
    assert [json.loads(line)["event"] for line in errors.splitlines()] == [
        "summarizer started",
        "summary pending",
        "summarizer stopped",
    ]
    assert rows(open_database, "state, attempts") == [("pending", 0)]


def test_missing_table_is_one_line_and_not_waited_for(make_database: Callable[[], str], signals: None) -> None:
    app = app_on(make_database())

    result = app.test_cli_runner().invoke(cli, ["summarize"])

    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "First run: python manage.py db upgrade" in result.stderr


@pytest.mark.slow
def test_killed_workers_lose_no_row_and_do_none_twice(open_database: str) -> None:
    numbers = ["--rows", "20", "--workers", "2", "--kills", "1", "--every", "0.2", "--timeout", "1"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.summaries", *numbers],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": open_database, "PYTHONPATH": str(ROOT), "LOG_LEVEL": "warning"},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert (run.returncode, run.stderr) == (0, "")
    assert re.search("^20 rows, 2 workers, 1 killed: 20 done once, 0 done twice, 0 lost, [0-9.]+ s$", run.stdout, re.M)
