"""The connection of the current request, where the server tells it."""

import socket
from contextvars import ContextVar

#: The socket of the client that this thread answers.
client_socket: ContextVar[socket.socket | None] = ContextVar("client_socket", default=None)
