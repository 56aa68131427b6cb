"""The figures for Prometheus."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg2.errors
import pytest
from flask import Flask
from prometheus_client import values
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from project import db
from project.config import BaseConfig, ProductionConfig
from project.observability import metrics, multiprocess
from project.tests.conftest import ROOT, app_on, served
from project.tests.test_gunicorn import request, send
from project.tests.test_users import MICHAEL

Samples = dict[tuple[str, ...], float]

#: A process that serves one request and dies in the middle of another.
KILLED = """
import os, signal
from project import create_app
from project.config import ProductionConfig
app = create_app(type("Config", (ProductionConfig,), {"SQLALCHEMY_DATABASE_URI": "postgresql://x/y"}))
app.add_url_rule("/end", view_func=lambda: os.kill(os.getpid(), signal.SIGKILL))
app.test_client().get("/ping")
app.test_client().get("/end", headers={"Authorization": "none"})
"""


def samples(text: str) -> Samples:
    """Return the figures by their names and the values of their labels, in the order of the labels' names."""
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def figures(app: Flask) -> Samples:
    """Return the figures of an application."""
    response = app.test_client().get("/metrics")
    assert response.status_code == 200
    return samples(response.text)


@pytest.fixture
def app_of_its_own(open_database: str) -> Iterator[Flask]:
    """An application whose figures begin at 0, with a pool of one connection."""
    options = {**BaseConfig.SQLALCHEMY_ENGINE_OPTIONS, "pool_size": 1, "max_overflow": 0, "pool_timeout": 1}
    app = app_on(open_database, SQLALCHEMY_ENGINE_OPTIONS=options)
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder in which several processes count together."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    # Chosen when prometheus_client was imported, which was before.
    monkeypatch.setattr(values, "ValueClass", values.get_value_class())
    return str(tmp_path)


def test_requests_are_counted_by_rule_method_and_status(app_of_its_own: Flask) -> None:
    client = app_of_its_own.test_client()
    for path in ("/users/1", "/users/2?odd=1", "/users/blah"):
        client.get(path)
    client.post("/users", json=MICHAEL)

    counted = figures(app_of_its_own)

    assert counted["http_requests_total", "GET", "/users/<user_id>", "404"] == 3
    assert counted["http_requests_total", "POST", "/users", "201"] == 1
    assert counted["http_request_duration_seconds_count", "GET", "/users/<user_id>"] == 3
    assert 0 < counted["http_request_duration_seconds_sum", "GET", "/users/<user_id>"] < 30
    assert counted["http_request_duration_seconds_bucket", "+Inf", "GET", "/users/<user_id>"] == 3
    assert counted["http_requests_in_flight",] == 1  # The one that asks.
    assert counted["users_created_total",] == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/docs/swagger-ui.css", "/users/export", "/docs"])
def test_whatever_is_answered_is_no_longer_in_hand(app_of_its_own: Flask, method: str, path: str) -> None:
    with app_of_its_own.test_client().open(path, method=method) as answer:
        assert answer.status_code == 200
        assert answer.get_data() == b"" or method == "GET"

    counted = figures(app_of_its_own)

    assert counted["http_requests_in_flight",] == 1
    assert any(value for name, value in counted.items() if name[:2] == ("http_requests_total", method))


def test_what_callers_make_up_makes_no_series(app_of_its_own: Flask) -> None:
    for number in range(50):
        app_of_its_own.test_client().open(f"/nowhere/{number}", method=f"ODD{number}")

    counted = figures(app_of_its_own)

    of_requests = [name for name, value in counted.items() if name[0] == "http_requests_total" and value]
    assert of_requests == [("http_requests_total", "other", "unknown", "404")]
    assert counted["http_requests_total", "other", "unknown", "404"] == 50


def test_failures_of_every_route_and_of_the_database_are_counted_from_zero(app_of_its_own: Flask) -> None:
    counted = figures(app_of_its_own)

    for method, route in (
        ("GET", "/users"),
        ("POST", "/users"),
        ("DELETE", "/users/<user_id>"),
        ("PUT", "/notes/<id>/"),
    ):
        assert counted["http_requests_total", method, route, "500"] == 0
    assert {name[1] for name in counted if name[0] == "db_errors_total"} == set(metrics.ERROR_KINDS)
    assert not any(name[1] in ("HEAD", "OPTIONS") for name in counted if name[0] == "http_requests_total")


def test_kinds_of_errors_that_begin_at_zero_are_names_of_the_driver_or_of_sqlalchemy() -> None:
    assert all(
        hasattr(psycopg2.errors, kind) or kind in ("OperationalError", "TimeoutError") for kind in metrics.ERROR_KINDS
    )


def test_dashboard_asks_for_figures_that_there_are(app_of_its_own: Flask) -> None:
    app_of_its_own.test_client().get("/users")
    told = {name for name, *_ in figures(app_of_its_own)}
    dashboard = json.loads((ROOT / "docs/grafana/dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]

    assert len(asked) > 10
    for expression in asked:
        names = set(re.findall(r"([a-z_]+)\{", expression))
        assert names and names <= told, expression


def test_user_that_is_refused_is_not_counted(app_of_its_own: Flask) -> None:
    for _ in range(2):
        app_of_its_own.test_client().post("/users", json=MICHAEL)

    assert figures(app_of_its_own)["users_created_total",] == 1


@pytest.mark.slow
def test_pool_tells_its_size_its_use_and_who_waited(app_of_its_own: Flask) -> None:
    app_of_its_own.add_url_rule("/session", view_func=lambda: str(db.session.scalar(text("SELECT 1"))))
    client = app_of_its_own.test_client()
    with app_of_its_own.app_context():
        with db.engine.connect():
            during = figures(app_of_its_own)
            assert client.get("/session").status_code == 503
        db.engine.dispose()
        assert client.get("/session").status_code == 200
    after = figures(app_of_its_own)

    assert (during["db_pool_size",], during["db_pool_checked_out",]) == (1, 1)
    assert during["db_pool_wait_seconds_count",] == 0
    assert after["db_pool_checked_out",] == 0
    assert after["db_pool_wait_seconds_count",] == 1
    assert after["db_pool_wait_seconds_sum",] > 0.5
    assert after["db_errors_total", "TimeoutError"] == 1


def test_pool_tells_of_no_use_when_an_export_is_over(app_of_its_own: Flask) -> None:
    client = app_of_its_own.test_client()
    client.get("/users")

    client.get("/users/export").get_data()

    assert figures(app_of_its_own)["db_pool_checked_out",] == 0


def test_pools_of_all_workers_are_told_and_none_of_the_process_that_starts_them(either_server: str) -> None:
    def told() -> float:
        with urllib.request.urlopen(f"{either_server}/metrics") as response:
            return samples(response.read().decode())["db_pool_size",]

    # A server answers as soon as one of its workers is there.
    deadline = time.monotonic() + 30
    while told() < 2 * 2:
        assert time.monotonic() < deadline
    assert told() == 2 * 2


def test_errors_of_the_database_are_counted_by_kind(app_of_its_own: Flask) -> None:
    @app_of_its_own.get("/slow")
    def slow() -> str:
        db.session.execute(db.text("SET LOCAL statement_timeout = '10ms'; SELECT pg_sleep(1)"))
        return "unreachable"

    @app_of_its_own.get("/wrong")
    def wrong() -> str:
        db.session.execute(db.text("SELECT nothing"))
        return "unreachable"

    for path in ("/slow", "/wrong", "/wrong"):
        app_of_its_own.test_client().get(path)

    counted = figures(app_of_its_own)
    assert counted["db_errors_total", "QueryCanceled"] == 1
    assert counted["db_errors_total", "UndefinedColumn"] == 2


def test_database_that_is_away_is_counted() -> None:
    app = app_on("postgresql://127.0.0.1:1/nothing")
    app.test_client().get("/users")

    assert figures(app)["db_errors_total", "OperationalError"] == 1


@pytest.mark.parametrize(("opened", "status"), [((), 401), (("/metrics",), 200)])
def test_figures_are_closed_unless_they_are_opened(opened: tuple[str, ...], status: int) -> None:
    app = app_on("postgresql://x/y", ProductionConfig, AUTH_REQUIRED=True, OPEN_PATHS=opened)

    assert app.test_client().get("/metrics").status_code == status


def test_processes_count_together_and_the_dead_have_nothing_in_hand(folder: str) -> None:
    app = app_on("postgresql://x/y")
    app.test_client().get("/ping")

    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, env={**os.environ, "AUTH_REQUIRED": "false"})

    counted = figures(app)
    assert killed.returncode == -signal.SIGKILL
    assert counted["http_requests_total", "GET", "/ping", "200"] == 2
    assert counted["http_requests_in_flight",] == 1
    assert counted["database_up",] == 0
    assert counted["db_pool_size",] == app.config["SQLALCHEMY_ENGINE_OPTIONS"]["pool_size"]
    assert not [name for name in counted if "pid" in name]


def test_file_of_a_process_that_is_just_starting_is_waited_for(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_on("postgresql://x/y")
    app.test_client().get("/ping")
    empty = Path(folder, "counter_1.db")
    empty.touch()
    monkeypatch.setattr(metrics, "sleep", lambda seconds: empty.unlink())

    assert figures(app)["http_requests_total", "GET", "/ping", "200"] == 1

    monkeypatch.setattr(metrics, "sleep", lambda seconds: None)
    empty.touch()
    with pytest.raises(struct.error):
        app.extensions["metrics"].text()


def test_folder_of_the_figures_is_gone_with_the_process_that_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    multiprocess.share.cache_clear()

    folder = multiprocess.share()

    assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == folder == multiprocess.share()
    multiprocess.remove(folder, os.getppid())
    assert os.path.isdir(folder)
    multiprocess.remove(folder, os.getpid())
    assert not os.path.exists(folder)
    multiprocess.share.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("open_database")
def test_every_worker_tells_the_figures_of_all(either_server: str) -> None:
    def asked() -> float:
        counted = samples(send(either_server, request("GET", "/metrics"))[2].decode())
        return counted.get(("http_requests_total", "GET", "/users/<user_id>", "404"), 0)

    before = asked()
    for _ in range(40):
        send(either_server, request("GET", "/users/1"))

    assert {asked() for _ in range(20)} == {before + 40}


def test_settings_of_gunicorn_choose_the_folder_before_the_library_looks_for_one() -> None:
    code = "import runpy, sys; runpy.run_path('gunicorn.conf.py'); print('prometheus_client' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


@pytest.mark.slow
def test_gunicorn_leaves_no_folder_behind_and_replaces_a_worker(open_database: str, tmp_path: Path) -> None:
    others = {process.pid for process in psutil.Process().children()}
    with served(open_database, tmp_path / "log", AUTH_REQUIRED="false") as url:
        (master,) = (process for process in psutil.Process().children() if process.pid not in others)
        first = master.children()[0]
        folder = next(Path(map.path).parent for map in first.memory_maps() if "users-metrics-" in map.path)
        first.kill()
        first.wait()
        counted = samples(urllib.request.urlopen(f"{url}/metrics", timeout=20).read().decode())

    assert counted["http_requests_in_flight",] == 1
    assert not folder.exists()
