"""What pre-training may see, against loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from userclue.data.cuts import before, hold_out
from userclue.data.store import Sequences
from userclue.errors import UsageError


def lists(sequences):
    return [sequences[place].tolist() for place in range(len(sequences))]


@given(histories=st.lists(st.lists(st.integers(4, 50), max_size=6), max_size=8), n=st.integers(0, 5))
def test_hold_out_takes_the_last_events_of_those_who_have_more(histories, n):
    expected = [history[: len(history) - n] if len(history) > n else history for history in histories]
    assert lists(hold_out(Sequences.from_lists(histories), n)) == expected


def test_default_keeps_both_targets_of_leave_one_out_away():
    assert lists(hold_out(Sequences.from_lists([[4, 5, 6, 7], [4, 5, 6], [4, 5], [4]]), 2)) == [[4, 5], [4], [4, 5], [4]]


@given(data=st.data(), cut=st.integers(-2, 12))
def test_before_takes_what_is_strictly_earlier(data, cut):
    seconds = data.draw(st.lists(st.lists(st.integers(0, 10), max_size=6).map(sorted), max_size=8))
    items = [[4 + place for place in range(len(one))] for one in seconds]
    times = np.array([second * 1000 for one in seconds for second in one], np.int64)
    cutting = before(Sequences.from_lists(items), times, str(cut))
    expected = [[item for item, second in zip(*pair, strict=True) if second < cut] for pair in zip(items, seconds, strict=True)]
    assert lists(cutting) == expected


def test_changing_the_future_changes_nothing():
    items, times = [[4, 5, 6], [7, 8]], np.array([1, 2, 3, 1, 5], np.int64) * 86_400_000
    seen = lists(before(Sequences.from_lists(items), times, "1970-01-03"))
    assert seen == [[4], [7]]
    later = times.copy()
    later[[2, 4]] *= 7
    assert lists(before(Sequences.from_lists([[4, 5, 9], [7, 9]]), later, "1970-01-03")) == seen


def test_iso_and_epoch_say_the_same():
    sequences, times = Sequences.from_lists([[4, 5, 6]]), np.array([0, 1_704_067_199_999, 1_704_067_200_000], np.int64)
    for until in ("2024-01-01", "2024-01-01T00:00:00Z", "1704067200", "1704067200000"):
        assert lists(before(sequences, times, until)) == [[4, 5]], until


def test_errors():
    with pytest.raises(UsageError, match="until 2024-01-01: this dataset has no times; prepare it with --time-col"):
        before(Sequences.from_lists([[4]]), None, "2024-01-01")
    with pytest.raises(UsageError, match="until 'soon': give an ISO date"):
        before(Sequences.from_lists([[4]]), np.zeros(1, np.int64), "soon")
