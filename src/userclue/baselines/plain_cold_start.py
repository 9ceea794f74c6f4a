"""Cold-start recommendation without a neural network: popularity, item-kNN across the domains, user-kNN.

The contract of a cold-start baseline:
    Class(max_len)                                       max_len: the window a model of the same table sees, in events
    fit(train, valid, vocabulary_size, n_targets)        instances whose targets are numbered 0…n_targets-1; valid may be empty
    scores(histories) -> float32 [b, n_targets]          -inf for special tokens, which are never candidates
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import scipy.sparse as sp

from userclue.data.counts import count_matrix
from userclue.data.splits import Instances
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM
from userclue.metrics.ranking import full_ranking, ranking_metrics, top_k

# What the validation instances choose from, by MRR@10; the first of equally good ones.
NEIGHBOURS = (20, 50, 100, 200, 400, 800, 1600)
SHRINKAGES = (0.0, 10.0, 100.0, 1000.0)
UNTUNED_NEIGHBOURS, UNTUNED_SHRINKAGE = 200, 10.0
_CELLS_AT_ONCE = 1 << 24


class ColdStartBaseline(Protocol):
    """What every class in COLD_START_BASELINES offers."""

    def __init__(self, max_len: int) -> None: ...

    def fit(self, train: Instances, valid: Instances, vocabulary_size: int, n_targets: int) -> None:
        """Learn from the training instances alone; an unknown item or target is passed over. Settings are chosen on valid."""

    def scores(self, histories: Sequences) -> np.ndarray:
        """Score of every target, float32 [b, n_targets]; a fresh array."""


class Popularity:
    """Training instances of each target item, the same for everyone."""

    def __init__(self, max_len: int) -> None:
        """max_len is not used: no history is looked at."""

    def fit(self, train: Instances, valid: Instances, vocabulary_size: int, n_targets: int) -> None:
        """Count the targets."""
        self.row = np.bincount(train.targets, minlength=n_targets).astype(np.float32)
        self.row[:FIRST_ITEM] = -np.inf

    def scores(self, histories: Sequences) -> np.ndarray:
        """The same row for every history, float32 [b, n_targets]."""
        return np.tile(self.row, (len(histories), 1))


class ItemKNN:
    """Each source item of the history votes for every target; a target's score is the sum of its votes.

    The vote of i for j is the shrunk cosine c(i, j) / (sqrt(c(i) c(j)) + s) over the training users: c(i) had the source item i in their
    history, c(j) took the target j, c(i, j) both. An item met twice votes once; s is the best of SHRINKAGES on the validation instances.
    """

    def __init__(self, max_len: int) -> None:
        """max_len is not used here: the whole history votes."""
        self.window: int | None = None

    def fit(self, train: Instances, valid: Instances, vocabulary_size: int, n_targets: int) -> None:
        """Count who had both, and choose the shrinkage."""
        self.vocabulary_size = vocabulary_size
        histories, taken = _joined(train, vocabulary_size, n_targets)
        self.together = sp.csr_array(histories.T @ taken).tocoo()
        holders, takers = (np.sqrt(matrix.sum(axis=0, dtype=np.float64)) for matrix in (histories, taken))
        self.norms = holders[self.together.row] * takers[self.together.col]
        quality = []
        for shrinkage in SHRINKAGES if len(valid) else ():
            self._set(shrinkage)
            quality.append(_mrr(self.scores, valid))
        self._set(SHRINKAGES[int(np.argmax(quality))] if quality else UNTUNED_SHRINKAGE)

    def _set(self, shrinkage: float) -> None:
        self.shrinkage = shrinkage
        votes = (self.together.data / (self.norms + shrinkage)).astype(np.float32)
        self.votes = sp.csr_array((votes, (self.together.row, self.together.col)), shape=self.together.shape)

    def scores(self, histories: Sequences) -> np.ndarray:
        """Sum of votes, float32 [b, n_targets]; 0 where nothing in the history was met together with the target."""
        chosen = histories if self.window is None else histories.last(self.window)
        return _candidates((_binary(count_matrix(chosen, self.vocabulary_size)) @ self.votes).toarray())


class ItemKNNWindow(ItemKNN):
    """ItemKNN in which only the most recent max_len events vote: what a model of that window is given."""

    def __init__(self, max_len: int) -> None:
        self.window = max_len


class UserKNN:
    """The k training histories nearest by cosine vote, each with its cosine, for the targets of its user.

    A history is the set of its items; of equally near histories the earlier is kept; k is the best of NEIGHBOURS on the validation
    instances.
    """

    def __init__(self, max_len: int) -> None:
        """max_len is not used: whole histories are compared."""

    def fit(self, train: Instances, valid: Instances, vocabulary_size: int, n_targets: int) -> None:
        """Keep the training histories, and choose k."""
        self.vocabulary_size = vocabulary_size
        histories, self.taken = _joined(train, vocabulary_size, n_targets)
        self.by_item = sp.csr_array(_unit_rows(histories).T)
        self.neighbours = UNTUNED_NEIGHBOURS
        if len(valid):
            self.neighbours = NEIGHBOURS[int(np.argmax(self._qualities(valid)))]

    def scores(self, histories: Sequences) -> np.ndarray:
        """Sum of the neighbours' cosines, float32 [b, n_targets]; 0 where none of them took the target."""
        found = np.empty((len(histories), self.taken.shape[1]), np.float32)
        for begin in range(0, len(histories), self._rows_at_once):
            part = np.arange(begin, min(begin + self._rows_at_once, len(histories)))
            found[part] = self._votes(*self._nearest(histories.take(part), self.neighbours))
        return found

    @property
    def _rows_at_once(self) -> int:
        return max(1, _CELLS_AT_ONCE // int(max(self.taken.shape)))

    def _nearest(self, histories: Sequences, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(training histories int64 [b, k], cosines float32 [b, k]), the nearest first."""
        cosines = (_unit_rows(_binary(count_matrix(histories, self.vocabulary_size))) @ self.by_item).toarray()
        nearest = top_k(cosines, k)
        return nearest, np.take_along_axis(cosines, nearest, axis=1)

    def _votes(self, nearest: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        b, k = nearest.shape
        weights = sp.csr_array((cosines.ravel(), nearest.ravel(), np.arange(b + 1) * k), shape=(b, self.taken.shape[0]))
        return _candidates((weights @ self.taken).toarray())

    def _qualities(self, valid: Instances) -> list[float]:
        """MRR@10 on the validation instances for each of NEIGHBOURS; the cosines are worked out once."""
        total = np.zeros(len(NEIGHBOURS))
        for begin in range(0, len(valid), self._rows_at_once):
            part = valid.take(np.arange(begin, min(begin + self._rows_at_once, len(valid))))
            nearest, cosines = self._nearest(part.inputs, max(NEIGHBOURS))
            for place, k in enumerate(NEIGHBOURS):
                scores = self._votes(nearest[:, :k], cosines[:, :k])
                ranks = full_ranking(lambda rows, scores=scores: scores[rows], len(part), part.targets).ranks_all  # type: ignore[misc]
                total[place] += ranking_metrics(ranks)["mrr@10"].sum()
        return list(total / len(valid))


def _joined(train: Instances, vocabulary_size: int, n_targets: int) -> tuple[sp.csr_array, sp.csr_array]:
    """The distinct training histories, float32 [U, V], and what was taken after each, [U, n_targets]; ones and zeros."""
    histories, which = train.inputs.distinct()
    known = train.targets >= FIRST_ITEM
    ones = np.ones(int(known.sum()), np.float32)
    taken = sp.csr_array((ones, (which[known], train.targets[known])), shape=(len(histories), n_targets))
    taken.sum_duplicates()
    return _binary(count_matrix(histories, vocabulary_size)), _binary(taken)


def _binary(matrix: sp.csr_array) -> sp.csr_array:
    matrix.data[:] = 1.0
    return matrix


def _unit_rows(matrix: sp.csr_array) -> sp.csr_array:
    """Rows of length 1; a row of zeros stays as it is."""
    lengths = np.sqrt(matrix.sum(axis=1, dtype=np.float64))
    return sp.csr_array(sp.diags_array((1 / np.where(lengths > 0, lengths, 1)).astype(np.float32)) @ matrix)


def _candidates(scores: np.ndarray) -> np.ndarray:
    found = np.asarray(scores, np.float32)
    found[:, :FIRST_ITEM] = -np.inf
    return found


def _mrr(scores: Callable[[Sequences], np.ndarray], valid: Instances) -> float:
    ranks = full_ranking(lambda rows: scores(valid.inputs.take(rows)), len(valid), valid.targets).ranks_all
    return float(ranking_metrics(ranks)["mrr@10"].mean())


COLD_START_BASELINES: dict[str, type[ColdStartBaseline]] = {
    "popularity": Popularity,
    "item_knn": ItemKNN,
    "item_knn_window": ItemKNNWindow,
    "user_knn": UserKNN,
}
