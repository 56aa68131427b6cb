"""The names of libraries that the service leans on though nothing documents them: an upgrade that changes one is seen.

docs/architecture.md lists them with what would go without each.
"""

import inspect
import re
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import flask_restful
import pytest
from flask import Flask
from flask.views import View
from flask_admin.actions import ActionsMixin
from flask_admin.base import BaseView
from flask_admin.contrib.sqla.filters import BaseSQLAFilter
from flask_admin.contrib.sqla.view import ModelView
from granian import Granian
from gunicorn import arbiter, config, glogging
from gunicorn.http import errors
from gunicorn.workers import base, gthread, workertmp
from prometheus_client import multiprocess

from project.admin.forms import ChoiceFilter, SinceFilter
from project.admin.sign_in import Index
from project.admin.views import RowTable, Table
from project.http.errors import Application
from project.http.resources import Api
from project.servers import hooks
from project.servers.executor import RequestExecutor
from project.servers.heartbeat import Heartbeat
from project.servers.worker import Worker
from project.tests.conftest import ROOT

#: A method that is overridden: the library's class, ours, the name, the parameters, what would go without it.
OVERRIDDEN = [
    (base.Worker, Worker, "handle_error", "self req client addr exc", "the error body for what is not HTTP"),
    (gthread.ThreadWorker, Worker, "get_thread_pool", "self", "deadlines, probes, 503 while all threads are busy"),
    (workertmp.WorkerTmp, Heartbeat, "__init__", "self cfg", "the start where no file can be made"),
    (workertmp.WorkerTmp, Heartbeat, "notify", "self", "the start where no file can be made"),
    (workertmp.WorkerTmp, Heartbeat, "last_update", "self", "the start where no file can be made"),
    (workertmp.WorkerTmp, Heartbeat, "fileno", "self", "the start where no file can be made"),
    (workertmp.WorkerTmp, Heartbeat, "close", "self", "the start where no file can be made"),
    (Executor, RequestExecutor, "submit", "self fn args kwargs", "deadlines, probes, 503 while all threads are busy"),
    (Executor, RequestExecutor, "shutdown", "self wait cancel_futures", "the end of the watchdog"),
    (
        glogging.Logger,
        hooks.Logger,
        "access",
        "self resp req environ request_time",
        "8 % of a request, for access lines that are not written",
    ),
    (flask_restful.Api, Api, "error_router", "self original_handler e", "the error body for defects in Resources"),
    (Flask, Application, "log_exception", "self exc_info", "log lines of defects without the path"),
    (BaseView, Table, "render", "self template kwargs", "the CSRF token of the admin pages"),
    (BaseView, Index, "is_visible", "self", "a menu without the sign-in"),
    (ModelView, Table, "index_view", "self", "a list whose address holds words of url_for"),
    (
        ModelView,
        Table,
        "get_list",
        "self page sort_column sort_desc search filters execute page_size",
        "the last page for a page beyond it",
    ),
    (ModelView, Table, "get_list_value", "self context model name", "cells as people read them"),
    (ModelView, Table, "get_one", "self id", "an answer for an id that is none"),
    (ActionsMixin, Table, "handle_action", "self return_view", "the question before an action"),
    (ModelView, RowTable, "get_export_value", "self model name", "cells that no spreadsheet runs"),
    (ModelView, RowTable, "create_model", "self form", "the error of an address that exists"),
    (ModelView, RowTable, "update_model", "self form model", "the conflict of two writers in the admin pages"),
    (BaseSQLAFilter, ChoiceFilter, "apply", "self query value alias", "the filters of the admin pages"),
    (BaseSQLAFilter, SinceFilter, "apply", "self query value alias", "the filters of the admin pages"),
]


@pytest.mark.parametrize(
    ("theirs", "ours", "name", "parameters", "lost"),
    OVERRIDDEN,
    ids=[f"{ours.__name__}.{name}" for _, ours, name, *_ in OVERRIDDEN],
)
def test_overridden_method_is_the_one_that_the_library_calls(
    theirs: type, ours: type, name: str, parameters: str, lost: str
) -> None:
    defined = inspect.getattr_static(theirs, name, None)

    assert defined is not None, f"{theirs.__qualname__}.{name} is gone, and with it {lost}"
    known = " ".join(inspect.signature(getattr(theirs, name)).parameters)
    assert known == parameters, f"{theirs.__qualname__}.{name} takes ({known}) now: {lost} may be gone"
    assert name in {member for kind in ours.__mro__ if kind.__module__.startswith("project.") for member in vars(kind)}


def test_every_method_that_overrides_one_of_gunicorn_is_listed() -> None:
    listed = {name for _, ours, name, *_ in OVERRIDDEN if ours is Worker}
    overriding = {name for name in vars(Worker) if hasattr(gthread.ThreadWorker, name) and not name.startswith("__")}

    assert overriding == listed


@pytest.mark.parametrize(
    ("function", "statement", "lost"),
    [
        (gthread.ThreadWorker.init_process, "self.tpool = self.get_thread_pool()", "the executor"),
        (gthread.ThreadWorker.enqueue_req, "self.tpool.submit(self.handle, conn)", "the executor"),
        (gthread.ThreadWorker.run, "self.tpool.shutdown(wait=False)", "the end of the watchdog"),
        (gthread.ThreadWorker.handle, "self.handle_error(req, conn.sock, conn.client, e)", "the error body"),
        (base.Worker.__init__, "self.tmp = WorkerTmp(cfg)", "the heartbeat in memory"),
        (base.Worker.__init__, "self.sockets = sockets", "the stop that resets no connection"),
        (base.Worker.load_wsgi, "self.wsgi = self.app.wsgi()", "the gauge database_up of each worker"),
        (gthread.TConn.__init__, "self.sock = sock", "deadlines, probes, 503 while all threads are busy"),
        (arbiter.Arbiter.reexec, "environ['GUNICORN_PID'] =", "the listeners of a successor"),
        (arbiter.Arbiter.spawn_worker, "self.cfg.pre_fork(self, worker)\n\n        pid = os.fork()", "early signals"),
    ],
)
def test_name_is_used_as_the_service_expects(function: Callable[..., Any], statement: str, lost: str) -> None:
    source = inspect.getsource(function)

    assert statement in source, f"{function.__qualname__} no longer has {statement!r}: {lost} may be gone"


def test_connection_of_gunicorn_has_the_socket_of_the_client() -> None:
    with socket.socket() as client:
        assert gthread.TConn(config.Config(), client, ("127.0.0.1", 1), ("127.0.0.1", 2)).sock is client


def test_errors_of_gunicorn_have_the_classes_that_give_their_status() -> None:
    for kind in (errors.LimitRequestLine, errors.LimitRequestHeaders, errors.ExpectationFailed):
        assert issubclass(kind, errors.ParseException), f"{kind.__name__} would be answered with 500"


def test_figures_of_a_process_are_in_files_that_name_it(tmp_path: Path) -> None:
    # metrics.py reads the process from these names; the library's own function looks for the same ones.
    for mode in ("livesum", "livemin"):
        (tmp_path / f"gauge_{mode}_7.db").touch()

    multiprocess.mark_process_dead(7, str(tmp_path))

    assert not list(tmp_path.iterdir()), "the figures of a killed process would stay"


@pytest.mark.parametrize("hook", ["on_starting", "when_ready", "pre_fork", "post_worker_init", "pre_request"])
def test_hook_takes_what_gunicorn_hands_to_it(hook: str) -> None:
    validated = config.make_settings()[hook]

    validated.set(getattr(hooks, hook))

    assert validated.get() is getattr(hooks, hook)


def test_plain_view_is_what_flask_calls() -> None:
    assert issubclass(flask_restful.Resource, View)
    assert {"init_every_request"} <= vars(View).keys()
    assert list(inspect.signature(flask_restful.Api.representation).parameters) == ["self", "mediatype"]


def test_granian_takes_the_settings_of_the_service() -> None:
    source = (ROOT / "project/servers/start.py").read_text()
    named = re.findall(
        r"^        (\w+)=", source.partition("return Granian(")[2].partition("\n    )")[0], re.MULTILINE
    )

    assert len(named) > 10
    assert set(named) <= set(inspect.signature(Granian).parameters)
    assert {"target_loader", "wrap_loader"} <= set(inspect.signature(Granian.serve).parameters)


def test_no_private_name_of_a_library_is_used() -> None:
    # SQLAlchemy's own folder apart: what begins with an underscore and is neither self's nor a dunder.
    private = re.compile(r"(?<![\w.])(?!self\b|cls\b)[\w.()\[\]]*[\w)\]]\._(?!_)\w+")
    found = {
        f"{file.relative_to(ROOT)}: {use}"
        for file in (ROOT / "project").rglob("*.py")
        if not {"tests", "storage"} & set(file.parts)
        for use in private.findall(re.sub(r'#.*|"""(?:.|\n)*?"""|"[^"\n]*"', "", file.read_text()))
    }

    # A namedtuple's and Werkzeug's, which their documentation names.
    assert {use.rpartition(".")[2] for use in found} <= {"_asdict", "_get_current_object"}, found
