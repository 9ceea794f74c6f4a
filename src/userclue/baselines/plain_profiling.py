"""Profiling without a neural network: the majority class, and logistic regression on the bag of a user's items.

The contract of a profiling baseline:
    Class(max_len)                                       max_len: the window a model of the same table sees, in events
    fit(train, labels, valid, valid_labels, n_classes, vocabulary_size)
    predict_proba(sequences) -> float64 [B, K], rows sum to 1
"""

from typing import Protocol

import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression

from userclue.data.counts import count_matrix
from userclue.data.store import Sequences
from userclue.metrics.classification import log_loss

# Inverse strengths of the L2 penalty, from strong to weak.
PENALTIES = (0.003, 0.01, 0.025, 0.06, 0.15, 0.4, 1.0)
UNTUNED_PENALTY = 0.025
WEIGHTINGS = ("tfidf", "log", "binary")
_TOLERANCE = 1e-4
_ITERATIONS = 1000


class ProfilingBaseline(Protocol):
    """What every class in PROFILING_BASELINES offers."""

    def __init__(self, max_len: int) -> None: ...

    def fit(
        self, train: Sequences, labels: np.ndarray, valid: Sequences, valid_labels: np.ndarray, n_classes: int, vocabulary_size: int
    ) -> None:
        """Learn from train and its labels int [B] in 0…n_classes-1; choose settings by the log-loss on valid, which may be empty."""

    def predict_proba(self, sequences: Sequences) -> np.ndarray:
        """Class probabilities, float64 [B, n_classes]; a class absent from the training labels has 0."""


class Majority:
    """The class shares of the training users, for everyone."""

    def __init__(self, max_len: int) -> None:
        """max_len is not used: no history is looked at."""

    def fit(
        self, train: Sequences, labels: np.ndarray, valid: Sequences, valid_labels: np.ndarray, n_classes: int, vocabulary_size: int
    ) -> None:
        """Count the labels."""
        self.shares = np.bincount(labels, minlength=n_classes) / len(labels)

    def predict_proba(self, sequences: Sequences) -> np.ndarray:
        """The same row for every sequence, float64 [B, K]."""
        return np.tile(self.shares, (len(sequences), 1))


class BagOfItems:
    """Logistic regression (softmax, L2) on the items of the whole history, in any order, and ln(1 + history length).

    An item enters by one of WEIGHTINGS; the validation users choose which, together with the penalty:
    `log` log2(1 + count); `binary` 1 if met; `tfidf` count times inverse document frequency, each user's row brought to one length.
    """

    def __init__(self, max_len: int) -> None:
        """max_len is not used here: the whole history is looked at."""
        self.window: int | None = None

    def fit(
        self, train: Sequences, labels: np.ndarray, valid: Sequences, valid_labels: np.ndarray, n_classes: int, vocabulary_size: int
    ) -> None:
        """Fit along the penalties, from strong to weak, for each weighting; keep the least log-loss on the validation users.

        A path stops at its first rise: from there on the regression only fits the training users closer.
        Without validation users: the first weighting, UNTUNED_PENALTY.
        """
        self.n_classes, self.vocabulary_size = n_classes, vocabulary_size
        self.classes = np.unique(labels)
        if len(self.classes) == 1:  # nothing to separate
            return
        counts, valid_counts = self._counts(train), self._counts(valid)
        self._learn_scales(counts)
        self.loss = np.inf
        # Where no user met an item twice, `log` and `binary` are the same.
        repeats = counts.nnz > 0 and counts.data.max() > 1
        for weighting in WEIGHTINGS if repeats else WEIGHTINGS[:-1]:
            if len(valid_labels):
                self._follow_path(weighting, counts, labels, valid_counts, valid_labels)
        if not np.isfinite(self.loss):
            self.weighting, self.penalty = WEIGHTINGS[0], UNTUNED_PENALTY
            regression = _regression().set_params(C=self.penalty).fit(self._features(counts, self.weighting), labels)
            self.weights, self.bias = regression.coef_, regression.intercept_

    def _learn_scales(self, counts: sp.csr_array) -> None:
        """What the features need to know of the training users: their lengths, and how many met each item."""
        lengths = np.log1p(counts.sum(axis=1))
        self.length_mean, self.length_scale = float(lengths.mean()), float(lengths.std()) or 1.0
        holders = np.bincount(counts.indices, minlength=counts.shape[1])
        self.rarity = np.log((1 + counts.shape[0]) / (1 + holders)) + 1  # scikit-learn's smoothed idf
        # Rows as long as a typical binary one, so that the same penalties serve all weightings.
        self.row_length = np.sqrt(max(1.0, counts.nnz / counts.shape[0]))

    def _follow_path(
        self, weighting: str, counts: sp.csr_array, labels: np.ndarray, valid_counts: sp.csr_array, valid_labels: np.ndarray
    ) -> None:
        x, valid_x = self._features(counts, weighting), self._features(valid_counts, weighting)
        regression = _regression()
        lowest = np.inf
        for penalty in PENALTIES:
            regression.set_params(C=penalty).fit(x, labels)
            loss = log_loss(valid_labels, self._proba(valid_x, regression.coef_, regression.intercept_))
            if loss >= lowest:
                return
            lowest = loss
            if loss < self.loss:
                self.weighting, self.penalty, self.loss = weighting, penalty, loss
                self.weights, self.bias = regression.coef_.copy(), regression.intercept_.copy()

    def predict_proba(self, sequences: Sequences) -> np.ndarray:
        """Class probabilities, float64 [B, K]."""
        if len(self.classes) == 1:
            proba = np.zeros((len(sequences), self.n_classes))
            proba[:, self.classes[0]] = 1.0
            return proba
        return self._proba(self._features(self._counts(sequences), self.weighting), self.weights, self.bias)

    def _counts(self, sequences: Sequences) -> sp.csr_array:
        return count_matrix(sequences if self.window is None else sequences.last(self.window), self.vocabulary_size)

    def _features(self, counts: sp.csr_array, weighting: str) -> sp.csr_array:
        """[B, V + 1]: the weighted items, then the standardised log length."""
        lengths = (np.log1p(counts.sum(axis=1)) - self.length_mean) / self.length_scale
        if weighting == "tfidf":
            items = counts @ sp.diags_array(self.rarity)
            norms = np.sqrt(items.power(2).sum(axis=1))
            items = sp.diags_array(self.row_length / np.where(norms > 0, norms, 1.0)) @ items
        else:
            data = np.log2(1.0 + counts.data) if weighting == "log" else np.ones_like(counts.data)
            items = sp.csr_array((data, counts.indices, counts.indptr), shape=counts.shape)
        return sp.hstack([items, sp.csr_array(lengths[:, None])], format="csr", dtype=np.float64)

    def _proba(self, x: sp.csr_array, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
        logits = np.asarray(x @ weights.T) + bias
        if len(self.classes) == 2:  # scikit-learn keeps one row for two classes
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        logits -= logits.max(axis=1, keepdims=True)
        proba = np.zeros((x.shape[0], self.n_classes))
        proba[:, self.classes] = np.exp(logits)
        return np.asarray(proba / proba.sum(axis=1, keepdims=True))


class BagOfItemsWindow(BagOfItems):
    """BagOfItems on the most recent max_len events only: what a model of that window is given."""

    def __init__(self, max_len: int) -> None:
        self.window = max_len


def _regression() -> LogisticRegression:
    # Warm start: each step along the path begins where the one before ended.
    return LogisticRegression(tol=_TOLERANCE, max_iter=_ITERATIONS, warm_start=True)


PROFILING_BASELINES: dict[str, type[ProfilingBaseline]] = {
    "majority": Majority,
    "bag_of_items": BagOfItems,
    "bag_of_items_window": BagOfItemsWindow,
}
