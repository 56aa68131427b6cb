#!/bin/sh
# Waits until the database that the configuration names answers, then becomes the command it is given.
# DATABASE_WAIT is how many seconds it waits at most; 0 does not wait at all.
set -eu
if [ "${DATABASE_WAIT:-30}" != 0 ]; then
    python - "${DATABASE_WAIT:-30}" <<'PYTHON'
import sys
import types

# The package itself would import the whole application, which takes twice as long.
package = sys.modules["project"] = types.ModuleType("project")
package.__path__ = ["project"]
from project.wait import main

main(sys.argv[1])
PYTHON
fi
exec "$@"
