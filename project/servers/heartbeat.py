"""The heartbeat of gunicorn's workers where no file can be made."""

import os
import time
from typing import Any

from gunicorn.workers import base


class Heartbeat:
    """A heartbeat in memory without a name, in the place of gunicorn's WorkerTmp."""

    def __init__(self, cfg: Any) -> None:
        self.file = open(os.memfd_create("heartbeat"), "wb", 0)

    def notify(self) -> None:
        """Show that the worker lives."""
        now = time.monotonic()
        os.utime(self.file.fileno(), (now, now))

    def last_update(self) -> float:
        """Return when the worker last did."""
        return os.fstat(self.file.fileno()).st_mtime

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.file.fileno()

    def close(self) -> None:
        """Give the memory back."""
        self.file.close()


def heartbeat_folder(figures: str | None) -> str | None:
    """Return the folder of the heartbeat files, which is that of the figures' folder.

    Where there is none, no file can be made: gunicorn then uses the class above, if the system offers such memory. It
    has no setting for that, and worker_tmp_dir must be a folder that can be written.
    """
    if figures:
        return os.path.dirname(figures)
    if hasattr(os, "memfd_create"):
        module: Any = base
        module.WorkerTmp = Heartbeat
    return None
