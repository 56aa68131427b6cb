"""How often a caller may call."""

import math
import time
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network

from flask import Flask, current_app, request
from limits import RateLimitItem, parse_many
from limits.errors import StorageError
from limits.storage import storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter
from werkzeug.exceptions import TooManyRequests
from werkzeug.middleware.proxy_fix import ProxyFix

from project.observability.redact import one_line

#: Never refused: whoever looks after the service asks for these.
UNLIMITED_PATHS = ("/ping", "/health")
#: For Redis, in seconds: a request must not wait for its counting.
TIMEOUTS = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}


class Rates:
    """The configured rates, and what callers have used of them."""

    def __init__(self, rates: str, storage_url: str) -> None:
        self.rates = parse_many(rates)
        self.counter = SlidingWindowCounterRateLimiter(
            storage_from_string(storage_url, wrap_exceptions=True, **TIMEOUTS)
        )

    def spend(self, caller: str) -> None:
        """Count a call, or refuse it where the caller has used up a rate."""
        self.ask(self.counter.hit, caller)

    def check(self, caller: str) -> None:
        """Refuse a call where the caller has used up a rate, without counting it."""
        self.ask(self.counter.test, caller)

    def ask(self, question: Callable[[RateLimitItem, str], bool], caller: str) -> None:
        """Refuse a call where a rate answers the question with no."""
        try:
            used_up = [rate for rate in self.rates if not question(rate, caller)]
            until = [self.counter.get_window_stats(rate, caller).reset_time for rate in used_up]
        except StorageError as error:
            # Without the counts the service still has its other limits; refusing everybody would help nobody.
            current_app.logger.warning("rates: %s", one_line(error))
            return
        if until:
            raise TooManyRequests(retry_after=max(1, math.ceil(max(until) - time.time())))


def address() -> str:
    """Return who calls, as the network tells it: an address, or the network of 64 bits that one IPv6 client has."""
    try:
        given = ip_address(request.remote_addr or "")
    except ValueError:
        # What a trusted proxy says may be anything.
        return "address:unknown"
    if isinstance(given, IPv6Address):
        # An IPv4 address in the form of IPv6 is one client, not a part of a network that all of them share.
        return f"address:{given.ipv4_mapped or ip_network((given, 64), strict=False)}"
    return f"address:{given}"


def check_address() -> None:
    """Refuse an address that has used up a rate, before anything is done for it."""
    if rates := current_app.extensions["rates"]:
        rates.check(address())


def spend(token: str | None) -> None:
    """Count the call of a token, or else of an address."""
    rates: Rates | None = current_app.extensions["rates"]
    if rates and request.path not in UNLIMITED_PATHS:
        rates.spend(f"token:{token}" if token else address())


def init_app(app: Flask) -> None:
    """Give the application its rates, and tell it whose word it may take for a caller's address and scheme."""
    rates = app.config["RATELIMIT"]
    app.extensions["rates"] = Rates(rates, app.config["RATELIMIT_STORAGE"]) if rates else None
    # Each proxy adds to X-Forwarded-For; X-Forwarded-Proto most of them set, so that it has one word.
    if hops := app.config["TRUSTED_PROXIES"]:
        setattr(app, "wsgi_app", ProxyFix(app.wsgi_app, x_for=hops, x_proto=1))
