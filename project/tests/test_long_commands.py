"""The commands that take minutes, each in a short form that runs to its end."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fasteners import InterProcessLock

from project.config import VAR
from project.tests.conftest import ROOT

pytestmark = pytest.mark.slow
SECONDS = 240


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Keep the other processes of the test run out: what measures wants the machine, and one database name."""
    VAR.mkdir(exist_ok=True)
    with InterProcessLock(VAR / "long-commands.lock"):
        yield


def run(*command: str, needs: tuple[str, ...] = (), **environment: str) -> str:
    """Run a command of this folder, where the programs that it needs are here, and return what it printed."""
    for program in needs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_benchmark(*arguments: str, **environment: str) -> str:
    """Run a module of benchmarks/ and return what it printed."""
    pytest.importorskip("matplotlib", reason="the development requirements are not installed")
    return run(sys.executable, "-m", *arguments, **environment)


def test_bench_scale_measures_each_size(open_database: str, tmp_path: Path) -> None:
    sizes = ("--users", "1000", "--calls", "1", "--output", str(tmp_path))
    printed = run_benchmark("benchmarks.scale", "--url", open_database, *sizes)
    assert "| single users: `insert` |" in printed
    assert {file.name for file in tmp_path.iterdir()} == {"scale.json", "scale.png"}


def test_bench_compares_with_a_peer(tmp_path: Path) -> None:
    pytest.importorskip("uv", reason="the development requirements are not installed")
    if Path(sys.prefix).resolve() != ROOT / ".venv":
        pytest.skip("make bench runs in .venv, and these tests do not")
    few = f"--rounds 1 --crowds 0 --starts 1 --only gunicorn --only plain --output '{tmp_path}'"
    printed = run("make", "bench", f"BENCH={few}", needs=("make", "wrk"))
    assert "GET /users/1" in printed
    assert "results.json" in {file.name for file in tmp_path.iterdir()}


def test_benchmark_of_tokens_prints_its_table(open_database: str) -> None:
    printed = run_benchmark("benchmarks.tokens", "--url", open_database, "--rounds", "1", "--calls", "5")
    assert "| `GET /users/1` |" in printed


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        (("rate", "--users", "1000", "--rounds", "1"), "| export, CSV |"),
        (("kill", "--users", "3000", "--times", "1"), "killed 1 times"),
        (("clients", "--users", "2000", "--clients", "2", "--seconds", "1"), "| beside the import |"),
    ],
)
def test_benchmark_of_transfers_runs(open_database: str, arguments: tuple[str, ...], result: str) -> None:
    if not shutil.which("psql"):
        pytest.skip("psql is not installed")
    assert result in run_benchmark("benchmarks.transfer", "--url", open_database, *arguments)


def test_killed_summarizers_lose_nothing_in_the_benchmark(open_database: str) -> None:
    few = "--rows 6 --workers 2 --kills 1 --every 0.5 --pause 0.1".split()
    printed = run_benchmark("benchmarks.summaries", *few, DATABASE_URL=open_database)
    assert "6 done once, 0 done twice, 0 lost" in printed


def test_chaos_finds_nothing_that_does_not_hold() -> None:
    printed = run(sys.executable, "-m", "benchmarks.chaos", "--seconds", "3", "frozen", "lock", "connections")
    assert printed.count("| ok |") == 4
