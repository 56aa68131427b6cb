"""The summarizer: takes pending summaries from the table, has their pages read, and writes what became of them.

Any number of them share the work. A row is taken by a lease: while it lasts nobody else takes the row, and no
transaction is open. Who is killed leaves a lease that ends; a result counts only where nobody took the row since."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from logging import DEBUG, WARNING, getLogger
from typing import Any

import psycopg2
from sqlalchemy import Engine, Update, func, select, update
from sqlalchemy.exc import InterfaceError, OperationalError

from project.api.models import Summary
from project.config import ROOT
from project.observability.redact import one_line
from project.summarizer.metrics import SummarizerMetrics

log = getLogger(__name__)
#: How often a page is tried, and the seconds until the second attempt; each further one waits four times as long.
MAX_ATTEMPTS, BACK_OFF = 5, 10
#: Seconds between two looks at an empty table, or at a database that is away.
PAUSE = 1
# All that the reader gets of our environment: neither the database's URL nor a key.
ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR")


@dataclass(frozen=True)
class Lease:
    """A row that is ours for a while: its id, its URL, and the number of this attempt."""

    id: int
    url: str
    attempts: int

    def write(self) -> Update:
        """Return an update of the row that does nothing where it is ours no more, or where its URL is another one."""
        ours = (Summary.id == self.id, Summary.url == self.url, Summary.attempts == self.attempts)
        return update(Summary).where(*ours, Summary.state == "pending")


class Reader:
    """The process that reads pages: started when it is needed, and anew where a page was the end of it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.stopped = False

    def start(self) -> subprocess.Popen[str]:
        """Start the process."""
        self.process = subprocess.Popen(
            # Unbuffered: an answer that nobody reads any more is not left to be written at its end.
            [sys.executable, "-u", "-m", "project.summarizer.reader"],
            cwd=ROOT,
            env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # A Ctrl-C is for us, and we end it.
            start_new_session=True,
        )
        if self.stopped:
            # By a signal, while there was nothing to kill yet.
            self.process.kill()
        return self.process

    def read(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the process answers to a task, or what its end tells."""
        process = self.process or self.start()
        try:
            print(json.dumps(task), file=process.stdin, flush=True)
        except BrokenPipeError:
            # It died when it had nothing to do: this page is not to blame.
            if not self.stopped:
                self.close()
                return self.read(task)
        answer = process.stdout.readline() if process.stdout else ""
        if answer.endswith("\n"):
            return dict(json.loads(answer))
        self.close()
        if process.returncode == -signal.SIGALRM:
            return {"reason": f"The page took longer than {task['timeout']} seconds.", "again": True}
        return {"reason": "The page cannot be read.", "again": True}

    def kill(self) -> None:
        """End the process at once, if there is one."""
        if self.process:
            self.process.kill()

    def stop(self) -> None:
        """End the process at once, and whichever is started after it."""
        self.stopped = True
        self.kill()

    def close(self) -> None:
        """Wait for the end of the process, if there is one, after what it is doing."""
        if self.process:
            self.process.communicate()
            self.process = None


class Summarizer:
    """One worker, on a database, with the settings of a configuration."""

    def __init__(self, engine: Engine, config: Mapping[str, Any]) -> None:
        self.engine = engine
        self.task = {
            "ports": config["SUMMARY_PORTS"],
            "allowed_hosts": config["SUMMARY_ALLOWED_HOSTS"],
            "timeout": config["SUMMARY_TIMEOUT"],
        }
        # The page is fetched and then read, each within that time.
        self.lasts = timedelta(seconds=2 * config["SUMMARY_TIMEOUT"] + 5)
        self.reader = Reader()
        self.figures = SummarizerMetrics()
        self.stopping = False

    def stop(self, *signal_and_frame: object) -> None:
        """End as soon as the row in hand is given back: what a signal calls."""
        self.stopping = True
        self.reader.stop()

    def close(self) -> None:
        """End the process of this worker."""
        self.reader.close()

    def take(self) -> Lease | None:
        """Return the row that has waited the longest, ours from now on, or None where nothing is to do."""
        due = (
            select(Summary.id)
            .where(Summary.state == "pending", Summary.next_attempt_at <= func.now())
            .order_by(Summary.next_attempt_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        ours = {"attempts": Summary.attempts + 1, "next_attempt_at": func.now() + self.lasts}
        taken = update(Summary).where(Summary.id == due.scalar_subquery()).values(ours)
        with self.engine.begin() as connection:
            row = connection.execute(taken.returning(Summary.id, Summary.url, Summary.attempts)).first()
        return Lease(*row) if row else None

    def outcome(self, lease: Lease) -> tuple[dict[str, Any], str | None]:
        """Return what becomes of a row that was taken: the columns to write, and why where the page was not read."""
        if lease.attempts > MAX_ATTEMPTS:
            reason = "The page cannot be read."
            return {"state": "failed", "reason": reason}, reason
        answer = {} if self.stopping else self.reader.read({"url": lease.url, **self.task})
        if "summary" in answer:
            return {"state": "done", "summary": answer["summary"]}, None
        if self.stopping:
            return {"attempts": lease.attempts - 1, "next_attempt_at": func.now()}, "The summarizer stops."
        if answer["again"] and lease.attempts < MAX_ATTEMPTS:
            # Not all at once, where they failed at once.
            seconds = BACK_OFF * 4 ** (lease.attempts - 1) * random.uniform(0.5, 1.5)
            return {"next_attempt_at": func.now() + timedelta(seconds=seconds)}, answer["reason"]
        return {"state": "failed", "reason": answer["reason"]}, answer["reason"]

    def do(self, lease: Lease) -> str:
        """Do a row that was taken, and return its state, or "lost" where somebody else has written it meanwhile."""
        began = time.perf_counter()
        columns, reason = self.outcome(lease)
        with self.engine.begin() as connection:
            written = connection.execute(lease.write().values(columns))
        state: str = columns.get("state", "pending") if written.rowcount else "lost"
        seconds = time.perf_counter() - began
        self.figures.observe(state, seconds)
        # Neither the URL nor anything of the page: both are other people's.
        told = {"summary": lease.id, "state": state, "attempt": lease.attempts, "seconds": round(seconds, 3)}
        log.info("summary %s", state, extra={"members": {**told, "reason": reason}})
        return state

    def run_once(self) -> Counter[str]:
        """Do what is to do now; return how many rows got which state."""
        states: Counter[str] = Counter()
        while not self.stopping and (lease := self.take()):
            states[self.do(lease)] += 1
        return states

    def run(self) -> None:
        """Do what is to do, until we are stopped; wait for a database that is away."""
        log.info("summarizer started")
        away = False
        while not self.stopping:
            try:
                self.run_once()
                if away:
                    log.warning("The database is back.")
                away = False
            except (InterfaceError, OperationalError, psycopg2.InterfaceError, psycopg2.OperationalError) as error:
                log.log(
                    DEBUG if away else WARNING, "The database is away, and the summarizer waits: %s", one_line(error)
                )
                away = True
            time.sleep(PAUSE)
        log.info("summarizer stopped")
