"""Tell what was measured: as text, and as a picture."""

import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.goals import Verdict
from project.config import ROOT

OURS = ("gunicorn", "granian")
#: This service in colours, the others in grey.
COLOURS = {"gunicorn": "#1f6feb", "granian": "#54aeff"}


def circumstances() -> dict[str, Any]:
    """Return when, where and of which commit the service is measured."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":!benchmarks/*.png", ":!benchmarks/*.json")
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": (git("rev-parse", "--short", "HEAD") or "unknown") + (" and changes" if changed else ""),
        "cores": os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
    }


def spread(
    measurements: Sequence[dict[str, Any]], figure: str, contestant: str, route: str, connections: int
) -> tuple[float, float, float] | None:
    """Return the median, the lowest and the highest value of a figure, or nothing where it was not measured."""
    key = (contestant, route, connections)
    values = [
        found[figure] for found in measurements if (found["contestant"], found["route"], found["connections"]) == key
    ]
    return (statistics.median(values), min(values), max(values)) if values else None


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figures(results: dict[str, Any], columns: Sequence[tuple[str, Callable[[str, str], str]]]) -> str:
    """Return a table of all contestants and routes; each column is its title and what it shows of the two."""
    header = ["", *(f"`{route}`{title}" for route in results["routes"] for title, _ in columns)]
    rows = [
        [title, *(show(name, route) for route in results["routes"] for _, show in columns)]
        for name, title in results["contestants"].items()
    ]
    return table(header, rows)


def text(results: dict[str, Any], verdicts: Sequence[Verdict]) -> str:
    """Return the whole report in Markdown."""

    def cell(figure: str, connections: int, form: str) -> Callable[[str, str], str]:
        def show(name: str, route: str) -> str:
            found = spread(results["measurements"], figure, name, route, connections)
            return form.format(*found) if found else "–"

        return show

    ran = results["ran"]
    parts = ["# Benchmark", ", ".join(f"{name}: {value}" for name, value in ran.items())]
    for figure, title in (("application_us", "Application"), ("postgres_us", "Postgres")):
        parts += [f"## {title} CPU", "Microseconds a request at 8 connections, median (lowest–highest)."]
        parts.append(figures(results, [("", cell(figure, 8, "{:.0f} ({:.0f}–{:.0f})"))]))
    for connections in (8, 64):
        if any(found["connections"] == connections for found in results["measurements"]):
            parts += [f"## At {connections} connections", "Requests a second; p50 / p99 in milliseconds."]
            rate, p50, p99 = (
                cell(figure, connections, form)
                for figure, form in (("requests_per_second", "{:.0f}"), ("p50_ms", "{:.1f}"), ("p99_ms", "{:.1f}"))
            )
            parts.append(figures(results, [("", lambda *of: f"{rate(*of)}; {p50(*of)} / {p99(*of)}")]))
    parts += ["## Servers", "Median time from the start to the first answer; memory after all of the above."]
    parts.append(
        table(
            ["", "start, s", "largest worker's own memory, MB", "all processes, MB"],
            [
                [
                    results["contestants"][name],
                    f"{of['start_seconds']:.2f}",
                    f"{of['own_mb']:.0f}",
                    f"{of['all_mb']:.0f}",
                ]
                for name, of in results["servers"].items()
            ],
        )
    )
    parts += ["## Goals", "Ratios are medians of paired ratios (lowest–highest)."]
    parts.append(table(["goal", "limit", "found", ""], [goal_row(found) for found in verdicts]))
    parts.append(f"{sum(found.is_met for found in verdicts)} of {len(verdicts)} goals are met.")
    return "\n\n".join(parts) + "\n"


def goal_row(found: Verdict) -> list[str]:
    """Return a verdict as a row of the table."""
    limit = f"{'≥' if found.goal.at_least else '≤'} {found.goal.limit:g}"
    value = f"{found.value:.2f} ({found.lowest:.2f}–{found.highest:.2f})" if found.goal.rival else f"{found.value:.2f}"
    return [found.goal.title, limit, value, "met" if found.is_met else f"missed by {-found.margin:.0%}"]


def draw(results: dict[str, Any], file: Path) -> None:
    """Draw the CPU time of a request, a panel for each route, and write it as a PNG."""
    routes, contestants = results["routes"], results["contestants"]
    columns = min(2, len(routes))
    rows = -(-len(routes) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(8.4, 0.9 + 2.3 * rows), squeeze=False, layout="constrained")
    for number, (panel, route) in enumerate(zip(panels.flat, routes)):
        panel.set_title(route, family="monospace", fontsize=10, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
        for place, name in enumerate(contestants):
            found = spread(results["measurements"], "application_us", name, route, 8)
            if found:
                median, lowest, highest = found
                panel.barh(place, median, color=COLOURS.get(name, "#b7bdc4"))
                panel.hlines(place, lowest, highest, color="#24292f", linewidth=1)
                panel.annotate(
                    f"{median:.0f}", (highest, place), (4, 0), textcoords="offset points", va="center", fontsize=8
                )
        titles = contestants.values() if number % columns == 0 else [""] * len(contestants)
        panel.set_yticks(range(len(contestants)), titles, fontsize=9)
        for label, name in zip(panel.get_yticklabels(), contestants):
            label.set_fontweight("bold" if name in OURS else "normal")
        panel.invert_yaxis()
        panel.margins(x=0.12)
        panel.tick_params(axis="x", labelsize=8)
    for panel in panels.flat[len(routes) :]:
        panel.set_visible(False)
    ran = results["ran"]
    figure.suptitle("Microseconds of application CPU a request: less is better", fontsize=11, x=0.01, ha="left")
    figure.supxlabel(
        f"Medians of {ran['rounds']} interleaved rounds at 8 connections, lines from lowest to highest."
        f" {ran['cores']} cores, Python {ran['Python']},\ncommit {ran['commit']}, {ran['date']}.",
        fontsize=8,
        x=0.01,
        ha="left",
    )
    figure.savefig(file, dpi=200)
    plt.close(figure)
