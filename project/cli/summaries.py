"""The command that runs a summarizer."""

import signal
from contextlib import closing

import click
from flask import current_app

from project.api.health import Probe
from project.extensions import db
from project.summarizer.metrics import Backlog, start_metrics_server
from project.summarizer.worker import Summarizer


@click.command("summarize")
@click.option("--once", is_flag=True, help="Do what is to do now, and end.")
def summarize(once: bool) -> None:
    """Fetch the pages of pending summaries and summarise them, until SIGINT or SIGTERM.

    Any number of these may run, on any machine that reaches the database.
    """
    with closing(Summarizer(db.engine, current_app.config)) as summarizer:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, summarizer.stop)
        if once:
            states = summarizer.run_once()
            waiting = f"{states['pending']} wait for another attempt"
            click.echo(f"Summarised {states['done']} pages; {states['failed']} failed, {waiting}.")
        else:
            if port := current_app.config["SUMMARY_METRICS_PORT"]:
                serve_metrics(summarizer, port)
            summarizer.run()


def serve_metrics(summarizer: Summarizer, port: int) -> None:
    """Serve what a summarizer counts, with the gauge of the database, on a port."""
    probe = Probe(current_app.extensions["health"], summarizer.figures.database_up.set)
    summarizer.figures.registry.register(Backlog(summarizer.engine, lambda: probe.up))
    probe.await_first_look()
    try:
        start_metrics_server(summarizer.figures, port, current_app.config["METRICS_TOKEN"])
    except OSError as error:
        raise click.ClickException(f"SUMMARY_METRICS_PORT: port {port}: {error.strerror}.") from error
