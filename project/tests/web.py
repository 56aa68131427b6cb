"""A web server of the tests, which sends what it is told to, to the byte."""

import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import AF_INET, AF_INET6, socket
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Event, Thread

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ARTICLES = Path(__file__).parent / "articles"
Answer = bytes | Callable[[socket, Event], None]


def http(body: bytes, *headers: str, status: str = "200 OK", content_type: str = "text/html; charset=utf-8") -> bytes:
    """Return a whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", f"Content-Type: {content_type}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def redirect(url: str) -> bytes:
    """Return an answer that leads elsewhere."""
    return http(b"", f"Location: {url}", status="302 Found")


def endless(start: bytes, more: bytes, pause: float = 0) -> Callable[[socket, Event], None]:
    """Return an answer that goes on until the client has gone or the server ends, with pauses of so many seconds."""

    def send(connection: socket, ended: Event) -> None:
        connection.sendall(start)
        while not ended.wait(pause):
            connection.sendall(more)

    return send


class Handler(StreamRequestHandler):
    """Reads the head of a request and sends the answer of its path, 404 where there is none."""

    server: "Web"

    def handle(self) -> None:
        """Answer one request."""
        head = ""
        # A client that has gone, or that never spoke.
        with suppress(OSError):
            while (line := self.rfile.readline()).strip():
                head += line.decode("latin-1")
            path = f"{head} / ".split()[1]
            self.server.asked[path] += 1
            self.server.last = head
            answer = self.server.answers.get(path, http(b"", status="404 Not Found"))
            if isinstance(answer, bytes):
                self.request.sendall(answer)
            else:
                answer(self.request, self.server.ended)


class Web(ThreadingTCPServer):
    """A server with answers by path; it counts what was asked for, and keeps the head of the last request."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: str) -> None:
        self.address_family = AF_INET6 if ":" in address else AF_INET
        super().__init__((address, 0), Handler)
        self.host = f"[{address}]" if ":" in address else address
        self.port = self.server_address[1]
        self.url = f"http://{self.host}:{self.port}"
        self.answers: dict[str, Answer] = {}
        self.asked: Counter[str] = Counter()
        self.last = ""
        self.ended = Event()


@contextmanager
def serving(address: str = "127.0.0.1", certificate: Path | None = None) -> Iterator[Web]:
    """Serve at that address, over TLS where there is a certificate; the articles are there from the beginning."""
    with Web(address) as web:
        for file in ARTICLES.iterdir():
            web.answers[f"/{file.name}"] = http(file.read_bytes(), content_type="text/html")
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # The handshake is the thread's affair, so that a client which ends it does not end the server.
            web.socket = context.wrap_socket(web.socket, server_side=True, do_handshake_on_connect=False)
            web.url = web.url.replace("http", "https", 1)
        thread = Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield web
        web.ended.set()
        web.shutdown()
        thread.join()


def make_certificate(file: Path, name: str) -> Path:
    """Write a certificate of a host, signed by itself, and its key to a file, and return that."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(private + certificate.public_bytes(pem))
    return file
