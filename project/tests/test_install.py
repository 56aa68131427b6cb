"""What installs the locked requirements: the layers, and one line where it cannot."""

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from project.tests.conftest import ROOT

LAYERS = ("production", "embedded", "testing", "development")


def load_installer() -> ModuleType:
    """Import requirements/install.py, which lies in no package: it runs before anything is installed."""
    spec = spec_from_file_location("install", ROOT / "requirements" / "install.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


install = load_installer()


def locked(layer: str) -> set[str]:
    """Return the packages of a layer with their versions, such as limits[redis]==5.8.0."""
    text = (ROOT / "requirements" / f"{layer}.txt").read_text()
    return set(re.findall(r"^([a-z0-9][^ =]*==[^ ]+)", text, re.MULTILINE))


@pytest.mark.parametrize(("layer", "below"), list(zip(LAYERS[1:], LAYERS)))
def test_layer_has_all_of_the_one_below_in_the_same_versions(layer: str, below: str) -> None:
    assert locked(below) < locked(layer)


def test_lock_keeps_the_extras_that_packages_ask_for() -> None:
    names = {package.partition("==")[0] for package in locked("testing")}
    assert {"coverage[toml]", "limits[redis]", "pyjwt[crypto]"} <= names


def test_every_installation_of_a_lock_resolves_nothing_and_checks_hashes() -> None:
    commands = []
    for name in ("Dockerfile", "Dockerfile.prod", "Makefile", ".gitlab-ci.yml"):
        text = (ROOT / name).read_text().replace("\\\n", " ")
        commands += re.findall(r"^.*\bpip\b.* install .*$", text, re.MULTILINE)
    assert commands
    for command in commands:
        assert "--no-deps" in command and "--require-hashes" in command


@pytest.mark.parametrize(
    ("output", "kind", "reason"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n", True, "is full"),
        ("error: Failed to install: x.whl\n  cause: No space left on device (os error 28)\n", True, "is full"),
        ("error: Request failed\n  cause: Failed to fetch: https://x/simple/\n", False, "index does not answer."),
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(…)': /simple/uv/\n"
            "ERROR: No matching distribution found for uv==0.13.9\n",
            False,
            "index does not answer.",
        ),
        ("error: Hash mismatch for `x`\n\nExpected:\n  sha256:0\n", False, "error: Hash mismatch for `x`"),
        ("Something else\n", False, "Something else"),
        ("", False, "it gave no reason."),
    ],
)
def test_failure_is_one_line(output: str, kind: bool, reason: str) -> None:
    error = install.failure(output)
    assert isinstance(error, install.DiskFullError) is kind
    assert reason in str(error)
    assert "\n" not in str(error)


def test_old_python_is_refused_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    with pytest.raises(SystemExit, match="^Python 3.11 or later is needed, for example: make PYTHON=python3.13 run$"):
        install.main()


def test_python_without_venv_is_refused_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["install.py", "embedded"])
    with pytest.raises(SystemExit, match="^Not installed: Python has neither .*apt install python3-venv$"):
        install.main()


def test_uv_gets_the_index_of_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)
    listed = "global.cert='/etc/ssl/ca.pem'\n:env:.index-url='https://index.example.org/simple'\n"
    monkeypatch.setattr(install, "run", lambda *command: listed)
    assert install.index_of(("pip",)) == ["--default-index", "https://index.example.org/simple"]
    monkeypatch.setattr(install, "run", lambda *command: "global.cert='/etc/ssl/ca.pem'\n")
    assert install.index_of(("pip",)) == []
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv.example.org/simple")
    assert install.index_of(("pip",)) == []


def test_pip_installs_the_same_lock_where_uv_cannot(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def run(*command: object) -> str:
        """Remember a command, and fail where it is one of uv's."""
        ran.append([str(word) for word in command])
        if "uv" in ran[-1]:
            raise install.InstallError("there is no uv for this machine.")
        return ""

    monkeypatch.delenv("INSTALLER", raising=False)
    monkeypatch.setattr(install, "run", run)
    install.install("embedded", ("pip",))
    assert [Path(command[-1]).name for command in ran if "install" in command] == [
        "installer.txt",
        "embedded.txt",
        "embedded.txt",
    ]
    assert {"--no-deps", "--require-hashes"} <= set(ran[-1])
    assert "there is no uv for this machine." in capsys.readouterr().err


def test_full_disk_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INSTALLER", raising=False)
    calls = SimpleNamespace(count=0)

    def run(*command: object) -> str:
        """Fail as on a full disk."""
        calls.count += 1
        raise install.failure("No space left on device")

    monkeypatch.setattr(install, "run", run)
    with pytest.raises(install.DiskFullError):
        install.install("embedded", ("pip",))
    assert calls.count == 1
