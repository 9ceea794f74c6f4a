"""Ranks, ranking metrics and top-k against brute force, and against ranx where no scores tie."""

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM
from userclue.metrics import blocks
from userclue.metrics.blocks import InnerProducts
from userclue.metrics.counted import count_ahead
from userclue.metrics.ranking import NOT_RETRIEVABLE, best_items, full_ranking, ranking_metrics, ranks, top_k
from userclue.native import describe, kernels

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
    scores = np.zeros((3, FIRST_ITEM + 4), np.float32)
    scores[1, FIRST_ITEM + 2] = np.nan
    with pytest.raises(ValueError, match="row 1 hold NaN"):
        ranks(scores, np.zeros(3, int))
    with pytest.raises(ValueError, match="hold NaN"):
        top_k(scores, 2)
    with pytest.raises(ValueError, match="row 1 hold NaN"):
        full_ranking(lambda rows: scores[rows], 3, np.full(3, FIRST_ITEM))
    with pytest.raises(ValueError, match="row 1 hold NaN"):
        best_items(lambda rows: scores[rows], 3, 2)
    broken = np.zeros((300, 2), np.float32)
    broken[211] = np.nan
    with pytest.raises(ValueError, match="row 211 hold NaN"):
        full_ranking(InnerProducts(lambda rows: broken[rows], torch.ones(9, 2)), 300, np.full(300, FIRST_ITEM))
    with pytest.raises(ValueError, match="targets must lie in 0…8"):
        full_ranking(InnerProducts(lambda rows: broken[rows], torch.ones(9, 2)), 1, np.array([9]))
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

    result = full_ranking(score, 500, np.full(500, 7), memory_bytes=4 * 1000 * 50)
    assert sum(asked) == 500
    assert max(asked) == 50
    assert result.ranks_unseen is None
    assert (result.ranks_all == 1000 - FIRST_ITEM).all()


Problem = tuple[InnerProducts, np.ndarray, np.ndarray, list[np.ndarray]]


@pytest.mark.parametrize("where", ["vectors", "items", "bias"])
def test_inner_products_that_are_nan_are_refused_wherever_it_comes_from(where: str) -> None:
    vectors, items, bias = np.ones((300, 2), np.float32), torch.ones(9, 2), torch.zeros(9)
    {"vectors": torch.from_numpy(vectors)[211], "items": items[7], "bias": bias[7:8]}[where][-1] = torch.nan
    with pytest.raises(ValueError, match=f"row {211 if where == 'vectors' else 0} hold NaN"):
        full_ranking(InnerProducts(lambda rows: vectors[rows], items, bias), 300, np.full(300, FIRST_ITEM))


def test_an_item_can_be_ruled_out_by_its_bias() -> None:
    bias = torch.zeros(FIRST_ITEM + 3)
    bias[FIRST_ITEM] = -torch.inf
    products = InnerProducts(lambda rows: np.ones((len(rows), 2), np.float32), torch.ones(FIRST_ITEM + 3, 2), bias)
    found = full_ranking(products, 3, np.arange(FIRST_ITEM, FIRST_ITEM + 3))
    assert found.ranks_all.tolist() == [NOT_RETRIEVABLE, 2, 2]


def inner_products(seed: int, n: int, items: int) -> Problem:
    """Small integers, so that every score is exact and many tie: products, all scores in float64, targets, histories."""
    rng = np.random.default_rng(seed)
    width = FIRST_ITEM + items
    vectors, table = rng.integers(-2, 3, (n, 4)), rng.integers(-2, 3, (width, 4))
    bias = rng.integers(0, 2, width) if seed % 2 else None
    scores = (vectors @ table.T + (0 if bias is None else bias)).astype(np.float64)
    products = InnerProducts(
        lambda rows: vectors[rows].astype(np.float32),
        torch.from_numpy(table).float(),
        None if bias is None else torch.from_numpy(bias).float(),
    )
    return products, scores, rng.integers(1, width, n), [rng.integers(0, width, rng.integers(0, 6)) for _ in range(n)]


@pytest.fixture(params=[(1, 1), (3, 5), (256, 4096), "compiled"], ids=str)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of so many instances and items, by PyTorch, or the compiled kernel; vectors of seven instances at a time."""
    monkeypatch.setattr(blocks, "_VECTORS_AT_ONCE", 7)
    if request.param != "compiled":
        monkeypatch.setenv("USERCLUE_KERNELS", "off")
        monkeypatch.setattr(blocks, "_BLOCK", {"cpu": request.param})
    elif kernels() is None:
        pytest.skip(describe())


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("seed", range(6))
def test_inner_products_are_ranked_as_brute_force_does_in_any_blocks(seed: int) -> None:
    n = 30
    products, scores, targets, histories = inner_products(seed, n, items=1 + 8 * seed)
    found = full_ranking(products, n, targets, Sequences.from_lists(histories))
    special = set(range(FIRST_ITEM))
    assert found.ranks_all.tolist() == [brute_rank(scores[i], int(targets[i]), special) for i in range(n)]
    assert found.ranks_unseen is not None
    assert found.ranks_unseen.tolist() == [brute_rank(scores[i], int(targets[i]), special | set(histories[i].tolist())) for i in range(n)]
    whole = full_ranking(lambda rows: scores[rows], n, targets, Sequences.from_lists(histories))
    assert found.ranks_all.tolist() == whole.ranks_all.tolist()
    assert full_ranking(products, n, targets).ranks_unseen is None


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("filtered", [False, True])
def test_best_items_are_the_first_of_a_stable_sort_in_any_blocks(seed: int, filtered: bool) -> None:
    n, k = 30, 1 + 3 * seed
    products, scores, _, histories = inner_products(seed, n, items=1 + 8 * seed)
    seen = Sequences.from_lists(histories) if filtered else None
    expected = scores.copy()
    expected[:, :FIRST_ITEM] = -np.inf
    for row, history in enumerate(histories if filtered else []):
        expected[row, history] = -np.inf
    order = np.argsort(-expected, axis=1, kind="stable")[:, :k]
    sorted_scores = np.take_along_axis(expected, order, axis=1)
    for score in (products, lambda rows: scores[rows]):
        index, values = best_items(score, n, k, seen)
        np.testing.assert_array_equal(values, sorted_scores)
        candidates = np.isfinite(values)
        assert index[candidates].tolist() == order[candidates].tolist()


def test_rounding_breaks_no_tie_with_the_target_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """With real numbers, whatever the blocks: the target is counted by the same bits it is compared with."""
    rng = np.random.default_rng(0)
    vectors, table = rng.normal(size=(200, 64)).astype(np.float32), rng.normal(size=(FIRST_ITEM + 3000, 64)).astype(np.float32)
    targets = rng.integers(FIRST_ITEM, len(table), 200)
    exact = vectors.astype(np.float64) @ table.astype(np.float64).T
    expected = np.array([brute_rank(exact[i], int(targets[i]), set(range(FIRST_ITEM))) for i in range(200)])
    products = InnerProducts(lambda rows: vectors[rows], torch.from_numpy(table))
    for shape in (None, (7, 11), (64, 1000), (256, 4096)):
        if shape is not None:
            monkeypatch.setenv("USERCLUE_KERNELS", "off")
            monkeypatch.setattr(blocks, "_BLOCK", {"cpu": shape})
        # Two scores closer than float32 tells apart may change places; a lost or doubled target would move every rank.
        assert np.abs(full_ranking(products, 200, targets).ranks_all - expected).max() <= 1
        assert np.mean(full_ranking(products, 200, targets).ranks_all == expected) > 0.95


@pytest.mark.skipif(kernels() is None, reason=describe())
@pytest.mark.parametrize("dim", [7, 64])
@pytest.mark.parametrize("threads", [1, 3])
def test_equal_items_tie_exactly_in_the_compiled_count(dim: int, threads: int) -> None:
    """Forty kinds of items, each a hundred times and more: by kind the counts are known, whatever float32 makes of the scores."""
    rng = np.random.default_rng(dim)
    n, kinds, biases = 700, rng.normal(size=(40, dim)).astype(np.float32), rng.normal(size=40).astype(np.float32)
    kind = rng.integers(0, 40, FIRST_ITEM + 6000)
    vectors, targets = rng.normal(size=(n, dim)).astype(np.float32), rng.integers(FIRST_ITEM, len(kind), n)
    histories = [rng.choice(len(kind) + 9, rng.integers(0, 300)) for _ in range(n)]  # what is no row of the table counts in nothing
    exact = vectors.astype(np.float64) @ kinds.T.astype(np.float64) + biases
    is_ahead = (exact >= np.take_along_axis(exact, kind[targets][:, None], axis=1))[:, kind]  # [n, V]
    is_ahead[:, :FIRST_ITEM] = False
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        items, bias = torch.from_numpy(kinds[kind]), torch.from_numpy(biases[kind])
        found, among_seen = count_ahead(vectors, items, bias, targets, Sequences.from_lists(histories))
    finally:
        torch.set_num_threads(before)
    assert found.tolist() == is_ahead.sum(axis=1).tolist()
    assert among_seen is not None
    assert among_seen.tolist() == [
        row[np.unique(history[history < len(kind)])].sum() for row, history in zip(is_ahead, histories, strict=True)
    ]


MILLION = """
import resource
import numpy as np, torch
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM
from userclue.metrics.blocks import InnerProducts
from userclue.metrics.ranking import best_items, full_ranking
torch.set_num_threads(1)
n, items, dim = 256, 1_000_000, 8
rng = np.random.default_rng(0)
vectors = rng.standard_normal((n, dim), np.float32)
table = torch.from_numpy(rng.standard_normal((FIRST_ITEM + items, dim), np.float32))
products = InnerProducts(lambda rows: vectors[rows], table)
seen = Sequences.from_lists([rng.integers(FIRST_ITEM, items, 50) for _ in range(n)])
full_ranking(products, 2, np.array([5, 6]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
full_ranking(products, n, rng.integers(FIRST_ITEM, items, n), seen)
best_items(products, 64, 10, seen.take(np.arange(64)))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_a_million_items_take_no_more_memory_than_a_block() -> None:
    """All scores of these 256 instances would be 1 GB, those of one block are 4 MB."""
    done = subprocess.run([sys.executable, "-c", MILLION], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 48


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
