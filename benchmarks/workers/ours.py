"""userclue beside its peers: pre-training, embedding, full ranking, preparation, through the paths the product itself takes."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.floor import Lengths, Shape, Work, clue_steps, last_steps, next_steps
from benchmarks.workers.protocol import Config, Repetition, Row, pin, serve
from benchmarks.workers.scores import made_up_scores


def _settings(config: Config) -> Any:
    from userclue.config import PretrainSettings

    shape = {name: config[name] for name in ("max_len", "dim", "blocks", "heads", "dropout")}
    more = {"precision": config["precision"], "device": config["device"], "item_updates": config["item_updates"]}
    return PretrainSettings.of({**shape, **more, "batch_size": config["batch"], "steps": config["warm_up"], "hold_out": 0})


def _kernels() -> bool:
    """Whether the compiled kernels are in use."""
    from userclue.native import kernels

    return kernels() is not None


def pretrain(config: Config) -> tuple[Repetition, Row]:
    """CLUE through the product's own loop, a row logged every 50 steps, without checkpoints and the rank probe.

    A repetition is an epoch, or `steps` where the configuration gives them.
    """
    from benchmarks.workers.histories import histories_of
    from userclue.data.batches import BatchStream

    settings, histories = _settings(config), histories_of(config)
    sequences = histories.sequences
    stream = BatchStream(lambda _: (sequences, None), len(sequences), config["batch"], config["max_len"], seed=0, smallest=2)
    run = _run(config, settings, _objective(settings, histories.vocabulary), stream)
    lengths, rows = Lengths(**histories.lengths(config["max_len"])), len(histories.vocabulary)
    shape = Shape(config["dim"], config["blocks"], config["dim"] // 4)
    flops = clue_steps(lengths, rows, config["max_len"], shape).flops / lengths.users
    return run, {
        "flops_per_unit": flops,
        "steps_per_epoch": stream.steps_per_epoch,
        "lengths": vars(lengths),
        "rows": rows,
        "kernels": _kernels(),
    }


def next_item(config: Config) -> tuple[Repetition, Row]:
    """The next item at every position of every history, softmax over all items, tied; an epoch through the product's own loop."""
    from benchmarks.workers.histories import histories_of
    from userclue.data.batches import BatchStream

    settings = _settings(config).model_copy(update={"objective": "next", "item_loss": "full"})
    histories = histories_of(config)
    sequences = histories.sequences
    stream = BatchStream(lambda _: (sequences, None), len(sequences), config["batch"], config["max_len"], seed=0)
    run = _run(config, settings, _objective(settings, histories.vocabulary), stream)
    return run, _item_facts(config, Lengths(**histories.lengths(config["max_len"])), len(histories.vocabulary), next_steps)


def last_item(config: Config) -> tuple[Repetition, Row]:
    """The last item of prefixes of histories from the vector at UR, as `finetune --task sequential --head tied` learns it.

    The prefixes are drawn from all there are, as many as an epoch of whole histories has; each is met once.
    """
    from benchmarks.workers.histories import histories_of, summary
    from userclue.data.batches import BatchStream
    from userclue.data.store import Sequences
    from userclue.data.vocabulary import UNK
    from userclue.tasks.base import Training
    from userclue.tasks.sequential import SequentialModel, TiedHead

    settings, histories = _settings(config), histories_of(config)
    whole = histories.sequences
    starts = np.repeat(whole.starts, whole.lengths - 1)
    places = np.delete(np.arange(len(whole.items)), whole.starts)
    chosen = np.sort(np.random.default_rng(0).permutation(len(places))[: len(whole)])
    prefixes, targets = Sequences(whole.items, starts[chosen], places[chosen]), whole.items[places[chosen]]
    stream = BatchStream(lambda _: (prefixes, targets), len(prefixes), config["batch"], config["max_len"], seed=0)
    encoder = _objective(settings, histories.vocabulary).encoder
    run = _run(config, settings, Training(SequentialModel(encoder, TiedHead(encoder), {}), "finetune", UNK), stream)
    return run, _item_facts(config, Lengths(**summary(prefixes, config["max_len"])), len(histories.vocabulary), last_steps)


def _objective(settings: Any, vocabulary: Any) -> Any:
    import torch

    from userclue.encoder import UserEncoder
    from userclue.objectives.registry import OBJECTIVES
    from userclue.train.loop import seeded_generator

    generator = seeded_generator(torch.device("cpu"), 0)
    return OBJECTIVES[settings.objective](UserEncoder.new(settings.encoder(), vocabulary, generator), settings, generator)


def _run(config: Config, settings: Any, module: Any, stream: Any) -> Repetition:
    """A repetition that trains `module` for an epoch, or for `steps`, after the warm-up that the settings name."""
    import torch

    from userclue.train.journal import Journal
    from userclue.train.loop import Training

    pin(config["threads"])
    run = Training(module, stream, settings, journal=Journal())
    if config["torch_adam"]:
        run.optimizer = torch.optim.Adam(module.parameters(), lr=settings.lr)  # as one writes it, neither fused nor by row
    run.run()
    # A repetition carries on with the same optimiser, at the head of an epoch: only the budget moves.
    steps = config["steps"] or stream.steps_per_epoch
    users = steps * config["batch"] if config["steps"] else stream.n_sequences  # drawn histories fill their batches

    def train(more: int) -> None:
        run.settings = settings.model_copy(update={"steps": run.progress.step + more})
        run.run()
        if run.device.type == "cuda":
            torch.cuda.synchronize()

    def repetition() -> Row:
        if config["steps"]:
            _wake(run)
            train(config["warm_up"])
        began = time.perf_counter()
        train(steps)
        return {"units": users, "seconds": time.perf_counter() - began}

    return repetition


def _wake(run: Any) -> None:
    """Read all that is learned and what the optimiser keeps of it.

    A virtual machine may have put away what lay idle while others had their turn: no step's own cost.
    """
    import torch

    for kept in (run.module.parameters(), *(state.values() for state in run.optimizer.state.values())):
        for tensor in kept:
            torch.as_tensor(tensor).sum()


def _item_facts(config: Config, lengths: Lengths, rows: int, work: Callable[..., Work]) -> Row:
    steps = -(-lengths.users // config["batch"])
    floor = work(lengths, rows, config["max_len"], Shape(config["dim"], config["blocks"]), steps)
    return {
        "flops_per_unit": floor.flops / lengths.users,
        "work": vars(floor),
        "lengths": vars(lengths),
        "rows": rows,
        "kernels": _kernels(),
    }


def embed(config: Config) -> tuple[Repetition, Row]:
    """Vectors of all users, one process."""
    from torch import device

    from benchmarks.workers.histories import histories_of
    from userclue.encoder import UserEncoder
    from userclue.train.loop import seeded_generator

    pin(config["threads"])
    histories = histories_of(config)
    generator = seeded_generator(device("cpu"), 0)
    encoder = UserEncoder.new(_settings(config).encoder(), histories.vocabulary, generator).to(config["device"])
    encoder.vectors(histories.sequences.take(np.arange(min(len(histories.sequences), 1024))))

    def repetition() -> Row:
        return {"units": len(encoder.vectors(histories.sequences))}

    facts = {"lengths": histories.lengths(config["max_len"]), "rows": len(histories.vocabulary)}
    return repetition, {**facts, "kernels": _kernels()}


def embed_file(config: Config, workers: int) -> tuple[Repetition, Row]:
    """Vectors of all users into a file, shared out to `workers` processes, but for their start; random weights."""
    import torch

    from benchmarks.workers.histories import dataset_of
    from userclue.encoder import UserEncoder
    from userclue.jobs.embed import embed as embed_job
    from userclue.train.loop import seeded_generator

    pin(config["threads"])
    dataset, model = dataset_of(config), Path(config["work"]) / f"encoder-{workers}"
    encoder = UserEncoder.new(_settings(config).encoder(), dataset.vocabulary, seeded_generator(torch.device("cpu"), 0))
    encoder.save_pretrained(model, overwrite=True)

    def repetition() -> Row:
        began = time.perf_counter()
        done = embed_job(model, dataset, model.with_suffix(".parquet"), workers=workers, overwrite=True)
        return {"units": done.users, "seconds": time.perf_counter() - began - done.start_seconds, "start_seconds": done.start_seconds}

    return repetition, {"kernels": _kernels()}


def rank(config: Config) -> tuple[Repetition, Row]:
    """The last event of every user among all items, from history to metrics; random weights, as speed does not depend on them."""
    from torch import device

    from benchmarks.workers.histories import dataset_of, summary
    from userclue.data.splits import leave_one_out
    from userclue.encoder import UserEncoder
    from userclue.metrics.ranking import full_ranking, ranking_metrics
    from userclue.tasks.sequential import SequentialModel, TiedHead
    from userclue.train.loop import seeded_generator

    pin(config["threads"])
    dataset = dataset_of(config)
    encoder = UserEncoder.new(_settings(config).encoder(), dataset.vocabulary, seeded_generator(device("cpu"), 0))
    model = SequentialModel(encoder, TiedHead(encoder), {"outputs": len(dataset.vocabulary)})
    test = leave_one_out(dataset.sequences()).test

    def repetition() -> Row:
        ranked = full_ranking(model.inner_products(test.inputs), len(test), test.targets)
        metrics = ranking_metrics(ranked.ranks_all)
        return {"units": len(test), "metrics": {name: float(values.mean()) for name, values in metrics.items()}}

    repetition()
    return repetition, {"lengths": summary(test.inputs, config["max_len"]), "rows": len(dataset.vocabulary), "kernels": _kernels()}


def agree(config: Config) -> tuple[Repetition, Row]:
    """Metrics of scores that are made up from the ids, the same for every system: do the evaluators say the same?"""
    from benchmarks.workers.histories import dataset_of
    from userclue.data.splits import leave_one_out
    from userclue.data.vocabulary import FIRST_ITEM
    from userclue.metrics.ranking import full_ranking, ranking_metrics

    dataset = dataset_of(config)
    test = leave_one_out(dataset.sequences()).test
    items = np.asarray(dataset.vocabulary.ids(np.arange(FIRST_ITEM, len(dataset.vocabulary))))
    users = np.asarray(dataset.users)[test.users]
    targets = items[test.targets - FIRST_ITEM]

    def scores(rows: np.ndarray) -> np.ndarray:
        out = np.full((len(rows), len(dataset.vocabulary)), -np.inf, np.float32)
        out[:, FIRST_ITEM:] = made_up_scores(users[rows], items, targets[rows])
        return out

    def repetition() -> Row:
        metrics = ranking_metrics(full_ranking(scores, len(test), test.targets).ranks_all)
        return {"units": len(test), "metrics": {name: float(values.mean()) for name, values in metrics.items()}}

    return repetition, {}


def prepare_log(config: Config) -> tuple[Repetition, Row]:
    """CSV to a dataset folder on disk, hashes and all; another CSV first where the configuration names one (`warm_csv`)."""
    from userclue.data.prepare import prepare

    def timed(csv: str) -> Row:
        with tempfile.TemporaryDirectory(dir=config["work"]) as folder:
            began = time.perf_counter()
            dataset = prepare(csv, Path(folder) / "data", threads=config["threads"])
            return {"units": dataset.n_events, "seconds": time.perf_counter() - began}

    if "warm_csv" in config:
        timed(config["warm_csv"])
    return lambda: timed(config["csv"]), {}


if __name__ == "__main__":
    builders = {
        "pretrain": pretrain,
        "next": next_item,
        "last": last_item,
        "embed": embed,
        "embed-1": partial(embed_file, workers=1),
        "embed-2": partial(embed_file, workers=2),
        "rank": rank,
        "agree": agree,
        "prepare": prepare_log,
    }
    serve(("userclue", "torch", "numpy", "duckdb"), builders)
