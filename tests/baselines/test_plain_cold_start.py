"""Cold-start baselines: one contract for all, and their scores against loops that follow the formulas."""

from math import sqrt

import numpy as np
import pytest

from userclue.baselines import plain_cold_start
from userclue.baselines.plain_cold_start import COLD_START_BASELINES, ItemKNN, ItemKNNWindow, Popularity, UserKNN
from userclue.data.splits import Instances
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, UNK
from userclue.metrics.ranking import ranking_metrics, ranks

V, T = FIRST_ITEM + 9, FIRST_ITEM + 7


def instances(n: int = 20, seed: int = 0, targets: bool = True) -> Instances:
    """Histories with repeats and unknown items, some empty, one to three targets each; the last source and target item never occur."""
    rng = np.random.default_rng(seed)
    lists = [rng.integers(FIRST_ITEM, V - 1, rng.integers(0, 6)) for _ in range(n)]
    for one in lists:
        one[rng.random(len(one)) < 0.15] = UNK
    owner = np.repeat(np.arange(n), rng.integers(1, 4, n))
    taken = rng.integers(FIRST_ITEM, T - 1, len(owner))
    taken[rng.random(len(owner)) < 0.1] = UNK
    return Instances(Sequences.from_lists(lists).take(owner), taken, owner).take(np.arange(len(owner) if targets else 0))


NONE = instances(targets=False)


def baskets(part: Instances) -> dict[tuple[int, int], tuple[set[int], set[int]]]:
    """Each different training history, as (items, targets taken after it)."""
    found: dict[tuple[int, int], tuple[set[int], set[int]]] = {}
    for place, target in enumerate(part.targets.tolist()):
        where = (int(part.inputs.starts[place]), int(part.inputs.ends[place]))
        taken = found.setdefault(where, ({int(i) for i in part.inputs[place] if i >= FIRST_ITEM}, set()))[1]
        if target >= FIRST_ITEM:
            taken.add(target)
    return found


@pytest.mark.parametrize("name", COLD_START_BASELINES)
def test_every_baseline_keeps_the_contract(name: str) -> None:
    train, inputs = instances(), instances(seed=1).inputs
    baseline = COLD_START_BASELINES[name](3)
    baseline.fit(train, instances(6, seed=2), V, T)
    found = baseline.scores(inputs)
    assert found.dtype == np.float32
    assert found.shape == (len(inputs), T)
    assert np.isneginf(found[:, :FIRST_ITEM]).all()
    assert np.isfinite(found[:, FIRST_ITEM:]).all()
    one_by_one = np.concatenate([baseline.scores(inputs.take(np.array([u]))) for u in range(len(inputs))])
    np.testing.assert_allclose(found, one_by_one, rtol=1e-6)
    found[:] = 7  # a fresh array: writing in it changes no later answer
    np.testing.assert_allclose(baseline.scores(inputs), one_by_one, rtol=1e-6)
    assert baseline.scores(inputs.take(np.zeros(0, int))).shape == (0, T)


@pytest.mark.parametrize("name", COLD_START_BASELINES)
def test_nothing_known_of_anyone_is_defined(name: str) -> None:
    unknown = Instances(Sequences.from_lists([[UNK], []]), np.array([UNK, 5]), np.arange(2))
    baseline = COLD_START_BASELINES[name](3)
    baseline.fit(unknown, NONE, V, T)
    expected = [0, 1, 0, 0, 0, 0, 0] if name == "popularity" else [0] * 7
    assert (baseline.scores(instances().inputs)[:, FIRST_ITEM:] == expected).all()


def test_popularity_counts_instances() -> None:
    baseline = Popularity(3)
    train = instances()
    baseline.fit(train, NONE, V, T)
    found = baseline.scores(train.inputs.take(np.array([0])))[0, FIRST_ITEM:]
    assert found.tolist() == [int((train.targets == item).sum()) for item in range(FIRST_ITEM, T)]


@pytest.mark.parametrize(("cls", "window"), [(ItemKNN, 99), (ItemKNNWindow, 2)])
@pytest.mark.parametrize("shrinkage", [0.0, 3.0])
def test_item_knn_equals_its_formula(cls: type[ItemKNN], window: int, shrinkage: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_cold_start, "UNTUNED_SHRINKAGE", shrinkage)
    train, inputs = instances(), instances(seed=1).inputs
    known = list(baskets(train).values())
    baseline = cls(2)
    baseline.fit(train, NONE, V, T)
    found = baseline.scores(inputs)
    for u in range(len(inputs)):
        for j in range(FIRST_ITEM, T):
            expected = 0.0
            for i in {int(item) for item in inputs[u][-window:] if item >= FIRST_ITEM}:
                both = sum(i in items and j in taken for items, taken in known)
                if both:
                    norm = sqrt(sum(i in items for items, _ in known) * sum(j in taken for _, taken in known))
                    expected += both / (norm + shrinkage)
            assert found[u, j] == pytest.approx(expected, rel=1e-5)


def brute_user_knn(train: Instances, inputs: Sequences, k: int) -> np.ndarray:
    known = [basket for _, basket in sorted(baskets(train).items())]
    scores = np.zeros((len(inputs), T))
    for u in range(len(inputs)):
        mine = {int(item) for item in inputs[u] if item >= FIRST_ITEM}
        cosines = [len(mine & items) / sqrt(max(1, len(mine)) * max(1, len(items))) for items, _ in known]
        # Cosines are compared in float32 there: the same fractions give the same numbers here.
        nearest = sorted(range(len(known)), key=lambda n: (-round(cosines[n], 6), n))[:k]
        for n in nearest:
            for j in known[n][1]:
                scores[u, j] += cosines[n]
    return scores


@pytest.mark.parametrize("k", [1, 3, 1000])
@pytest.mark.parametrize("cells", [1, 100, 1 << 24])
def test_user_knn_equals_its_formula_in_any_chunks(k: int, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_cold_start, "UNTUNED_NEIGHBOURS", k)
    monkeypatch.setattr(plain_cold_start, "_CELLS_AT_ONCE", cells)
    train, inputs = instances(), instances(seed=1).inputs
    baseline = UserKNN(3)
    baseline.fit(train, NONE, V, T)
    np.testing.assert_allclose(baseline.scores(inputs)[:, FIRST_ITEM:], brute_user_knn(train, inputs, k)[:, FIRST_ITEM:], rtol=1e-5)


def mrr(scores: np.ndarray, valid: Instances) -> float:
    scores = np.array(scores, np.float32)
    scores[:, :FIRST_ITEM] = -np.inf
    return float(ranking_metrics(ranks(scores, valid.targets))["mrr@10"].mean())


def test_settings_are_chosen_on_the_validation_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_cold_start, "NEIGHBOURS", (1, 2, 4, 8))
    chosen = set()
    for seed in range(6):
        train, valid = instances(40, seed=seed), instances(12, seed=100 + seed)
        users, items = UserKNN(3), ItemKNN(3)
        users.fit(train, valid, V, T)
        expected = [mrr(brute_user_knn(train, valid.inputs, k), valid) for k in (1, 2, 4, 8)]
        assert users._qualities(valid) == pytest.approx(expected, abs=0.05)  # sums in another order may part equal scores
        assert expected[(1, 2, 4, 8).index(users.neighbours)] == pytest.approx(max(expected), abs=0.05)
        items.fit(train, valid, V, T)
        qualities = []
        for shrinkage in plain_cold_start.SHRINKAGES:
            other = ItemKNN(3)
            monkeypatch.setattr(plain_cold_start, "UNTUNED_SHRINKAGE", shrinkage)
            other.fit(train, NONE, V, T)
            qualities.append(mrr(other.scores(valid.inputs), valid))
        assert items.shrinkage == plain_cold_start.SHRINKAGES[int(np.argmax(qualities))]
        chosen.add((users.neighbours, items.shrinkage))
    assert len(chosen) > 1
