"""The model beside the plain baselines on the same instances: every metric with its interval, and in words who won.

Systems are compared by the paired difference (model minus baseline, instance by instance), which is sharper than looking whether
two intervals overlap. When a baseline wins, the verdict says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from userclue.metrics.bootstrap import RESAMPLES, Interval, classification_draws, mean_interval, paired_interval
from userclue.metrics.classification import undefined_metrics
from userclue.metrics.ranking import ranking_metrics

PROFILING_PRIMARY = "accuracy"
RANKING_PRIMARY = "mrr@10"


@dataclass(frozen=True, eq=False)
class RankingOutcome:
    """What a system did on a ranking task: the rank of each instance's true item, int64 [n]; metrics are cut off at k.

    users: int [n], whose instance each is, where a user may have several: users are then resampled whole. unit: what is averaged over,
    instances or users (each user's mean counting once).
    """

    ranks: np.ndarray
    k: int = 10
    users: np.ndarray | None = None
    unit: Literal["instances", "users"] = "instances"


@dataclass(frozen=True, eq=False)
class ProfilingOutcome:
    """What a system did on a profiling task: the true class of each instance, int [n], and its probabilities, float [n, K]."""

    labels: np.ndarray
    proba: np.ndarray


Outcome = RankingOutcome | ProfilingOutcome


@dataclass(frozen=True)
class Comparison:
    """metrics: system -> metric -> interval, the model first. differences: baseline -> metric -> interval of model minus baseline.

    undefined: metric -> why this data has no such value. verdict: plain sentences, the highest value first. n: users.
    """

    model: str
    primary: str
    n: int
    metrics: dict[str, dict[str, Interval]]
    differences: dict[str, dict[str, Interval]]
    undefined: dict[str, str] = field(default_factory=dict)
    verdict: list[str] = field(default_factory=list)


def compare(
    model: Outcome,
    baselines: Mapping[str, Outcome],
    primary: str,
    *,
    seed: int,
    model_name: str = "model",
    resamples: int = RESAMPLES,
) -> Comparison:
    """Score the model and every baseline, and say who won by `primary`.

    Raises ValueError when a baseline is about other instances than the model, shares its name, or `primary` is no metric of the task.
    """
    if model_name in baselines:
        raise ValueError(f"the model and a baseline are both called {model_name}")
    if isinstance(model, RankingOutcome):
        comparison = _compare_rankings(model, baselines, primary, seed, model_name, resamples)
    else:
        comparison = _compare_classifications(model, baselines, primary, seed, model_name, resamples)
    if primary not in comparison.metrics[model_name] and primary not in comparison.undefined:
        known = ", ".join(comparison.metrics[model_name])
        raise ValueError(f"{primary} is not a metric of this task; choose one of: {known}")
    comparison.verdict.extend(verdict(comparison))
    return comparison


def _compare_rankings(
    model: RankingOutcome, baselines: Mapping[str, Outcome], primary: str, seed: int, model_name: str, resamples: int
) -> Comparison:
    groups = None if model.users is None else np.unique(model.users, return_inverse=True)[1]
    own = _values(model, groups)
    resampled = groups if model.unit == "instances" else None  # averaged over users, every value is a user's
    metrics = {model_name: {name: mean_interval(values, seed, resamples, resampled) for name, values in own.items()}}
    differences = {}
    for system, outcome in baselines.items():
        if not isinstance(outcome, RankingOutcome) or outcome.k != model.k or len(outcome.ranks) != len(model.ranks):
            raise ValueError(f"{system} was not scored on the same instances, task and cut-off as {model_name}")
        theirs = _values(outcome, groups)
        metrics[system] = {name: mean_interval(values, seed, resamples, resampled) for name, values in theirs.items()}
        differences[system] = {name: paired_interval(own[name], theirs[name], seed, resamples, resampled) for name in own}
    n = len(model.ranks) if groups is None else int(groups.max()) + 1
    return Comparison(model_name, primary, n, metrics, differences)


def _values(outcome: RankingOutcome, groups: np.ndarray | None) -> dict[str, np.ndarray]:
    """The metrics of each instance, or where that is the unit the mean of each user's instances."""
    values = ranking_metrics(outcome.ranks, outcome.k)
    if outcome.unit == "instances" or groups is None:
        return values
    return {name: np.bincount(groups, one) / np.bincount(groups) for name, one in values.items()}


def _compare_classifications(
    model: ProfilingOutcome, baselines: Mapping[str, Outcome], primary: str, seed: int, model_name: str, resamples: int
) -> Comparison:
    own = classification_draws(model.labels, model.proba, seed, resamples)
    metrics = {model_name: {name: draws.interval() for name, draws in own.items()}}
    differences = {}
    for system, outcome in baselines.items():
        if not isinstance(outcome, ProfilingOutcome) or not np.array_equal(outcome.labels, model.labels):
            raise ValueError(f"{system} was not scored on the same instances and labels as {model_name}")
        # The same seed draws the same users for every system: subtracting draws pairs them.
        theirs = classification_draws(outcome.labels, outcome.proba, seed, resamples)
        metrics[system] = {name: draws.interval() for name, draws in theirs.items()}
        differences[system] = {name: own[name].minus(theirs[name]).interval() for name in own}
    return Comparison(model_name, primary, len(model.labels), metrics, differences, undefined_metrics(model.labels))


def verdict(comparison: Comparison) -> list[str]:
    """The outcome by the primary metric in sentences that need no statistics: best system, then each baseline against the model."""
    metric, model, users = comparison.primary, comparison.model, _users(comparison.n)
    if metric in comparison.undefined:
        return [f"No winner can be named: {metric} has no value here, because {comparison.undefined[metric]}."]
    values = {system: found[metric].value for system, found in comparison.metrics.items()}
    show = _number_format(comparison)
    top = max(values.values())
    best = [system for system, value in values.items() if value == top]
    interval = comparison.metrics[best[0]][metric]
    spread = f"{show(top)} [{show(interval.low)}, {show(interval.high)}] on {users}"
    if not comparison.differences:
        return [f"{model} has {metric} {spread}; no baseline was run, so nothing says whether that is good."]
    lines = [f"Highest {metric}{'' if len(best) == 1 else ', shared'}: {_listed(best)}, {spread}."]
    ahead, unclear, beaten = _sorted_by_outcome(comparison)
    for system in ahead:
        lines.append(
            f"{system} wins: {metric} {show(values[system])} against {show(values[model])} of {model}; "
            f"{_difference(comparison, system, show)} is clear of zero."
        )
    if unclear:
        first, *others = [f"minus {system} is {_gap(comparison, system, show)}" for system in unclear]
        gaps = ", ".join([first, *(one.replace(" is ", " ") for one in others)])
        include = "the interval includes" if not others else "all intervals include"
        lines.append(f"No winner can be named between {_listed([model, *unclear])} on {users}: {model} {gaps}; {include} zero.")
    if beaten:
        who = "every baseline" if not ahead and not unclear else _listed(beaten)
        if len(comparison.differences) == 1:
            who = f"the only baseline, {beaten[0]}"
        closest = max(beaten, key=lambda system: values[system])
        over = "" if len(beaten) == 1 else f" even over the nearest, {closest},"
        lines.append(f"{model} wins against {who}:{over} {_difference(comparison, closest, show)} is clear of zero.")
    return lines


def _sorted_by_outcome(comparison: Comparison) -> tuple[list[str], list[str], list[str]]:
    """Baselines clearly above the model, not clearly either, clearly below; the strongest first in each."""
    gaps = {system: found[comparison.primary] for system, found in comparison.differences.items()}
    order = sorted(gaps, key=lambda system: gaps[system].value)
    ahead = [system for system in order if gaps[system].high < 0]
    beaten = [system for system in order if gaps[system].low > 0]
    return ahead, [system for system in order if gaps[system].holds_zero], beaten


def _difference(comparison: Comparison, system: str, show: "_Format") -> str:
    return f"the difference {_gap(comparison, system, show)} ({comparison.model} minus {system})"


def _gap(comparison: Comparison, system: str, show: "_Format") -> str:
    gap = comparison.differences[system][comparison.primary]
    return f"{show(gap.value, '+')} [{show(gap.low, '+')}, {show(gap.high, '+')}]"


class _Format:
    """Writes numbers with a fixed count of decimals, and a sign when asked for one."""

    def __init__(self, decimals: int) -> None:
        self.decimals = decimals

    def __call__(self, value: float, sign: str = "") -> str:
        # Rounding first and adding 0.0 turns "-0.000" into "0.000".
        return f"{round(value, self.decimals) + 0.0:{sign}.{self.decimals}f}"


def _number_format(comparison: Comparison) -> _Format:
    """Three decimals for numbers like 0.812, four for small ones, more only where an end that is clear of zero would be written as 0."""
    values = [found[comparison.primary].value for found in comparison.metrics.values()]
    gaps = [found[comparison.primary] for found in comparison.differences.values()]
    ends = [min(abs(gap.low), abs(gap.high)) for gap in gaps if not gap.holds_zero]
    decimals = 3 if max(map(abs, values)) >= 0.3 else 4
    while decimals < 8 and any(round(end, decimals) == 0 for end in ends):
        decimals += 1
    return _Format(decimals)


def _users(n: int) -> str:
    return "1 user" if n == 1 else f"{n:,} users"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
