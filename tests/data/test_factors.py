"""Factors against dense float64 formulas and scikit-learn."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfTransformer

from userclue.data.counts import count_matrix
from userclue.data.factors import WINDOW, Bag, item_factors
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, UNK

ITEMS = 40
SIZE = FIRST_ITEM + ITEMS


@pytest.fixture(scope="module")
def histories() -> Sequences:
    generator = np.random.default_rng(0)
    lists = []
    for _ in range(300):  # two tastes, so that something stands together
        taste, length = generator.integers(2), generator.integers(1, 30)
        lists.append(FIRST_ITEM + 20 * taste + generator.integers(0, 20, length) * generator.integers(0, 2, length))
    lists[5][0] = UNK
    return Sequences.from_lists([one.astype(np.int32) for one in lists])


def dense_information(histories: Sequences) -> np.ndarray:
    """PPMI by loops over all pairs."""
    counts = np.zeros((SIZE, SIZE))
    for place in range(len(histories)):
        one = histories[place]
        for i in range(len(one)):
            for j in range(i + 1, min(i + WINDOW + 1, len(one))):
                if one[i] >= FIRST_ITEM and one[j] >= FIRST_ITEM:
                    counts[one[i], one[j]] += 1 / (j - i)
                    counts[one[j], one[i]] += 1 / (j - i)
    totals = counts.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(counts * counts.sum() / np.outer(totals, totals))
    return np.where(np.isfinite(information), np.maximum(information, 0), 0)


def test_item_factors_are_those_of_the_dense_formula(histories: Sequences) -> None:
    found = item_factors(histories, SIZE, 1, seed=0)
    matrix = dense_information(histories)
    met = np.flatnonzero(matrix.any(axis=1))
    left, strengths, _ = np.linalg.svd(matrix[met][:, met])
    expected = left[:, :1] * np.sqrt(strengths[:1])
    expected -= expected.mean(axis=0)
    expected /= np.sqrt((expected**2).mean())
    # Inner products, which a column's sign does not change; one factor, the rest of this spectrum lies too close together.
    np.testing.assert_allclose(found[met] @ found[met].T, expected @ expected.T, atol=2e-3)
    assert not found[:FIRST_ITEM].any()
    assert np.isclose((found[met] ** 2).mean(), 1, atol=1e-5)


def test_items_of_one_taste_lie_nearer_than_of_two(histories: Sequences) -> None:
    vectors = item_factors(histories, SIZE, 8, seed=0)[FIRST_ITEM:]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    assert cosines[1:20, 1:20].mean() > cosines[1:20, 21:].mean() + 0.5


def test_item_factors_of_almost_nothing_are_zero() -> None:
    assert not item_factors(Sequences.from_lists([np.array([FIRST_ITEM], np.int32)]), SIZE, 4, seed=0).any()


def test_item_factors_do_not_depend_on_how_the_log_is_cut(histories: Sequences, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = item_factors(histories, SIZE, 4, seed=0)
    monkeypatch.setattr("userclue.data.factors._EVENTS_AT_ONCE", 50)
    np.testing.assert_allclose(item_factors(histories, SIZE, 4, seed=0), whole, atol=1e-3)


def test_rows_of_the_bag_are_scikit_learns(histories: Sequences) -> None:
    binary = count_matrix(histories, SIZE)
    binary.data[:] = 1
    expected = TfidfTransformer().fit_transform(binary).toarray()
    np.testing.assert_allclose(Bag.learned(histories, SIZE).rows(histories).toarray(), expected, atol=1e-6)


@pytest.mark.parametrize(("power", "shortening"), [(1.0, 0.0), (1.5, 0.75)])
def test_rows_of_the_bag_keep_a_part_of_their_length(histories: Sequences, power: float, shortening: float) -> None:
    binary = count_matrix(histories, SIZE).toarray() > 0
    rare = np.log((1 + len(binary)) / (1 + binary.sum(axis=0))) + 1
    weights = binary * rare**power
    expected = weights / np.linalg.norm(weights, axis=1, keepdims=True) ** shortening
    bag = Bag.learned(histories, SIZE, power, shortening)
    np.testing.assert_allclose(bag.rows(histories).toarray(), expected, rtol=1e-5)
    np.testing.assert_allclose(bag.typical_length(histories), np.sqrt((expected**2).sum(axis=1).mean()), rtol=1e-5)


def test_the_basis_is_the_right_singular_vectors(histories: Sequences) -> None:
    bag = Bag.learned(histories, SIZE)
    found = bag.basis(histories, 2, seed=0)
    expected = np.linalg.svd(bag.rows(histories).toarray())[2][:2].T
    np.testing.assert_allclose(np.abs(np.sum(found * expected, axis=0)), 1, atol=1e-3)
    assert bag.basis(histories.take(np.arange(3)), 256, seed=0).shape[1] <= 2
