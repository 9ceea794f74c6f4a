"""Classification metrics against scikit-learn, on probabilities with many ties."""

import numpy as np
import pytest
from sklearn import metrics as oracle

from userclue.metrics.classification import CLASSIFICATION_METRICS, Classified, classification_metrics, log_loss


def tied_probabilities(rng: np.random.Generator, n: int, n_classes: int) -> np.ndarray:
    raw = rng.integers(0, 4, (n, n_classes)) + 0.25
    return np.asarray(raw / raw.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("seed", range(5))
def test_binary_metrics_equal_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, proba = rng.integers(0, 2, 200), tied_probabilities(rng, 200, 2)
    found = classification_metrics(labels, proba)
    assert found.undefined == {}
    predicted = proba.argmax(axis=1)
    assert found.values == pytest.approx(
        {
            "accuracy": oracle.accuracy_score(labels, predicted),
            "macro_f1": oracle.f1_score(labels, predicted, average="macro"),
            "auroc": oracle.roc_auc_score(labels, proba[:, 1]),
            "log_loss": oracle.log_loss(labels, proba),
        }
    )


@pytest.mark.parametrize("seed", range(5))
def test_multi_class_metrics_equal_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, proba = rng.integers(0, 5, 300), tied_probabilities(rng, 300, 5)
    found = classification_metrics(labels, proba).values
    predicted = proba.argmax(axis=1)
    assert found["macro_f1"] == pytest.approx(oracle.f1_score(labels, predicted, average="macro"))
    assert found["auroc"] == pytest.approx(oracle.roc_auc_score(labels, proba, multi_class="ovr", average="macro"))
    assert found["log_loss"] == pytest.approx(oracle.log_loss(labels, proba, labels=range(5)))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_weights_equal_repeated_instances(n_classes: int) -> None:
    rng = np.random.default_rng(n_classes)
    labels, proba = rng.integers(0, n_classes, 80), tied_probabilities(rng, 80, n_classes)
    weights = rng.integers(0, 4, 80)
    again = np.repeat(np.arange(80), weights)
    repeated = Classified(labels[again], proba[again])
    for metric in (*CLASSIFICATION_METRICS.values(), Classified.log_loss):
        assert metric(Classified(labels, proba), weights.astype(float)) == pytest.approx(metric(repeated, np.ones(len(again))))


def test_classes_that_do_not_occur_are_left_out_of_the_means() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 100)
    proba = tied_probabilities(rng, 100, 3)
    with_empty = np.concatenate([proba, np.zeros((100, 2))], axis=1)
    assert classification_metrics(labels, with_empty).values == pytest.approx(classification_metrics(labels, proba).values)


@pytest.mark.parametrize("n_classes", [1, 2, 3])
def test_one_class_has_no_auroc_and_says_why(n_classes: int) -> None:
    found = classification_metrics(np.zeros(7, int), np.full((7, n_classes), 1 / n_classes))
    assert "auroc" not in found.values
    assert "all 7 labels are class 0" in found.undefined["auroc"]
    assert all(np.isfinite(list(found.values.values())))


def test_certainty_about_the_wrong_class_stays_finite() -> None:
    assert 30 < log_loss(np.array([0]), np.array([[0.0, 1.0]])) < 40


def test_impossible_input_is_refused() -> None:
    good = np.full((2, 2), 0.5)
    for labels, proba, message in [
        (np.array([0]), good, r"found \(1,\) and \(2, 2\)"),
        (np.zeros(0, int), np.zeros((0, 2)), "no labelled instance"),
        (np.array([0, 2]), good, "integers in 0…1"),
        (np.array([0.0, 1.0]), good, "integers"),
        (np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, 0.5]]), "row 1"),
        (np.array([0, 1]), np.array([[0.5, 0.6], [0.5, 0.5]]), "row 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            Classified(labels, proba)
