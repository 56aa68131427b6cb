"""The wait of the images' entrypoint for the database.

It imports the settings alone: the whole application would take twice as long."""

import re
import sys
import time

import psycopg2
from sqlalchemy import URL
from sqlalchemy.dialects.postgresql.psycopg2 import dialect

from project import config
from project.observability.redact import one_line

RETRY_SECONDS = 0.3
#: What a server that refuses connections says while it will soon take them.
PASSING = re.compile("starting up|shutting down|recovery")


def main(seconds: str) -> None:
    """Wait until the database that the configuration names answers, or end the process with one line."""
    if not re.fullmatch("[0-9]{1,4}", seconds):
        sys.exit("DATABASE_WAIT must be a whole number of seconds from 0 to 9999.")
    settings: type[config.BaseConfig] = getattr(config, config.APP_SETTINGS.rpartition(".")[2])
    # Without a URL it is the embedded server, or the command's own complaint.
    if settings.SQLALCHEMY_DATABASE_URI:
        wait_for(config.database_url(settings.DATABASE_VARIABLE, settings.SQLALCHEMY_DATABASE_URI), int(seconds))


def wait_for(url: URL, seconds: int) -> None:
    """Wait until a database answers, or end the process with one line."""
    place = place_of(url)
    deadline = time.monotonic() + seconds
    told = False
    while reason := connection_error(url):
        if time.monotonic() >= deadline:
            sys.exit(f"The database at {place} did not answer within {seconds} seconds: {reason}")
        if not told:
            print(f"Waiting for the database at {place}.", file=sys.stderr)
            told = True
        time.sleep(RETRY_SECONDS)


def place_of(url: URL) -> str:
    """Return where a database is, without the password of its URL."""
    return ", ".join(url.normalized_query.get("host", ())) or f"{url.host or 'the local socket'}:{url.port or 5432}"


def connection_error(url: URL) -> str:
    """Return why a database does not answer, or nothing if it does."""
    # The same arguments as the service's own connections: several hosts, a socket, a password from elsewhere.
    arguments = dialect().create_connect_args(url)[1]
    try:
        psycopg2.connect(**{**arguments, "connect_timeout": 2}).close()
    except psycopg2.Error as error:
        reason = one_line(error)
        # A server that refuses this user or this database is there; what it refuses is the command's affair.
        return "" if "FATAL" in reason and not PASSING.search(reason) else reason
    return ""


if __name__ == "__main__":
    main(sys.argv[1])
