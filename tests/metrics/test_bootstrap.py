"""Intervals: coverage by simulation, agreement with SciPy, pairing, and equal numbers from equal seeds."""

import json

import numpy as np
import pytest
from scipy import stats

from userclue.metrics.bootstrap import (
    Draws,
    Interval,
    classification_draws,
    classification_intervals,
    mean_interval,
    paired_classification_intervals,
    paired_interval,
)


def test_about_95_percent_of_intervals_hold_the_true_mean() -> None:
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.random(200) < 0.3, seed, resamples=300) for seed in range(300)]
    assert 0.91 <= np.mean([found.low <= 0.3 <= found.high for found in intervals]) <= 0.985


def test_mean_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).exponential(size=150)
    ours = mean_interval(values, 0, resamples=4000)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(2)).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_groups_are_resampled_whole() -> None:
    """Against a loop that draws groups; and wider than when the values of a group, which are alike, are taken for independent."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(60), rng.integers(1, 5, 60))
    values = rng.random(60)[groups] + 0.1 * rng.random(len(groups))
    ours = mean_interval(values, 0, resamples=4000, groups=groups)
    means = []
    for _ in range(4000):
        drawn = [values[groups == group] for group in rng.integers(0, 60, 60)]
        means.append(np.concatenate(drawn).mean())
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.006)
    plain = mean_interval(values, 0, resamples=4000)
    assert ours.high - ours.low > 1.2 * (plain.high - plain.low)
    alone = mean_interval(values, 0, groups=np.arange(len(values)))
    assert (alone.value, alone.low, alone.high) == pytest.approx(tuple(vars(mean_interval(values, 0)).values()), abs=1e-12)
    gap = paired_interval(values, values - 0.25, 0, groups=groups)
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.25, 0.25, 0.25))


def test_groups_and_runs_are_resampled_each_whole() -> None:
    """Against a loop that draws groups and runs; wider than over groups alone where the runs differ."""
    rng = np.random.default_rng(1)
    groups, runs = (part.ravel()[:110] for part in np.meshgrid(np.arange(40), np.arange(3)))
    values = rng.random(40)[groups] + np.array([0.0, 0.3, 0.4])[runs]
    ours = mean_interval(values, 0, resamples=8000, groups=groups, runs=runs)
    means = []
    for _ in range(8000):
        often, chosen = (np.bincount(rng.integers(0, n, n), minlength=n) for n in (40, 3))
        weights = often[groups] * chosen[runs]
        means.append((values * weights).sum() / weights.sum())
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.01)
    users_alone = mean_interval(values, 0, groups=groups)
    assert ours.high - ours.low > 1.5 * (users_alone.high - users_alone.low)
    assert mean_interval(values, 0, groups=groups, runs=np.zeros_like(runs)) == users_alone


def test_a_resample_without_any_value_is_left_out() -> None:
    """Each user under one run only: a draw of the first user twice and the second run twice holds nothing."""
    found = mean_interval(np.array([1.0, 3.0]), 0, groups=np.array([0, 1]), runs=np.array([0, 1]))
    assert (found.value, found.low, found.high) == (2.0, 1.0, 3.0)


def test_resamples_are_made_in_pieces_without_changing_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).random(40)
    monkeypatch.setattr("userclue.metrics.bootstrap._CELLS_AT_ONCE", 40 * 7)
    found = mean_interval(values, 0, resamples=100)
    assert found.low < found.value < found.high


def test_accuracy_interval_agrees_with_the_mean_of_hits() -> None:
    rng = np.random.default_rng(3)
    labels, proba = noisy_probabilities(rng, 400, noise=1.5)
    hits = (proba.argmax(axis=1) == labels).astype(float)
    found, mean = classification_intervals(labels, proba, 0)["accuracy"], mean_interval(hits, 1)
    assert found.value == pytest.approx(mean.value)
    assert (found.low, found.high) == pytest.approx((mean.low, mean.high), abs=0.01)


def noisy_probabilities(rng: np.random.Generator, n: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, 2, n)
    one = 1 / (1 + np.exp(-(labels * 2 - 1 + noise * rng.normal(size=n))))
    return labels, np.stack([1 - one, one], axis=1)


def test_auroc_interval_covers_the_true_area() -> None:
    rng = np.random.default_rng(4)
    true = float(stats.norm.cdf(2 / (1.5 * np.sqrt(2))))
    held = 0
    for seed in range(60):
        found = classification_intervals(*noisy_probabilities(rng, 150, 1.5), seed, resamples=200)["auroc"]
        held += found.low <= true <= found.high
    assert held >= 52


def test_pairing_is_narrower_on_correlated_systems() -> None:
    rng = np.random.default_rng(5)
    shared = rng.normal(size=300)
    a, b = shared + 0.1 * rng.normal(size=300), shared + 0.1 * rng.normal(size=300)
    width = [found.high - found.low for found in (paired_interval(a, b, 0), mean_interval(a, 0))]
    assert width[0] < 0.3 * width[1]
    labels, proba = noisy_probabilities(rng, 300, 1.5)
    other = 0.95 * proba + 0.05 * rng.dirichlet([1, 1], 300)
    paired, alone = paired_classification_intervals(labels, proba, other, 0), classification_intervals(labels, proba, 0)
    for name in ("accuracy", "macro_f1", "auroc"):
        assert paired[name].high - paired[name].low < alone[name].high - alone[name].low


def test_a_system_equals_itself_exactly() -> None:
    labels, proba = noisy_probabilities(np.random.default_rng(6), 100, 1.0)
    assert set(paired_classification_intervals(labels, proba, proba, 3).values()) == {Interval(0.0, 0.0, 0.0)}
    assert paired_interval(labels, labels, 3) == Interval(0.0, 0.0, 0.0)


def test_same_seed_same_numbers() -> None:
    labels, proba = noisy_probabilities(np.random.default_rng(7), 100, 1.0)
    assert classification_intervals(labels, proba, 5) == classification_intervals(labels, proba, 5)
    assert classification_intervals(labels, proba, 5) != classification_intervals(labels, proba, 6)
    values = np.random.default_rng(8).random(50)
    assert mean_interval(values, 5) == mean_interval(values, 5) != mean_interval(values, 6)


def test_undefined_resamples_are_left_out() -> None:
    labels = np.array([0] * 12 + [1])  # about a third of the resamples have no positive
    proba = np.tile([0.6, 0.4], (13, 1))
    draws = classification_draws(labels, proba, 0, resamples=200)["auroc"]
    assert 20 < np.isnan(draws.draws).sum() < 150
    assert draws.interval() == Interval(0.5, 0.5, 0.5)
    assert "auroc" not in classification_intervals(np.zeros(5, int), proba[:5], 0)
    assert Draws(0.7, np.full(3, np.nan)).interval() == Interval(0.7, 0.7, 0.7)


def test_intervals_are_plain_json() -> None:
    assert json.loads(json.dumps(mean_interval(np.array([1.0]), 0).as_dict(), allow_nan=False)) == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert Interval(0.0, -0.1, 0.0).holds_zero
    assert not Interval(0.1, 0.05, 0.2).holds_zero


def test_bad_values_are_refused() -> None:
    for values in (np.zeros(0), np.array([np.nan]), np.zeros((2, 2))):
        with pytest.raises(ValueError, match="at least one value"):
            mean_interval(values, 0)
    with pytest.raises(ValueError, match="same instances"):
        paired_interval(np.zeros(2), np.zeros(3), 0)
