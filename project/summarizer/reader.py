"""A process that fetches pages and summarises them: apart, so that whatever a page does to it does nothing else.

It has neither the database nor a secret. A line of its standard input is a task, {"url", "ports", "allowed_hosts",
"timeout"}; the line that it answers is {"summary"} or {"reason", "again"}. Where there is none it has died."""

import json
import resource
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO

from project.summarizer.extraction import sentences_of, summarise
from project.summarizer.fetching import PageError, fetch

#: The most memory that it may take for its data, in bytes.
MAX_MEMORY_BYTES = 512 * 1024 * 1024


def read_page(url: str, ports: list[int], allowed_hosts: list[str], timeout: float) -> Mapping[str, Any]:
    """Return what became of a page: its summary, or the reason why there is none."""
    try:
        # Nothing handles the signal, so that the kernel ends the process, in whatever library or system call it is.
        signal.setitimer(signal.ITIMER_REAL, timeout)
        page = fetch(url, ports, allowed_hosts)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        return {"summary": summarise(sentences_of(page))}
    except PageError as error:
        return {"reason": error.reason, "again": error.again}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main(tasks: TextIO, answers: TextIO) -> None:
    """Do tasks until there are no more, or until nobody waits for an answer: a worker that was killed."""
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    with suppress(BrokenPipeError):
        for task in tasks:
            print(json.dumps(read_page(**json.loads(task))), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
