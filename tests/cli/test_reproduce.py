"""`userclue reproduce`: one JSON object, exit codes, and Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from userclue.version import VERSION

Run = Callable[..., Any]
FEW = ["--only", "plain,builtin-high-spender", "--pretrain-steps", "2", "--fit-steps", "2", "--threads", "1"]


def test_one_object(run: Run, tmp_path: Path) -> None:
    outcome = run("reproduce", "table1", "table2", "-o", tmp_path / "out", *FEW, "--seeds", "3,4", "--json")
    assert outcome.code == 0, outcome.err
    said = outcome.json
    assert (said["command"], said["version"], said["seed"]) == ("reproduce", VERSION, 3)
    assert (said["experiments"], said["scale"], said["seeds"]) == (["table1", "table2"], "smoke", [3, 4])
    assert (said["cells_run"], said["cells_kept"]) == (3, 0)
    assert said["output"] == str(tmp_path / "out")
    assert said["warnings"] == []
    assert all((tmp_path / "out" / name).is_file() for name in said["files"])
    again = run("reproduce", "table1", "table2", "-o", tmp_path / "out", *FEW, "--seeds", "3 4")
    assert again.code == 0
    assert "0 cells to carry out (3 are there)" in again.err
    assert str(tmp_path / "out" / "report.html") in again.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["table9"], "unknown experiment table9; known: all, systems, ablation, alone, frozen, labels, modes, history, geometry, table1"),
        (["fig3", "--scale", "huge"], "unknown scale huge; known: smoke, small, paper"),
        (["fig3", "--seeds", "0,x"], "--seeds 0,x: write whole numbers from 0 on, joined by commas"),
        (["fig3", "--seeds", "-1"], "--seeds -1: write whole numbers"),
        (["fig3", "--only", "clu"], "--only clu: is no system ("),
        (["fig3", "--scale", "0min"], "unknown scale 0min; known: smoke, small, paper, and equal time for every system, such as 3min"),
        (["fig3", "--scale", "3min", "--fit-steps", "9"], "scale 3min: time is the budget here; give steps with another scale"),
        (["fig3", "--data", "."], ".: holds none of the data sets known"),
    ],
)
def test_wrong_usage(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("reproduce", *words, "-o", "out")
    assert outcome.code == 2
    assert said in outcome.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_ends_with_the_way_on(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["reproduce", "fig6", "-o", str(out), "--pretrain-steps", "4", "--threads", "1"]
    process = subprocess.Popen([sys.executable, "-m", "userclue", *words], stderr=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 120
    while not list(out.glob("cells/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 5, err
    assert "the same command goes on from there" in err.splitlines()[-1]
    kept = len(list(out.glob("cells/*.parquet")))
    assert 1 <= kept < 3
    said = run(*words, "--json").json
    assert (said["cells_kept"], said["cells_run"]) == (kept, 3 - kept)
