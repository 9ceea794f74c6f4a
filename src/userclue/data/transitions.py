"""Which item follows which: a first-order Markov chain backed off to popularity."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from userclue.data.counts import item_events
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM

PRIOR_WEIGHT = 20.0  # looked at on the validation items of MovieLens-1M, leave-one-out: 5 to 100 give the same


@dataclass(frozen=True, eq=False)
class Chain:
    """P(j | i) = (n(i, j) + m p(j)) / (n(i) + m): n(i, j) counts i directly followed by j, n(i) = sum_j n(i, j), m = PRIOR_WEIGHT.

    It is the interpolation w n(i, j)/n(i) + (1 - w) p(j) with w = n(i) / (n(i) + m): the more often i was left, the more its own followers
    count (MacKay & Peto 1995). counts: n, float32 [V, V]. share: p(j), j's share of all events, float32 [V].
    """

    counts: sp.csr_array
    share: np.ndarray

    @classmethod
    def learned(cls, train: Sequences, vocabulary_size: int) -> "Chain":
        """Count the transitions."""
        events = popularity(train, vocabulary_size)
        owner, items = item_events(train)
        follows = owner[1:] == owner[:-1]
        source, target = items[:-1][follows], items[1:][follows]
        counts = sp.csr_array((np.ones(len(source), np.float32), (source, target)), shape=(vocabulary_size, vocabulary_size))
        return cls(counts, (events / max(1, events.sum())).astype(np.float32))

    def probabilities(self, inputs: Sequences) -> np.ndarray:
        """P(j | last item), float32 [b, V]; p(j) without a known last item. A fresh array."""
        last = last_items(inputs)
        known = np.flatnonzero(last >= FIRST_ITEM)
        followers = self.counts[last[known]]
        left = np.zeros(len(inputs), np.float32)
        left[known] = followers.sum(axis=1)
        found = np.multiply.outer(PRIOR_WEIGHT / (left + PRIOR_WEIGHT), self.share)
        cells = followers.tocoo()
        rows = known[cells.row]
        found[rows, cells.col] += cells.data / (left[rows] + PRIOR_WEIGHT)
        return np.asarray(found, np.float32)


def popularity(sequences: Sequences, vocabulary_size: int) -> np.ndarray:
    """Events per vocabulary index, int64 [V], zero for special tokens."""
    counts = np.bincount(item_events(sequences)[1], minlength=vocabulary_size)
    if len(counts) > vocabulary_size:
        raise ValueError(f"item index {len(counts) - 1} lies outside the vocabulary of {vocabulary_size}; they do not belong together")
    return counts


def last_items(sequences: Sequences) -> np.ndarray:
    """The most recent event of each sequence that is an item, int64 [B]; -1 where there is none."""
    found = np.full(len(sequences), -1, np.int64)
    place = sequences.ends - 1
    open_rows = np.flatnonzero(place >= sequences.starts)
    while len(open_rows):  # one turn, unless histories end in special tokens
        token = sequences.items[place[open_rows]]
        done = token >= FIRST_ITEM
        found[open_rows[done]] = token[done]
        open_rows = open_rows[~done]
        place[open_rows] -= 1
        open_rows = open_rows[place[open_rows] >= sequences.starts[open_rows]]
    return found
