"""Killed and interrupted commands, as processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Run = Callable[..., Any]
PATIENCE = 600.0  # before a test that hangs is given up; a busy machine takes a minute to import PyTorch


def started(*words: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", "from userclue.cli.app import main; main()", *(str(word) for word in words)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], seen: Callable[[], bool]) -> None:
    """Wait until something is seen on disk; the process must still be at work then."""
    end = time.monotonic() + PATIENCE
    while not seen():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def large_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six million events: enough to be at work for seconds."""
    rng = np.random.default_rng(0)
    n = 6_000_000
    columns = {"user_id": rng.integers(0, 100_000, n), "item_id": rng.integers(0, 50_000, n), "timestamp": rng.integers(1, 10**9, n)}
    path = tmp_path_factory.mktemp("large") / "events.parquet"
    pq.write_table(pa.table(columns), path, compression="none")
    return path


@pytest.mark.slow
def test_prepare_killed_leaves_no_dataset(run: Run, shop: Any, large_log: Path, tmp_path: Path) -> None:
    target = tmp_path / "data"
    process = started("prepare", large_log, "-o", target, "--threads", 1)
    wait_for(process, lambda: any(tmp_path.glob(".data.*.partial/*")))
    kill(process)
    assert not target.exists()
    assert any(tmp_path.glob(".data.*.partial"))
    # What was left aside is hidden, is no dataset's place, and goes with the next run into the same target.
    outcome = run("prepare", shop["events.csv"], "-o", target)
    assert outcome.code == 0, outcome.err
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


@pytest.mark.slow
def test_prepare_interrupted_says_so_and_leaves_nothing(large_log: Path, tmp_path: Path) -> None:
    process = started("prepare", large_log, "-o", tmp_path / "data", "--threads", 1)
    wait_for(process, lambda: any(tmp_path.glob(".data.*.partial/*")))
    process.send_signal(signal.SIGSTOP)  # or on a busy machine it may be done before the signal that counts is sent
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=PATIENCE)
    assert not list(tmp_path.iterdir())
    assert (process.returncode, out) == (5, "")
    assert err == "error: interrupted; nothing was written\n"


@pytest.mark.slow
def test_pretrain_killed_and_interrupted_goes_on_to_the_same_bits(run: Run, shop: Any, small: list[str], tmp_path: Path) -> None:
    words = [shop["data"], *small, "--steps", 200, "--log-every", 20, "--seed", 7]
    target, whole = tmp_path / "model", tmp_path / "whole"
    checkpoints = target / "checkpoint"

    process = started("pretrain", *words, "-o", target, "--checkpoint-seconds", 0)
    wait_for(process, lambda: len(list(checkpoints.glob("step-*"))) > 1)
    kill(process)
    assert [path.name for path in target.iterdir()] == ["checkpoint"]

    refused = run("embed", target, shop["data"], "-o", tmp_path / "users.parquet")
    assert refused.code == 4
    assert "--resume" in refused.error
    again = run("pretrain", *words, "-o", target)
    assert again.code == 2
    assert "--resume" in again.error

    before = max(path.name for path in checkpoints.glob("step-*"))
    process = started("pretrain", *words, "-o", target, "--checkpoint-seconds", 0, "--resume", "--json")
    wait_for(process, lambda: max((path.name for path in checkpoints.glob("step-*")), default=before) > before)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 5, err
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: stopped by SIGINT at step ")
    assert err.splitlines()[-1].endswith("state saved, go on with --resume")

    finished = run("pretrain", *words, "-o", target, "--resume", "--json")
    assert finished.code == 0, finished.err
    assert finished.json["steps"] == 200
    assert run("pretrain", *words, "-o", whole).code == 0
    for name in ("model.safetensors", "vocabulary.parquet"):
        assert (target / name).read_bytes() == (whole / name).read_bytes()
    assert not checkpoints.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"model", "whole"}


SMALL_PIECES = "import userclue.encoding; userclue.encoding.ENCODE_CHUNK = 1000; from userclue.cli.app import main; main()"


def embedding(*words: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", SMALL_PIECES, "embed", *(str(word) for word in words)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_embed_killed_and_interrupted_goes_on_to_the_same_bytes(run: Run, shop: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 400_000
    columns = {"user_id": np.repeat(np.arange(n // 10), 10), "item_id": [f"{'abc'[i % 3]}{i % 6}" for i in rng.integers(0, 18, n)]}
    pq.write_table(pa.table(columns), tmp_path / "events.parquet")
    assert run("prepare", tmp_path / "events.parquet", "-o", tmp_path / "data").code == 0
    target, whole = tmp_path / "out" / "users.parquet", tmp_path / "whole.parquet"
    words = [shop["model"], tmp_path / "data", "-o", target, "--checkpoint-every", 2000, "--workers", 2]
    kept = target.parent / "users.parquet.checkpoint"

    process = embedding(*words)
    wait_for(process, lambda: len(list(kept.glob("part-*.npy"))) > 1)
    workers = children(process.pid)
    assert len(workers) == 2
    kill(process)
    assert not target.exists()
    end = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < end
        time.sleep(0.01)

    before = len(list(kept.glob("part-*.npy")))
    process = embedding(*words)
    wait_for(process, lambda: len(list(kept.glob("part-*.npy"))) > before)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (5, ""), err
    assert err.startswith("error: stopped by SIGTERM; the vectors of ")
    assert err.endswith(" users are kept, the same command goes on from there\n")

    before = len(list(kept.glob("part-*.npy")))
    process = embedding(*words)
    wait_for(process, lambda: len(list(kept.glob("part-*.npy"))) > before)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (5, ""), err
    assert err.startswith("error: a worker process was ended by SIGKILL; if memory is short, use fewer workers; the vectors of ")

    process = embedding(*words, "--json")
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert 6000 <= json.loads(out)["kept"] < 40_000
    assert json.loads(out)["users"] == 40_000
    assert {path.name for path in target.parent.iterdir() if ".partial" not in path.name} == {"users.parquet"}
    process = embedding(shop["model"], tmp_path / "data", "-o", whole, "--workers", 1)
    assert process.communicate(timeout=PATIENCE)[1] == ""
    assert target.read_bytes() == whole.read_bytes()
