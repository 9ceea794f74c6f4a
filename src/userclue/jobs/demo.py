"""The job `demo`: the main job on the built-in data set, from a log to vectors, fitted models, comparison and report."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyarrow import csv

from userclue.data.prepare import prepare
from userclue.data.sources import load_builtin
from userclue.files import MANIFEST, staged_folder, write_bytes, write_json
from userclue.jobs.embed import embed
from userclue.jobs.finetune import finetune
from userclue.jobs.pretrain import pretrain_settings, run_pretraining
from userclue.report.page import render
from userclue.report.runs import read_runs
from userclue.train.journal import Watch
from userclue.version import VERSION

LABELS = "high-spender.csv"
PRETRAIN: dict[str, Any] = {"epochs": 30, "dropout": 0.2, "max_len": 50}
FITS: dict[str, dict[str, Any]] = {
    "high-spender": {"task": "profiling", "with_scratch": True},
    "next-item": {"task": "sequential", "with_scratch": True, "head": "tied", "epochs": 10},
}


def demo(
    out: str | Path, tell: Callable[[str], None], watch: Watch, *, seed: int = 0, overwrite: bool = False
) -> dict[str, dict[str, Any]]:
    """Write `out` with data, model, two fitted models, users.parquet and report.html; returns each fitted model's facts by name.

    The label is made from the future: behaviour up to week 45, and whether the household then spends above the median.
    """
    builtin = load_builtin()
    facts: dict[str, dict[str, Any]] = {}
    with staged_folder(Path(out), overwrite) as folder:
        tell(f"1/5 prepare: {builtin.name}, {builtin.events.num_rows:,} purchases of {builtin.labels.num_rows:,} households")
        # The inputs lie beside the results, so that every step can be repeated by hand.
        pq.write_table(builtin.events, folder / "events.parquet")
        pq.write_table(builtin.items, folder / "items.parquet")
        csv.write_csv(builtin.labels, folder / LABELS)
        dataset = prepare(builtin.events, folder / "data", items=builtin.items)
        tell("2/5 pre-train: no labels are used")
        settings = pretrain_settings(**PRETRAIN, seed=seed)
        # Without an output of its own: its checkpoints would go with this folder, so no message may promise a --resume.
        pretrained = run_pretraining(dataset, settings, watch=watch)
        pretrained.encoder.save_pretrained(folder / "model")
        for name, choice in FITS.items():
            tell(f"3/5 transfer: {name}, pre-trained and from scratch")
            fitted = finetune(
                folder / "model",
                dataset,
                folder / name,
                labels=folder / LABELS if choice["task"] == "profiling" else None,
                watch=watch,
                seed=seed,
                **choice,
            )
            facts[name] = fitted.facts | {"warnings": [*pretrained.warnings, *fitted.facts["warnings"]]}
        tell("4/5 embed: a vector for every household")
        embed(folder / "model", dataset, folder / "users.parquet")
        tell("5/5 report")
        runs = read_runs([folder / "model", *(folder / name for name in FITS)])
        # The page tells how to go on with each run: at the place it will have, not at this passing one.
        settled = [replace(run, path=Path(out) / run.path.name) for run in runs]
        write_bytes(folder / "report.html", render(settled, "userclue demo").encode())
        write_json(folder / MANIFEST, {"kind": "demo", "userclue_version": VERSION, "seed": seed, "files": {}})
    return facts
