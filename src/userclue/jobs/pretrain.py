"""The job `pretrain`: a dataset in, a pre-trained encoder out, with no labels."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from userclue.artifact import environment
from userclue.config import PretrainSettings
from userclue.data.batches import BatchStream, Source
from userclue.data.cuts import before, hold_out
from userclue.data.factors import item_factors
from userclue.data.store import Dataset, Sequences
from userclue.encoder import UserEncoder
from userclue.errors import DataError, UsageError
from userclue.files import lock, refuse_existing
from userclue.metrics.geometry import effective_rank
from userclue.native import describe
from userclue.nn.backbones import BACKBONES, settled
from userclue.nn.embedding import SequenceEmbedding
from userclue.objectives.registry import OBJECTIVES
from userclue.presets import PRETRAIN_PRESETS, preset_values
from userclue.train.checkpoint import Checkpoints
from userclue.train.journal import UNWATCHED, Journal, Row, Watch
from userclue.train.loop import Training, seeded_generator
from userclue.train.monitor import CollapseMonitor
from userclue.views import view_named, window_share

DEFAULT_EPOCHS = 20
PROBE_USERS = 1024
INIT, BATCHES = 1, 2  # streams of the seed


@dataclass
class Pretraining:
    """What `run_pretraining` gives back: the encoder and what is to be said of the run."""

    encoder: UserEncoder
    settings: PretrainSettings
    steps: int
    seconds: float
    collapsed: bool
    warnings: list[str] = field(default_factory=list)

    @property
    def users_per_second(self) -> float:
        """Users trained a second: the median of the logged rows, the first (which pays for warming up) apart."""
        return round(float(np.median([row["users_per_second"] for row in self.encoder.rows[1:] or self.encoder.rows])), 1)

    @property
    def last(self) -> Row:
        """The last logged row."""
        return self.encoder.rows[-1]


def pretrain(
    data: Dataset | str | Path,
    out: str | Path | None = None,
    *,
    preset: str = "paper",
    init: UserEncoder | str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    **settings: Any,
) -> UserEncoder:
    """Pre-train an encoder on `data` (a Dataset or its folder) and, with `out`, write it there as an artifact.

    `settings` are the fields of PretrainSettings (objective, backbone, view, max_len, dim, blocks, heads, dropout, batch_size,
    epochs or steps or minutes, lr, optimizer, seed, ...) and override the preset. Same seed, same machine, same weights.
    Raises UsageError for unknown or contradictory settings, DataError when no user has an event to learn from.
    """
    chosen = pretrain_settings(preset, **settings)
    return run_pretraining(data, chosen, out, init=init, overwrite=overwrite, resume=resume).encoder


def pretrain_settings(preset: str = "paper", **overrides: Any) -> PretrainSettings:
    """Preset, then overrides, then the default budget; every part checked. Another objective than the preset's takes its parts away."""
    chosen = preset_values(PRETRAIN_PRESETS, preset)
    if overrides.get("objective", "hybrid") != "hybrid":
        chosen.pop("objectives", None)
    settings = PretrainSettings.of({**chosen, **overrides})
    for name in (settings.objective, *settings.parts()):
        if name not in OBJECTIVES:
            raise UsageError(f"unknown objective {name}; known: {', '.join(OBJECTIVES)}")
    if settings.backbone not in BACKBONES:
        raise UsageError(f"unknown backbone {settings.backbone}; known: {', '.join(BACKBONES)}")
    view_named(settings.view)
    if settings.epochs is settings.steps is settings.minutes is None:
        settings = settings.model_copy(update={"epochs": DEFAULT_EPOCHS})
    settled(settings.encoder())
    return settings


def run_pretraining(
    data: Dataset | str | Path,
    settings: PretrainSettings,
    out: str | Path | None = None,
    *,
    init: UserEncoder | str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    watch: Watch = UNWATCHED,
) -> Pretraining:
    """`pretrain` with checked settings, followed by `watch`, and with the run's record."""
    dataset = data if isinstance(data, Dataset) else Dataset.open(data)
    if out is None:
        return _train(dataset, settings, None, init, resume, watch)
    target = Path(out)
    if resume and target.exists() and not (target / "checkpoint").is_dir():
        raise UsageError(f"{target}: holds no interrupted run to resume; choose another output or add --overwrite")
    if not resume:
        if (target / "checkpoint").is_dir() and not overwrite:
            raise UsageError(f"{target}: holds an interrupted run; add --resume to go on with it or --overwrite to start again")
        refuse_existing(target, overwrite)
    with lock(target):
        if not resume and (target / "checkpoint").is_dir():
            shutil.rmtree(target / "checkpoint")
        result = _train(dataset, settings, target, init, resume, watch)
        result.encoder.save_pretrained(target, overwrite=True, locked=True)
    return result


def _train(
    dataset: Dataset,
    settings: PretrainSettings,
    target: Path | None,
    init: UserEncoder | str | Path | None,
    resume: bool,
    watch: Watch,
) -> Pretraining:
    sequences = visible(dataset, settings)
    generator = seeded_generator(torch.device("cpu"), settings.seed, INIT)
    encoder = UserEncoder.new(settings.encoder(), dataset.vocabulary, generator)
    if settings.item_start == "factors":
        assert isinstance(encoder.embedding, SequenceEmbedding)  # a bag is never pre-trained
        encoder.embedding.take_items(item_factors(sequences, len(dataset.vocabulary), settings.dim, settings.seed))
    if init is not None:
        encoder.start_from(init if isinstance(init, UserEncoder) else UserEncoder.from_pretrained(init))
    objective = OBJECTIVES[settings.objective](encoder, settings, generator)
    if len(sequences) < objective.smallest_batch:
        raise DataError(
            f"{dataset.path}: {len(sequences)} user(s) to learn from; {settings.objective} needs at least {objective.smallest_batch}"
        )
    windows = window_share(settings.view, settings.view_share)
    monitor = CollapseMonitor(settings.dim, settings.on_collapse == "stop")
    run = Training(
        objective,
        BatchStream(
            source=_source(sequences, objective.reads_what_follows and windows is None),
            n_sequences=len(sequences),
            batch_size=settings.batch_size,
            max_len=settings.max_len,
            seed=int(np.random.SeedSequence([settings.seed, BATCHES]).generate_state(1)[0]),
            smallest=objective.smallest_batch,
            groups=None if dataset.people is None else dataset.people[_rows(dataset, sequences)],
            windows=windows,
        ),
        settings,
        journal=Journal((monitor, watch.row)),
        log_every=settings.log_every,
        probe=_rank_probe(encoder, sequences, settings.seed),
        checkpoints=Checkpoints(target, _fingerprint(dataset, settings)) if target is not None else None,
        checkpoint_seconds=settings.checkpoint_seconds,
    )
    if resume:
        run.resume()
        for row in run.journal.rows:
            monitor(row)
    watch.started(run)
    progress = run.run()
    encoder.to("cpu").rows = run.journal.rows
    encoder.facts = {
        "pretrain": settings.model_dump(exclude=set(type(encoder.config).model_fields)),
        "data": data_facts(dataset),
        "environment": environment(),
        "seconds": round(progress.seconds, 2),
    }
    warnings = objective.warnings + monitor.warnings() + (run.checkpoints.warnings if run.checkpoints is not None else [])
    return Pretraining(encoder, settings, progress.step, progress.seconds, monitor.collapsed, warnings)


def visible(dataset: Dataset, settings: PretrainSettings) -> Sequences:
    """The part of the histories that pre-training may see: without each user's last `hold_out` events, and before `until`.

    The default keeps out the two events that leave-one-out validates and tests on, so that the later test stays honest.
    Raises DataError when nothing is left.
    """
    sequences = dataset.sequences()
    if settings.until is not None:
        sequences = before(sequences, dataset.times, settings.until)
    sequences = hold_out(sequences, settings.hold_out)
    sequences = sequences.take(np.flatnonzero(sequences.lengths > 0))
    if len(sequences) == 0:
        raise DataError(f"{dataset.path}: no user has an event left to learn from (hold_out {settings.hold_out}, until {settings.until})")
    return sequences


def _source(sequences: Sequences, what_follows: bool) -> Source:
    """The histories; with `what_follows` each without its last item, which is its target."""
    if not what_follows:
        return lambda _: (sequences, None)
    shorter = sequences.drop_last(1)
    targets = np.asarray(sequences.items[shorter.ends])
    return lambda _: (shorter, targets)


def _rows(dataset: Dataset, sequences: Sequences) -> np.ndarray:
    """int64, whose sequence each of `sequences` is: none is empty, and each begins where its user's history begins."""
    return np.searchsorted(dataset.offsets, sequences.starts, side="right") - 1


def data_facts(dataset: Dataset) -> dict[str, Any]:
    """What an artifact remembers of the dataset it was made from."""
    manifest = dataset.manifest
    facts = {"users": dataset.n_users, "items": dataset.n_items, "events": dataset.n_events}
    facts |= {key: manifest[key] for key in ("source", "time", "lengths") if key in manifest}
    return facts | {"fingerprint": manifest["files"]["items.npy"]["sha256"]}


def _fingerprint(dataset: Dataset, settings: PretrainSettings) -> dict[str, Any]:
    volatile = {"checkpoint_seconds", "device"}
    files = dataset.manifest["files"]
    data = {"data": files["items.npy"]["sha256"], "vocabulary": files["vocabulary.parquet"]["sha256"]}
    return {**data, "kernels": describe(), **settings.model_dump(exclude=volatile)}


def _rank_probe(encoder: UserEncoder, sequences: Sequences, seed: int) -> Callable[[], dict[str, float]]:
    """Effective rank of up to 1,024 users' vectors without dropout: the std alone hides dimensional collapse."""
    chosen = np.random.default_rng(seed).permutation(len(sequences))[:PROBE_USERS]
    sample = sequences.take(np.sort(chosen))

    def probe() -> dict[str, float]:
        vectors = encoder.vectors(sample)
        if not np.isfinite(vectors).all():  # the loss of this step came before its update, and may still be finite
            raise UsageError("training has diverged: the user vectors are no longer finite numbers; lower lr or set clip_norm")
        return {"effective_rank": effective_rank(vectors)}

    return probe
