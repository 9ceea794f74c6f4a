"""A cell: one system on one plan under one seed and share of the labels. What it needs is fitted, what it yields is scored."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import torch

from userclue.artifact import environment
from userclue.baselines.registry import BASELINES
from userclue.baselines.trained import TrainedBaseline
from userclue.config import FinetuneSettings, PretrainSettings
from userclue.data.splits import Instances
from userclue.encoder import UserEncoder
from userclue.experiments.material import Material
from userclue.experiments.plans import Plan
from userclue.experiments.scales import Scale
from userclue.jobs.finetune import build_task, finetune_settings, unfitted_model
from userclue.jobs.pretrain import data_facts, pretrain_settings
from userclue.jobs.scoring import (
    cold_start_ranks,
    next_item_rankings,
    plain_cold_start,
    plain_next_items,
    plain_profiling,
    profiling_outcomes,
)
from userclue.metrics.comparison import Outcome, ProfilingOutcome, RankingOutcome, compare
from userclue.metrics.geometry import effective_rank, std_sqrt_d, uniformity
from userclue.metrics.projection import project
from userclue.metrics.ranking import RankingResult
from userclue.presets import PRETRAIN_PRESETS, finetune_preset
from userclue.tasks.base import FittedModel
from userclue.tasks.cold_start import ColdStart
from userclue.tasks.fitting import fit_model
from userclue.tasks.profiling import Profiling
from userclue.tasks.sequential import Sequential
from userclue.train.journal import Watch
from userclue.train.loop import seeded_generator
from userclue.version import VERSION

FORMAT = 1
PLAIN = "plain"
# Our own model: its name in the tables, and the preset that makes it.
OURS = {name: preset for name, preset in (("clue", "paper"), ("best", "best")) if preset in PRETRAIN_PRESETS}
MAP_USERS = 1000
LIKE = 7  # stream of the seed

Task = Profiling | ColdStart | Sequential
Encode = Callable[[Material, PretrainSettings], UserEncoder]
Json = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """What is to be found out. `pretrain` and `fit`: settings beside the scale's, as (name, value); searched: the name of one to search.

    kind: `fit` scores a system on the test part; `map` lays the pre-trained vectors of test users flat; `counts` counts the data.
    """

    plan: Plan
    system: str
    seed: int
    share: float = 1.0
    pretrain: tuple[tuple[str, Any], ...] = ()
    fit: tuple[tuple[str, Any], ...] = ()
    searched: str = ""
    kind: Literal["fit", "map", "counts"] = "fit"

    def key(self, material: Material, scale: Scale) -> str:
        """What the cell's file is called: other data, budget, settings or version give another name."""
        preset = OURS.get(self.system, "paper")
        told = {
            "cell": {**asdict(self), "plan": {name: value for name, value in asdict(self.plan).items() if name != "stands_for"}},
            "data": material.fingerprint,
            "budget": [scale.budget(PretrainSettings), scale.budget(FinetuneSettings), scale.grid if self.searched else ()],
            "preset": [PRETRAIN_PRESETS[preset], finetune_preset(preset, self.plan.task)],
            "version": [VERSION, FORMAT],
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Yield:
    """What a cell gave: `record` (JSON: metrics by system, seconds, settings, curve), and a table with a row an instance (or a user)."""

    record: Json
    table: pa.Table


def run_cell(cell: Cell, material: Material, scale: Scale, encode: Encode, watch: Watch) -> Yield:
    """Carry out a cell. `encode` hands out pre-trained encoders, each made once. Raises what the jobs raise."""
    if cell.kind == "counts":
        return _counted(cell, material)
    run = _Run(cell, material, scale, encode, watch)
    return run.mapped() if cell.kind == "map" else run.fitted()


class _Run:
    """One cell on its way."""

    def __init__(self, cell: Cell, material: Material, scale: Scale, encode: Encode, watch: Watch) -> None:
        self.cell, self.material, self.scale, self.encode, self.watch = cell, material, scale, encode, watch
        self.record: Json = {"pretrain_seconds": 0.0, "fit_seconds": 0.0}

    def pretraining(self, **more: Any) -> PretrainSettings:
        """Settings of the pre-training of our own model, the one beside which the trained baselines stand."""
        preset, budget = OURS.get(self.cell.system, "paper"), self.scale.budget(PretrainSettings)
        chosen = {**budget, "max_len": self.cell.plan.max_len, **dict(self.cell.pretrain), **more}
        return pretrain_settings(preset, seed=self.cell.seed, **chosen)

    def fitting(self, **more: Any) -> FinetuneSettings:
        """Settings of the fit: those of our model's preset, or for others the paper's."""
        own = self.scale.budget(FinetuneSettings, alone=not pretrains(self.cell.system))
        budget = {**own, "train_fraction": self.cell.share, "max_targets": self.cell.plan.max_targets}
        return finetune_settings(
            OURS.get(self.cell.system, "paper"), self.cell.plan.task, seed=self.cell.seed, **{**budget, **dict(self.cell.fit), **more}
        )

    def beside(self, settings: PretrainSettings) -> UserEncoder:
        """The encoder that trained baselines take width, window and pre-training budget from: it need not be trained for that."""
        generator = seeded_generator(torch.device("cpu"), settings.seed, LIKE)
        encoder = UserEncoder.new(settings.encoder(), self.material.dataset.vocabulary, generator)
        shape = set(type(encoder.config).model_fields)
        encoder.facts = {"pretrain": settings.model_dump(exclude=shape), "data": data_facts(self.material.dataset)}
        return encoder

    def task(self, settings: FinetuneSettings) -> Task:
        plan, dataset = self.cell.plan, self.material.dataset
        like = self.beside(self.pretraining())
        return build_task(plan.task, dataset, like, self.material.labels_of(plan), None, settings)

    def people(self, part: Instances) -> np.ndarray:
        """Whose each instance is, int64 [n]: the windows of one person are no independent users."""
        people = self.material.dataset.people
        return part.users if people is None else people[part.users]

    def pretrained(self, settings: PretrainSettings) -> UserEncoder:
        encoder = self.encode(self.material, settings)
        self.record["pretrain_seconds"] += float(encoder.facts["seconds"])
        self.record["curve"] = _curve(encoder)
        return encoder

    def fitted(self) -> Yield:
        """Fit the cell's system, or the plain baselines, and score on the test part."""
        settings = self.fitting()
        task = self.task(settings)
        begin = time.perf_counter()
        if self.cell.system == PLAIN:
            outcomes = _plain(task, task.test, self.people(task.test), self.cell.plan.max_len, len(self.material.dataset.vocabulary))
            self.record["fit_seconds"] = time.perf_counter() - begin
        else:
            model = self._searched(task)
            outcomes = _outcomes(self.cell.system, model, task, task.test, self.people(task.test))
            self.record |= {key: model.facts[key] for key in ("steps", "best_epoch", "trained_parameters", "total_parameters")}
            self.record |= {"settings": model.facts["settings"], "pretrain": model.encoder.facts.get("pretrain")}
        return self._scored(task, outcomes)

    def _searched(self, task: Task) -> FittedModel:
        """The model fitted as the cell says; where a setting is searched, with the value that does best on the validation part."""
        if not self.cell.searched:
            return self._model(task, {})
        best: tuple[float, float, FittedModel] | None = None
        for value in self.scale.grid:
            model = self._model(task, {self.cell.searched: value})
            valid = _outcomes(self.cell.system, model, task, task.valid, self.people(task.valid))[""][self.cell.system]
            score = compare(valid, {}, task.primary, seed=0, resamples=1).metrics["model"][task.primary].value
            if best is None or score > best[0]:
                best = score, value, model
        assert best is not None
        self.record["search"] = {"setting": self.cell.searched, "chosen": best[1], "by": f"{task.primary} of the validation part"}
        return best[2]

    def _model(self, task: Task, searched: Json) -> FittedModel:
        dataset, system = self.material.dataset, self.cell.system
        ours = self.pretraining(**searched)
        settings = self.fitting(**{name: value for name, value in searched.items() if name in FinetuneSettings.model_fields})
        if system in OURS:
            model, _ = unfitted_model(self.pretrained(ours), task, settings, dataset)
            begin = time.perf_counter()
            fit_model(model, task, settings, self.watch)
        else:
            baseline = BASELINES[system](self.beside(ours), settings)
            wanted = baseline.pretraining(task, dataset)
            start = None if wanted is None else self.pretrained(wanted)
            begin = time.perf_counter()
            model = baseline.fit(task, dataset, start, self.watch)
        self.record["fit_seconds"] += time.perf_counter() - begin
        return model

    def _scored(self, task: Task, outcomes: dict[str, dict[str, Outcome]]) -> Yield:
        """Metrics with intervals for every view of the candidates, and a row an instance."""
        metrics = {
            view: {
                system: {
                    name: one.as_dict() for name, one in compare(outcome, {}, task.primary, seed=self.cell.seed).metrics["model"].items()
                }
                for system, outcome in found.items()
            }
            for view, found in outcomes.items()
        }
        columns: dict[str, Any] = {"group": pa.array(self.people(task.test), pa.int64())}
        for view, found in outcomes.items():
            for system, outcome in found.items():
                column = "_".join(part for part in ("rank" if isinstance(outcome, RankingOutcome) else "right", view, system) if part)
                columns[column] = pa.array(_by_instance(outcome))
        split = task.facts()["split"]
        self.record |= {"metrics": metrics, "primary": task.primary, "n": len(task.test), "split": split, "conditions": task.conditions}
        self.record["environment"] = environment()
        return Yield(self.record, pa.table(columns))

    def mapped(self) -> Yield:
        """The pre-trained vectors of up to 1,000 test users on their first two principal components (paper V-F), and how they spread."""
        settings = self.fitting()
        task = self.task(settings)
        assert isinstance(task, Profiling)
        ours = self.pretraining()
        wanted = (
            ours
            if self.cell.system in OURS
            else BASELINES[self.cell.system](self.beside(ours), settings).pretraining(task, self.material.dataset)
        )
        assert wanted is not None
        chosen = np.sort(np.random.default_rng(self.cell.seed).permutation(len(task.test))[:MAP_USERS])
        vectors = self.pretrained(wanted).vectors(task.test.inputs.take(chosen))
        xy, explained = project(vectors)
        spread = {"effective_rank": effective_rank, "uniformity": uniformity, "std_sqrt_d": std_sqrt_d}
        self.record |= {
            "metrics": {"": {self.cell.system: {name: {"value": measure(vectors)} for name, measure in spread.items()}}},
            "explained": explained.tolist(),
            "n": len(chosen),
            "pretrain": wanted.model_dump(),
        }
        labels = task.classes[task.test.targets[chosen]]
        return Yield(self.record, pa.table({"x": xy[:, 0], "y": xy[:, 1], "label": pa.array(labels, pa.string())}))


def _outcomes(system: str, model: FittedModel, task: Task, part: Instances, people: np.ndarray) -> dict[str, dict[str, Outcome]]:
    """What a fitted model does on a part; by the view of the candidates: all (""), or at the next item those not seen ("unseen")."""
    if isinstance(task, Profiling):
        return {"": dict(profiling_outcomes({system: model}, part))}
    if isinstance(task, ColdStart):
        return {"": _ranked(cold_start_ranks({system: model}, part), people)}
    return _both(next_item_rankings({system: model}, part), people)


def _plain(task: Task, part: Instances, people: np.ndarray, window: int, vocabulary_size: int) -> dict[str, dict[str, Outcome]]:
    """The same of the plain baselines."""
    if isinstance(task, Profiling):
        return {"": dict(plain_profiling(task, part, window, vocabulary_size))}
    if isinstance(task, ColdStart):
        return {"": _ranked(plain_cold_start(task, part, window, vocabulary_size), people)}
    return _both(plain_next_items(task, part, window, vocabulary_size), people)


def _ranked(ranks: dict[str, np.ndarray], people: np.ndarray) -> dict[str, Outcome]:
    return {system: RankingOutcome(found, users=people) for system, found in ranks.items()}


def _both(rankings: dict[str, RankingResult], people: np.ndarray) -> dict[str, dict[str, Outcome]]:
    unseen = {system: cast(np.ndarray, found.ranks_unseen) for system, found in rankings.items()}
    return {"": _ranked({system: found.ranks_all for system, found in rankings.items()}, people), "unseen": _ranked(unseen, people)}


def _by_instance(outcome: Outcome) -> np.ndarray:
    """What the paired bootstrap needs of each instance: its rank, or whether its class was found."""
    if isinstance(outcome, ProfilingOutcome):
        return np.asarray(outcome.proba.argmax(axis=1) == outcome.labels)
    return outcome.ranks


def _curve(encoder: UserEncoder) -> list[Json]:
    kept = ("step", "loss", "std_sqrt_d", "effective_rank", "alignment", "uniformity")
    return [{name: row[name] for name in kept if name in row} for row in encoder.rows]


def _counted(cell: Cell, material: Material) -> Yield:
    """What Table I tells of a data set."""
    dataset = material.dataset
    counts: Json = {"users": dataset.n_users, "source_items": dataset.n_items, "events": dataset.n_events}
    counts["source_length"] = min(cell.plan.max_len, int(dataset.sequences().lengths.max(initial=0)))
    if cell.plan.task != "sequential":
        settings = finetune_settings(seed=cell.seed, max_targets=cell.plan.max_targets)
        like = UserEncoder.blank(pretrain_settings(max_len=cell.plan.max_len).encoder(), dataset.vocabulary)
        task = build_task(cell.plan.task, dataset, like, material.labels_of(cell.plan), None, settings)
        facts = task.facts()
        parts = [getattr(task, name) for name in ("train", "valid", "test")]
        instances = np.unique(np.concatenate([part.users for part in parts]), return_counts=True)[1]
        counts |= {"labelled_users": len(instances), "classes": facts.get("target_items", facts["outputs"])}
        if isinstance(task, ColdStart):
            counts["most_targets"] = int(instances.max())
    metrics = {"": {"data": {name: {"value": float(value)} for name, value in counts.items()}}}
    return Yield({"metrics": metrics, "n": dataset.n_users}, pa.table({"x": pa.array([], pa.float64())}))


def pretrains(system: str) -> bool:
    """Whether a system has a pre-training before its fit."""
    return system in OURS or (system in BASELINES and BASELINES[system].pretraining is not TrainedBaseline.pretraining)


def systems_for(task: str, wanted: Sequence[str] | None = None) -> list[str]:
    """Plain baselines, trained ones that serve the task, our own; of those `wanted`, if given."""
    known = [PLAIN, *(name for name, kind in BASELINES.items() if task in kind.tasks), *OURS]
    return [name for name in known if wanted is None or name in wanted]
