"""The images, and the pipeline that builds, tests and releases them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from project.tests.conftest import ROOT
from project.version import VERSION

NOTES = ROOT / ".ci" / "notes.py"
DOCKERFILES = ("Dockerfile", "Dockerfile.prod", "Dockerfile.test")


@pytest.fixture
def pipeline() -> dict[str, Any]:
    """What .gitlab-ci.yml says."""
    said: dict[str, Any] = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text())
    return said


def stages() -> list[str]:
    """Return the stages of the production image, in the order of the file."""
    return re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile.prod").read_text(), re.MULTILINE)


@pytest.mark.parametrize("file", DOCKERFILES)
def test_images_install_the_lock_without_resolving_it(file: str) -> None:
    installs = re.findall(r"pip .*install(.*\n.*requirement \S+)", (ROOT / file).read_text())

    assert len(installs) == 1
    assert {"--no-deps", "--require-hashes", "--only-binary"} <= set(installs[0].split())


def test_production_image_builds_no_stage_that_it_does_not_need() -> None:
    assert stages() == ["base", "requirements", "code", "production", "release", "worker", "web"]


def test_pipeline_builds_and_releases_an_image_for_each_process(pipeline: dict[str, Any]) -> None:
    images = " ".join(stages()[-3:])

    # The image of the tests comes last: it starts from web.
    assert f"for stage in {images} test; do" in str(pipeline["build"]["script"])
    assert f"for process in {images}; do" in str(pipeline["deploy"]["script"])
    assert f"for process in {images}; do" in str(pipeline["publish"]["script"])
    assert all(f"image_id {image}\n" in (ROOT / "release.sh").read_text() for image in images.split())


def test_jobs_of_the_pipeline_run_side_by_side(pipeline: dict[str, Any]) -> None:
    assert pipeline["lint"]["needs"] == pipeline["notes"]["needs"] == []
    assert pipeline["unit"]["extends"] == pipeline["process"]["extends"] == ".test"
    assert pipeline["smoke"]["extends"] == pipeline[".test"]["extends"] == ".database"
    assert pipeline[".database"]["needs"] == ["build"]


def test_fast_tests_and_slow_ones_are_all_tests(pipeline: dict[str, Any]) -> None:
    assert '-m "not slow"' in pipeline["unit"]["script"][0]
    assert "-m slow" in pipeline["process"]["script"][0]
    assert "--cov-fail-under=100" in pipeline["unit"]["script"][0]
    # Tests that share a server are run by one process.
    assert all("--dist loadgroup" in pipeline[job]["script"][0] for job in ("unit", "process"))


def test_only_the_default_branch_is_deployed_and_only_tags_are_released(pipeline: dict[str, Any]) -> None:
    rules = {name: str(job["rules"]) for name, job in pipeline.items() if name != "workflow" and "rules" in job}

    assert set(rules) == {"deploy", "notes", "publish", "release"}
    assert "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH" in rules["deploy"]
    assert rules["notes"] == rules["publish"] == rules["release"] == "[{'if': '$CI_COMMIT_TAG'}]"
    assert not any(pipeline[name]["interruptible"] for name in ("deploy", "publish", "release"))


def test_search_for_secrets_has_the_whole_history(pipeline: dict[str, Any]) -> None:
    assert pipeline["lint"]["variables"]["GIT_DEPTH"] == "0"
    assert pipeline["lint"]["script"] == ["make lint-deploy check"]


@pytest.mark.skipif(not NOTES.exists(), reason="there is no .ci here, as in an image")
@pytest.mark.parametrize(
    ("tag", "changelog", "status", "says"),
    [
        (
            f"v{VERSION}",
            f"## [Unreleased]\n- later\n## [{VERSION}] - 2026-11-26\n\n- new\n\n## [0.0.1]\n- old\n",
            0,
            "- new\n",
        ),
        (f"v{VERSION}", "## [Unreleased]\n- later\n", 1, f"no section [{VERSION}]"),
        (f"v{VERSION}", f"## [{VERSION}]\n\n## [0.0.1]\n- old\n", 1, f"no section [{VERSION}]"),
        ("v99.0.0", "## [99.0.0]\n- new\n", 1, f"is not v{VERSION}"),
        (VERSION, f"## [{VERSION}]\n- new\n", 1, f"is not v{VERSION}"),
    ],
)
def test_release_of_a_tag_has_the_notes_of_its_version(
    tmp_path: Path, tag: str, changelog: str, status: int, says: str
) -> None:
    for path in (NOTES, ROOT / "project" / "version.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    (tmp_path / "CHANGELOG.md").write_text(changelog)

    command = [sys.executable, ".ci/notes.py", tag]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == status
    if status:
        assert says in done.stderr and not done.stdout
    else:
        assert done.stdout == says
