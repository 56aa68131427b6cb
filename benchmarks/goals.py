"""What this service is to reach beside its peers, and whether it does."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

USER, USERS, POST = "GET /users/1", "GET /users", "POST /users"
#: How figures are called where people read them.
FIGURES = {
    "application_us": "application CPU",
    "postgres_us": "Postgres CPU",
    "requests_per_second": "requests a second",
    "p99_ms": "p99",
    "start_seconds": "start to first answer",
    "own_mb": "own memory of a worker",
}


class Goal(NamedTuple):
    """A figure of a contestant, or its ratio to a rival's, and its limit: the most or, with at_least, the least."""

    contestant: str
    figure: str
    limit: float
    rival: str | None = None
    route: str | None = None
    connections: int = 8
    at_least: bool = False

    @property
    def title(self) -> str:
        """Return what the goal is about, in words."""
        words = f"{FIGURES[self.figure]} on {self.contestant}"
        if self.route:
            words = f"`{self.route}`: {words}, {self.connections} connections"
        return f"{words}, against {self.rival}" if self.rival else words


class Verdict(NamedTuple):
    """What became of a goal: the median, the spread, and how much better than the limit it is, as a fraction of it."""

    goal: Goal
    value: float
    lowest: float
    highest: float
    margin: float

    @property
    def is_met(self) -> bool:
        """Say whether the goal is met."""
        return self.margin >= 0


def cpu(contestant: str, rival: str, figure: str, limits: dict[str, float]) -> list[Goal]:
    """Return goals of CPU time, the limit of each route."""
    return [Goal(contestant, figure, limit, rival, route) for route, limit in limits.items()]


GOALS = (
    *cpu("gunicorn", "plain", "application_us", {USER: 0.50, USERS: 0.30, POST: 0.35}),
    *cpu("gunicorn", "tortoise", "application_us", {USER: 1.2, USERS: 0.8, POST: 1.5}),
    *cpu("granian", "tortoise", "application_us", {USER: 0.7, USERS: 0.5, POST: 1.1}),
    *cpu("granian", "asyncpg", "application_us", {USER: 1.1, USERS: 0.65, POST: 1.1}),
    *(
        goal
        for ours in ("gunicorn", "granian")
        for rival, limit in (("plain", 0.5), ("tortoise", 1.0), ("asyncpg", 1.1))
        for goal in cpu(ours, rival, "postgres_us", {USER: limit})
    ),
    *(
        Goal("granian", figure, 1.0, "tortoise", route, connections, figure == "requests_per_second")
        for connections in (8, 64)
        for route in (USER, USERS, POST)
        for figure in ("requests_per_second", "p99_ms")
    ),
    *(
        Goal(ours, figure, limit)
        for ours in ("gunicorn", "granian")
        for figure, limit in (("start_seconds", 1.5), ("own_mb", 60.0))
    ),
)


def paired_ratios(
    measurements: Sequence[dict[str, Any]], figure: str, contestant: str, rival: str, route: str, connections: int
) -> list[float]:
    """Return the ratio of two contestants' figures in each round that both took part in."""
    rounds: dict[int, dict[str, float]] = {}
    for found in measurements:
        if (found["route"], found["connections"]) == (route, connections):
            rounds.setdefault(found["round"], {})[found["contestant"]] = found[figure]
    pairs = [(of[contestant], of[rival]) for of in rounds.values() if contestant in of and rival in of]
    # What used no CPU time that could be counted cannot be compared.
    return [ours / theirs for ours, theirs in pairs if theirs]


def verdict(goal: Goal, values: Sequence[float]) -> Verdict:
    """Judge a goal by the median of these values."""
    value = statistics.median(values)
    margin = (value - goal.limit) / goal.limit * (1 if goal.at_least else -1)
    return Verdict(goal, value, min(values), max(values), margin)


def judge(measurements: Sequence[dict[str, Any]], servers: dict[str, dict[str, float]]) -> list[Verdict]:
    """Return the verdicts on all goals for which something was measured.

    servers: start_seconds and own_mb of each contestant
    """
    verdicts = []
    for goal in GOALS:
        if goal.rival and goal.route:
            values = paired_ratios(
                measurements, goal.figure, goal.contestant, goal.rival, goal.route, goal.connections
            )
        else:
            values = [servers[goal.contestant][goal.figure]] if goal.contestant in servers else []
        if values:
            verdicts.append(verdict(goal, values))
    return verdicts
