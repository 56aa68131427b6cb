"""gunicorn's worker: deadlines for every request, and the one error body for what never becomes a request."""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from gunicorn.workers.gthread import ThreadWorker

from project.http.headers import fixed_headers
from project.servers.executor import RequestExecutor
from project.servers.limits import Limits
from project.servers.refusals import send_refusal, status_of

log = logging.getLogger(__name__)


class Worker(ThreadWorker):
    """gunicorn's threaded worker on an executor that ends every wait."""

    limits: ClassVar[Limits] = Limits()
    #: The headers of every response; configure() sets them.
    fixed_headers: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def configure(cls, settings: Mapping[str, Any]) -> None:
        """Take what workers need from the settings of the service."""
        cls.fixed_headers = fixed_headers(settings)
        # The service's own limit comes first, and its answer with it.
        cls.limits.MAX_TRANSFER_SECONDS = settings["TRANSFER_TIMEOUT"] + 5
        cls.limits.MAX_SILENT_SECONDS = settings["KEEP_ALIVE"]

    def get_thread_pool(self) -> RequestExecutor:
        """Return what gunicorn submits its connections to."""
        self.executor = RequestExecutor(super().get_thread_pool(), self.limits, self.fixed_headers)
        return self.executor

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Refuse what is not HTTP, or not within the limits."""
        status, reason = status_of(exc)
        if status == 500:
            log.error("Error handling a request", exc_info=exc)
        send_refusal(client, status, reason, f"{reason}.", self.fixed_headers)
