"""How the benchmark judges: from what was measured to goals that are met or missed."""

from typing import Any

import pytest

from benchmarks.answers import shows
from benchmarks.goals import POST, USER, Goal, judge, paired_ratios, verdict


def found(number: int, contestant: str, microseconds: float, **other: Any) -> dict[str, Any]:
    """Return what one run against one server found."""
    what = {"round": number, "contestant": contestant, "route": USER, "connections": 8}
    return {**what, "application_us": microseconds, **other}


def test_ratio_is_of_the_same_round_route_and_number_of_connections() -> None:
    measurements = [
        found(1, "granian", 10),
        found(1, "tortoise", 20),
        found(2, "granian", 30),
        found(2, "tortoise", 20),
        found(1, "granian", 99, route=POST),
        found(1, "tortoise", 99, connections=64),
    ]

    assert paired_ratios(measurements, "application_us", "granian", "tortoise", USER, 8) == [0.5, 1.5]


def test_round_without_the_rival_or_its_cpu_time_is_left_out() -> None:
    measurements = [found(1, "granian", 10), found(2, "granian", 10), found(2, "tortoise", 0)]

    assert paired_ratios(measurements, "application_us", "granian", "tortoise", USER, 8) == []


@pytest.mark.parametrize(
    ("at_least", "values", "is_met", "margin"),
    [
        (False, [0.9, 1.0, 3.0], True, 0.5),
        (False, [2.0], True, 0.0),
        (False, [2.5], False, -0.25),
        (True, [2.5, 3.0, 9.0], True, 0.5),
        (True, [1.5], False, -0.25),
    ],
)
def test_median_is_held_to_the_limit(at_least: bool, values: list[float], is_met: bool, margin: float) -> None:
    judged = verdict(Goal("granian", "application_us", 2.0, "tortoise", USER, at_least=at_least), values)

    assert (judged.is_met, judged.margin) == (is_met, margin)
    assert (judged.lowest, judged.highest) == (min(values), max(values))


def test_only_goals_for_which_something_was_measured_are_judged() -> None:
    measurements = [found(1, "granian", 10), found(1, "tortoise", 20)]

    verdicts = judge(
        [{**run, "requests_per_second": 5.0, "p99_ms": 4.0, "postgres_us": 3.0} for run in measurements],
        {"granian": {"start_seconds": 2.0, "own_mb": 50.0}},
    )

    assert {(v.goal.figure, v.goal.route, v.is_met) for v in verdicts} == {
        ("application_us", USER, True),
        ("postgres_us", USER, True),
        ("requests_per_second", USER, True),
        ("p99_ms", USER, True),
        ("start_seconds", None, False),
        ("own_mb", None, True),
    }
    assert {verdict.goal.contestant for verdict in verdicts} == {"granian"}


@pytest.mark.parametrize(
    ("found", "is_shown"),
    [({"a": [{"b": 1, "c": None}]}, True), ({"a": [{"b": 2}]}, False), ({"a": [{}]}, False), ({"a": []}, False)],
)
def test_contestant_may_show_more_members(found: dict, is_shown: bool) -> None:
    assert shows(found, {"a": [{"b": 1}]}) is is_shown
