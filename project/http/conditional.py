"""Conditional requests: an ETag names the version of what is shown."""

import re

from flask import request

from project.http.response_headers import VersionHeaders

VERSION_TAG = re.compile('"([0-9]{1,10})"')


def etag(version: str) -> VersionHeaders:
    """Return the header that names a version."""
    return {"ETag": f'"{version}"'}


def expected_versions() -> list[str] | None:
    """Return the versions that If-Match names, or None where any will do."""
    if_match = request.headers.get("If-Match", "*").strip()
    if if_match == "*":
        return None
    # Only strong tags of our own form can be a version: a weak one never allows a write.
    tags = (VERSION_TAG.fullmatch(tag.strip()) for tag in if_match.split(","))
    # Versions are transaction ids, of 32 bits; Postgres would not compare anything else with them.
    return [tag[1] for tag in tags if tag and int(tag[1]) < 2**32]
