"""Measure the listing over a large table: the first and a late page of every order, and every filter.

Makes a database of its own, fills it, prints a table of the database's times, and drops it. A time is the median of
EXPLAIN ANALYZE; the first and the late page of an order are measured in turn.

    .venv/bin/python -m benchmarks.listing --users 1000000
"""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Connection, create_engine, event, make_url, text

from project import create_app, db
from project.config import BaseConfig, DevelopmentConfig, database_url

NAME = "users_benchmark"
SORTS = ("id", "-id", "username", "-username", "email", "-email", "created_date", "-created_date")
FILTERS = ("email=USER500000@example.org", "username={username}", "q={prefix}", "active=false", "active=true")
SYLLABLES = "ARRAY['ka','lo','mi','ne','ru','sa','ti','vo','be','da','fi','gu','hel','jor','wen','zy']"
FILL = f"""
    INSERT INTO users (username, email, active, created_date)
    SELECT names[1 + h % 16] || names[1 + h / 16 % 16] || names[1 + h / 256 % 16] || h % 1000,
           'user' || i || '@example.org', i % 50 <> 0, now() - i * interval '1 minute'
    FROM generate_series(:first, :last) i, LATERAL (SELECT abs(hashint4(i)) h, {SYLLABLES} names) random
"""


@contextmanager
def database(url: str | None) -> Iterator[Flask]:
    """Yield an application on a database that lives as long as the benchmark."""
    embedded = BaseConfig.EMBEDDED_POSTGRES
    if not url and embedded:
        embedded.start()
        url = embedded.url("users_dev")
    server = create_engine(database_url("--url", str(url)), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)"))
        connection.execute(text(f"CREATE DATABASE {NAME}"))
        own = make_url(str(url)).set(database=NAME).render_as_string(hide_password=False)
        try:
            app = create_app(type("Config", (DevelopmentConfig,), {"SQLALCHEMY_DATABASE_URI": own}))
            with app.app_context():
                db.create_all()
                yield app
                db.engine.dispose()
        finally:
            connection.execute(text(f"DROP DATABASE {NAME} WITH (FORCE)"))


def fill(users: int) -> None:
    """Add the users, in steps that the progress bar shows."""
    step = 50_000
    with click.progressbar(range(1, users + 1, step), label=f"{users:,} users") as firsts, db.engine.connect() as cn:
        cn.execute(text("SET statement_timeout = 0"))
        for first in firsts:
            cn.execute(text(FILL), {"first": first, "last": min(first + step - 1, users)})
            cn.commit()
        cn.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE users"))


def cursor_at(client: FlaskClient, sort: str, rows: int) -> str:
    """Return the cursor that stands after that many rows, found by walking there."""
    cursor = ""
    while rows:
        limit = min(rows, 1000)
        query = {"sort": sort, "limit": limit, **({"after": cursor} if cursor else {})}
        cursor = client.get("/users", query_string=query).get_json()["data"]["next"]
        rows -= limit
    return cursor


def statement_of(client: FlaskClient, query: dict[str, Any]) -> str:
    """Return the SQL with which the service answers a query."""
    statements = []

    def remember(connection: Connection, cursor: Any, statement: str, parameters: Any, *context: Any) -> None:
        statements.append(cursor.mogrify(statement, parameters).decode())

    event.listen(db.engine, "before_cursor_execute", remember)
    response = client.get("/users", query_string=query)
    event.remove(db.engine, "before_cursor_execute", remember)
    assert response.status_code == 200, response.text
    return statements[-1]


def milliseconds(connection: Connection, statement: str) -> tuple[float, float]:
    """Run a statement and return how long the database took to plan it, and to execute it and write out the rows."""
    explain = f"EXPLAIN (ANALYZE, SERIALIZE, TIMING OFF, FORMAT JSON) {statement}"
    plan = connection.exec_driver_sql(explain.replace("%", "%%")).scalar_one()[0]
    return float(plan["Planning Time"]), float(plan["Execution Time"])


def medians(connection: Connection, statements: list[str], rounds: int) -> list[tuple[float, float]]:
    """Measure statements in turn; return each one's median times of planning and of execution."""
    times = [[milliseconds(connection, statement) for statement in statements] for _ in range(rounds)]
    columns = zip(*times, strict=True)
    return [(statistics.median(p for p, _ in column), statistics.median(e for _, e in column)) for column in columns]


@click.command()
@click.option("--users", default=1_000_000, show_default=True, type=click.IntRange(20_000), help="Rows in the table.")
@click.option("--rounds", default=51, show_default=True, type=click.IntRange(1), help="Measurements of each page.")
@click.option("--url", help="A server of Postgres 17 or later; by default the embedded one.")
def main(users: int, rounds: int, url: str | None) -> None:
    """Print the database's times for each order and filter of the listing."""
    with database(url) as app:
        fill(users)
        client = app.test_client()
        late = users * 9 // 10
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            version = connection.exec_driver_sql("SHOW server_version").scalar_one()
            print(f"\nPostgres {version}, {users:,} users, median of {rounds}\n")
            print("The database's time in milliseconds, planning + execution; the ratio is that of the executions.\n")
            print(f"| order, limit=100 | page 1 | page {late // 100:,} | ratio |\n| --- | --- | --- | --- |")
            for sort in SORTS:
                queries = [{"sort": sort}, {"sort": sort, "after": cursor_at(client, sort, late)}]
                statements = [statement_of(client, query) for query in queries]
                first, last = medians(connection, statements, rounds)
                ratio = f"{last[1] / first[1]:.2f}"
                print(f"| `sort={sort}` | {first[0]:.3f} + {first[1]:.3f} | {last[0]:.3f} + {last[1]:.3f} | {ratio} |")
            print("\n| filter | time |\n| --- | --- |")
            some = client.get("/users?limit=1").get_json()["data"]["users"][0]["username"]
            for form in FILTERS:
                query = form.format(username=some, prefix=some[:3])
                ((planning, execution),) = medians(
                    connection, [statement_of(client, dict([query.split("=")]))], rounds
                )
                print(f"| `{query}` | {planning:.3f} + {execution:.3f} |")


if __name__ == "__main__":
    main()
