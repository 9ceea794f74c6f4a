"""Ranks, ranking metrics and top-k against brute force, and against ranx where no scores tie."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM
from userclue.metrics.ranking import NOT_RETRIEVABLE, full_ranking, ranking_metrics, ranks, top_k

LEVELS = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 1.0, math.inf])


def brute_rank(scores: np.ndarray, target: int, banned: set[int]) -> int:
    if target in banned or scores[target] == -math.inf:
        return NOT_RETRIEVABLE
    return 1 + sum(float(scores[c]) >= float(scores[target]) for c in range(len(scores)) if c != target and c not in banned)


@given(arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=LEVELS), st.integers(0, 8))
def test_ranks_equal_brute_force_with_many_ties(scores: np.ndarray, column: int) -> None:
    targets = np.full(len(scores), column % scores.shape[1])
    assert ranks(scores, targets).tolist() == [brute_rank(row, int(t), set()) for row, t in zip(scores, targets, strict=True)]


def test_ties_count_against_the_model() -> None:
    assert ranks(np.ones((1, 5)), np.array([2])).tolist() == [5]
    assert ranks(np.array([[0.0, 3.0, 2.0, 2.0]]), np.array([3])).tolist() == [3]


def test_nan_and_misfits_are_refused() -> None:
    scores = np.zeros((3, 4), np.float32)
    scores[1, 2] = np.nan
    with pytest.raises(ValueError, match="row 1 hold NaN"):
        ranks(scores, np.zeros(3, int))
    with pytest.raises(ValueError, match="hold NaN"):
        top_k(scores, 2)
    with pytest.raises(ValueError, match="hold NaN"):
        full_ranking(lambda rows: scores[rows], 3, np.full(3, 2))
    with pytest.raises(ValueError, match="targets must lie in 0…3"):
        ranks(np.zeros((1, 4)), np.array([4]))
    with pytest.raises(ValueError, match="2 targets"):
        full_ranking(lambda rows: scores[rows], 3, np.zeros(2, int))
    with pytest.raises(ValueError, match="rows of scores"):
        full_ranking(lambda rows: scores, 2, np.zeros(2, int))
    with pytest.raises(ValueError, match="begin at 1"):
        ranking_metrics(np.array([0]))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.sampled_from([1, 300, 1 << 20]))
def test_full_ranking_equals_brute_force_in_any_chunks(seed: int, n: int, memory: int) -> None:
    rng = np.random.default_rng(seed)
    width = FIRST_ITEM + int(rng.integers(1, 12))
    scores = rng.integers(0, 4, (n, width)).astype(np.float32)
    scores[rng.random((n, width)) < 0.1] = -np.inf
    scores.setflags(write=False)
    targets = rng.integers(1, width, n)
    histories = [rng.integers(0, width, rng.integers(0, 6)) for _ in range(n)]
    found = full_ranking(lambda rows: scores[rows], n, targets, Sequences.from_lists(histories), memory_bytes=memory)
    special = set(range(FIRST_ITEM))
    assert found.ranks_all.tolist() == [brute_rank(scores[i], int(targets[i]), special) for i in range(n)]
    assert found.ranks_unseen is not None
    assert found.ranks_unseen.tolist() == [brute_rank(scores[i], int(targets[i]), special | set(histories[i].tolist())) for i in range(n)]


def test_rows_asked_for_stay_within_the_memory_budget() -> None:
    asked: list[int] = []

    def score(instances: np.ndarray) -> np.ndarray:
        asked.append(len(instances))
        return np.zeros((len(instances), 1000), np.float32)

    result = full_ranking(score, 500, np.full(500, 7), memory_bytes=6 * 1000 * 50)
    assert sum(asked) == 500
    assert max(asked) == 50
    assert result.ranks_unseen is None
    assert (result.ranks_all == 1000 - FIRST_ITEM).all()


def test_metrics_by_hand() -> None:
    found = ranking_metrics(np.array([1, 3, 10, 11, NOT_RETRIEVABLE]))
    assert found["mrr@10"].tolist() == [1, 1 / 3, 0.1, 0, 0]
    assert found["recall@10"].tolist() == [1, 1, 1, 0, 0]
    np.testing.assert_allclose(found["ndcg@10"], [1, 0.5, 1 / math.log2(11), 0, 0])
    assert list(ranking_metrics(np.array([2]), k=1)) == ["mrr@1", "recall@1", "ndcg@1"]
    assert all(values.shape == (0,) for values in ranking_metrics(np.zeros(0, int)).values())


def test_metrics_equal_ranx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # compiling ranx takes longer than running it as Python
    with warnings.catch_warnings():
        # ranx and what it imports warn about their own code.
        warnings.simplefilter("ignore")
        from ranx import Qrels, Run, evaluate

        rng = np.random.default_rng(0)
        n, width = 40, 60
        scores = rng.permuted(np.tile(np.arange(float(width)), (n, 1)), axis=1)
        targets = rng.integers(0, width, n)
        qrels = Qrels({f"q{i}": {f"d{targets[i]}": 1} for i in range(n)})
        run = Run({f"q{i}": {f"d{j}": float(scores[i, j]) for j in range(width)} for i in range(n)})
        oracle = evaluate(qrels, run, ["mrr@10", "recall@10", "ndcg@10"], make_comparable=True)
    ours = ranking_metrics(ranks(scores, targets))
    assert {name: pytest.approx(float(value)) for name, value in oracle.items()} == {name: v.mean() for name, v in ours.items()}


@given(arrays(np.float64, st.tuples(st.integers(0, 5), st.integers(1, 12)), elements=LEVELS), st.integers(1, 14))
def test_top_k_equals_a_stable_sort(scores: np.ndarray, k: int) -> None:
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = top_k(scores, k)
    assert found.dtype == np.int64
    assert found.tolist() == expected.tolist()
