"""Histories as sparse matrices: one row a user, one column a vocabulary index."""

import numpy as np
import scipy.sparse as sp

from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM


def item_events(sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """(owner int64 [N], item int32 [N]) of the events that are items, in order; special tokens (an unknown item) are left out."""
    flat, offsets = sequences.gather()
    owner = np.repeat(np.arange(len(sequences)), np.diff(offsets))
    known = flat >= FIRST_ITEM
    return (owner, flat) if known.all() else (owner[known], flat[known])


def count_matrix(sequences: Sequences, vocabulary_size: int) -> sp.csr_array:
    """How often each user met each item: float32 [B, V], columns sorted within rows, special tokens left out.

    Raises ValueError when an item lies outside the vocabulary.
    """
    owner, items = item_events(sequences)
    if len(items) and int(items.max()) >= vocabulary_size:
        raise ValueError(f"item index {items.max()} lies outside the vocabulary of {vocabulary_size}; they do not belong together")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(sequences)))])
    matrix = sp.csr_array((np.ones(len(items), np.float32), items, offsets), shape=(len(sequences), vocabulary_size))
    matrix.sum_duplicates()
    return matrix
