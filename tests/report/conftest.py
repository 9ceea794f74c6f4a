"""Run folders as userclue writes them, small and alike the demo's. `python tests/report/conftest.py OUT` builds a page to look at."""

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from userclue.files import file_hashes, write_bytes, write_json

DATA = {
    "users": 2349, "items": 1708, "events": 1_469_307, "source": "builtin:completejourney",
    "time": {"unit": "s", "min": 1_483_228_800_000, "max": 1_514_678_400_000},
    "lengths": {"min": 12.0, "q25": 161.0, "median": 436.0, "q75": 902.5, "q95": 1_611.0, "max": 4_120.0},
}  # fmt: skip
ENCODER = {"backbone": "transformer", "dim": 64, "blocks": 2, "heads": 4, "max_len": 50, "dropout": 0.5, "norm": "pre"}
PRETRAIN = {
    "objective": "clue", "view": "dropout", "batch_size": 64, "lr": 0.001, "optimizer": "adam", "epochs": 60, "steps": None,
    "stop_gradient": True, "predictor": True, "seed": 0,
}  # fmt: skip
FINETUNE = {"mode": "finetune", "head": "linear", "batch_size": 64, "lr": 0.001, "patience": 5, "seed": 0}
ENVIRONMENT = {"python": "3.11.2", "torch": "2.13.0+cpu", "platform": "Linux x86_64", "threads": 2, "device": "cpu"}
Scores = dict[str, dict[str, float]]


def score(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def scores(half: float, **values: float) -> Scores:
    return {name.replace("_at_", "@"): score(value, half) for name, value in values.items()}


PROFILING: dict[str, Any] = {
    "task": "profiling", "mode": "finetune", "system": "clue", "settings": FINETUNE, "environment": ENVIRONMENT, "undefined": {},
    "label": "spends above the median", "classes": ["high", "low"],
    "split": {"name": "80/5/15", "seed": 0, "train": 1879, "valid": 117, "test": 353}, "primary": "accuracy", "users": 353,
    "metrics": scores(0.041, accuracy=0.799, macro_f1=0.798, auroc=0.874),
    "baselines": {
        "majority": scores(0.052, accuracy=0.501, macro_f1=0.334, auroc=0.5),
        "bag_of_items": scores(0.040, accuracy=0.822, macro_f1=0.821, auroc=0.901),
        "bag_of_items_window": scores(0.046, accuracy=0.683, macro_f1=0.682, auroc=0.741),
    },
    "differences": {
        "majority": {"accuracy": score(0.298, 0.061)},
        "bag_of_items": {"accuracy": score(-0.023, 0.029)},
        "bag_of_items_window": {"accuracy": score(0.116, 0.047)},
    },
    "verdict": [
        "Best by accuracy: bag_of_items, 0.822 [0.782, 0.862] on 353 users.",
        "No winner can be named between clue and bag_of_items on 353 users: the difference -0.023 [-0.052, +0.006] "
        "(clue minus bag_of_items) includes zero.",
        "clue wins against bag_of_items_window and majority: even over the nearest, bag_of_items_window, "
        "the difference +0.116 [+0.069, +0.163] (clue minus bag_of_items_window) is clear of zero.",
    ],
    "conditions": "Users split at random. Each user counts once. Intervals: 1,000 bootstrap samples of the test users. "
    "History up to week 45; label: spends above the median after it.",
    "seconds": 41.7, "warnings": [],
}  # fmt: skip
SEQUENTIAL: dict[str, Any] = {
    "task": "sequential", "mode": "finetune", "system": "clue", "settings": FINETUNE, "environment": ENVIRONMENT,
    "label": "next item",
    "split": {"name": "leave-one-out", "seed": 0, "train": 2349, "valid": 2349, "test": 2349}, "primary": "mrr@10", "users": 2349,
    "metrics": scores(0.0071, mrr_at_10=0.1012, recall_at_10=0.1933, ndcg_at_10=0.1231),
    "baselines": {
        "popularity": scores(0.0060, mrr_at_10=0.0711, recall_at_10=0.1511, ndcg_at_10=0.0893),
        "markov": scores(0.0068, mrr_at_10=0.0876, recall_at_10=0.1702, ndcg_at_10=0.1060),
        "item_knn": scores(0.0064, mrr_at_10=0.0820, recall_at_10=0.1688, ndcg_at_10=0.1021),
    },
    "differences": {
        "popularity": {"mrr@10": score(0.0301, 0.006)},
        "markov": {"mrr@10": score(0.0136, 0.0055)},
        "item_knn": {"mrr@10": score(0.0192, 0.0058)},
    },
    "unseen": {
        "metrics": scores(0.0042, mrr_at_10=0.0312, recall_at_10=0.0733, ndcg_at_10=0.0409),
        "baselines": {
            "popularity": scores(0.0040, mrr_at_10=0.0281, recall_at_10=0.0702, ndcg_at_10=0.0378),
            "markov": scores(0.0041, mrr_at_10=0.0279, recall_at_10=0.0651, ndcg_at_10=0.0362),
            "item_knn": scores(0.0043, mrr_at_10=0.0302, recall_at_10=0.0749, ndcg_at_10=0.0401),
        },
        "differences": {
            "popularity": {"mrr@10": score(0.0031, 0.0045)},
            "markov": {"mrr@10": score(0.0033, 0.0040)},
            "item_knn": {"mrr@10": score(0.0010, 0.0041)},
        },
        "verdict": [
            "Best by mrr@10: clue, 0.0312 [0.0270, 0.0354] on 2,349 users.",
            "No winner can be named between clue and item_knn on 2,349 users: the difference +0.0010 [-0.0031, +0.0051] "
            "(clue minus item_knn) includes zero.",
        ],
    },
    "verdict": [
        "Best by mrr@10: clue, 0.1012 [0.0941, 0.1083] on 2,349 users.",
        "clue wins against every baseline: even over the nearest, markov, the difference +0.0136 [+0.0081, +0.0191] "
        "(clue minus markov) is clear of zero.",
    ],
    "conditions": "Last item held out, the one before for validation. Candidates: all 1,708 items. Each user counts once.",
    "seconds": 228.0, "warnings": ["12 users have fewer than three events and are left out"],
}  # fmt: skip


def pretraining_rows(count: int = 46) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    steps = np.linspace(0, 2200, count).astype(int)
    fall = np.exp(-steps / 300)
    return [
        {
            "step": int(step), "epoch": int(step) // 37, "seconds": 0.05 * float(step),
            "loss": float(-0.93 + 0.9 * f + rng.normal(0, 0.006)), "std_sqrt_d": float(0.93 - 0.35 * f + rng.normal(0, 0.012)),
            "alignment": float(0.22 + 0.9 * f + rng.normal(0, 0.01)), "uniformity": float(-2.4 + 1.2 * f + rng.normal(0, 0.03)),
            "effective_rank": float(5.2 + 18 * f + rng.normal(0, 0.3)), "gradient_norm": float(0.4 + 1.1 * f + abs(rng.normal(0, 0.05))),
            "users_per_second": float(1150 + rng.normal(0, 30)),
        }
        for step, f in zip(steps, fall, strict=True)
    ]  # fmt: skip


def tuning_rows(count: int = 18, floor: float = 0.45) -> list[dict[str, Any]]:
    epochs = np.arange(1, count + 1)
    return [
        {
            "step": int(30 * e),
            "epoch": int(e),
            "loss": float(floor - 0.1 + 0.3 * np.exp(-e / 4)),
            "valid_loss": float(floor + 0.02 * abs(e - 9) / 3),
        }
        for e in epochs
    ]


def map_table(labels: list[str], count: int = 2000) -> pa.Table:
    rng = np.random.default_rng(1)
    chosen = rng.integers(0, len(labels), count)
    points = rng.normal(0, 1, (count, 2)) @ np.array([[1.6, 0.4], [0.1, 0.8]]) + np.stack([chosen * 1.3, -0.3 * chosen], 1)
    columns = {"user_id": np.arange(count), "x": points[:, 0], "y": points[:, 1], "label": [labels[number] for number in chosen]}
    return pa.table(columns).replace_schema_metadata({b"explained": b"[0.31, 0.12]"})


def write_run(
    folder: Path,
    kind: str,
    config: dict[str, Any] | None = None,
    rows: list[dict[str, Any]] | None = None,
    task: dict[str, Any] | None = None,
    users: pa.Table | None = None,
) -> Path:
    """Write a run folder with a manifest that fits its files."""
    folder.mkdir(parents=True)
    shape: dict[str, Any] = {
        "format_version": 1,
        "kind": "encoder" if kind == "model" else "fitted",
        "encoder": ENCODER,
        "pretrain": PRETRAIN,
    }
    write_json(folder / "config.json", shape | {"data": DATA, "environment": ENVIRONMENT, "seconds": 131.4} | (config or {}))
    if rows is not None:
        write_bytes(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    if task is not None:
        write_json(folder / "task.json", task)
    if users is not None:
        pq.write_table(users, folder / "map.parquet")
    seal(folder, kind)
    return folder


def seal(folder: Path, kind: str) -> None:
    """Write the manifest for what the folder holds now."""
    manifest = {"kind": kind, "format_version": 1, "userclue_version": "0.1.0", "created": "2026-11-23T14:30:00+00:00"}
    write_json(folder / "manifest.json", manifest | {"files": file_hashes(folder)})


def demo_runs(folder: Path) -> list[Path]:
    """A pre-trained model and the two models fitted from it."""
    return [
        write_run(folder / "model", "model", rows=pretraining_rows()),
        write_run(folder / "profile", "fitted", rows=tuning_rows(), task=PROFILING, users=map_table(["high", "low"])),
        write_run(folder / "next-item", "fitted", rows=tuning_rows(12, 6.1), task=SEQUENTIAL),
    ]


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    return write_run


@pytest.fixture(scope="session")
def make_demo() -> Callable[[Path], list[Path]]:
    return demo_runs


@pytest.fixture(scope="session")
def seal_run() -> Callable[[Path, str], None]:
    return seal


@pytest.fixture
def profiling() -> dict[str, Any]:
    return copy.deepcopy(PROFILING)


@pytest.fixture(scope="session")
def labels() -> Callable[..., pa.Table]:
    return map_table


if __name__ == "__main__":
    from userclue.report.page import build_report

    place = Path(sys.argv[1])
    build_report(demo_runs(place / "runs" / "demo"), place / "report.html")
