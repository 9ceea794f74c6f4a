"""A fitted model and the plain baselines on the same instances: outcomes, intervals, and the verdict in words."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import softmax

from userclue.baselines.plain_cold_start import COLD_START_BASELINES, ColdStartBaseline
from userclue.baselines.plain_profiling import PROFILING_BASELINES
from userclue.baselines.plain_ranking import RANKING_BASELINES, RankingBaseline
from userclue.data.splits import Instances
from userclue.data.store import Dataset
from userclue.data.vocabulary import FIRST_ITEM, Vocabulary
from userclue.metrics.blocks import InnerProducts, Rows
from userclue.metrics.bootstrap import Interval
from userclue.metrics.comparison import Comparison, Outcome, ProfilingOutcome, RankingOutcome, compare
from userclue.metrics.ranking import RankingResult, full_ranking
from userclue.tasks.base import FittedModel
from userclue.tasks.cold_start import ColdStart
from userclue.tasks.profiling import Profiling
from userclue.tasks.sequential import Sequential


def score_profiling(
    model: FittedModel, task: Profiling, part: Instances, dataset: Dataset, baselines: bool, rivals: Mapping[str, FittedModel]
) -> tuple[dict[str, Any], pa.Table]:
    """Metrics, baselines, differences and verdict on a part, as task.json holds them; and every user's prediction."""
    name = model.facts["system"]
    outcomes = profiling_outcomes({name: model, **rivals}, part)
    if baselines and len(task.train) > 0 and len(task.valid) > 0:
        outcomes |= plain_profiling(task, part, model.encoder.config.max_len, len(model.vocabulary))
    comparison = _compared(outcomes, name, task.primary, task.seed)
    table = pa.table(
        {
            "user_id": dataset.users.take(pa.array(part.users)),
            "label": pa.array(task.classes[part.targets], pa.string()),
            **{f"predicted_{system}": pa.array(task.classes[o.proba.argmax(axis=1)], pa.string()) for system, o in outcomes.items()},
        }
    )
    return _report(comparison, name), table


def score_sequential(
    model: FittedModel, task: Sequential, part: Instances, dataset: Dataset, baselines: bool, rivals: Mapping[str, FittedModel]
) -> tuple[dict[str, Any], pa.Table]:
    """The same for next-item instances; `unseen` holds the second view, with the history's items out of the candidates."""
    name = model.facts["system"]
    rankings = next_item_rankings({name: model, **rivals}, part)
    if baselines:
        rankings |= plain_next_items(task, part, model.encoder.config.max_len, len(model.vocabulary))
    everything = _compared({s: RankingOutcome(r.ranks_all) for s, r in rankings.items()}, name, task.primary, task.seed)
    unseen = _compared({s: RankingOutcome(_unseen(r)) for s, r in rankings.items()}, name, task.primary, task.seed)
    report = _report(everything, name)
    second = _report(unseen, name)
    report["unseen"] = {key: second[key] for key in ("metrics", "baselines", "differences", "verdict")}
    table = pa.table(
        {
            "user_id": dataset.users.take(pa.array(part.users)),
            "target": _ids_of(model.vocabulary, part.targets),
            **{f"rank_{system}": pa.array(result.ranks_all) for system, result in rankings.items()},
            **{f"rank_unseen_{system}": pa.array(_unseen(result)) for system, result in rankings.items()},
        }
    )
    return report, table


def score_cold_start(
    model: FittedModel, task: ColdStart, part: Instances, dataset: Dataset, baselines: bool, rivals: Mapping[str, FittedModel]
) -> tuple[dict[str, Any], pa.Table]:
    """The same for cold-start instances; `by_user` holds the second view, averaged over users, where a user has several instances."""
    name = model.facts["system"]
    ranks = cold_start_ranks({name: model, **rivals}, part)
    if baselines and len(task.train) > 0:
        ranks |= plain_cold_start(task, part, model.encoder.config.max_len, len(model.vocabulary))
    report = _report(_compared({s: RankingOutcome(r, users=part.users) for s, r in ranks.items()}, name, task.primary, task.seed), name)
    if report["users"] < len(part):
        averaged = {system: RankingOutcome(found, users=part.users, unit="users") for system, found in ranks.items()}
        second = _report(_compared(averaged, name, task.primary, task.seed), name)
        report["by_user"] = {key: second[key] for key in ("metrics", "baselines", "differences", "verdict")}
    table = pa.table(
        {
            "user_id": dataset.users.take(pa.array(part.users)),
            "target": _ids_of(task.targets, part.targets),
            **{f"rank_{system}": pa.array(found) for system, found in ranks.items()},
        }
    )
    return {"instances": len(part), **report}, table


def profiling_outcomes(models: Mapping[str, FittedModel], part: Instances) -> dict[str, ProfilingOutcome]:
    """What each fitted model says of the users of a part."""
    return {
        system: ProfilingOutcome(part.targets, softmax(one.scores(part.inputs).astype(np.float64), axis=1))
        for system, one in models.items()
    }


def plain_profiling(task: Profiling, part: Instances, window: int, vocabulary_size: int) -> dict[str, ProfilingOutcome]:
    """The same of the plain baselines, fitted to the training part. window: items that an encoder beside them reads."""
    outcomes = {}
    for name, kind in PROFILING_BASELINES.items():
        fitted = kind(window)
        fitted.fit(task.train.inputs, task.train.targets, task.valid.inputs, task.valid.targets, task.outputs, vocabulary_size)
        outcomes[name] = ProfilingOutcome(part.targets, fitted.predict_proba(part.inputs))
    return outcomes


def next_item_rankings(models: Mapping[str, FittedModel], part: Instances) -> dict[str, RankingResult]:
    """Where each fitted model ranks the true next item of each instance."""
    return {system: _rank(one.scorer(part.inputs), part) for system, one in models.items()}


def plain_next_items(task: Sequential, part: Instances, window: int, vocabulary_size: int) -> dict[str, RankingResult]:
    """The same of the plain baselines, fitted to the training part."""
    rankings = {}
    for name, kind in RANKING_BASELINES.items():
        fitted = kind(window)
        fitted.fit(task.history, vocabulary_size)
        rankings[name] = _rank(_by_rows(fitted, part), part)
    return rankings


def cold_start_ranks(models: Mapping[str, FittedModel], part: Instances) -> dict[str, np.ndarray]:
    """int64 [n], where each fitted model ranks the true target of each instance."""
    return {system: _target_ranks(one.scorer(part.inputs), part) for system, one in models.items()}


def plain_cold_start(task: ColdStart, part: Instances, window: int, vocabulary_size: int) -> dict[str, np.ndarray]:
    """The same of the plain baselines, fitted to the training part."""
    found = {}
    for name, kind in COLD_START_BASELINES.items():
        fitted = kind(window)
        fitted.fit(task.train, task.valid, vocabulary_size, task.outputs)
        found[name] = _target_ranks(_by_rows(fitted, part), part)
    return found


def _target_ranks(score: Rows | InnerProducts, part: Instances) -> np.ndarray:
    return full_ranking(score, len(part), part.targets).ranks_all


def _ids_of(vocabulary: Vocabulary, indices: np.ndarray) -> pa.Array:
    """Ids of items by index, null for special tokens."""
    places = pa.array(indices.astype(np.int64) - FIRST_ITEM, mask=indices < FIRST_ITEM)
    return vocabulary.table["item_id"].combine_chunks().take(places)


def _by_rows(baseline: RankingBaseline | ColdStartBaseline, part: Instances) -> Rows:
    """Scores by a baseline; a history that several instances share is scored once a chunk."""

    def score(rows: np.ndarray) -> np.ndarray:
        histories, which = part.inputs.take(rows).distinct()
        return np.asarray(baseline.scores(histories)[which])

    return score


def _rank(score: Rows | InnerProducts, part: Instances) -> RankingResult:
    return full_ranking(score, len(part), part.targets, part.inputs)


def _unseen(result: RankingResult) -> np.ndarray:
    assert result.ranks_unseen is not None
    return result.ranks_unseen


def _compared(outcomes: Mapping[str, Outcome], name: str, primary: str, seed: int) -> Comparison:
    baselines = {system: outcome for system, outcome in outcomes.items() if system != name}
    return compare(outcomes[name], baselines, primary, seed=seed, model_name=name)


def _report(comparison: Comparison, name: str) -> dict[str, Any]:
    return {
        "primary": comparison.primary,
        "users": comparison.n,
        "system": name,
        "metrics": _numbers(comparison.metrics[name]),
        "baselines": {system: _numbers(metrics) for system, metrics in comparison.metrics.items() if system != name},
        "differences": {system: _numbers(metrics) for system, metrics in comparison.differences.items()},
        "undefined": comparison.undefined,
        "verdict": comparison.verdict,
    }


def _numbers(metrics: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: interval.as_dict() for name, interval in metrics.items()}
