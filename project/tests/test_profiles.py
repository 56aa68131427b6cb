"""Configuration profiles: the files that APPLICATION_CONFIG names."""

import json
import re
from pathlib import Path

import pytest

from project.config import PROFILES, SETTINGS, ConfigError, read_profile
from project.tests.conftest import start_manage


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment, for this test alone, with CHOSEN in it."""
    mine = {"CHOSEN": "by the operator"}
    monkeypatch.setattr("project.config.os.environ", mine)
    return mine


def write(folder: Path, text: str) -> None:
    """Write the profile "mine"."""
    (folder / "mine.json").write_text(text, encoding="utf-8")


def test_profile_is_read_into_the_environment(tmp_path: Path, environment: dict[str, str]) -> None:
    write(tmp_path, '[{"name": "GREETING", "value": "grüß Gott"}, {"name": "EMPTY", "value": ""}]')

    read_profile("mine", tmp_path)

    assert (environment["GREETING"], environment["EMPTY"]) == ("grüß Gott", "")


def test_what_is_set_already_wins(tmp_path: Path, environment: dict[str, str]) -> None:
    write(tmp_path, '[{"name": "CHOSEN", "value": "by the profile"}]')

    read_profile("mine", tmp_path)

    assert environment["CHOSEN"] == "by the operator"


def test_what_is_set_to_nothing_is_as_not_set(tmp_path: Path, environment: dict[str, str]) -> None:
    environment["CHOSEN"] = ""
    write(tmp_path, '[{"name": "CHOSEN", "value": "by the profile"}]')

    read_profile("mine", tmp_path)

    assert environment["CHOSEN"] == "by the profile"


BROKEN = [
    ('[\n  {"name": "A", "value": "1"}\n  {"name": "B"}\n]', "mine.json, line 3: Expecting ',' delimiter"),
    ("", "mine.json, line 1: Expecting value"),
    ('{"A": "1"}', "mine.json, line 1: must be a list"),
    ('[{"name": "A", "value": "1"}, {"name": "A"}]', "mine.json, entry 2: must be"),
    ('[{"name": "A", "value": 1}]', "mine.json, entry 1: must be"),
    ('[{"name": "A", "value": "1", "comment": "x"}]', "mine.json, entry 1: must be"),
    ('[{"name": "A=B", "value": "1"}]', "mine.json, entry 1: must be"),
    ('[{"name": "A", "value": "\\u0000"}]', "mine.json, entry 1: must be"),
    ('["A"]', "mine.json, entry 1: must be"),
]


@pytest.mark.parametrize(("text", "line"), BROKEN)
def test_broken_profile_is_named_with_its_line(
    tmp_path: Path, environment: dict[str, str], text: str, line: str
) -> None:
    write(tmp_path, text)

    with pytest.raises(ConfigError, match=f"^{tmp_path.name}/{re.escape(line)}"):
        read_profile("mine", tmp_path)


def test_profile_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigError, match="mine.json, which APPLICATION_CONFIG names, cannot be read"):
        read_profile("mine", tmp_path)


@pytest.mark.parametrize("name", ["../config/testing", "testing.json", "a b", "\n"])
def test_name_of_a_profile_is_no_path(name: str) -> None:
    with pytest.raises(ConfigError, match="APPLICATION_CONFIG must be the name of a file"):
        read_profile(name)


@pytest.mark.slow
def test_unknown_profile_ends_the_command_with_one_line() -> None:
    command = start_manage("routes", APPLICATION_CONFIG="nowhere")

    output, error = command.communicate(timeout=60)
    assert command.returncode == 1
    assert (output, error.count("\n")) == ("", 1)
    assert "config/nowhere.json, which APPLICATION_CONFIG names, cannot be read" in error


@pytest.mark.parametrize("name", ["development", "testing", "production"])
def test_profile_chooses_its_configuration(name: str) -> None:
    profile = {entry["name"]: entry["value"] for entry in json.loads((PROFILES / f"{name}.json").read_text())}

    assert profile["APP_SETTINGS"] == f"project.config.{name.title()}Config"
    assert profile["APP_SETTINGS"] in SETTINGS
    assert (PROFILES.parent / profile["COMPOSE_FILE"]).is_file()
    assert not re.search("SECRET|TOKEN|PASSWORD", " ".join(profile))
    assert not re.search(":[^/@]+@", " ".join(profile.values()))
