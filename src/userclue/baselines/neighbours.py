"""The nearest items of every item by who met them, without ever holding all pairs."""

import numpy as np
import scipy.sparse as sp

from userclue.data.counts import count_matrix
from userclue.data.store import Sequences
from userclue.metrics.ranking import top_k

# A history of n items makes n² pairs; of longer ones (mostly robots) the most recent events are used.
MAX_HISTORY = 5000
_CELLS_AT_ONCE = 1 << 23


def cosine_neighbours(
    sequences: Sequences, vocabulary_size: int, neighbours: int, shrinkage: float, cells_at_once: int = _CELLS_AT_ONCE
) -> sp.csr_array:
    """Shrunk cosine c(i, j) / (sqrt(c(i) c(j)) + shrinkage) of the `neighbours` nearest items j of each item i; float32 [V, V], sparse.

    c(i, j): number of users who met both; c(i): who met i. The diagonal is left out; of equally near items the lower index is kept.
    At most about cells_at_once pairs are held at a time (one item's row always fits).
    """
    users = count_matrix(sequences.last(MAX_HISTORY), vocabulary_size)
    users.data[:] = 1.0
    by_item = users.T.tocsr()
    popularity = np.diff(by_item.indptr)
    # An item meets at most as many others as its users' histories hold.
    partners = np.minimum(by_item @ np.diff(users.indptr).astype(np.float64), vocabulary_size).astype(np.int64)
    order = np.argsort(-partners, kind="stable")
    order = order[partners[order] > 0]
    norms = np.sqrt(popularity.astype(np.float64))
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    begin = 0
    while begin < len(order):
        rows = order[begin : begin + max(1, cells_at_once // int(partners[order[begin]]))]
        parts.append(_nearest(rows, (by_item[rows] @ users).tocsr(), norms, neighbours, shrinkage))
        begin += len(rows)
    row, column, value = (np.concatenate([part[i] for part in parts]) if parts else np.zeros(0, np.int64) for i in range(3))
    return sp.csr_array((value.astype(np.float32), (row, column)), shape=(vocabulary_size, vocabulary_size))


def _nearest(
    rows: np.ndarray, together: sp.csr_array, norms: np.ndarray, neighbours: int, shrinkage: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and similarity of the nearest items of `rows`, from their co-occurrence counts."""
    together.sort_indices()
    counts = np.diff(together.indptr)
    local = np.repeat(np.arange(len(rows)), counts)
    similarity = together.data / (norms[rows[local]] * norms[together.indices] + shrinkage)
    similarity[together.indices == rows[local]] = -np.inf
    # Left-aligned in a rectangle, in rising order of index, so that one partition serves all rows; the rows were chosen alike in length.
    rectangle = np.full((len(rows), int(counts.max(initial=1))), -np.inf, np.float32)
    rectangle[local, np.arange(len(local)) - np.repeat(together.indptr[:-1], counts)] = similarity
    chosen = top_k(rectangle, neighbours)
    value = np.take_along_axis(rectangle, chosen, axis=1)
    which, place = np.nonzero(value > -np.inf)
    return rows[which], together.indices[together.indptr[which] + chosen[which, place]], value[which, place]
