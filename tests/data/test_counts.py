"""Sparse histories against loops."""

import numpy as np

from userclue.data.counts import count_matrix, item_events
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, MASK, UNK


def test_counts_equal_a_loop() -> None:
    rng = np.random.default_rng(0)
    lists = [rng.integers(0, 11, rng.integers(0, 9)) for _ in range(30)]
    found = count_matrix(Sequences.from_lists(lists), 11)
    expected = np.array([np.bincount(one, minlength=11) * (np.arange(11) >= FIRST_ITEM) for one in lists])
    assert found.dtype == np.float32
    assert found.has_sorted_indices
    np.testing.assert_array_equal(found.toarray(), expected)


def test_special_tokens_are_left_out_in_order() -> None:
    owner, items = item_events(Sequences.from_lists([[5, UNK, 4], [], [MASK, 6]]))
    assert owner.tolist() == [0, 0, 2]
    assert items.tolist() == [5, 4, 6]
