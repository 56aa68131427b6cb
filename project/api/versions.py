"""Conditional requests: an ETag names the version of what is shown."""

import re

from flask import request

# Versions are transaction ids of Postgres; it would not compare anything else with them.
VERSION = re.compile("[0-9]{1,9}|[1-3][0-9]{9}|4[01][0-9]{8}")


def etag(version: str) -> dict[str, str]:
    """Return the header that names a version."""
    return {"ETag": f'"{version}"'}


def expected_versions() -> list[str] | None:
    """Return the versions that If-Match names, or None where any will do."""
    if "If-Match" not in request.headers or request.if_match.star_tag:
        return None
    return [tag for tag in request.if_match.as_set() if VERSION.fullmatch(tag)]
