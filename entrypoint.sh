#!/bin/sh
# Waits until the database that the configuration names answers, then becomes the command it is given.
# DATABASE_WAIT is how many seconds it waits at most; 0 does not wait at all.
set -eu
if [ "${DATABASE_WAIT:-30}" != 0 ]; then
    python -m project.storage.wait "${DATABASE_WAIT:-30}"
fi
exec "$@"
