"""From PeterRec's files to a fitted model: prepare, pretrain, finetune on the targets that prepare put beside the dataset."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Run = Callable[..., Any]


def write_lines(path: Path, kind: str) -> None:
    """Forty users of two kinds, histories padded to six; targets of their kind's own: one to three items, or a class."""
    rng = np.random.default_rng(0)
    lines = []
    for user in range(40):
        side = user % 2
        history = (100 * (side + 1) + rng.integers(0, 5, rng.integers(2, 7))).tolist()
        goods = [str(900 + 10 * side + good) for good in range(1 + user % 3)] if kind == "items" else [str(side)]
        lines.append(",".join([*map(str, [0] * (6 - len(history)) + history), "", *goods]))
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(("kind", "task", "primary"), [("items", "cold-start", "mrr@10"), ("labels", "profiling", "accuracy")])
def test_three_commands(run: Run, small: list[str], tmp_path: Path, kind: str, task: str, primary: str) -> None:
    write_lines(tmp_path / "rows.csv", kind)
    data, model = tmp_path / "data", tmp_path / "model"
    prepared = run("prepare", tmp_path / "rows.csv", "--layout", "peterrec", "-o", data, "--json")
    assert prepared.code == 0, prepared.err
    assert prepared.json["targets"] == {"kind": kind, "rows": 79 if kind == "items" else 40, "users": 40}
    assert "40 users in targets.csv, for --labels" in run("prepare", tmp_path / "rows.csv", "-o", data, "--overwrite").out
    assert run("pretrain", data, "-o", model, "--steps", 2, "--hold-out", 0, *small).code == 0
    words = ["--task", task, "--labels", data / "targets.csv", "--epochs", 8, "--lr", 0.05, "--batch-size", 16]
    fitted = run("finetune", model, data, *words, "-o", tmp_path / "fitted", "--json")
    assert fitted.code == 0, fitted.err
    assert fitted.json["users"] == 6
    assert fitted.json["metrics"][primary]["value"] > 0.6
    assert run("doctor", data, tmp_path / "fitted").code == 0
