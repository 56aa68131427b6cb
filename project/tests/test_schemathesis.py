"""The service against its own OpenAPI document, by schemathesis: every check, every phase.

`make fuzz` sets FUZZ_EXAMPLES, and runs many examples with three seeds.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from project.tests.conftest import ROOT

EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "")
SEEDS = ["1", "2", "3"] if EXAMPLES else ["1"]


@pytest.mark.slow
@pytest.mark.usefixtures("open_database")
@pytest.mark.parametrize("seed", SEEDS)
def test_service_does_what_its_document_says(gunicorn: str, tmp_path: Path, seed: str) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{gunicorn}/openapi.json", "--no-color"]
    # In place of that one check there is valid_data_is_accepted, which says why.
    command += ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--generation-allow-x00", "true"]
    command += ["--phases", "examples,coverage,fuzzing,stateful", "--max-examples", EXAMPLES or "2", "--seed", seed]
    # How many texts it throws away before one is an address says nothing of the service.
    command += ["--suppress-health-check", "filter_too_much,too_slow"]
    hooks = {"SCHEMATHESIS_HOOKS": "project.tests.fuzzing", "PYTHONPATH": str(ROOT)}

    # In a folder of its own: there it keeps what it found, and would begin with that.
    result = subprocess.run(command, cwd=tmp_path, env={**os.environ, **hooks}, capture_output=True, text=True)

    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout
