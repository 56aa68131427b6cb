"""Pages of the web, and all the ways in which a URL or a server tries to be something else."""

import gzip
import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from project.summarizer import fetching
from project.summarizer.extraction import sentences_of
from project.summarizer.fetching import Page, PageError, fetch, is_public
from project.tests.web import Answer, Web, endless, http, make_certificate, redirect, serving

NOT_PUBLIC = "The host of the URL is not on the public internet."
NO_PORT = "The URL names a port that pages are not fetched from."
NO_WEB = "The URL begins with neither http:// nor https://."
BAD_CHARACTER = "The URL holds a character that belongs in none."
UNCLEAR = "The URL cannot be understood."
NOT_HTTP = "The server did not answer as a web server does."
TOO_LARGE = "The page is larger than 2 MB."
NO_TEXT = "The page has no text to summarise."
PACKED = "The page is packed in a way that was not asked for."

#: URLs that lead where nobody may go, and what callers are told.
URLS = [
    ("http://127.0.0.1/", NOT_PUBLIC),
    ("http://127.1/", NOT_PUBLIC),
    ("http://2130706433/", NOT_PUBLIC),
    ("http://0x7f000001/", NOT_PUBLIC),
    ("http://0x7f.0.0.1/", NOT_PUBLIC),
    ("http://0177.0.0.1/", NOT_PUBLIC),
    ("http://017700000001/", NOT_PUBLIC),
    ("http://0/", NOT_PUBLIC),
    ("http://0.0.0.0/", NOT_PUBLIC),
    ("http://localhost/", NOT_PUBLIC),
    ("http://LOCALHOST/", NOT_PUBLIC),
    ("http://@127.0.0.1/", NOT_PUBLIC),
    ("https://localhost/", NOT_PUBLIC),
    ("http://10.0.0.1/", NOT_PUBLIC),
    ("http://172.16.0.1/", NOT_PUBLIC),
    ("http://192.168.1.1/", NOT_PUBLIC),
    ("http://100.64.0.1/", NOT_PUBLIC),
    ("http://169.254.169.254/latest/meta-data/", NOT_PUBLIC),
    ("http://2852039166/latest/meta-data/", NOT_PUBLIC),
    ("http://0xa9.0xfe.0xa9.0xfe/", NOT_PUBLIC),
    ("http://100.100.100.200/latest/meta-data/", NOT_PUBLIC),
    ("http://192.0.0.192/opc/v2/instance/", NOT_PUBLIC),
    ("http://168.63.129.16/machine", NOT_PUBLIC),
    ("http://192.88.99.1/", NOT_PUBLIC),
    ("http://198.18.0.1/", NOT_PUBLIC),
    ("http://224.0.0.1/", NOT_PUBLIC),
    ("http://240.0.0.1/", NOT_PUBLIC),
    ("http://255.255.255.255/", NOT_PUBLIC),
    ("http://[::1]/", NOT_PUBLIC),
    ("http://[::]/", NOT_PUBLIC),
    ("http://[0:0:0:0:0:0:0:1]/", NOT_PUBLIC),
    ("http://[::ffff:127.0.0.1]/", NOT_PUBLIC),
    ("http://[::ffff:7f00:1]/", NOT_PUBLIC),
    ("http://[::ffff:a9fe:a9fe]/", NOT_PUBLIC),
    ("http://[::127.0.0.1]/", NOT_PUBLIC),
    ("http://[64:ff9b::7f00:1]/", NOT_PUBLIC),
    ("http://[64:ff9b:1::a9fe:a9fe]/", NOT_PUBLIC),
    ("http://[2002:7f00:1::]/", NOT_PUBLIC),
    ("http://[2002:a9fe:a9fe::1]/", NOT_PUBLIC),
    ("http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/", NOT_PUBLIC),
    ("http://[2001:db8::1]/", NOT_PUBLIC),
    ("http://[fe80::1]/", NOT_PUBLIC),
    ("http://[fe80::1%25lo]/", NOT_PUBLIC),
    ("http://[fc00::1]/", NOT_PUBLIC),
    ("http://[fd00:ec2::254]/latest/meta-data/", NOT_PUBLIC),
    ("http://[ff02::1]/", NOT_PUBLIC),
    ("http://127.0.0.1:22/", NO_PORT),
    ("http://127.0.0.1:6379/", NO_PORT),
    ("http://8.8.8.8:0/", NO_PORT),
    ("http://8.8.8.8:8080/", NO_PORT),
    ("http://8.8.8.8:99999/", UNCLEAR),
    ("file:///etc/passwd", NO_WEB),
    ("ftp://127.0.0.1/", NO_WEB),
    ("gopher://127.0.0.1:6379/_FLUSHALL", NO_WEB),
    ("data:text/html,Hello", NO_WEB),
    ("javascript:alert(1)", NO_WEB),
    ("127.0.0.1", NO_WEB),
    ("//127.0.0.1/", NO_WEB),
    ("", NO_WEB),
    ("http://", "The URL names no host."),
    ("http:127.0.0.1", "The URL names no host."),
    ("http:///127.0.0.1/", "The URL names no host."),
    ("http://example.org@127.0.0.1/", "The URL holds a name or a password."),
    ("http://user:hush@8.8.8.8/", "The URL holds a name or a password."),
    ("http://8.8.8.8\\@127.0.0.1/", BAD_CHARACTER),
    ("http:\\\\127.0.0.1\\", BAD_CHARACTER),
    ("http://127.0.0.1\t/", BAD_CHARACTER),
    ("ht\ntp://127.0.0.1/", BAD_CHARACTER),
    (" http://127.0.0.1/", BAD_CHARACTER),
    ("http://8.8.8.8/ HTTP/1.1\r\nHost: localhost\r\n\r\n", BAD_CHARACTER),
    ("http://①②⑦.⓪.⓪.①/", UNCLEAR),
    ("http://127。0。0。1/", UNCLEAR),
    ("http://ⓛocalhost/", UNCLEAR),
    ("http://[::1/", UNCLEAR),
    ("http://[v1.x]/", UNCLEAR),
    (f"http://{'a' * 64}.example/", UNCLEAR),
]

BOMB = gzip.compress(b"A sentence of it. " * 1_000_000)
PACKED_TWICE = gzip.compress(gzip.compress(b"A sentence. " * 1_000_000))

#: What servers send, each at a path of its own, and what callers are told.
ANSWERS: dict[str, tuple[Answer, str]] = {
    "/to-metadata": (redirect("http://169.254.169.254/latest/meta-data/"), NOT_PUBLIC),
    "/to-loopback": (redirect("http://127.0.0.1/"), NOT_PUBLIC),
    "/to-decimal": (redirect("//2130706433/"), NOT_PUBLIC),
    "/to-mapped": (redirect("http://[::ffff:127.0.0.1]/"), NOT_PUBLIC),
    "/to-ssh": (redirect("http://127.0.0.1:22/"), NO_PORT),
    "/to-file": (redirect("file:///etc/passwd"), NO_WEB),
    "/to-gopher": (redirect("gopher://127.0.0.1:6379/_FLUSHALL"), NO_WEB),
    "/to-password": (redirect("http://user:hush@8.8.8.8/"), "The URL holds a name or a password."),
    "/to-nowhere": (redirect("http://[oops/"), "The server redirects to what is no URL."),
    "/to-itself": (redirect("/to-itself"), "The server redirects more than 5 times."),
    "/endless-body": (endless(b"HTTP/1.1 200 OK\r\n\r\n", b"A sentence of it. " * 5000), TOO_LARGE),
    "/endless-chunks": (
        endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"),
        TOO_LARGE,
    ),
    "/large": (http(b"A sentence of it. " * 200_000), TOO_LARGE),
    "/bomb": (http(BOMB, "Content-Encoding: gzip"), TOO_LARGE),
    "/deflated-bomb": (http(zlib.compress(b"x" * 20_000_000), "Content-Encoding: deflate"), TOO_LARGE),
    "/bomb-in-a-bomb": (http(PACKED_TWICE, "Content-Encoding: gzip, gzip"), PACKED),
    "/brotli": (http(b"\x0b\x02\x80hello\x03", "Content-Encoding: br"), PACKED),
    "/no-gzip": (http(b"This is not packed.", "Content-Encoding: gzip"), NOT_HTTP),
    "/endless-header": (endless(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 65536), NOT_HTTP),
    "/endless-headers": (endless(b"HTTP/1.1 200 OK\r\n", b"X-More: yes\r\n"), NOT_HTTP),
    "/no-http": (b"SSH-2.0-OpenSSH_9.2p1\r\n", NOT_HTTP),
    "/http-0.9": (b"<p>Here is a page without any header.</p>", NOT_HTTP),
    "/nothing": (b"", NOT_HTTP),
    "/no-status": (b"HTTP/1.1 many OK\r\n\r\n", NOT_HTTP),
    "/cut-off": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n<p>Short.</p>", NOT_HTTP),
    "/two-lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 9\r\n\r\nabc", NOT_HTTP),
    "/bad-chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n", NOT_HTTP),
    "/endless-chunk-size": (
        endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0" * 65536),
        NOT_HTTP,
    ),
    "/gone": (http(b"", status="410 Gone"), "The server answered with the status 410."),
    "/secret": (http(b"", status="401 Unauthorized"), "The server answered with the status 401."),
    "/broken": (http(b"", status="500 Oops"), "The server answered with the status 500."),
    "/busy": (http(b"", status="429 Slow Down"), "The server answered with the status 429."),
    "/empty": (http(b"", status="204 No Content"), "The server answered with the status 204."),
    "/part": (http(b"abc", status="206 Partial Content"), "The server answered with the status 206."),
    "/stays": (http(b"", status="302 Found"), "The server answered with the status 302."),
    "/pdf": (http(b"%PDF-1.7", content_type="application/pdf"), "The page is neither HTML nor plain text."),
    "/image": (http(b"GIF89a", content_type="image/gif"), "The page is neither HTML nor plain text."),
    "/blank": (http(b""), NO_TEXT),
    "/navigation": (http(b"<html><body><nav><a href='/'>Go home.</a></nav></body></html>"), NO_TEXT),
    "/script": (http(b"<html><body><script>document.write('A text. Yes.')</script></body></html>"), NO_TEXT),
    "/deep": (http(b"<div>" * 300_000), NO_TEXT),
    "/wide": (http(b"<p class='" + b"x" * 1_900_000 + b"'>A text.</p>"), NO_TEXT),
    "/zip-bomb-as-text": (http(b"\0" * 1_900_000, content_type="text/plain"), NO_TEXT),
}


@pytest.fixture(scope="session")
def web() -> Iterator[Web]:
    """A web server with all these answers."""
    with serving() as web:
        web.answers.update((path, answer) for path, (answer, _) in ANSWERS.items())
        yield web


def refusal(url: str, *allowed_hosts: str) -> PageError:
    """Return why there is no text of a page."""
    with pytest.raises(PageError) as error:
        sentences_of(fetch(url, (80, 443), allowed_hosts))
    return error.value


def lookup(*addresses: str) -> Callable[..., list[tuple[Any, ...]]]:
    """Return a resolver that finds the first of these addresses when first asked, then the second one, and so on."""
    left = list(addresses)
    return lambda host, port, *rest, **options: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (left.pop(0), port))]


@pytest.mark.parametrize(("url", "reason"), URLS)
def test_hostile_url_is_refused(url: str, reason: str) -> None:
    error = refusal(url)

    assert (error.reason, error.again) == (reason, False)


@pytest.mark.parametrize(("path", "reason"), [(path, reason) for path, (_, reason) in ANSWERS.items()])
def test_hostile_answer_is_refused(web: Web, path: str, reason: str) -> None:
    error = refusal(f"{web.url}{path}", f"{web.host}:{web.port}")

    assert error.reason == reason
    assert error.again == (reason == NOT_HTTP or path in ("/broken", "/busy"))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "169.254.169.254", "::ffff:10.0.0.1"])
def test_name_that_resolves_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    # Only the name server is played: what it says is what whoever owns the name wants it to say.
    monkeypatch.setattr(socket, "getaddrinfo", lookup(address))

    assert refusal("http://rebound.example/").reason == NOT_PUBLIC


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "addresses_of", lambda host, port: ["8.8.8.8", "127.0.0.1"])

    assert refusal("http://mixed.example/").reason == NOT_PUBLIC


def test_name_is_looked_up_once_and_that_address_is_used(monkeypatch: pytest.MonkeyPatch, web: Web) -> None:
    """The second look-up, which would find another address, never takes place: the pool is given the first one."""
    asked = []

    def resolver(host: str, port: int, *rest: Any, **options: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolver)

    fetch(f"http://changing.example:{web.port}/blog.html", (), (f"changing.example:{web.port}",))

    assert asked == ["changing.example", "127.0.0.1"]
    assert f"Host: changing.example:{web.port}\r\n" in web.last


@pytest.mark.parametrize(("number", "again"), [(socket.EAI_NONAME, False), (socket.EAI_AGAIN, True)])
def test_unknown_host_is_asked_for_again_only_where_that_may_help(
    monkeypatch: pytest.MonkeyPatch, number: int, again: bool
) -> None:
    def resolver(*arguments: Any, **options: Any) -> None:
        raise socket.gaierror(number, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolver)

    error = refusal("http://unknown.example/")

    assert (error.reason, error.again) == ("The host of the URL is not known.", again)


def test_server_that_refuses_connections_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{closed.getsockname()[1]}"
        error = refusal(f"http://{place}/", place)

    assert (error.reason, error.again) == ("The server does not accept connections.", True)


def test_addresses_share_the_time_for_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "CONNECT_TIMEOUT", 0)
    monkeypatch.setattr(fetching, "addresses_of", lambda host, port: ["8.8.8.8", "8.8.4.4"])

    assert refusal("http://example.org/").reason == "The server does not accept connections."


def test_second_address_is_used_where_the_first_one_refuses(monkeypatch: pytest.MonkeyPatch, web: Web) -> None:
    monkeypatch.setattr(fetching, "addresses_of", lambda host, port: ["127.0.0.2", "127.0.0.1"])

    page = fetch(f"http://two.example:{web.port}/blog.html", (), (f"two.example:{web.port}",))

    assert b"thermometer" in page.body


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450:4001::"])
def test_public_address_is_public(address: str) -> None:
    assert is_public(address)


def test_request_says_little(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")

    web.answers["/blog.html?a=1"] = web.answers["/blog.html"]
    fetch(f"{web.url}/blog.html?a=1#part", (), (f"{web.host}:{web.port}",))

    request, *headers = web.last.splitlines()
    assert request == "GET /blog.html?a=1 HTTP/1.1"
    assert sorted(header.partition(":")[0] for header in headers) == [
        "Accept",
        "Accept-Encoding",
        "Host",
        "User-Agent",
    ]


def test_cookies_of_a_redirect_are_not_sent_back(web: Web) -> None:
    web.answers["/cookie"] = http(b"", "Set-Cookie: a=b", "Location: /blog.html", status="303 See Other")

    fetch(f"{web.url}/cookie", (), (f"{web.host}:{web.port}",))

    assert "cookie:" not in web.last.lower()


@pytest.mark.parametrize("status", ["301 A", "302 B", "303 C", "307 D", "308 E"])
def test_five_redirects_are_followed(web: Web, status: str) -> None:
    for number in range(5):
        web.answers[f"/{number}"] = http(b"", f"Location: /{number + 1}", status=status)
    web.answers["/5"] = http(b"A page.", content_type="text/plain")

    assert fetch(f"{web.url}/0", (), (f"{web.host}:{web.port}",)) == Page("text/plain", b"A page.")


@pytest.mark.parametrize(("packed", "encoding"), [(gzip.compress, "gzip"), (zlib.compress, "deflate")])
def test_packed_page_is_unpacked(web: Web, packed: Callable[[bytes], bytes], encoding: str) -> None:
    web.answers["/packed"] = http(packed(b"A page."), f"Content-Encoding: {encoding}")

    assert fetch(f"{web.url}/packed", (), (f"{web.host}:{web.port}",)).body == b"A page."


def speaks_ipv6() -> bool:
    """Say whether this machine's loopback has an IPv6 address, which containers often lack."""
    with suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.mark.skipif(not speaks_ipv6(), reason="the loopback interface has no IPv6 address here")
def test_ipv6_is_spoken() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("the loopback of this machine has no IPv6 address")
    with serving("::1") as web:
        page = fetch(f"{web.url}/blog.html", (), (f"[::1]:{web.port}",))

        assert f"Host: [::1]:{web.port}\r\n" in web.last
    assert b"thermometer" in page.body


def test_certificate_is_checked_by_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = make_certificate(tmp_path / "both.pem", "localhost")
    with serving(certificate=certificate) as web:
        places = (f"localhost:{web.port}", f"127.0.0.1:{web.port}")
        untrusted = refusal(f"https://localhost:{web.port}/blog.html", *places)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

        page = fetch(f"https://localhost:{web.port}/blog.html", (), places)
        misnamed = refusal(f"https://127.0.0.1:{web.port}/blog.html", *places)

    assert b"thermometer" in page.body
    assert untrusted.reason == misnamed.reason == "The server has no certificate that can be trusted."
