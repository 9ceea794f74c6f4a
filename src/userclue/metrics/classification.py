"""Accuracy, macro-F1, AUROC and log-loss of class probabilities, each for any weighting of the instances.

The bootstrap weighs every instance by how often it was drawn; all ones gives the plain metric, so both run the same code.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassificationScores:
    """values: metric -> value, always finite. undefined: metric -> why this data has no such value."""

    values: dict[str, float]
    undefined: dict[str, str]


class Classified:
    """Labels and probabilities made ready for metrics under many weightings (the sorting is done once).

    labels: int [n], 0…K-1. proba: float [n, K], rows sum to 1. Every metric takes weights float [n] >= 0 and returns a float,
    NaN where it is undefined. Raises ValueError on empty, misshapen or impossible input.
    """

    def __init__(self, labels: np.ndarray, proba: np.ndarray) -> None:
        self.labels, self.proba = _checked(labels, proba)
        self.n, self.n_classes = self.proba.shape
        self.predicted = self.proba.argmax(axis=1)  # of equal probabilities the lower class
        self.correct = self.predicted == self.labels
        # Binary: class 1 against class 0. More classes: each class that occurs against the rest.
        self.scored_classes = [1] if self.n_classes == 2 else np.unique(self.labels).tolist()
        self._orders = {c: _SortedScores(self.proba[:, c], self.labels == c) for c in self.scored_classes}

    def accuracy(self, weights: np.ndarray) -> float:
        """Weighted share of instances whose most probable class is their label."""
        return float(weights[self.correct].sum() / weights.sum())

    def macro_f1(self, weights: np.ndarray) -> float:
        """Mean F1 over the classes that occur as label or as prediction (scikit-learn's rule)."""
        support = np.bincount(self.labels, weights, self.n_classes)
        claimed = np.bincount(self.predicted, weights, self.n_classes)
        hits = np.bincount(self.labels[self.correct], weights[self.correct], self.n_classes)
        occurs = support + claimed > 0
        return float((2.0 * hits[occurs] / (support + claimed)[occurs]).mean())

    def auroc(self, weights: np.ndarray) -> float:
        """Chance that a positive scores above a negative, ties half.

        Binary: class 1 is positive. Else the mean, one class against the rest, over the classes with both positives and negatives.
        """
        areas = np.array([self._orders[c].auroc(weights) for c in self.scored_classes])
        defined = areas[~np.isnan(areas)]
        return float(defined.mean()) if len(defined) else float("nan")

    def log_loss(self, weights: np.ndarray) -> float:
        """Mean of -ln of the probability given to the label, in nats; probabilities are kept off 0 by the machine epsilon."""
        own = np.clip(self.proba[np.arange(self.n), self.labels], np.finfo(np.float64).eps, 1.0)
        return float(-(weights * np.log(own)).sum() / weights.sum())


# The metrics that are reported with an interval, in the order of the tables.
CLASSIFICATION_METRICS: dict[str, Callable[[Classified, np.ndarray], float]] = {
    "accuracy": Classified.accuracy,
    "macro_f1": Classified.macro_f1,
    "auroc": Classified.auroc,
}


class _SortedScores:
    """One class's scores in rising order, with the tie group of every positive."""

    def __init__(self, scores: np.ndarray, positive: np.ndarray) -> None:
        self.order = np.argsort(scores, kind="stable")
        ranked = scores[self.order]
        starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
        ends = np.concatenate([starts[1:], [len(ranked)]])
        self.positives = np.flatnonzero(positive)
        place = np.empty(len(scores), np.int64)
        place[self.order] = np.arange(len(scores))
        group = np.searchsorted(starts, place[self.positives], side="right") - 1
        self.below, self.through = starts[group], ends[group]

    def auroc(self, weights: np.ndarray) -> float:
        """Mann-Whitney with mid-ranks: the weight below each positive, plus half of its ties.

        This counts the positives against one another too, always as half of their squared weight, which is taken off.
        """
        mine = weights[self.positives]
        positive = mine.sum()
        reached = np.concatenate([[0.0], np.cumsum(weights[self.order], dtype=np.float64)])
        negative = reached[-1] - positive
        if positive <= 0 or negative <= 0:
            return float("nan")
        middle = 0.5 * (reached[self.below] + reached[self.through])
        return float((mine @ middle - 0.5 * positive * positive) / (positive * negative))


def classification_metrics(labels: np.ndarray, proba: np.ndarray) -> ClassificationScores:
    """accuracy, macro_f1, auroc and log_loss of labels int [n] under proba float [n, K]; what has no value is in `undefined`."""
    prepared = Classified(labels, proba)
    ones = np.ones(prepared.n)
    values = {name: metric(prepared, ones) for name, metric in CLASSIFICATION_METRICS.items()}
    values["log_loss"] = prepared.log_loss(ones)
    return ClassificationScores({name: value for name, value in values.items() if not np.isnan(value)}, undefined_metrics(labels))


def undefined_metrics(labels: np.ndarray) -> dict[str, str]:
    """Which metrics labels int [n] cannot have, and why: AUROC needs two classes."""
    present = np.unique(labels)
    if len(present) < 2:
        return {"auroc": f"all {len(labels)} labels are class {present[0]}, so no pair of classes can be told apart"}
    return {}


def log_loss(labels: np.ndarray, proba: np.ndarray) -> float:
    """Mean of -ln of the probability given to the label, in nats."""
    prepared = Classified(labels, proba)
    return prepared.log_loss(np.ones(prepared.n))


def _checked(labels: np.ndarray, proba: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, proba = np.asarray(labels), np.asarray(proba, np.float64)
    if proba.ndim != 2 or labels.shape != proba.shape[:1]:
        raise ValueError(f"labels must be [n] and proba [n, K]; found {labels.shape} and {proba.shape}")
    if not len(labels):
        raise ValueError("no labelled instance to score")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= proba.shape[1]:
        raise ValueError(f"labels must be integers in 0…{proba.shape[1] - 1}; found {labels.dtype} {labels.min()}…{labels.max()}")
    # Written so that NaN fails too.
    broken = ~((proba >= 0).all(axis=1) & (np.abs(proba.sum(axis=1) - 1.0) < 1e-3))
    if broken.any():
        row = int(np.flatnonzero(broken)[0])
        raise ValueError(f"probabilities of row {row} are negative, NaN or do not sum to 1: {proba[row].tolist()}")
    return labels.astype(np.int64), proba
