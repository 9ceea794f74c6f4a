"""The job `finetune`: a pre-trained encoder and a labelled task in, a fitted model and an honest comparison out."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from userclue.artifact import environment
from userclue.baselines.registry import BASELINES, chosen_baselines
from userclue.config import FinetuneSettings
from userclue.data.inputs import of_dataset
from userclue.data.labels import read_labels
from userclue.data.store import Dataset
from userclue.data.targets import read_targets
from userclue.data.times import parse_instant
from userclue.encoder import UserEncoder
from userclue.errors import DataError, UsageError
from userclue.files import refuse_existing
from userclue.jobs.rivals import account, check_rivals, fit_rivals, terms
from userclue.jobs.scoring import score_cold_start, score_profiling, score_sequential
from userclue.metrics.projection import project
from userclue.presets import finetune_preset
from userclue.tasks.base import FittedModel, Task
from userclue.tasks.cold_start import ColdStart, ColdStartModel
from userclue.tasks.fitting import INIT, fit_model, unfitted
from userclue.tasks.profiling import Profiling, ProfilingModel
from userclue.tasks.registry import TASKS
from userclue.tasks.sequential import Sequential
from userclue.train.journal import UNWATCHED, Watch
from userclue.train.loop import seeded_generator

DEFAULT_EPOCHS = 20
DEFAULT_SPLIT = {"profiling": "80/5/15", "cold-start": "user", "sequential": "leave-one-out"}
ZERO = "clue_zero"
SUFFIX = {"finetune": "", "probe": "_frozen", "adapter": "_adapter"}
MAP_USERS = 2000


def finetune(
    encoder: UserEncoder | str | Path,
    data: Dataset | str | Path,
    out: str | Path | None = None,
    *,
    task: str,
    labels: Any = None,
    split: str | None = None,
    preset: str = "paper",
    baselines: bool | str = True,
    overwrite: bool = False,
    watch: Watch = UNWATCHED,
    **settings: Any,
) -> FittedModel:
    """Fit `encoder` to a task on `data`, compare it with baselines on the test part and, with `out`, write it there.

    task: `profiling` (needs `labels`: a file or frame with user_id and label), `cold-start` (`labels` with user_id, item_id of another
    domain and perhaps timestamp) or `sequential`. `settings` are the fields of FinetuneSettings (mode, epochs, lr, batch_size,
    patience, train_fraction, seed, ...). `baselines`: True or `plain`, False or `none`, `all`, or names of trained ones (sasrec, nfm,
    peterrec, ...) joined by commas, `plain` perhaps among them; trained ones have the fit's own budget. The result's `facts` hold
    metrics, baselines and verdict, as task.json does. Raises UsageError, DataError (labels fit no user or one class only; no user long
    enough for the split) and ArtifactError.
    """
    begin = time.perf_counter()
    chosen = finetune_settings(preset, task, **settings)
    plain, named = chosen_baselines(baselines, task)
    if out is not None:
        refuse_existing(Path(out), overwrite)
    encoder = encoder if isinstance(encoder, UserEncoder) else UserEncoder.from_pretrained(encoder)
    dataset = data if isinstance(data, Dataset) else Dataset.open(data)
    job = build_task(task, dataset, encoder, labels, split, chosen)
    model, tables = unfitted_model(encoder, job, chosen, dataset)
    named = _trained(named, chosen, model.facts["system"])
    check_rivals(named, encoder, job, chosen, dataset)
    fit_model(model, job, chosen, watch)
    rivals = fit_rivals(named, encoder, job, chosen, dataset, watch)
    report, predictions = score(model, job, "test", dataset, plain, rivals)
    model.facts.update(
        report,
        conditions=job.conditions + terms(rivals, chosen),
        trained_baselines=account(rivals),
        seconds=round(time.perf_counter() - begin, 2),
        warnings=leak_warnings(model.encoder, dataset, job) + _idle_network(model),
        data={"path": dataset.path.name, "fingerprint": dataset.manifest["files"]["items.npy"]["sha256"]},
        environment=environment(),
    )
    if out is not None:
        model.save_pretrained(out, overwrite=overwrite, tables={"predictions.parquet": predictions, **tables})
    return model


def evaluate(
    model: FittedModel, data: Dataset | str | Path, *, labels: Any = None, part: str = "test", baselines: bool = True
) -> dict[str, Any]:
    """Score a fitted model on the `test` or `valid` part of its split, as task.json tells it; data and labels may be new.

    Users the model was fitted on are never tested on. The plain baselines learn from the part of `data` that the model may learn from;
    trained ones were not kept: a warning names those that stood beside the fit.
    Raises DataError when no instance is left.
    """
    dataset = data if isinstance(data, Dataset) else Dataset.open(data)
    settings = FinetuneSettings.of(model.facts["settings"])
    split = model.facts["split"]["name"]
    task = build_task(model.facts["task"], dataset, model.encoder, labels, split, settings, model)
    report, _ = score(model, task, part, dataset, baselines, {})
    warnings = leak_warnings(model.encoder, dataset, task)
    if baselines and not report["baselines"]:
        warnings.append("no baseline beside these figures: none of the users that the model was fitted on is in this data")
    trained = list(model.facts.get("trained_baselines", ()))
    if baselines and trained:
        warnings.append(
            f"left out here: {', '.join(trained)}; trained baselines are not kept with a fitted model. Their figures on its test part are "
            f"in its task.json; to have them on this data, fit again: userclue finetune … --baselines plain,{','.join(trained)}"
        )
    return {**task.facts(), "mode": model.facts["mode"], **report, "conditions": task.conditions, "warnings": warnings}


def finetune_settings(preset: str = "paper", task: str = "", **overrides: Any) -> FinetuneSettings:
    """Preset (as it is for `task`), then overrides, then the default budget; every part checked."""
    settings = FinetuneSettings.of({**finetune_preset(preset, task), **overrides})
    if settings.epochs is settings.steps is settings.minutes is None:
        settings = settings.model_copy(update={"epochs": DEFAULT_EPOCHS})
    return settings


def build_task(
    name: str,
    dataset: Dataset,
    encoder: UserEncoder,
    labels: Any,
    split: str | None,
    settings: FinetuneSettings,
    fitted: FittedModel | None = None,
) -> Profiling | ColdStart | Sequential:
    """The task's instances on `dataset`, numbered by the encoder's vocabulary; UsageError when name, labels and split do not fit."""
    if name not in TASKS:
        raise UsageError(f"unknown task {name}; known: {', '.join(TASKS)}")
    split = split or DEFAULT_SPLIT[name]
    sequences = of_dataset(dataset, encoder.vocabulary).whole()
    if name == "sequential":
        if labels is not None:
            raise UsageError("--labels belongs to profiling and cold-start; sequential takes its targets from the histories themselves")
        size, prefixes, share = len(encoder.vocabulary), settings.prefixes, settings.train_fraction
        return Sequential(dataset, sequences, size, split, settings.seed, prefixes, share)
    if name == "cold-start":
        if labels is None:
            raise UsageError("cold-start needs --labels FILE with the columns user_id and item_id (items of the other domain)")
        before = fitted if isinstance(fitted, ColdStartModel) else None
        return ColdStart(dataset, sequences, read_targets(labels), _name_of(labels, "targets"), split, settings, before)
    if labels is None:
        raise UsageError("profiling needs --labels FILE with the columns user_id and label")
    if split != DEFAULT_SPLIT[name]:
        raise UsageError(f"unknown split {split} for profiling; known: {DEFAULT_SPLIT[name]}")
    known = fitted if isinstance(fitted, ProfilingModel) else None
    table = read_labels(labels)
    return Profiling(dataset, sequences, table, _name_of(labels, table.column_names[1]), settings, known)


def _name_of(labels: Any, otherwise: str) -> str:
    return Path(labels).stem if isinstance(labels, str | Path) else otherwise


def score(
    model: FittedModel,
    task: Profiling | ColdStart | Sequential,
    part: str,
    dataset: Dataset,
    baselines: bool,
    rivals: Mapping[str, FittedModel],
) -> tuple[dict[str, Any], pa.Table]:
    """Model, plain baselines and rivals on a part (`test` or `valid`): what task.json holds, and the predictions one by one."""
    if part not in ("test", "valid"):
        raise UsageError(f"unknown part {part}; known: test, valid")
    chosen = task.test if part == "test" else task.valid
    if not len(chosen):
        raise DataError(f"{dataset.path}: the {part} part is empty; every labelled user was in another part of the model's split")
    if isinstance(task, Profiling):
        return score_profiling(model, task, chosen, dataset, baselines, rivals)
    if isinstance(task, ColdStart):
        return score_cold_start(model, task, chosen, dataset, baselines, rivals)
    return score_sequential(model, task, chosen, dataset, baselines, rivals)


def leak_warnings(encoder: UserEncoder, dataset: Dataset, task: Task) -> list[str]:
    """Whether pre-training, or the history read, has seen what this task tests on."""
    if isinstance(task, ColdStart) and task.targets_amid_history:
        return [
            f"{task.targets_amid_history} targets lie before the end of the history they are predicted from, so the figures flatter; "
            "use --before-target for an honest test"
        ]
    pretrained = encoder.facts.get("pretrain") or {}
    if not isinstance(task, Sequential) or not pretrained:
        return []
    same = (encoder.facts.get("data") or {}).get("fingerprint") == dataset.manifest["files"]["items.npy"]["sha256"]
    saw = "pre-training saw" if same else "if it was made from the same log, pre-training saw"
    split = task.facts()["split"]["name"]
    if split == "leave-one-out" and pretrained.get("hold_out", 0) < 2:
        return [f"{saw} the events this split tests on, so the figures flatter; pre-train with --hold-out 2 for an honest test"]
    if split == "time" and (pretrained.get("until") is None or parse_instant(pretrained["until"]) > task.held_out_from):
        return [f"{saw} events after the time from which this split tests, so the figures flatter; pre-train with --until TIME"]
    return []


def unfitted_model(
    encoder: UserEncoder, task: Task, settings: FinetuneSettings, dataset: Dataset
) -> tuple[FittedModel, dict[str, pa.Table]]:
    """The model before its first step, and the tables that its folder will hold beside it."""
    generator = seeded_generator(torch.device("cpu"), settings.seed, INIT)
    config = encoder.config
    if settings.dropout is not None:
        config = config.model_copy(update={"dropout": settings.dropout})
    if settings.causal is not None:
        config = config.model_copy(update={"causal": settings.causal})
    if settings.readout is not None:
        config = config.model_copy(update={"readout": settings.readout})
    if settings.mode == "adapter":
        config = config.model_copy(update={"adapters": True})
    own = UserEncoder.new(config, encoder.vocabulary, generator)
    own.facts = {key: value for key, value in encoder.facts.items() if settings.mode != "scratch" or key != "pretrain"}
    if settings.mode != "scratch":
        own.load_state_dict({**own.state_dict(), **encoder.state_dict()})  # new patches keep their own start
    model = unfitted(task, own, system_name(encoder, settings.mode), settings, dataset, generator)
    if isinstance(task, Profiling):
        return model, {"map.parquet": _map(encoder, task, dataset)}
    return model, {}


def system_name(encoder: UserEncoder, mode: str) -> str:
    """What tables call a model: the objective of its pre-training, and how it was fitted; `clue_zero` where there was no pre-training.

    One that would be called as a trained baseline is (`s3rec`) has `_finetuned` to its name.
    """
    objective = (encoder.facts.get("pretrain") or {}).get("objective")
    if mode == "scratch" or objective is None:
        return ZERO + SUFFIX.get(mode, "")
    name = f"{objective}{SUFFIX[mode]}"
    return f"{name}_finetuned" if name in BASELINES else name


def _idle_network(model: FittedModel) -> list[str]:
    """Whether the figures are a linear model's alone."""
    if model.facts.get("wide_share") != 1:
        return []
    return [
        "the validation part gave the network no share beside the wide part (wide_share 1): these figures are those of a linear model on "
        "the bag of items; longer pre-training may change that"
    ]


def _trained(names: list[str], settings: FinetuneSettings, system: str) -> list[str]:
    """Trained baselines to fit: those named, and CLUEZero where `with_scratch` asks for it, unless the model is that itself."""
    wanted = [ZERO, *names] if settings.with_scratch and ZERO not in names else names
    return [name for name in wanted if name != system]


def _map(encoder: UserEncoder, task: Profiling, dataset: Dataset) -> pa.Table:
    """Two principal components of the pre-trained vectors of up to 2,000 labelled users, before any label was seen."""
    part = task.test
    chosen = np.sort(np.random.default_rng(task.seed).permutation(len(part))[:MAP_USERS])
    xy, explained = project(encoder.vectors(part.inputs.take(chosen)))
    table = pa.table(
        {
            "user_id": dataset.users.take(pa.array(part.users[chosen])),
            "x": pa.array(xy[:, 0]),
            "y": pa.array(xy[:, 1]),
            "label": pa.array(task.classes[part.targets[chosen]], pa.string()),
        }
    )
    return table.replace_schema_metadata({b"explained": str([round(float(share), 6) for share in explained]).encode()})
