"""What schemathesis must know of this service beyond its document; it loads this file as its hooks."""

import uuid

import schemathesis
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance

from project.api.constraints import CONSTRAINTS
from project.api.models import MAX_EMAIL_LENGTH

#: Refusals that what is stored decides, not what was sent: no schema can tell them beforehand.
STATE = {"version_conflict", *(constraint.code for constraint in CONSTRAINTS.values())}
#: Refusals of texts that no schema describes: the rows of a file.
UNTOLD = {"invalid_file"}

# Chosen from lists: schemathesis draws hundreds of them, and what is built letter by letter takes it half a minute.
LOCAL_PARTS = [
    "michael",
    "O'Hara+tag",
    "!#$%&'*+/=?^_`{|}~-",
    "a.b.c",
    "0",
    "x" * 64,
    "jürgen",
    "用户",
    "иван",
    "mañana",
]
DOMAINS = [
    "b.test",
    "corp.local",
    "testdriven.io",
    "a-b.c--d.co.uk",
    "1.2.org",
    "exämple.de",
    "例え.みんな",
    "пример.рф",
]
addresses = st.builds("{}@{}".format, st.sampled_from(LOCAL_PARTS), st.sampled_from(DOMAINS))
schemathesis.openapi.format("idn-email", addresses)

URLS = [
    "http://b.test",
    "https://exämple.de/ü?q=1#part",
    "HTTP://Foo.Bar:8080/a%20b",
    "http://[::1]/",
    "http://user@1.2.3.4/~x;y=(z)",
]
schemathesis.openapi.format("iri", st.sampled_from(URLS))


@schemathesis.serializer("application/x-ndjson", "text/csv")
def file(context, value) -> bytes:
    """Send a file as it is."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


@schemathesis.hook
def before_call(context, case, kwargs) -> None:
    """Give each user an address of their own, so that more than the first one can be added; "@" begins the domain."""
    if case.meta.generation.mode.is_positive and isinstance(case.body, dict) and "email" in case.body:
        unique = case.body["email"].replace("@", f"@{uuid.uuid4().hex[:12]}.")
        # One that would become too long is tried as it is.
        case.body["email"] = unique if len(unique) <= MAX_EMAIL_LENGTH else case.body["email"]


@schemathesis.check
def valid_data_is_accepted(context, response, case) -> bool | None:
    """Check what positive_data_acceptance checks, but for refusals that what is stored decides.

    An address can be taken, a version old, a text no file of users, and a cursor is none unless the service made it
    for this very listing.
    """
    if response.status_code in (400, 412, 422):
        error = response.json()
        if error["code"] in STATE | UNTOLD:
            return None
        if error["code"] == "invalid_query" and [fault["type"] for fault in error["detail"]] == ["cursor"]:
            return None
    return positive_data_acceptance(context, response, case)
