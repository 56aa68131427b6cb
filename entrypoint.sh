#!/bin/sh
# Waits until the database that the configuration names answers, then becomes the command it is given.
# DATABASE_WAIT is how many seconds it waits at most; 0 does not wait at all.
set -eu
if [ "${DATABASE_WAIT:-30}" != 0 ]; then
    python - "${DATABASE_WAIT:-30}" <<'PYTHON'
import importlib
import re
import sys
import time
import types

import psycopg2
from sqlalchemy.dialects.postgresql.psycopg2 import dialect

# The settings alone: the package itself would import the whole application, which takes twice as long.
package = sys.modules["project"] = types.ModuleType("project")
package.__path__ = ["project"]
from project.config import APP_SETTINGS, database_url

if not re.fullmatch("[0-9]{1,4}", sys.argv[1]):
    sys.exit("DATABASE_WAIT must be a whole number of seconds from 0 to 9999.")
seconds = int(sys.argv[1])
module, _, name = APP_SETTINGS.rpartition(".")
settings = getattr(importlib.import_module(module), name)
if not settings.SQLALCHEMY_DATABASE_URI:
    sys.exit()  # the embedded server, or the command's own complaint that there is no URL

url = database_url(settings.DATABASE_VARIABLE, settings.SQLALCHEMY_DATABASE_URI)
# The same arguments as the service's own connections: several hosts, a socket, a password from elsewhere.
arguments = dialect().create_connect_args(url)[1]
place = ", ".join(url.normalized_query.get("host", ())) or f"{url.host or 'the local socket'}:{url.port or 5432}"
end = time.monotonic() + seconds
told = False
while True:
    try:
        psycopg2.connect(**{**arguments, "connect_timeout": 2}).close()
        break
    except psycopg2.Error as error:
        reason = str(error).strip().partition("\n")[0]
    # A server that refuses this user or this database is there; what it refuses is the command's affair.
    if "FATAL" in reason and not re.search("starting up|shutting down|recovery", reason):
        break
    if time.monotonic() >= end:
        sys.exit(f"The database at {place} did not answer within {seconds} seconds: {reason}")
    if not told:
        print(f"Waiting for the database at {place}.", file=sys.stderr)
        told = True
    time.sleep(0.3)
PYTHON
fi
exec "$@"
