"""95 % percentile bootstrap over instances (users), alone and paired, from an explicit seed.

A resample draws n instances of n with replacement. The same seed and n give the same resamples for every system, which is what
pairs two systems: their difference is taken within each resample.
"""

from dataclasses import dataclass

import numpy as np

from userclue.metrics.classification import CLASSIFICATION_METRICS, Classified

RESAMPLES = 1000
_QUANTILES = (0.025, 0.975)
_CELLS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """The form in which metrics stand in JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}

    @property
    def holds_zero(self) -> bool:
        """Whether zero lies within the interval, its ends included."""
        return self.low <= 0.0 <= self.high


@dataclass(frozen=True, eq=False)
class Draws:
    """A metric on the data, and on every resample of it. draws: float64 [R], NaN where a resample leaves the metric undefined."""

    value: float
    draws: np.ndarray

    def interval(self) -> Interval:
        """Percentiles of the resamples on which the metric is defined."""
        defined = self.draws[~np.isnan(self.draws)]
        if not len(defined):
            return Interval(self.value, self.value, self.value)
        low, high = np.quantile(defined, _QUANTILES)
        return Interval(self.value, float(low), float(high))

    def minus(self, other: "Draws") -> "Draws":
        """The difference of two systems within each resample; both must come from the same seed and the same instances."""
        return Draws(self.value - other.value, self.draws - other.draws)


def mean_interval(
    values: np.ndarray, seed: int, resamples: int = RESAMPLES, groups: np.ndarray | None = None, runs: np.ndarray | None = None
) -> Interval:
    """The mean of values float [n], with its interval. Raises ValueError on no value and on values that are not finite.

    groups: int [n] in 0…G-1, whose value each is; then groups are resampled whole, as values of one user do not vary independently.
    runs: int [n] in 0…S-1, the run (seed) that gave each; then runs are resampled whole too, apart from the groups.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"a mean needs at least one value, all finite; found shape {values.shape}")
    # How often each *distinct* value is drawn is multinomial: a metric of ranks up to 10 has 11 of them, however many users there are.
    n_runs = 1
    if groups is None and runs is None:
        distinct, counts = np.unique(values, return_counts=True)
        distinct = np.stack([distinct, np.ones(len(distinct))], axis=1)
    else:
        groups = np.arange(len(values)) if groups is None else groups
        runs = np.zeros(len(values), np.int64) if runs is None else runs
        n_runs = int(runs.max()) + 1
        cells = groups * n_runs + runs
        sums, members = (np.bincount(cells, weight, (int(groups.max()) + 1) * n_runs).reshape(-1, n_runs) for weight in (values, None))
        distinct, counts = np.unique(np.concatenate([sums, members], axis=1)[members.any(axis=1)], axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    at_once = max(1, _CELLS_AT_ONCE // len(distinct))
    means = []
    for done in range(0, resamples, at_once):
        size = min(at_once, resamples - done)
        total = (_often(generator, counts, size) @ distinct).reshape(size, 2, n_runs)
        if n_runs > 1:
            total *= generator.multinomial(n_runs, np.full(n_runs, 1 / n_runs), size=size)[:, None]
        summed, drawn = total.sum(axis=2).T
        means.append(np.divide(summed, drawn, out=np.full(size, np.nan), where=drawn > 0))
    return Draws(float(values.mean()), np.concatenate(means)).interval()


def _often(generator: np.random.Generator, counts: np.ndarray, size: int) -> np.ndarray:
    """How often each of K different values, met `counts` [K] times among n, is drawn by n draws with replacement: int64 [size, K]."""
    n = int(counts.sum())
    if 4 * len(counts) < n:
        return generator.multinomial(n, counts / n, size=size)
    # Nearly all differ: it is faster to draw one by one and count.
    drawn = np.repeat(np.arange(len(counts)), counts)[generator.integers(0, n, (size, n))]
    drawn += len(counts) * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * len(counts)).reshape(size, -1)


def paired_interval(a: np.ndarray, b: np.ndarray, seed: int, resamples: int = RESAMPLES, groups: np.ndarray | None = None) -> Interval:
    """Mean of a minus mean of b, float [n] each, about the same instances in the same order; `groups` as for mean_interval."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired values must be about the same instances; found {a.shape} and {b.shape}")
    return mean_interval(a - b, seed, resamples, groups)


def classification_draws(labels: np.ndarray, proba: np.ndarray, seed: int, resamples: int = RESAMPLES) -> dict[str, Draws]:
    """accuracy, macro_f1 and auroc on the data and on each resample; a metric undefined on the data is left out.

    labels: int [n]. proba: float [n, K]. One resample is held at a time: memory grows with n, not with n times the resamples.
    A resample in which a class is missing is scored on the classes it has.
    """
    prepared = Classified(labels, proba)
    ones = np.ones(prepared.n)
    values = {name: metric(prepared, ones) for name, metric in CLASSIFICATION_METRICS.items()}
    defined = {name: value for name, value in values.items() if not np.isnan(value)}
    draws = {name: np.empty(resamples) for name in defined}
    generator = np.random.default_rng(seed)
    for number in range(resamples):
        drawn = generator.integers(0, prepared.n, prepared.n)
        weights = np.bincount(drawn, minlength=prepared.n).astype(np.float64)
        for name, found in draws.items():
            found[number] = CLASSIFICATION_METRICS[name](prepared, weights)
    return {name: Draws(value, draws[name]) for name, value in defined.items()}


def classification_intervals(labels: np.ndarray, proba: np.ndarray, seed: int, resamples: int = RESAMPLES) -> dict[str, Interval]:
    """accuracy, macro_f1 and auroc with their intervals; what is undefined on this data is left out."""
    return {name: draws.interval() for name, draws in classification_draws(labels, proba, seed, resamples).items()}


def paired_classification_intervals(
    labels: np.ndarray, proba_a: np.ndarray, proba_b: np.ndarray, seed: int, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """The metrics of a minus those of b, on the same instances and the same resamples."""
    a = classification_draws(labels, proba_a, seed, resamples)
    b = classification_draws(labels, proba_b, seed, resamples)
    return {name: a[name].minus(b[name]).interval() for name in a}
