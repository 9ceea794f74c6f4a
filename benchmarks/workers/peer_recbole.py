"""RecBole: SASRec with full softmax, its full-sort evaluator, and the creation of its dataset.

RecBole reads TSV with typed column names, so the CSV is rewritten for it beforehand, outside every clock. Importing its sequential
models switches torch's anomaly detection on for the whole process; it is switched off again, as nobody would train with it.
"""

import csv
import itertools
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workers.protocol import Config, Repetition, Row, counted_flops, pin, serve
from benchmarks.workers.scores import made_up_scores

K = 10
EVAL_BATCH = 4096  # its default


def _folder(config: Config) -> Path:
    """A data folder as RecBole wants it, made once: NAME/NAME.inter."""
    source = Path(config["csv"])
    folder = Path(config["work"]) / "recbole" / source.stem
    target = folder / f"{source.stem}.inter"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkstemp(dir=folder)[1])
        with source.open() as lines, partial.open("w") as out:
            next(lines)
            out.write("user_id:token\titem_id:token\ttimestamp:float\n")
            csv.writer(out, delimiter="\t", lineterminator="\n").writerows(csv.reader(lines))
        partial.rename(target)
    return folder


def _config(config: Config):
    import torch
    from recbole.config import Config as Settings
    from recbole.utils import init_seed

    torch.autograd.set_detect_anomaly(False)
    folder = _folder(config)
    settings = Settings(
        model="SASRec",
        dataset=folder.name,
        config_dict={
            "data_path": str(folder.parent),
            "checkpoint_dir": tempfile.mkdtemp(dir=config["work"]),
            "use_gpu": False,
            "state": "ERROR",
            "show_progress": False,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "MAX_ITEM_LIST_LENGTH": config["max_len"],
            "train_neg_sample_args": None,
            "loss_type": "CE",
            "hidden_size": config["dim"],
            "inner_size": config["dim"],
            "n_layers": config["blocks"],
            "n_heads": config["heads"],
            "hidden_dropout_prob": config["dropout"],
            "attn_dropout_prob": config["dropout"],
            "hidden_act": "relu",  # its default, gelu, is far dearer on a CPU; ours and the other peers have relu
            "train_batch_size": config["batch"],
            "eval_batch_size": EVAL_BATCH,
            "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
            "metrics": ["Recall", "MRR", "NDCG"],
            "topk": [K],
            "metric_decimal_place": 12,
        },
    )
    init_seed(0, False)
    return settings


def _parts(config: Config) -> tuple[Any, Any, Any, Any, Any]:
    """Dataset, training and test loaders, model and trainer."""
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import SASRec
    from recbole.trainer import Trainer

    settings = _config(config)
    dataset = create_dataset(settings)
    train, _, test = data_preparation(settings, dataset)
    model = SASRec(settings, train.dataset)
    trainer = Trainer(settings, model)
    trainer.eval_collector.data_collect(train)
    shutil.rmtree(settings["checkpoint_dir"], ignore_errors=True)
    pin(config["threads"])
    return dataset, train, test, model, trainer


class Some:
    """The next batches of a loader that goes round and round: an epoch that ends early, its start paid for before the clock."""

    shuffle = False

    def __init__(self, loader: Any, batches: int) -> None:
        self.batches, self.source = batches, itertools.chain.from_iterable(itertools.repeat(loader))

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self.source, self.batches)


def pretrain(config: Config) -> tuple[Repetition, Row]:
    """Sequences of SASRec's own training (a prefix and its next item each) through its Trainer."""
    _, train, _, model, trainer = _parts(config)
    batches = max(config["peer_users"] // config["batch"], 1)
    some = Some(train, config["warm_up"])
    trainer._train_epoch(some, 0)
    one = next(iter(some))
    flops = counted_flops(lambda: model.calculate_loss(one).backward()) / len(one)
    model.zero_grad()
    some.batches = batches

    def repetition() -> Row:
        trainer._train_epoch(some, 0)
        return {"units": batches * config["batch"]}

    return repetition, {"flops_per_unit": flops, "items": model.n_items - 1}


def rank(config: Config) -> tuple[Repetition, Row]:
    """Trainer.evaluate over the last event of every user, all items ranked."""
    _, _, test, _, trainer = _parts(config)

    def repetition() -> Row:
        result = trainer.evaluate(test, load_best_model=False, show_progress=False)
        return {"units": len(test.dataset), "metrics": dict(result)}

    repetition()
    return repetition, {}


def agree(config: Config) -> tuple[Repetition, Row]:
    """Its evaluator on the made-up scores."""
    import torch

    dataset, _, test, model, trainer = _parts(config)
    items = dataset.id2token("item_id", np.arange(1, dataset.item_num)).astype(np.int64)

    def scores(interaction: Any) -> Any:
        users = dataset.id2token("user_id", interaction["user_id"].numpy()).astype(np.int64)
        targets = dataset.id2token("item_id", interaction["item_id"].numpy()).astype(np.int64)
        out = np.full((len(users), dataset.item_num), -np.inf, np.float32)
        out[:, 1:] = made_up_scores(users, items, targets)
        return torch.from_numpy(out)

    model.full_sort_predict = scores
    return lambda: {
        "units": len(test.dataset),
        "metrics": dict(trainer.evaluate(test, load_best_model=False, show_progress=False)),
    }, {}


def prepare_log(config: Config) -> tuple[Repetition, Row]:
    """`create_dataset` alone: ids numbered."""
    return _prepared(config, False)


def prepare_training(config: Config) -> tuple[Repetition, Row]:
    """The same and `data_preparation`: sorted, split, and every prefix of every history written out, which its training needs."""
    return _prepared(config, True)


def _prepared(config: Config, for_training: bool) -> tuple[Repetition, Row]:
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import SASRec  # noqa: F401 -- imported before the clock starts

    settings = _config(config)

    def repetition() -> Row:
        began = time.perf_counter()
        dataset = create_dataset(settings)
        events = len(dataset)
        if for_training:
            data_preparation(settings, dataset)
        return {"units": events, "seconds": time.perf_counter() - began}

    return repetition, {}


if __name__ == "__main__":
    builders = {"pretrain": pretrain, "rank": rank, "agree": agree, "prepare": prepare_log, "prepare-histories": prepare_training}
    serve(("recbole", "torch", "pandas", "numpy"), builders)
