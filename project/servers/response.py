"""gunicorn's response, written in one piece where it can be."""

from typing import Any

from gunicorn import util
from gunicorn.http import wsgi


class Response(wsgi.Response):
    """Send headers and body at once where the body is one piece: gunicorn writes twice."""

    headers_sent: bool

    def write(self, arg: bytes) -> None:
        """Write a piece of the body, the first with the headers before it."""
        if self.headers_sent or self._omits_body or len(arg) != self.response_length:
            super().write(arg)
            return
        lines = [*self.default_headers(), *(f"{name}: {value}\r\n" for name, value in self.headers), "\r\n"]
        self.headers_sent, self.sent = True, len(arg)
        util.write(self.sock, "".join(lines).encode("latin-1") + arg)


def install() -> None:
    """Make gunicorn respond with this class, for which it has no setting."""
    module: Any = wsgi
    module.Response = Response
