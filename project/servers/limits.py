"""How long clients and requests may take on gunicorn, and how many clients a worker takes."""

import resource

#: Files of a worker that are no clients: listeners, connections to the database, figures, modules being imported.
RESERVED_FILES = 100
#: gunicorn's usual limit.
MAX_CONNECTIONS = 1000


class Limits:
    """The limits of a worker, in seconds; a deployment or a test may set others."""

    #: How long a request may wait for a thread, come in, and be answered altogether.
    MAX_QUEUE_SECONDS, MAX_READ_SECONDS, MAX_REQUEST_SECONDS = 0.75, 20.0, 28.0
    #: How long an import or an export may take; Worker.configure() sets it.
    MAX_TRANSFER_SECONDS = 305.0
    #: How long a new connection may be silent, while the worker runs and once it stops. Worker.configure() sets the
    #: first.
    MAX_SILENT_SECONDS, MAX_SILENT_SECONDS_AT_STOP = 95.0, 2.0
    #: How long a thread waits for the next request of the client that it has just answered.
    NEXT_REQUEST_SECONDS = 0.002
    #: How long a client may take to close after the response, and how much it may send meanwhile.
    LINGER_SECONDS, MAX_LINGER_BYTES = 2.0, 1024 * 1024
    #: How long a stopping worker goes on to accept the connections that wait at its listeners.
    MAX_DRAIN_SECONDS = 5.0
    #: How often the deadlines are looked at.
    TICK_SECONDS = 0.1


def max_connections(threads: int) -> int:
    """Return how many clients a worker can have: gunicorn ends one that accepts more than it may open files."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(threads + 1, min(MAX_CONNECTIONS, files - RESERVED_FILES))
