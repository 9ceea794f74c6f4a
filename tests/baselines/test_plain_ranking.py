"""Ranking baselines: one contract for all, and their scores against loops that follow the formulas."""

from collections import Counter
from itertools import pairwise
from math import sqrt

import numpy as np
import pytest

from userclue.baselines import plain_ranking
from userclue.baselines.neighbours import cosine_neighbours
from userclue.baselines.plain_ranking import RANKING_BASELINES, ItemKNN, ItemKNNWindow, Markov, Popularity
from userclue.data.store import Sequences
from userclue.data.transitions import PRIOR_WEIGHT, last_items
from userclue.data.vocabulary import FIRST_ITEM, UNK

V = FIRST_ITEM + 12


def histories(n: int = 25, seed: int = 0) -> Sequences:
    rng = np.random.default_rng(seed)
    lists = [rng.integers(FIRST_ITEM, V - 1, rng.integers(0, 9)) for _ in range(n)]  # the last item never occurs
    for one in lists:
        one[rng.random(len(one)) < 0.15] = UNK
    return Sequences.from_lists(lists)


def known(sequence: np.ndarray) -> list[int]:
    return [int(item) for item in sequence if item >= FIRST_ITEM]


@pytest.mark.parametrize("name", RANKING_BASELINES)
def test_every_baseline_keeps_the_contract(name: str) -> None:
    train, inputs = histories(), histories(seed=1)
    baseline = RANKING_BASELINES[name](4)
    baseline.fit(train, V)
    found = baseline.scores(inputs)
    assert found.dtype == np.float32
    assert found.shape == (len(inputs), V)
    assert np.isneginf(found[:, :FIRST_ITEM]).all()
    assert np.isfinite(found[:, FIRST_ITEM:]).all()
    one_by_one = np.concatenate([baseline.scores(inputs.take(np.array([u]))) for u in range(len(inputs))])
    np.testing.assert_array_equal(found, one_by_one)
    found[:] = 7  # a fresh array: writing in it changes no later answer
    np.testing.assert_array_equal(baseline.scores(inputs), one_by_one)
    assert baseline.scores(inputs.take(np.zeros(0, int))).shape == (0, V)


@pytest.mark.parametrize("name", RANKING_BASELINES)
def test_no_training_event_is_defined(name: str) -> None:
    baseline = RANKING_BASELINES[name](4)
    baseline.fit(Sequences.from_lists([[], [UNK]]), V)
    assert (baseline.scores(histories())[:, FIRST_ITEM:] == 0).all()


@pytest.mark.parametrize("name", RANKING_BASELINES)
def test_items_outside_the_vocabulary_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="outside the vocabulary of 6"):
        RANKING_BASELINES[name](4).fit(Sequences.from_lists([[4, 9]]), 6)


def test_popularity_counts_events() -> None:
    baseline = Popularity(4)
    baseline.fit(Sequences.from_lists([[4, 5, 4], [UNK, 4]]), 7)
    assert baseline.scores(Sequences.from_lists([[5]])).tolist() == [[-np.inf] * 4 + [3, 1, 0]]


def test_markov_equals_its_formula() -> None:
    train, inputs = histories(), histories(seed=1)
    counts: Counter[int] = Counter()
    pairs: Counter[tuple[int, int]] = Counter()
    for u in range(len(train)):
        items = known(train[u])
        counts.update(items)
        pairs.update(pairwise(items))
    baseline = Markov(4)
    baseline.fit(train, V)
    found, m = baseline.scores(inputs), PRIOR_WEIGHT
    for u in range(len(inputs)):
        last = (known(inputs[u]) or [-1])[-1]
        left = sum(n for (i, _), n in pairs.items() if i == last)
        for j in range(FIRST_ITEM, V):
            assert found[u, j] == pytest.approx((pairs[last, j] + m * counts[j] / counts.total()) / (left + m), rel=1e-5)
        assert found[u, FIRST_ITEM:].sum() == pytest.approx(1, rel=1e-5)


def test_last_items_look_behind_special_tokens() -> None:
    inputs = Sequences.from_lists([[4, 5], [6, UNK, UNK], [], [UNK], [7]])
    assert last_items(inputs).tolist() == [5, 6, -1, -1, 7]
    assert inputs.ends.tolist() == [2, 5, 5, 6, 7]  # the view itself is untouched


def brute_neighbours(sequences: Sequences, neighbours: int, shrinkage: float) -> np.ndarray:
    baskets = [set(known(sequences[u])) for u in range(len(sequences))]
    votes = np.zeros((V, V))
    for i in range(V):
        near = []
        for j in range(V):
            both = sum(i in basket and j in basket for basket in baskets)
            if both and i != j:
                sizes = [sum(item in basket for basket in baskets) for item in (i, j)]
                near.append((-both / (sqrt(sizes[0] * sizes[1]) + shrinkage), j))
        for similarity, j in sorted(near)[:neighbours]:
            votes[i, j] = -similarity
    return votes


@pytest.mark.parametrize("cells", [1, 40, 1 << 20])
@pytest.mark.parametrize(("neighbours", "shrinkage"), [(1, 0.0), (3, 2.0), (50, 10.0)])
def test_neighbours_equal_brute_force_in_any_chunks(cells: int, neighbours: int, shrinkage: float) -> None:
    train = histories()
    found = cosine_neighbours(train, V, neighbours, shrinkage, cells_at_once=cells).toarray()
    np.testing.assert_allclose(found, brute_neighbours(train, neighbours, shrinkage), rtol=1e-6)


@pytest.mark.parametrize(("cls", "window"), [(ItemKNN, 99), (ItemKNNWindow, 3)])
def test_item_knn_sums_the_votes_of_the_history(cls: type[ItemKNN], window: int) -> None:
    train, inputs = histories(), histories(seed=1)
    votes = brute_neighbours(train, plain_ranking.NEIGHBOURS, plain_ranking.SHRINKAGE)
    baseline = cls(3)
    baseline.fit(train, V)
    found = baseline.scores(inputs)
    for u in range(len(inputs)):
        expected = sum((votes[i] for i in set(known(inputs[u][-window:]))), np.zeros(V))
        np.testing.assert_allclose(found[u, FIRST_ITEM:], expected[FIRST_ITEM:], rtol=1e-5)


def test_a_very_long_history_counts_its_recent_events_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userclue.baselines.neighbours.MAX_HISTORY", 2)
    found = cosine_neighbours(Sequences.from_lists([[4, 5, 6]]), V, 5, 0.0).toarray()
    assert found[5, 6] == 1
    assert found[4].sum() == 0
