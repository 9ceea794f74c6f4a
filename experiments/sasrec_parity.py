"""SASRec with cross-entropy here beside RecTools' own, after equal seconds of training on one thread.

    .venv/bin/python experiments/convert.py ml-100k --data path/to/ml-100k -o converted/ml-100k
    .venv/bin/userclue prepare converted/ml-100k/events.parquet -o datasets/ml-100k
    .venv/bin/python experiments/sasrec_parity.py datasets/ml-100k -o parity.json --seconds 15 30 60 120 240 --seeds 0 1 2

Leave-one-out: both learn from all but each user's last two events, the last but one validates, the last tests with the one before it in
the history. Full ranking among all items, twice: items of the history kept as candidates, and left out, for both alike. Seconds are of
the processor (on one thread what an idle machine's clock shows, however busy it is), in training batches alone; measured at the end of
the first epoch past each of --seconds. Same width, blocks, heads, feed-forward width, dropout, window, batch, Adam and rate; no early
stopping: the best of the measurements is chosen by NDCG@10 on the validation events. --average N measures ours a second time with the mean
of the weights at the ends of the last N epochs (stochastic weight averaging, Izmailov et al. 2018), which changes nothing in the training.
Seeds take turns, ours first. RecTools runs in the environment that `benchmarks/` makes for it. Prints a line a measurement and a table of
the chosen ones, and writes all as JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.environments import default_folder, python_of
from userclue.baselines.registry import BASELINES
from userclue.config import EncoderConfig, FinetuneSettings
from userclue.data.batches import BatchStream
from userclue.data.store import Dataset
from userclue.encoder import UserEncoder
from userclue.files import write_json
from userclue.metrics.ranking import full_ranking, ranking_metrics
from userclue.native import describe
from userclue.tasks.base import Training
from userclue.tasks.fitting import unfitted
from userclue.tasks.sequential import Sequential
from userclue.train.journal import Journal
from userclue.train.loop import Training as Run
from userclue.train.loop import seeded_generator
from userclue.version import VERSION

MANY = 100_000  # epochs: the clock ends the run
SYSTEMS = ("userclue", "rectools")
Row = dict[str, Any]
State = dict[str, torch.Tensor]


def ours(dataset: Dataset, options: argparse.Namespace, seed: int) -> Iterator[Row]:
    """Measurements of the baseline `sasrec`, trained by the loop that every fit uses."""
    settings = FinetuneSettings.of(
        {
            "epochs": options.epochs or MANY,
            "schedule": "cosine" if options.epochs else "constant",
            "batch_size": options.batch,
            "lr": options.lr,
            "seed": seed,
            "prefixes": 1,
            "dropout": options.dropout,
        }
    )
    task = Sequential(dataset, dataset.sequences(), len(dataset.vocabulary), "leave-one-out", seed, 1)
    generator = seeded_generator(torch.device("cpu"), seed)
    like = UserEncoder.new(EncoderConfig(dim=options.dim, max_len=options.max_len), dataset.vocabulary, generator)
    baseline = BASELINES["sasrec"](like, settings)
    baseline.config = baseline.config.model_copy(update={name: getattr(options, name) for name in ("blocks", "heads", "norm")})
    model = unfitted(task, baseline.encoder(generator, None), "sasrec", baseline.settings, dataset, generator)
    baseline.prepare(model)
    rows: list[Row] = []
    waiting, clock = list(options.seconds), {"paused": 0.0, "began": time.process_time()}
    ends: deque[State] = deque(maxlen=max(options.average, default=0))

    def rank(weights: str, seconds: float, epoch: int, step: int) -> None:
        for name in ("valid", "test"):
            part = getattr(task, name)
            found = full_ranking(model.inner_products(part.inputs), len(part), part.targets, part.inputs)
            views = {"all": found.ranks_all, "unseen": found.ranks_unseen}
            rows.append({"weights": weights, "seconds": seconds, "epochs": epoch + 1, "steps": step, "part": name, **views})
            print(json.dumps(scored(rows[-1])), file=sys.stderr, flush=True)  # an hour's run should tell before its end

    def measure(epoch: int, step: int) -> bool:
        begin = time.process_time()
        seconds = begin - clock["began"] - clock["paused"]
        last = epoch + 1 == options.epochs
        if options.average:
            ends.append({name: value.clone() for name, value in model.state_dict().items()})
        if seconds >= waiting[0] or last:
            waiting.pop(0)
            rank("last", seconds, epoch, step)
            for n in options.average:
                model.load_state_dict(mean_of(list(ends)[-n:]))
                rank(f"mean of {n}", seconds, epoch, step)
            if ends:
                model.load_state_dict(ends[-1])
            while waiting and seconds >= waiting[0]:
                waiting.pop(0)
        clock["paused"] += time.process_time() - begin
        return last or not waiting

    stream = BatchStream(task.whole, task.n_train, options.batch, options.max_len, seed)
    training = Training(model, "scratch", task.ignored_target, "all")
    Run(training, stream, baseline.settings, journal=Journal(), log_every=MANY, end_of_epoch=measure).run()
    yield from rows


def mean_of(states: list[State]) -> State:
    """The mean of each floating-point tensor; of the others the newest."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[-1].items()
    }


def rectools(csv: Path, options: argparse.Namespace, seed: int, python: Path) -> Iterator[Row]:
    """Measurements of RecTools' SASRecModel, from its own process."""
    names = ("seconds", "threads", "dim", "blocks", "heads", "dropout", "max_len", "batch", "lr")
    config = {"csv": str(csv), "seed": seed, **{name: getattr(options, name) for name in names}}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(options.threads))
    command = [str(python), str(Path(__file__).with_name("sasrec_parity_rectools.py")), json.dumps(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads}) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        raise SystemExit(f"RecTools' process ended with {process.returncode}")


def write_csv(dataset: Dataset, path: Path) -> None:
    """user, item, place: users of three events or more, in the order of the dataset."""
    sequences = dataset.sequences().take(np.flatnonzero(dataset.sequences().lengths >= 3))
    flat, offsets = sequences.gather()
    user = np.repeat(np.arange(len(sequences)), np.diff(offsets))
    table = np.stack([user, flat, np.arange(len(flat)) - offsets[user]], axis=1)
    np.savetxt(path, table, fmt="%d", delimiter=",", header="user,item,place", comments="")


def scored(row: Row) -> Row:
    """The row with its ranks averaged."""
    kept = {key: row[key] for key in ("weights", "seconds", "epochs", "steps", "part")}
    for view in ("all", "unseen"):
        values = ranking_metrics(np.asarray(row[view]).astype(np.int64))
        kept |= {f"{name} {view}": round(float(one.mean()), 4) for name, one in values.items()}
    return kept


def show(rows: list[Row], seeds: list[int]) -> None:
    """The test figures of each system at the measurement that validates best, a line a seed, then their means."""
    names = [f"{metric} {view}" for view in ("unseen", "all") for metric in ("recall@10", "ndcg@10", "mrr@10")]
    print("system", "weights", "seed", "seconds", "epochs", *names, sep="\t")
    for system, weights in dict.fromkeys((row["system"], row["weights"]) for row in rows):
        chosen = []
        for seed in seeds:
            own = [row for row in rows if (row["system"], row["weights"], row["seed"]) == (system, weights, seed)]
            best = max((row for row in own if row["part"] == "valid"), key=lambda row: row["ndcg@10 unseen"])
            chosen.append(next(row for row in own if row["part"] == "test" and row["steps"] == best["steps"]))
            print(system, weights, seed, round(best["seconds"], 1), best["epochs"], *(chosen[-1][name] for name in names), sep="\t")
        print(system, weights, "mean", "", "", *(round(float(np.mean([row[name] for row in chosen])), 4) for name in names), sep="\t")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder that `userclue prepare` wrote")
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--seconds", type=float, nargs="+", default=[15, 30, 60, 120, 240], help="of training, rising: when to measure")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--environments", type=Path, default=default_folder(), help="where the peers' environments are kept")
    parser.add_argument("--python", default=sys.executable, help="interpreter of RecTools' environment")
    for name, value in {"dim": 64, "blocks": 2, "heads": 1, "max-len": 100, "batch": 128}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--norm", choices=["pre", "post"], default="pre", help="userclue alone: LayerNorm before or after each sub-layer")
    parser.add_argument(
        "--average", type=int, nargs="+", default=[], metavar="N", help="userclue alone: also with the mean of so many epochs' weights"
    )
    parser.add_argument("--epochs", type=int, help="userclue alone: at most so many, the rate falling to 0 over them by a cosine")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dataset = Dataset.open(options.dataset)
    python = python_of("rectools", options.environments, options.python) if "rectools" in options.systems else Path(options.python)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        write_csv(dataset, Path(folder) / "events.csv")
        for seed in options.seeds:
            for system in options.systems:
                found = (
                    ours(dataset, options, seed) if system == "userclue" else rectools(Path(folder) / "events.csv", options, seed, python)
                )
                for row in found:
                    rows.append({"system": system, "seed": seed, **scored({"weights": "last", **row})})
                    print(json.dumps(rows[-1]), flush=True)
    show(rows, options.seeds)
    told = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    write_json(options.out, {"version": VERSION, "kernels": describe(), "options": told, "rows": rows})


if __name__ == "__main__":
    main()
