"""What the verdict says when the model wins, when a baseline wins, and when nothing can be said."""

import numpy as np
import pytest

from userclue.metrics.comparison import PROFILING_PRIMARY, RANKING_PRIMARY, ProfilingOutcome, RankingOutcome, compare

RNG_SEED = 0


def profile(accuracy: float, n: int = 1000, shift: int = 0) -> ProfilingOutcome:
    """Right on the first share of users, rolled on by `shift`."""
    labels = np.random.default_rng(RNG_SEED).integers(0, 2, n)
    right = np.roll(np.arange(n) < round(accuracy * n), shift)
    sure = np.where(right, labels, 1 - labels)
    proba = np.full((n, 2), 0.3)
    proba[np.arange(n), sure] = 0.7
    return ProfilingOutcome(labels, proba)


def text(verdict: list[str]) -> str:
    return "\n".join(verdict)


def test_a_baseline_that_wins_is_named_with_the_margin() -> None:
    found = compare(
        profile(0.790), {"majority": profile(0.6), "bag_of_items": profile(0.812, shift=5)}, PROFILING_PRIMARY, seed=0, model_name="clue"
    )
    assert found.verdict[0].startswith("Highest accuracy: bag_of_items, 0.812 [")
    assert "on 1,000 users" in found.verdict[0]
    assert found.verdict[1].startswith("bag_of_items wins: accuracy 0.812 against 0.790 of clue; the difference -0.022 [-0.0")
    assert found.verdict[1].endswith("(clue minus bag_of_items) is clear of zero.")
    assert found.verdict[2].startswith("clue wins against majority: the difference +0.190 [")
    assert list(found.metrics) == ["clue", "majority", "bag_of_items"]
    assert list(found.differences["majority"]) == ["accuracy", "macro_f1", "auroc"]


def test_an_interval_over_zero_names_no_winner() -> None:
    found = compare(profile(0.70), {"bag_of_items": profile(0.705, shift=400)}, PROFILING_PRIMARY, seed=0)
    assert found.differences["bag_of_items"]["accuracy"].holds_zero
    assert found.verdict[1].startswith(
        "No winner can be named between model and bag_of_items on 1,000 users: model minus bag_of_items is -0.005 [-"
    )
    assert found.verdict[1].endswith("includes zero.")
    assert "wins" not in text(found.verdict)


def test_a_model_that_wins_against_all_says_so() -> None:
    rng = np.random.default_rng(1)
    found = compare(
        RankingOutcome(rng.integers(1, 30, 2000)),
        {"popularity": RankingOutcome(rng.integers(1, 400, 2000)), "markov": RankingOutcome(rng.integers(1, 60, 2000))},
        RANKING_PRIMARY,
        seed=0,
        model_name="clue",
    )
    assert found.verdict[0].startswith("Highest mrr@10: clue, 0.")
    assert found.verdict[1].startswith("clue wins against every baseline: even over the nearest, markov, the difference +0.0")
    assert len(found.verdict) == 2
    gap = found.differences["markov"]["recall@10"]
    assert gap.value == pytest.approx(found.metrics["clue"]["recall@10"].value - found.metrics["markov"]["recall@10"].value)


def test_one_baseline_no_baseline_and_a_tie() -> None:
    assert "wins against the only baseline, majority: the difference" in text(
        compare(profile(0.9), {"majority": profile(0.6)}, PROFILING_PRIMARY, seed=0).verdict
    )
    assert "no baseline was run" in text(compare(profile(0.9), {}, PROFILING_PRIMARY, seed=0).verdict)
    tie = compare(profile(0.6), {"majority": profile(0.6)}, PROFILING_PRIMARY, seed=0).verdict
    assert tie[0].startswith("Highest accuracy, shared: model and majority, 0.600 [")
    assert "model minus majority is +0.000 [+0.000, +0.000]; the interval includes zero" in tie[1]
    two = compare(profile(0.6), {"a": profile(0.6), "b": profile(0.6)}, PROFILING_PRIMARY, seed=0).verdict
    assert two[1] == (
        "No winner can be named between model, a and b on 1,000 users: "
        "model minus a is +0.000 [+0.000, +0.000], minus b +0.000 [+0.000, +0.000]; all intervals include zero."
    )


def test_small_differences_are_not_written_as_zero() -> None:
    ahead = np.full(40_000, 1)
    behind = ahead.copy()
    behind[:12] = 2
    found = compare(RankingOutcome(ahead), {"markov": RankingOutcome(behind)}, RANKING_PRIMARY, seed=0)
    assert "the difference +0.0001 [+0.0001, +0.0002]" in text(found.verdict)


def test_an_undefined_primary_metric_is_explained() -> None:
    outcome = ProfilingOutcome(np.zeros(4, int), np.full((4, 2), 0.5))
    found = compare(outcome, {"majority": outcome}, "auroc", seed=0)
    assert found.verdict == ["No winner can be named: auroc has no value here, because " + found.undefined["auroc"] + "."]
    assert "auroc" not in found.metrics["model"]


def test_same_seed_same_comparison() -> None:
    def once(seed: int) -> object:
        return compare(profile(0.7, 200), {"majority": profile(0.6, 200, 50)}, PROFILING_PRIMARY, seed=seed).differences

    assert once(1) == once(1) != once(2)


def test_systems_on_other_instances_are_refused() -> None:
    with pytest.raises(ValueError, match="markov was not scored on the same instances"):
        compare(RankingOutcome(np.ones(3)), {"markov": RankingOutcome(np.ones(4))}, RANKING_PRIMARY, seed=0)
    with pytest.raises(ValueError, match="majority was not scored on the same instances and labels"):
        compare(profile(0.7), {"majority": profile(0.7, 999)}, PROFILING_PRIMARY, seed=0)
    with pytest.raises(ValueError, match="both called model"):
        compare(profile(0.7), {"model": profile(0.7)}, PROFILING_PRIMARY, seed=0)
    with pytest.raises(ValueError, match=r"mrr@10 is not a metric of this task; choose one of: accuracy"):
        compare(profile(0.7), {}, RANKING_PRIMARY, seed=0)


def test_users_with_several_instances_are_averaged_and_counted_as_asked() -> None:
    users, ranks = np.array([7, 7, 7, 2, 9, 9]), np.array([1, 1, 1, 40, 2, 40])
    by_instance = compare(
        RankingOutcome(ranks, users=users), {"popularity": RankingOutcome(ranks + 1, users=users)}, RANKING_PRIMARY, seed=0
    )
    by_user = compare(
        RankingOutcome(ranks, users=users, unit="users"),
        {"popularity": RankingOutcome(ranks + 1, users=users, unit="users")},
        RANKING_PRIMARY,
        seed=0,
    )
    assert by_instance.metrics["model"]["recall@10"].value == pytest.approx(4 / 6)
    assert by_user.metrics["model"]["recall@10"].value == pytest.approx((1 + 0 + 0.5) / 3)
    assert by_user.metrics["model"]["mrr@10"].value == pytest.approx((1 + 0 + 0.25) / 3)
    assert by_user.differences["popularity"]["mrr@10"].value == pytest.approx((0.5 + 0 + (0.5 - 1 / 3) / 2) / 3)
    assert by_instance.n == by_user.n == 3
    assert "on 3 users" in text(by_instance.verdict)
