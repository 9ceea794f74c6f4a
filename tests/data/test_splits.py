import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from userclue.data.splits import Instances, first_at_or_after, leave_one_out, split_users, time_split
from userclue.data.store import Sequences
from userclue.errors import DataError, UsageError

ragged = st.lists(st.lists(st.integers(4, 30), max_size=7), min_size=1, max_size=12)


@given(st.integers(3, 500), st.integers(0, 2**31))
def test_users_are_parted_without_overlap(n: int, seed: int) -> None:
    split = split_users(n, seed)
    parts = (split.train, split.valid, split.test)
    assert all(len(part) and np.all(np.diff(part) > 0) for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(n))
    again = split_users(n, seed)
    assert all(np.array_equal(one, two) for one, two in zip(parts, (again.train, again.valid, again.test), strict=True))
    if n >= 100:
        assert abs(len(split.train) / n - 0.80) < 0.02
        assert abs(len(split.test) / n - 0.15) < 0.02


def test_another_seed_is_another_split() -> None:
    assert not np.array_equal(split_users(1000, 0).test, split_users(1000, 1).test)


def test_windows_of_one_user_stay_together() -> None:
    groups = np.repeat(np.arange(50), 4)
    split = split_users(200, 0, groups=groups)
    owners = [set(groups[part]) for part in (split.train, split.valid, split.test)]
    assert not (owners[0] & owners[1])
    assert not (owners[0] & owners[2])
    assert not (owners[1] & owners[2])


def test_wrong_user_splits() -> None:
    with pytest.raises(DataError, match="2 users cannot be parted"):
        split_users(2, 0)
    with pytest.raises(UsageError, match=r"shares 0.8/0.1/0.2"):
        split_users(10, 0, (0.8, 0.1, 0.2))


def as_lists(instances: Instances) -> list[tuple[int, list[int], int]]:
    return [(int(u), one.tolist(), int(t)) for u, one, t in zip(instances.users, instances.inputs, instances.targets, strict=True)]


@given(ragged)
def test_leave_one_out_against_plain_slicing(lists: list[list[int]]) -> None:
    sequences = Sequences.from_lists(lists)
    if max(map(len, lists)) < 3:
        with pytest.raises(DataError, match=f"longest history has {max(map(len, lists))}"):
            leave_one_out(sequences)
        return
    split = leave_one_out(sequences)
    assert [one.tolist() for one in split.train] == [one[:-2] if len(one) > 2 else one for one in lists]
    assert as_lists(split.valid) == [(u, one[:-2], one[-2]) for u, one in enumerate(lists) if len(one) > 2]
    assert as_lists(split.test) == [(u, one[:-1], one[-1]) for u, one in enumerate(lists) if len(one) > 2]
    assert split.test.targets.dtype == np.int32
    # The position of a target lies outside its own input and outside train.
    users = split.test.users
    assert np.all(split.test.inputs.ends < sequences.ends[users])
    assert np.all(split.train.ends[users] <= split.valid.inputs.ends)


@given(ragged.filter(lambda lists: max(map(len, lists)) > 2), st.integers(31, 40))
def test_leave_one_out_does_not_see_the_future(lists: list[list[int]], other: int) -> None:
    changed = [[*one[:-1], other] if len(one) > 2 else one for one in lists]
    before, after = leave_one_out(Sequences.from_lists(lists)), leave_one_out(Sequences.from_lists(changed))
    assert as_lists(before.valid) == as_lists(after.valid)
    assert [one.tolist() for one in before.train] == [one.tolist() for one in after.train]
    assert [row[:2] for row in as_lists(before.test)] == [row[:2] for row in as_lists(after.test)]


def test_leave_one_out_min_events() -> None:
    split = leave_one_out(Sequences.from_lists([[4, 5, 6], [4, 5, 6, 7, 8]]), min_events=5)
    assert split.test.users.tolist() == [1]
    assert split.train[0].tolist() == [4, 5, 6]
    with pytest.raises(UsageError, match="at least 3"):
        leave_one_out(Sequences.from_lists([[4]]), min_events=2)


timed = st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(4, 30)), max_size=7), min_size=1, max_size=12)


def split_in_time(users: list[list[tuple[int, int]]], t1: int, t2: int) -> tuple[list[list[int]], list[object], list[object]] | None:
    """The rules of a split by time, spelled out."""
    train, valid, test = [], [], []
    for u, events in enumerate(users):
        train.append([item for time, item in events if time < t1])
        between = [item for time, item in events if t1 <= time < t2]
        if train[-1] and between:
            valid.append((u, train[-1], between[0]))
        before, after = [item for time, item in events if time < t2], [item for time, item in events if time >= t2]
        if before and after:
            test.append((u, before, after[0]))
    return (train, valid, test) if valid and test else None


@given(timed, st.integers(1, 39), st.integers(1, 39))
def test_time_split_against_plain_rules(users: list[list[tuple[int, int]]], a: int, b: int) -> None:
    users = [sorted(events, key=lambda event: event[0]) for events in users]
    sequences = Sequences.from_lists([[item for _, item in events] for events in users])
    times = np.array([time for events in users for time, _ in events], np.int64)
    t1, t2 = sorted((a, b))
    expected = split_in_time(users, t1, t2) if t1 < t2 else None
    if expected is None:
        with pytest.raises((DataError, UsageError)):
            time_split(sequences, times, (t1, t2))
        return
    split = time_split(sequences, times, (t1, t2))
    assert ([one.tolist() for one in split.train], as_lists(split.valid), as_lists(split.test)) == expected
    # Other items after the second cut change neither train nor validation, nor any input.
    later = Sequences(np.where(times >= t2, 99, sequences.items).astype(np.int32), sequences.starts, sequences.ends)
    again = time_split(later, times, (t1, t2))
    assert [one.tolist() for one in again.train] == expected[0]
    assert as_lists(again.valid) == expected[1]
    assert [row[:2] for row in as_lists(again.test)] == [row[:2] for row in as_lists(split.test)]


def test_default_cuts_are_quantiles_of_event_time() -> None:
    random = np.random.default_rng(0)
    times = np.sort(random.permutation(1000).reshape(50, 20), axis=1).ravel()
    sequences = Sequences.from_offsets(np.arange(4, 1004, dtype=np.int32), np.arange(0, 1001, 20))
    split = time_split(sequences, times)
    assert split.train.lengths.sum() == 800
    assert times[split.train.ends[split.train.lengths > 0] - 1].max() < 800
    # A subset of users is cut by its own times.
    few = sequences.take(np.array([3, 1]))
    assert time_split(few, times).train.lengths.sum() == 32


def test_time_split_errors() -> None:
    sequences = Sequences.from_lists([[4, 5, 6]])
    with pytest.raises(UsageError, match=r"needs times.*--time-col"):
        time_split(sequences, None)
    with pytest.raises(UsageError, match="the first must be earlier"):
        time_split(sequences, np.array([1, 2, 3]), (3, 3))
    with pytest.raises(DataError, match="share the time 7"):
        time_split(sequences, np.array([7, 7, 7]))
    with pytest.raises(DataError, match="no user has events both before and at or after 9"):
        time_split(sequences, np.array([1, 2, 3]), (2, 9))


def test_every_user_may_have_a_cut_of_its_own() -> None:
    sequences = Sequences.from_lists([[4, 5, 6], [7, 8], []])
    times = np.array([10, 20, 30, 5, 15])
    assert first_at_or_after(sequences, times, np.array([20, 99, 0])).tolist() == [1, 5, 5]
    assert first_at_or_after(sequences, times, 15).tolist() == [1, 4, 5]
