"""The alerts that an operator loads into Prometheus."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask import Flask

from project.tests.conftest import ROOT
from project.tests.test_metrics import figures

FOLDER = ROOT / "deploy/prometheus"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
CASES: list[dict[str, Any]] = [
    case
    for test in yaml.safe_load((FOLDER / "alerts.test.yml").read_text())["tests"]
    for case in test["alert_rule_test"]
]
OPERATIONS = (ROOT / "docs/operations.md").read_text()

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="alerts are tried by promtool, of the package prometheus, which is missing",
)


@needs_promtool
@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "alerts.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
        ("test", "rules", "alerts.test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@needs_promtool
@pytest.mark.slow
def test_alert_that_never_fires_is_found(tmp_path: Path) -> None:
    rules = (FOLDER / "alerts.yml").read_text().replace('absent(up{job="users"})', "vector(0) > 1")
    (tmp_path / "alerts.yml").write_text(rules)
    shutil.copy(FOLDER / "alerts.test.yml", tmp_path)
    command = ["promtool", "test", "rules", "alerts.test.yml"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    assert done.returncode == 1
    assert "alertname: UsersSilent" in done.stdout + done.stderr


@pytest.mark.parametrize("name", [rule["alert"] for rule in RULES])
def test_every_alert_is_tried_firing_and_at_rest_and_is_documented(name: str) -> None:
    fires = {bool(case["exp_alerts"]) for case in CASES if case["alertname"] == name}

    assert fires == {True, False}
    assert f"| `{name}` |" in OPERATIONS


def test_documentation_names_no_alert_that_there_is_not() -> None:
    named = set(re.findall("`((?:Users|Summarizer)[A-Z][A-Za-z]+)`", OPERATIONS))

    assert named == {rule["alert"] for rule in RULES}


def test_alerts_ask_for_metrics_that_there_are(app: Flask) -> None:
    app.test_client().get("/users")
    summarizer = {"summaries_due", "summaries_processed_total"}
    told = {name for name, *_ in figures(app)} | {"up"} | summarizer

    for rule in RULES:
        names = set(re.findall(r"([a-z_]+)\{", rule["expr"]))
        assert names and names <= told, rule["alert"]
