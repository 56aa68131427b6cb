"""The folder by which processes that serve together count together.

It is chosen before prometheus_client is imported, which decides at its import whether there is one.
"""

import atexit
import os
import shutil
import tempfile
from functools import cache
from logging import getLogger

log = getLogger(__name__)

#: A folder in memory, where there is one.
MEMORY_FOLDER = "/dev/shm"


@cache
def share() -> str | None:
    """Let the processes that this one will start count together; return the folder of what they count.

    It is gone when this process ends. None where nothing can be written: each process then counts for itself.
    """
    for parent in (MEMORY_FOLDER, None):
        try:
            folder = tempfile.mkdtemp(prefix="users-metrics-", dir=parent)
        except OSError:
            continue
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        atexit.register(remove, folder, os.getpid())
        return folder
    return None


def warn_of_missing_folder() -> None:
    """Log what the processes do without where they have no folder to write to."""
    if share() is None:
        log.warning(
            "No folder can be written: /metrics tells the figures of the worker that answers, not of all, and workers"
            " have no heartbeat file, but one in memory where the system offers it. Mount a tmpfs at /dev/shm or /tmp."
        )


def remove(folder: str, owner: int) -> None:
    """Remove the folder, but not at the end of a process that was forked from its owner."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
