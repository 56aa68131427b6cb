"""Pages of the web: fetched from public addresses alone, within bounds that no server can pass."""

import re
import socket
import time
from collections.abc import Container
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import urljoin

from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.exceptions import ConnectTimeoutError, HTTPError, LocationParseError, NewConnectionError, SSLError
from urllib3.util import Url, parse_url

from project.version import VERSION

#: The largest page in bytes, as it is sent and as it is when unpacked.
MAX_BYTES = 2 * 1024 * 1024
MAX_REDIRECTS = 5
#: How long a server may take to accept a connection, in seconds.
CONNECT_TIMEOUT = 5
DEFAULT_PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
#: What a client may send again later.
BUSY_STATUSES = (408, 425, 429)

REQUEST_HEADERS = {
    "Accept": "text/html, application/xhtml+xml, text/plain;q=0.9",
    "Accept-Encoding": "gzip, deflate",
    "User-Agent": f"users-summarizer/{VERSION}",
}

# The only IPv6 addresses of the public internet. Outside of them are all that hold an IPv4 address, but 6to4's and
# Teredo's: mapped, compatible and NAT64 ones.
GLOBAL_UNICAST = ip_network("2000::/3")

# What ipaddress takes for global, in some of its versions.
SPECIAL = tuple(
    map(
        ip_network,
        (
            "192.0.0.0/24",  # protocol assignments, among them a metadata service
            "192.88.99.0/24",  # 6to4 relays
            "168.63.129.16/32",  # the host of an Azure machine
            "2001::/23",  # protocol assignments, among them Teredo
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "3fff::/20",  # documentation
        ),
    )
)


class PageError(Exception):
    """Why there is no summary of a page: a sentence for callers, and whether another attempt may help."""

    def __init__(self, reason: str, again: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again = again


@dataclass(frozen=True)
class Page:
    """What a server sent: the header Content-Type, empty where there is none, and the body, unpacked."""

    content_type: str
    body: bytes


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the public internet."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address) and ip not in GLOBAL_UNICAST:
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not any(ip in net for net in SPECIAL)


def parsed(url: str) -> Url:
    """Return the parts of a URL of the web, or refuse it."""
    # What one parser drops or takes for a slash, another takes for a part of the host.
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise PageError("The URL holds a character that belongs in none.")
    try:
        parts = parse_url(url)
    except LocationParseError:
        raise PageError("The URL cannot be understood.") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise PageError("The URL begins with neither http:// nor https://.")
    if not parts.host:
        raise PageError("The URL names no host.")
    if parts.auth is not None:
        raise PageError("The URL holds a name or a password.")
    return parts


def redirected(url: str, location: str) -> str:
    """Return the URL that a server redirects to."""
    try:
        return urljoin(url, location)
    except ValueError:
        raise PageError("The server redirects to what is no URL.") from None


def addresses_of(host: str, port: int) -> list[str]:
    """Return the IP addresses of a host, in the order in which they should be tried."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise PageError("The host of the URL is not known.", error.errno == socket.EAI_AGAIN) from None
    except UnicodeError:
        raise PageError("The URL cannot be understood.") from None
    return list(dict.fromkeys(str(address[4][0]) for address in found))


def connect(parts: Url, ports: Container[int], allowed_hosts: Container[str]) -> BaseHTTPResponse:
    """Ask for a page at an address that may be asked, and return the answer with its body still to be read."""
    host = str(parts.host)
    port = DEFAULT_PORTS[str(parts.scheme)] if parts.port is None else parts.port
    allowed = f"{host}:{port}" in allowed_hosts
    if not allowed and port not in ports:
        raise PageError("The URL names a port that pages are not fetched from.")
    name = host.strip("[]")
    addresses = addresses_of(name, port)
    # All of them: which one is taken must not be a matter of luck.
    if not allowed and not all(map(is_public, addresses)):
        raise PageError("The host of the URL is not on the public internet.")
    end = time.monotonic() + CONNECT_TIMEOUT
    for address in addresses:
        left = end - time.monotonic()
        if left <= 0:
            break
        # The pool gets the address and not the name: nobody looks that up a second time.
        pool = (
            HTTPSConnectionPool(
                address, port, assert_hostname=name.rstrip("."), server_hostname=name.rstrip("."), retries=False
            )
            if parts.scheme == "https"
            else HTTPConnectionPool(address, port, retries=False)
        )
        try:
            return pool.urlopen(
                "GET",
                parts.request_uri,
                headers={**REQUEST_HEADERS, "Host": str(parts.netloc)},
                redirect=False,
                timeout=Timeout(connect=left, read=None),
                preload_content=False,
            )
        except (ConnectTimeoutError, NewConnectionError):
            continue
    raise PageError("The server does not accept connections.", again=True)


def body_of(response: BaseHTTPResponse) -> bytes:
    """Return the unpacked body of an answer, read no further than a page may go."""
    if response.headers.get("Content-Encoding", "identity").lower() not in ("identity", "gzip", "x-gzip", "deflate"):
        raise PageError("The page is packed in a way that was not asked for.")
    body = bytearray()
    while chunk := response.read(64 * 1024, decode_content=True):
        body += chunk
        if max(len(body), response.tell()) > MAX_BYTES:
            raise PageError("The page is larger than 2 MB.")
    return bytes(body)


def fetch(url: str, ports: Container[int], allowed_hosts: Container[str]) -> Page:
    """Fetch a page from one of these ports of public addresses, or from an allowed "host:port"; raises PageError.

    The caller bounds the time: no time-out of a socket ends what comes drop by drop, or a slow name server.
    """
    for _ in range(MAX_REDIRECTS + 1):
        try:
            with closing(connect(parsed(url), ports, allowed_hosts)) as response:
                if response.status in REDIRECTS and "Location" in response.headers:
                    url = redirected(url, response.headers["Location"])
                    continue
                if response.status != 200:
                    again = response.status >= 500 or response.status in BUSY_STATUSES
                    raise PageError(f"The server answered with the status {response.status}.", again)
                return Page(response.headers.get("Content-Type", ""), body_of(response))
        except SSLError:
            raise PageError("The server has no certificate that can be trusted.") from None
        except HTTPError:
            raise PageError("The server did not answer as a web server does.", again=True) from None
    raise PageError(f"The server redirects more than {MAX_REDIRECTS} times.")
