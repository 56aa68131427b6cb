"""What the documentation of security says is shown by tests."""

import re

import pytest

from project.tests.conftest import ROOT

SECURITY = (ROOT / "docs" / "security.md").read_text()
TESTS = "".join(file.read_text() for file in (ROOT / "project" / "tests").glob("test_*.py"))
RISKS = re.findall(r"^\| (API\d+) .*\| (.+) \|$", SECURITY, re.MULTILINE)


def test_every_risk_is_answered() -> None:
    assert [risk for risk, _ in RISKS] == [f"API{number}" for number in range(1, 11)]


@pytest.mark.parametrize(("risk", "shown_by"), RISKS)
def test_every_answer_is_shown_by_tests_that_exist(risk: str, shown_by: str) -> None:
    names = re.findall(r"`(test_\w+)`", shown_by)

    assert names
    assert [name for name in names if f"def {name}(" not in TESTS] == []
