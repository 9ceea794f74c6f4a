"""The benchmarks run: some of userclue's own measurements once, on a few people, beside no peer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "benchmarks" / "run"
MEASUREMENTS = {"embed", "processes", "agree", "prepare"}  # the others go the same ways, and take up to a minute each


@pytest.mark.slow
def test_our_measurements_run_and_have_their_tables(few: Path, tmp_path: Path) -> None:
    chosen = ["--small", "--repetitions", "1", "--peers", "--only", *sorted(MEASUREMENTS)]
    command = [sys.executable, str(RUN), "--data", str(few / "ml-1m"), "--out", str(tmp_path), *chosen]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    measured = {row["measurement"] for row in rows if row["kind"] == "repetition" and row["system"] == "userclue"}
    assert measured == MEASUREMENTS
    page = (tmp_path / "RESULTS.md").read_text()
    assert "| the floor |" in page
    assert "| userclue, plain PyTorch |" in page
