"""Print what CHANGELOG.md says of the version that a tag names: python .ci/notes.py v1.2.3

The exit status is 1 where the tag is not the version that the service tells of itself, or where there are no notes.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def version() -> str:
    """Return the version that the service tells of itself."""
    return re.findall(r'^VERSION = "(.+)"$', (ROOT / "project/version.py").read_text(), re.MULTILINE)[0]


def notes(tag: str) -> str:
    """Return the section of the changelog; fail where the tag names no version that has one."""
    if tag != f"v{version()}":
        sys.exit(f"The tag {tag} is not v{version()}, the version in project/version.py.")
    sections = re.split(r"^## \[(.+?)\].*$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    found = dict(zip(sections[1::2], sections[2::2], strict=True)).get(version(), "").strip()
    if not found:
        sys.exit(f"CHANGELOG.md has no section [{version()}], or nothing in it.")
    return found


if __name__ == "__main__":
    print(notes(sys.argv[1]))
