"""Low-rank factors of what stands together in histories: where item embeddings start from, and the wide part of a head."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd

from userclue.data.counts import count_matrix
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM

WINDOW = 10
_EVENTS_AT_ONCE = 2_000_000
_POWER_ITERATIONS = 4


def item_factors(sequences: Sequences, vocabulary_size: int, dim: int, seed: int) -> np.ndarray:
    """Vectors of items that occur near each other, float32 [V, D]: truncated SVD of their positive pointwise mutual information.

    PPMI = max(0, ln(n_ij N / (n_i n_j))) (Levy & Goldberg 2014, eq. 10), n_ij = Σ 1/d over pairs at most WINDOW events apart, d apart,
    either way round; the factor is U√S (their section 3.3), each column centred, and all scaled to a mean square of 1. Items that stand
    near nothing, special tokens and columns beyond the rank are 0.
    """
    counts = _near(sequences, vocabulary_size)
    totals = counts.sum(axis=1, dtype=np.float64)
    pairs = counts.tocoo()
    information = np.log(pairs.data * totals.sum() / (totals[pairs.row] * totals[pairs.col])) if pairs.nnz else pairs.data
    positive = information > 0
    matrix = sp.csr_array(
        (information[positive].astype(np.float32), (pairs.row[positive], pairs.col[positive])), shape=(vocabulary_size, vocabulary_size)
    )
    out = np.zeros((vocabulary_size, dim), np.float32)
    met = np.flatnonzero(matrix.sum(axis=1))
    rank = min(dim, len(met) - 1)
    if rank < 1:
        return out
    left, strengths, _ = randomized_svd(matrix[met][:, met], rank, n_iter=_POWER_ITERATIONS, random_state=seed)
    factors = left * np.sqrt(strengths)
    factors -= factors.mean(axis=0)
    size = np.sqrt((factors**2).mean())
    out[met, :rank] = factors / size if size > 0 else factors
    return out


def _near(sequences: Sequences, vocabulary_size: int) -> sp.csr_array:
    """Σ 1/distance over the pairs of items at most WINDOW events apart, float32 [V, V], symmetric."""
    total = sp.csr_array((vocabulary_size, vocabulary_size), dtype=np.float32)
    for part in _parts(sequences):
        flat, offsets = part.gather()
        owner = np.repeat(np.arange(len(part)), np.diff(offsets))
        known = flat >= FIRST_ITEM
        for distance in range(1, WINDOW + 1):
            both = (owner[distance:] == owner[:-distance]) & known[distance:] & known[:-distance]
            first, second = flat[:-distance][both], flat[distance:][both]
            weights = np.full(len(first), 1 / distance, np.float32)
            total = total + sp.csr_array((weights, (first, second)), shape=total.shape)
    return sp.csr_array(total + total.T)


def _parts(sequences: Sequences) -> Iterator[Sequences]:
    """Consecutive sequences of about _EVENTS_AT_ONCE events together."""
    bounds = np.cumsum(sequences.lengths)
    begin = 0
    while begin < len(sequences):
        before = bounds[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(bounds, before + _EVENTS_AT_ONCE, side="right")))
        yield sequences.take(np.arange(begin, end))
        begin = end


@dataclass(frozen=True, eq=False)
class Bag:
    """Histories as bags of items: rows of tf-idf (the order is not looked at, nor how often an item was met).

    rarity: float32 [V], a power of ln((1 + users) / (1 + users who met the item)) + 1 over the histories it was learned from
    (scikit-learn's, to the power of 1).
    shortening: of each row's Euclidean length that power is divided out: 1 leaves none of it, 0 all.
    """

    rarity: np.ndarray
    shortening: float = 1.0

    @classmethod
    def learned(cls, sequences: Sequences, vocabulary_size: int, power: float = 1.0, shortening: float = 1.0) -> "Bag":
        """Count who met each item in `sequences`."""
        holders = np.zeros(vocabulary_size)
        for part in _parts(sequences):
            holders += np.bincount(count_matrix(part, vocabulary_size).indices, minlength=vocabulary_size)
        return cls(((np.log((1 + len(sequences)) / (1 + holders)) + 1) ** power).astype(np.float32), shortening)

    def rows(self, sequences: Sequences) -> sp.csr_array:
        """float32 [B, V]; a history of unknown items alone is a row of zeros."""
        counts = count_matrix(sequences, len(self.rarity))
        values = self.rarity[counts.indices]
        rows = sp.csr_array((values, counts.indices, counts.indptr), shape=counts.shape)
        divisors = np.where(np.diff(rows.indptr), _lengths(rows), 1) ** self.shortening
        rows.data /= np.repeat(divisors, np.diff(rows.indptr)).astype(np.float32)
        return rows

    def typical_length(self, sequences: Sequences) -> float:
        """The root mean square of the rows' lengths; 1 if there are only rows of zeros."""
        total = sum(float((_lengths(self.rows(part)) ** 2).sum()) for part in _parts(sequences))
        return float(np.sqrt(total / max(len(sequences), 1))) or 1.0

    def basis(self, sequences: Sequences, rank: int, seed: int) -> np.ndarray:
        """The right singular vectors of the rows, float32 [V, rank at most] (latent semantic analysis, Deerwester et al. 1990)."""
        rows = sp.vstack([self.rows(part) for part in _parts(sequences)], format="csr")
        met = np.flatnonzero(np.bincount(rows.indices, minlength=rows.shape[1]))
        rank = min(rank, len(sequences) - 1, len(met) - 1)
        out = np.zeros((rows.shape[1], max(rank, 0)), np.float32)
        if rank > 0:
            out[met] = randomized_svd(rows[:, met], rank, n_iter=_POWER_ITERATIONS, random_state=seed)[2].T
        return out


def _lengths(rows: sp.csr_array) -> np.ndarray:
    lengths: np.ndarray = np.sqrt(rows.power(2).sum(axis=1, dtype=np.float64))
    return lengths
