"""Profiling by a fitted encoder beside two bags of items, with all labels and with few: is the representation worth more than the bag?

    .venv/bin/userclue pretrain datasets/ml-1m -o models/best --preset best --steps 1000
    .venv/bin/python experiments/profiling_bags.py models/best datasets/ml-1m converted/ml-1m/gender.csv converted/ml-1m/age.csv \
        -o profiling.json --fractions 1 0.1 --seeds 0 1 2 3 4

Each seed splits the users 80/5/15 anew and starts the fit anew; every system has the same training users and the same validation users to
choose its settings on. `bag_of_items` is the product's own (weighting and penalty chosen, length of the history beside it);
`binary_bag` is the textbook's, here alone: scikit-learn's logistic regression on who met what, its penalty chosen by log-loss. Prints a
line a fit, then the accuracies and the paired differences pooled over the seeds (95 %, people and seeds resampled whole), and writes
all as JSON.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from userclue.config import FinetuneSettings
from userclue.data.counts import count_matrix
from userclue.data.store import Dataset
from userclue.encoder import UserEncoder
from userclue.files import write_json
from userclue.jobs.finetune import build_task, finetune_settings, unfitted_model
from userclue.jobs.scoring import plain_profiling, profiling_outcomes
from userclue.metrics.bootstrap import mean_interval
from userclue.tasks.fitting import fit_model
from userclue.tasks.profiling import Profiling
from userclue.train.journal import UNWATCHED
from userclue.version import VERSION

PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
BAGS = ("bag_of_items", "binary_bag")


def binary_bag(task: Profiling, vocabulary_size: int) -> np.ndarray:
    """Class probabilities of the test users, float64 [B, K]."""
    parts = (task.train, task.valid, task.test)
    train, valid, test = ((count_matrix(part.inputs, vocabulary_size) > 0).astype(np.float64) for part in parts)
    fits = [LogisticRegression(C=penalty, max_iter=2000).fit(train, task.train.targets) for penalty in PENALTIES]
    known = np.isin(task.valid.targets, fits[0].classes_)
    losses = [log_loss(task.valid.targets[known], one.predict_proba(valid[known]), labels=one.classes_) for one in fits]
    best = fits[int(np.argmin(losses))]
    proba = np.zeros((test.shape[0], len(task.classes)))
    proba[:, best.classes_] = best.predict_proba(test)
    return proba


Fit = tuple[np.ndarray, dict[str, np.ndarray], dict[str, Any]]


def hits(encoder: UserEncoder, dataset: Dataset, labels: str, settings: FinetuneSettings) -> Fit:
    """The test users, which of them each system gets right, and what the validation part chose of the model."""
    task = build_task("profiling", dataset, encoder, labels, None, settings)
    assert isinstance(task, Profiling)
    model, _ = unfitted_model(encoder, task, settings, dataset)
    fit_model(model, task, settings, UNWATCHED)
    size = len(encoder.vocabulary)
    outcomes = profiling_outcomes({"model": model}, task.test) | plain_profiling(task, task.test, encoder.config.max_len, size)
    found = {name: outcomes[name].proba for name in ("model", "bag_of_items")} | {"binary_bag": binary_bag(task, size)}
    right = {name: (proba.argmax(axis=1) == task.test.targets).astype(float) for name, proba in found.items()}
    return task.test.users, right, {name: model.facts[name] for name in ("frozen_vectors", "wide_share") if name in model.facts}


def pooled(fits: list[Fit]) -> dict[str, Any]:
    """Accuracies over all seeds, and what the model has more than each bag."""
    people = np.concatenate([users for users, _, _ in fits])
    runs = np.repeat(np.arange(len(fits)), [len(users) for users, _, _ in fits])
    right = {name: np.concatenate([one[name] for _, one, _ in fits]) for name in fits[0][1]}
    told: dict[str, Any] = {name: round(float(one.mean()), 4) for name, one in right.items()}
    for name in BAGS:
        told[f"model - {name}"] = mean_interval(right["model"] - right[name], 0, groups=people, runs=runs).as_dict()
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", help="folder that `userclue pretrain` wrote")
    parser.add_argument("dataset", help="folder that `userclue prepare` wrote")
    parser.add_argument("labels", nargs="+", help="CSV files of user_id and label")
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--preset", default="best")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--fractions", type=float, nargs="+", default=[1.0, 0.1], help="of the training users' labels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    encoder, dataset = UserEncoder.from_pretrained(options.encoder), Dataset.open(options.dataset)
    rows: list[dict[str, Any]] = []
    tables: list[dict[str, Any]] = []
    for labels in options.labels:
        for fraction in options.fractions:
            fits = []
            for seed in options.seeds:
                settings = finetune_settings(options.preset, "profiling", train_fraction=fraction, seed=seed, steps=options.steps)
                fits.append(hits(encoder, dataset, labels, settings))
                accuracy = {name: round(float(one.mean()), 4) for name, one in fits[-1][1].items()}
                fit = {"label": Path(labels).stem, "fraction": fraction, "seed": seed, **fits[-1][2]}
                rows.append({**fit, **accuracy})
                print(json.dumps(rows[-1]), flush=True)
            tables.append({"label": Path(labels).stem, "fraction": fraction, **pooled(fits)})
            print(json.dumps(tables[-1]), flush=True)
    told = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    write_json(options.out, {"version": VERSION, "options": told, "rows": rows, "pooled": tables})


if __name__ == "__main__":
    main()
