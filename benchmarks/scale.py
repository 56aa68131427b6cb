"""Measure calls while the table grows: make bench-scale.

Calls the application in one process, without a server, and prints the median times of each form of the listing, of a
look-up and of an insert, at each number of users. Writes scale.json and scale.png beside this file.
"""

import json
import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import click
import matplotlib.pyplot as plt
from flask import Flask, current_app
from sqlalchemy import Connection, select, text
from tqdm import tqdm

from benchmarks.in_process import call, database
from benchmarks.report import circumstances, table
from project import db
from project.api.models import User
from project.api.queries import UserQuery
from project.api.users import LISTING
from project.http.pagination import cursors

HERE = Path(__file__).parent
SIZES = (10_000, 100_000, 1_000_000)
SORTS = tuple(sign + name for name in LISTING.keys for sign in ("", "-"))
#: A line counts as flat where the largest table takes no longer than this many times the smallest.
FLAT = 1.5
STEP = 100_000
SYLLABLES = "ARRAY['ka','lo','mi','ne','ru','sa','ti','vo','be','da','fi','gu','hel','jor','wen','zy']"
FILL = f"""
    INSERT INTO users (id, username, email, active, created_date)
    SELECT i, names[1 + h % 16] || names[1 + h / 16 % 16] || names[1 + h / 256 % 16] || h % 1000,
           'user' || i || '@example.org', i % 50 <> 0, now() - i * interval '1 minute'
    FROM generate_series(:first, :last) i, LATERAL (SELECT abs(hashint4(i)) h, {SYLLABLES} names) random
"""


class Form(NamedTuple):
    """A form of a call.

    target: what is called in a table of that many users
    why: why its line need not be flat, if so
    """

    group: str
    name: str
    target: Callable[[int], str]
    why: str = ""


@contextmanager
def patient_connection() -> Iterator[Connection]:
    """Yield a connection in autocommit whose statements may take longer than the service allows its own."""
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        yield connection
        connection.execute(text("RESET statement_timeout"))


def listing(**query: Any) -> str:
    """Return the target of a listing."""
    return f"/users?{urlencode(query)}"


def deep(sort: str) -> Callable[[int], str]:
    """Return the target of the page that stands after nine tenths of the users in that order."""

    def target(users: int) -> str:
        keys, descending = LISTING.order(sort), sort.startswith("-")
        ordered = LISTING.rows(()).order_by(*(key.desc() if descending else key for key in keys.values()))
        with patient_connection() as connection:
            row = connection.execute(ordered.offset(users * 9 // 10).limit(1)).mappings().one()
        # A cursor is signed for the listing that the request asks for.
        with current_app.test_request_context("/users"):
            signed = cursors(UserQuery.model_validate({"sort": sort})).dumps([row[name] for name in keys])
        return listing(sort=sort, after=signed)

    return target


FORMS = (
    Form("single users", "look-up by id", lambda users: f"/users/{users // 2}"),
    Form("single users", "insert", lambda users: "/users"),
    *(Form("first pages", sort, lambda users, sort=sort: listing(sort=sort)) for sort in SORTS),
    *(Form("pages after 9 of 10 users", sort, deep(sort)) for sort in SORTS),
    Form("filters", "email", lambda users: listing(email=f"USER{users // 2}@example.org")),
    Form("filters", "username", lambda users: listing(username=username_of(users // 2))),
    Form("filters", "active=true", lambda users: listing(active="true")),
    Form("filters", "active=false", lambda users: listing(active="false")),
    Form("filters", "q, one match", lambda users: listing(q=f"user{users // 2}@")),
    Form(
        "filters",
        "q, 1 in 4,096 matches",
        lambda users: listing(q="kalomi"),
        "all matches are read and brought into the order of the page, and there are as many more of them",
    ),
    Form(
        "filters",
        "count",
        lambda users: listing(count="true"),
        "whoever asks for the number of all users has them counted",
    ),
)


def username_of(user_id: int) -> str:
    """Return a user's name."""
    return db.session.scalars(select(User.username).where(User.id == user_id)).one()


def grow(present: int, users: int) -> None:
    """Add users until there are so many; the indexes are made anew, which is faster than to keep them up to date."""
    indexes = sorted(User.__table__.indexes, key=lambda index: str(index.name))
    with patient_connection() as connection:
        for index in indexes:
            index.drop(connection)
        for first in tqdm(
            range(present + 1, users + 1, STEP), desc=f"{users:,} users", unit_scale=STEP, unit=" users"
        ):
            connection.execute(text(FILL), {"first": first, "last": min(first + STEP - 1, users)})
        connection.execute(text("SELECT setval(pg_get_serial_sequence('users', 'id'), :users)"), {"users": users})
        for index in tqdm(indexes, desc="indexes", unit="index"):
            index.create(connection)
        connection.execute(text("VACUUM ANALYZE users"))
        # Else the next checkpoint would fall into what is measured.
        connection.execute(text("CHECKPOINT"))


def milliseconds(app: Flask, users: int, calls: int) -> dict[str, float]:
    """Return the median time of each form, which take turns; the users who are inserted are removed again."""
    with app.app_context():
        targets = {form: form.target(users) for form in FORMS}
    times: dict[Form, list[float]] = {form: [] for form in FORMS}
    for number in tqdm(range(-5, calls), desc=f"calls at {users:,} users"):
        # In another order each time: what comes after a long call finds the processor's caches empty.
        for form, target in random.sample(list(targets.items()), len(targets)):
            if form.name == "insert":
                new = {"username": "ada", "email": f"ada{number}@example.org"}
                cost = call(app, "POST", target, json.dumps(new).encode())
            else:
                cost = call(app, "GET", target)
            if number >= 0:
                times[form].append(cost.wall)
    with app.app_context(), patient_connection() as connection:
        connection.execute(text("DELETE FROM users WHERE id > :users"), {"users": users})
    return {key(form): round(statistics.median(found) * 1000, 3) for form, found in times.items()}


def key(form: Form) -> str:
    """Return a form's name among all forms."""
    return f"{form.group}: {form.name}"


def draw(results: dict[str, Any], file: Path) -> None:
    """Draw a panel of lines for each group of forms, and write it as a PNG."""
    groups = list(dict.fromkeys(form.group for form in FORMS))
    figure, panels = plt.subplots(2, 2, figsize=(8.4, 6.6), sharex=True, sharey=True, layout="constrained")
    for panel, group in zip(panels.flat, groups):
        for form in FORMS:
            if form.group == group:
                line = [results["ms"][str(users)][key(form)] for users in results["sizes"]]
                panel.plot(results["sizes"], line, marker="o", markersize=3, linewidth=1.2, label=form.name)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_title(group, fontsize=10, loc="left")
        panel.set_xticks(results["sizes"], [f"{users:,}" for users in results["sizes"]], fontsize=8)
        panel.minorticks_off()
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="#d0d7de", linewidth=0.5)
        panel.legend(fontsize=7, frameon=False, ncols=2, loc="upper left")
    low, high = panels[0, 0].get_ylim()
    panels[0, 0].set_ylim(low, high * 2)
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if low <= tick <= high]
    for panel in panels.flat:
        panel.set_yticks(ticks, [f"{tick:g} ms" for tick in ticks], fontsize=8)
    figure.suptitle("Time of a call while the table grows, by the number of users", fontsize=11, x=0.01, ha="left")
    ran = results["ran"]
    figure.supxlabel(
        f"Medians of {results['calls']} calls in turn. {ran['cores']} cores, Python {ran['Python']},"
        f" commit {ran['commit']}, {ran['date']}.",
        fontsize=8,
        x=0.01,
        ha="left",
    )
    figure.savefig(file, dpi=200)
    plt.close(figure)


def judgement(form: Form, ratio: float) -> str:
    """Say whether a line is flat, or why not."""
    if ratio <= FLAT:
        return "flat"
    return f"grows: {form.why}" if form.why else "**grows**"


def report(results: dict[str, Any]) -> str:
    """Return the table of all forms in Markdown."""
    rows = []
    for form in FORMS:
        line = [results["ms"][str(users)][key(form)] for users in results["sizes"]]
        ratio = line[-1] / line[0]
        times = [f"{found:.2f}" for found in line]
        rows.append([f"{form.group}: `{form.name}`", *times, f"{ratio:.2f}", judgement(form, ratio)])
    header = ["milliseconds a call", *(f"{users:,}" for users in results["sizes"]), "last / first", ""]
    return table(header, rows)


@click.command()
@click.option("--users", default=SIZES[-1], show_default=True, type=click.IntRange(1000), help="The largest table.")
@click.option("--calls", default=201, show_default=True, type=click.IntRange(1), help="Of each form, at each size.")
@click.option("--url", help="A database of the server to use; by default the embedded one.")
@click.option("--output", default=HERE, type=click.Path(path_type=Path, file_okay=False), help="Where results go.")
def main(users: int, calls: int, url: str | None, output: Path) -> None:
    """Measure calls while the table grows."""
    sizes = [*(size for size in SIZES if size < users), users]
    present = 0
    results: dict[str, Any] = {
        "ran": circumstances(),
        "calls": calls,
        "sizes": sizes,
        "ms": {},
    }
    with database(url) as app:
        for size in sizes:
            with app.app_context():
                grow(present, size)
            present = size
            results["ms"][str(size)] = milliseconds(app, size, calls)
    output.mkdir(parents=True, exist_ok=True)
    (output / "scale.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results, output / "scale.png")
    click.echo(", ".join(f"{name}: {value}" for name, value in results["ran"].items()) + "\n")
    click.echo(report(results))


if __name__ == "__main__":
    main()
