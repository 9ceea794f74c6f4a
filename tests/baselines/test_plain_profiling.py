"""Profiling baselines: one contract for all, and the bag of items against a scikit-learn pipeline built on its own."""

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from userclue.baselines.plain_profiling import PROFILING_BASELINES, UNTUNED_PENALTY, BagOfItems, BagOfItemsWindow, Majority
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, UNK
from userclue.metrics.classification import log_loss

V = FIRST_ITEM + 30


def users(n: int, n_classes: int, seed: int = 0) -> tuple[Sequences, np.ndarray]:
    """Users whose class leans them towards a part of the catalogue; histories of 0 to 24 events with repeats and unknown items."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    lists = []
    for label in labels:
        leaning = FIRST_ITEM + (label * 7 + rng.integers(0, 8, 24)) % 30
        anything = rng.integers(FIRST_ITEM, V, 24)
        items = np.where(rng.random(24) < 0.4, leaning, anything)
        items[rng.random(24) < 0.05] = UNK
        lists.append(items[: rng.integers(0, 25)])
    return Sequences.from_lists(lists), labels


@pytest.mark.parametrize("name", PROFILING_BASELINES)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_every_baseline_keeps_the_contract(name: str, n_classes: int) -> None:
    train, labels = users(120, n_classes)
    valid, valid_labels = users(40, n_classes, seed=1)
    found = []
    for _ in range(2):
        baseline = PROFILING_BASELINES[name](10)
        baseline.fit(train, labels, valid, valid_labels, n_classes + 1, V)
        found.append(baseline.predict_proba(valid))
    assert found[0].dtype == np.float64
    assert found[0].shape == (40, n_classes + 1)
    np.testing.assert_allclose(found[0].sum(axis=1), 1)
    assert (found[0] >= 0).all()
    assert (found[0][:, n_classes] == 0).all()
    np.testing.assert_array_equal(found[0], found[1])
    assert baseline.predict_proba(valid.take(np.zeros(0, int))).shape == (0, n_classes + 1)
    assert np.isfinite(baseline.predict_proba(Sequences.from_lists([[], [UNK]]))).all()


@pytest.mark.parametrize("name", PROFILING_BASELINES)
def test_one_class_and_no_validation_users_are_defined(name: str) -> None:
    train, labels = users(30, 2)
    nobody = train.take(np.zeros(0, int))
    baseline = PROFILING_BASELINES[name](10)
    baseline.fit(train, np.ones(30, int), nobody, labels[:0], 3, V)
    np.testing.assert_array_equal(baseline.predict_proba(train), np.tile([0.0, 1, 0], (30, 1)))
    baseline.fit(train, labels, nobody, labels[:0], 2, V)
    assert baseline.predict_proba(train).shape == (30, 2)


def test_majority_gives_the_class_shares() -> None:
    train, _ = users(4, 2)
    baseline = Majority(10)
    baseline.fit(train, np.array([0, 1, 1, 1]), train, np.zeros(4, int), 2, V)
    np.testing.assert_array_equal(baseline.predict_proba(train), np.tile([0.25, 0.75], (4, 1)))


def dense_counts(sequences: Sequences) -> np.ndarray:
    counts = np.zeros((len(sequences), V))
    for u in range(len(sequences)):
        for item in sequences[u]:
            if item >= FIRST_ITEM:
                counts[u, item] += 1
    return counts


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("weighting", ["tfidf", "log", "binary"])
def test_bag_of_items_equals_a_pipeline(weighting: str, n_classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userclue.baselines.plain_profiling.WEIGHTINGS", (weighting, "none of the rest"))
    train, labels = users(150, n_classes)
    test, _ = users(50, n_classes, seed=1)
    baseline = BagOfItems(10)
    baseline.fit(train, labels, train.take(np.zeros(0, int)), labels[:0], n_classes, V)

    counts = dense_counts(train)
    length = np.sqrt((counts > 0).sum() / len(counts))
    items = {
        "tfidf": make_pipeline(TfidfTransformer(), FunctionTransformer(lambda x: x * length)),
        "log": FunctionTransformer(lambda x: np.log2(1 + x)),
        "binary": FunctionTransformer(lambda x: (x > 0) * 1.0),
    }[weighting]
    columns = ColumnTransformer([("items", items, list(range(V))), ("length", StandardScaler(), [V])], sparse_threshold=0)
    pipeline = make_pipeline(columns, LogisticRegression(C=UNTUNED_PENALTY, solver="newton-cg", tol=1e-8))

    def with_length(matrix: np.ndarray) -> np.ndarray:
        return np.hstack([matrix, np.log1p(matrix.sum(axis=1, keepdims=True))])

    pipeline.fit(with_length(counts), labels)
    np.testing.assert_allclose(baseline.predict_proba(test), pipeline.predict_proba(with_length(dense_counts(test))), atol=2e-3)


def test_validation_users_choose_penalty_and_weighting() -> None:
    train, labels = users(300, 3)
    valid, valid_labels = users(150, 3, seed=1)
    tuned, untuned = BagOfItems(10), BagOfItems(10)
    tuned.fit(train, labels, valid, valid_labels, 3, V)
    untuned.fit(train, labels, valid.take(np.zeros(0, int)), valid_labels[:0], 3, V)
    assert log_loss(valid_labels, tuned.predict_proba(valid)) == pytest.approx(tuned.loss)
    assert tuned.loss <= log_loss(valid_labels, untuned.predict_proba(valid))
    assert (tuned.predict_proba(valid).argmax(axis=1) == valid_labels).mean() > 0.5


def test_the_window_sees_the_last_events_only() -> None:
    train, labels = users(120, 2)
    valid, valid_labels = users(60, 2, seed=1)
    window, whole = BagOfItemsWindow(6), BagOfItems(6)
    window.fit(train, labels, valid, valid_labels, 2, V)
    whole.fit(train.last(6), labels, valid.last(6), valid_labels, 2, V)
    np.testing.assert_array_equal(window.predict_proba(valid), whole.predict_proba(valid.last(6)))


def test_history_length_alone_is_learnt() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 25, 200)
    lists = [rng.integers(FIRST_ITEM, V, n) for n in lengths]
    labels = (lengths > 12).astype(int)
    everyone = Sequences.from_lists(lists)
    baseline = BagOfItems(10)
    baseline.fit(everyone, labels, everyone, labels, 2, V)
    assert (baseline.predict_proba(everyone).argmax(axis=1) == labels).mean() > 0.9


def test_items_outside_the_vocabulary_are_refused() -> None:
    train, labels = users(20, 2)
    with pytest.raises(ValueError, match="outside the vocabulary of 8"):
        BagOfItems(10).fit(train, labels, train, labels, 2, 8)
