"""Next-item ranking without a neural network: popularity, first-order Markov, item-kNN.

The contract of a ranking baseline:
    Class(max_len)                       max_len: the window a model of the same table sees, in events
    fit(train, vocabulary_size)
    scores(inputs) -> float32 [b, V]     -inf for special tokens, which are never candidates
"""

from typing import Protocol

import numpy as np

from userclue.baselines.neighbours import cosine_neighbours
from userclue.data.counts import count_matrix
from userclue.data.store import Sequences
from userclue.data.transitions import Chain, popularity
from userclue.data.vocabulary import FIRST_ITEM

# Looked at on the validation items of MovieLens-1M, leave-one-out, unseen items, Recall@10.
NEIGHBOURS = 20  # the best of 20, 50, 100, 300 and 1000 (100 loses a seventh)
SHRINKAGE = 10.0  # costs 1 to 3 % against none there; kept for sparse logs, where one shared user makes a cosine of 1


class RankingBaseline(Protocol):
    """What every class in RANKING_BASELINES offers."""

    def __init__(self, max_len: int) -> None: ...

    def fit(self, train: Sequences, vocabulary_size: int) -> None:
        """Learn from the sequences; an event that is a special token (an unknown item) is passed over."""

    def scores(self, inputs: Sequences) -> np.ndarray:
        """Score of every vocabulary index as the next item, float32 [b, V]; a fresh array."""


class Popularity:
    """Events per item in the training sequences, the same for everyone."""

    def __init__(self, max_len: int) -> None:
        """max_len is not used: no history is looked at."""

    def fit(self, train: Sequences, vocabulary_size: int) -> None:
        """Count the events of each item."""
        self.row = popularity(train, vocabulary_size).astype(np.float32)
        self.row[:FIRST_ITEM] = -np.inf

    def scores(self, inputs: Sequences) -> np.ndarray:
        """The same row for every input, float32 [b, V]."""
        return np.tile(self.row, (len(inputs), 1))


class Markov:
    """First-order Markov chain, backed off to popularity (see Chain). Without a known last item: an item's share of all events."""

    def __init__(self, max_len: int) -> None:
        """max_len is not used: only the last item is looked at."""

    def fit(self, train: Sequences, vocabulary_size: int) -> None:
        """Count the transitions."""
        self.chain = Chain.learned(train, vocabulary_size)

    def scores(self, inputs: Sequences) -> np.ndarray:
        """P(j | last item), float32 [b, V]."""
        found = self.chain.probabilities(inputs)
        found[:, :FIRST_ITEM] = -np.inf
        return found


class ItemKNN:
    """Item-kNN: each item of the whole history votes for its nearest items; an item's score is the sum of its votes.

    The vote of i for j is the shrunk cosine of their users, c(i, j) / (sqrt(c(i) c(j)) + SHRINKAGE), c counting distinct users, if j is
    among the NEIGHBOURS nearest of i; an item never votes for itself, and an item met twice votes once.
    """

    def __init__(self, max_len: int) -> None:
        """max_len is not used here: the whole history votes."""
        self.window: int | None = None

    def fit(self, train: Sequences, vocabulary_size: int) -> None:
        """Find every item's neighbours."""
        self.votes = cosine_neighbours(train, vocabulary_size, NEIGHBOURS, SHRINKAGE)

    def scores(self, inputs: Sequences) -> np.ndarray:
        """Sum of votes, float32 [b, V]; 0 where nothing in the history knows the item."""
        met = count_matrix(inputs if self.window is None else inputs.last(self.window), self.votes.shape[0])
        met.data[:] = 1.0
        found = np.asarray((met @ self.votes).toarray(), np.float32)
        found[:, :FIRST_ITEM] = -np.inf
        return found


class ItemKNNWindow(ItemKNN):
    """ItemKNN in which only the most recent max_len events vote: what a model of that window is given.

    The neighbours are still learnt from whole histories.
    """

    def __init__(self, max_len: int) -> None:
        self.window = max_len


RANKING_BASELINES: dict[str, type[RankingBaseline]] = {
    "popularity": Popularity,
    "markov": Markov,
    "item_knn": ItemKNN,
    "item_knn_window": ItemKNNWindow,
}
