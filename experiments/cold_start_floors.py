"""What plain methods reach at cold start, on prepared data sets: the floors a model has to pass.

    .venv/bin/python experiments/cold_start_floors.py datasets/elec-cell:converted/elec-cell/targets.csv -o floors.json --seeds 0 1 2

Each argument is DATASET:TARGETS. Prints, and writes as JSON, MRR@10, Recall@10 and NDCG@10 of every plain baseline, split by user, a line
a seed: averaged over instances, and over users. No model is trained; the split, the targets and the ranking are those of `finetune`.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from userclue.config import FinetuneSettings
from userclue.data.store import Dataset
from userclue.data.targets import read_targets
from userclue.files import write_json
from userclue.jobs.scoring import plain_cold_start
from userclue.metrics.ranking import ranking_metrics
from userclue.tasks.cold_start import ColdStart
from userclue.version import VERSION

WINDOW = 50


def floors(dataset: Dataset, targets: str, seed: int, split: str) -> list[dict[str, object]]:
    """One row a baseline."""
    settings = FinetuneSettings.of({"seed": seed})
    task = ColdStart(dataset, dataset.sequences(), read_targets(targets), Path(targets).stem, split, settings)
    users = np.unique(task.test.users, return_inverse=True)[1]
    rows = []
    for name, ranks in plain_cold_start(task, task.test, WINDOW, len(dataset.vocabulary)).items():
        values = ranking_metrics(ranks)
        row: dict[str, object] = {"data": dataset.path.name, "split": split, "seed": seed, "system": name}
        row |= {key: round(float(one.mean()), 4) for key, one in values.items()}
        row |= {f"{key} by user": round(float((np.bincount(users, one) / np.bincount(users)).mean()), 4) for key, one in values.items()}
        row |= {"test instances": len(task.test), "candidates": task.targets.n_items}
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="DATASET:TARGETS")
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--split", default="user", choices=["user", "instance"])
    options = parser.parse_args()
    rows = []
    for one in options.data:
        folder, _, targets = one.partition(":")
        dataset = Dataset.open(folder)
        for seed in options.seeds:
            rows += floors(dataset, targets, seed, options.split)
    write_json(options.out, {"userclue": VERSION, "rows": rows})


if __name__ == "__main__":
    main()
