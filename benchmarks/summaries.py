"""Kill workers while they summarise, and count how often each row was done.

    .venv/bin/python -m benchmarks.summaries --rows 500 --workers 4

It empties the table of summaries of the database that DATABASE_URL names.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psycopg2

from project.tests.web import http, serving

ROOT = Path(__file__).resolve().parent.parent
ARTICLE = (ROOT / "project/tests/articles/blog.html").read_bytes()
# What counts is told by the database: it notes each row that becomes done, whoever writes it.
AUDIT = """
    CREATE TABLE done_log (id bigint);
    CREATE FUNCTION note_done() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO done_log VALUES (NEW.id); RETURN NULL; END $$;
    CREATE TRIGGER note_done AFTER UPDATE ON summaries
        FOR EACH ROW WHEN (NEW.state = 'done') EXECUTE FUNCTION note_done();
"""
COUNT = """
    SELECT count(*) FILTER (WHERE times = 1), count(*) FILTER (WHERE times > 1), count(*) FILTER (WHERE times = 0)
    FROM (SELECT (SELECT count(*) FROM done_log WHERE done_log.id = summaries.id) AS times FROM summaries) AS counted
"""


def main() -> None:
    """Run it, and print what became of the rows; the exit status is 1 where a row was lost or done twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=1000, help="at most so many")
    parser.add_argument("--every", type=float, default=1, help="seconds between two kills")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds that a page takes")
    parser.add_argument("--timeout", type=int, default=2, help="SUMMARY_TIMEOUT; a lease lasts twice that and 5 s")
    options = parser.parse_args()

    with serving() as web, closing(psycopg2.connect(os.environ["DATABASE_URL"])) as database:
        database.autocommit = True
        cursor = database.cursor()
        cursor.execute("TRUNCATE summaries RESTART IDENTITY; DROP TABLE IF EXISTS done_log CASCADE")
        cursor.execute("DROP FUNCTION IF EXISTS note_done CASCADE")
        cursor.execute(AUDIT)
        cursor.execute(
            "INSERT INTO summaries (url) SELECT %s FROM generate_series(1, %s)", (f"{web.url}/page", options.rows)
        )

        def page(connection, ended):
            ended.wait(options.pause)
            connection.sendall(http(ARTICLE))

        web.answers["/page"] = page
        settings = {
            **os.environ,
            "SUMMARY_ALLOWED_HOSTS": f"{web.host}:{web.port}",
            "SUMMARY_TIMEOUT": str(options.timeout),
        }

        def start():
            return subprocess.Popen([sys.executable, "manage.py", "summarize"], cwd=ROOT, env=settings)

        begin = time.monotonic()
        workers = [start() for _ in range(options.workers)]
        kills = 0
        left = options.rows
        while left and time.monotonic() < begin + 300:
            time.sleep(options.every)
            cursor.execute("SELECT count(*) FILTER (WHERE state = 'pending'), count(*) FROM summaries")
            left = cursor.fetchone()[0]
            # One that has come to work, so that a row dies with it.
            if left < options.rows and kills < options.kills:
                victim = workers.pop(random.randrange(len(workers)))
                victim.send_signal(signal.SIGKILL)
                victim.wait()
                workers.append(start())
                kills += 1
        seconds = time.monotonic() - begin
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
        cursor.execute(COUNT)
        once, twice, lost = cursor.fetchone()
        cursor.execute("DROP TABLE done_log; DROP FUNCTION note_done CASCADE")
    told = f"{once} done once, {twice} done twice, {lost} lost, {seconds:.1f} s"
    print(f"{options.rows} rows, {options.workers} workers, {kills} killed: {told}")
    print(f"The pages were asked for {web.asked['/page']} times.")
    sys.exit(once != options.rows)


if __name__ == "__main__":
    main()
