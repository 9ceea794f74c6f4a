"""Packed batches against loops; the stream's order, resumption and merging; every user exactly once an epoch."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from userclue.data.batches import BatchStream, concatenate, pack, random_windows, sorted_batches
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, UR

HISTORIES = st.lists(st.lists(st.integers(FIRST_ITEM, 99), max_size=9), min_size=1, max_size=12)


def brute(histories, users, max_len):
    tokens, offsets = [], [0]
    for user in users:
        tokens += [*histories[user][len(histories[user]) - min(len(histories[user]), max_len) :], UR]
        offsets.append(len(tokens))
    return tokens, offsets


def check(batch, histories, max_len):
    users = batch.users.tolist()
    tokens, offsets = brute(histories, users, max_len)
    assert batch.tokens.tolist() == tokens
    assert batch.offsets.tolist() == offsets
    assert batch.longest == max(b - a for a, b in pairwise(offsets))
    assert len(batch) == len(users)
    assert {batch.tokens.dtype, batch.offsets.dtype, batch.users.dtype} == {torch.int64}


def random_histories(n, seed=0, longest=40):
    draw = np.random.default_rng(seed)
    return [draw.integers(FIRST_ITEM, 99, draw.integers(1, longest)).tolist() for _ in range(n)]


def stream(histories, batch_size=4, max_len=50, seed=0, smallest=1, targets=None):
    sequences = Sequences.from_lists(histories)
    return BatchStream(lambda _: (sequences, targets), len(histories), batch_size, max_len, seed, smallest)


def users_of(batches):
    return [batch.users.tolist() for batch in batches]


@settings(max_examples=150, deadline=None)
@given(histories=HISTORIES, max_len=st.integers(1, 10), data=st.data())
def test_pack_is_the_loop(histories, max_len, data):
    users = data.draw(st.lists(st.integers(0, len(histories) - 1), min_size=1, max_size=15))
    check(pack(Sequences.from_lists(histories), np.array(users), max_len), histories, max_len)


def test_pack_of_pieces_of_a_larger_array():
    """Sequences need not follow one another, as in a split, nor begin at the array's start."""
    items = np.arange(100, 120, dtype=np.int32)
    sequences = Sequences(items, np.array([15, 2, 7]), np.array([20, 4, 7]))
    batch = pack(sequences, np.array([2, 0, 1]), 3)
    assert batch.tokens.tolist() == [UR, 117, 118, 119, UR, 102, 103, UR]
    assert items.tolist() == list(range(100, 120))  # untouched


def test_an_empty_history_is_ur_alone():
    assert pack(Sequences.from_lists([[]]), np.array([0]), 5).tokens.tolist() == [UR]
    batch = pack(Sequences.from_lists([[], [4, 5], []]), np.array([0, 1, 2]), 5)
    assert batch.tokens.tolist() == [UR, 4, 5, UR, UR]


def test_targets_follow_their_users():
    batch = pack(Sequences.from_lists([[4], [5], [6]]), np.array([2, 0]), 5, np.array([10, 11, 12], np.int32))
    assert batch.targets.tolist() == [12, 10]
    assert batch.targets.dtype == torch.int64
    assert batch.to(torch.device("cpu")) is batch
    moved = batch.to(torch.device("meta"))
    assert (moved.tokens.device.type, moved.targets.device.type, moved.longest) == ("meta", "meta", 2)


@settings(max_examples=50, deadline=None)
@given(first=HISTORIES, second=HISTORIES)
def test_concatenate_is_one_batch_of_both(first, second):
    parts = [pack(Sequences.from_lists(part), np.arange(len(part)), 9) for part in (first, second)]
    whole = concatenate(*parts)
    expected = pack(Sequences.from_lists(first + second), np.arange(len(first) + len(second)), 9)
    assert torch.equal(whole.tokens, expected.tokens)
    assert torch.equal(whole.offsets, expected.offsets)
    assert whole.longest == expected.longest
    assert whole.users.tolist() == [*range(len(first)), *range(len(second))]


@settings(max_examples=100, deadline=None)
@given(n=st.integers(2, 60), batch_size=st.integers(2, 9), smallest=st.integers(1, 2), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_every_user_once_an_epoch(n, batch_size, smallest, seed, epoch):
    histories = random_histories(n, seed)
    made = stream(histories, batch_size, 7, seed, smallest)
    batches = list(made.epoch(epoch))
    for batch in batches:
        check(batch, histories, 7)
    assert sorted(user for users in users_of(batches) for user in users) == list(range(n))
    assert len(batches) == made.steps_per_epoch
    sizes = sorted(len(batch) for batch in batches)
    assert sizes[0] >= smallest
    rest = n % batch_size
    expected = [batch_size] * (n // batch_size) + [rest] * (rest > 0)
    if 0 < rest < smallest:
        expected = [batch_size] * (n // batch_size - 1) + [batch_size + rest]
    assert sizes == sorted(expected)


def test_order_depends_on_seed_and_epoch_alone():
    histories = random_histories(40)
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            first = users_of(stream(histories, seed=seed).epoch(epoch))
            np.random.default_rng(9).random()
            torch.manual_seed(seed + epoch)
            assert first == users_of(stream(histories, seed=seed).epoch(epoch))
            orders[seed, epoch] = first
    assert len({str(order) for order in orders.values()}) == 4
    together = [sorted(map(tuple, map(sorted, order))) for order in orders.values()]
    assert len({str(one) for one in together}) == 4  # who shares a batch changes too


@pytest.mark.parametrize("skip", [0, 1, 4, 9, 10, 11])
def test_skip_gives_exactly_the_tail(skip):
    made = stream(random_histories(40))
    whole, tail = list(made.epoch(3)), list(made.epoch(3, skip=skip))
    assert users_of(tail) == users_of(whole)[skip:]
    for one, other in zip(tail, whole[skip:], strict=True):
        assert torch.equal(one.tokens, other.tokens)


@pytest.mark.parametrize(("n", "steps"), [(1, 1), (2, 1), (8, 2), (9, 2), (10, 3)])
def test_last_user_joins_the_batch_before(n, steps):
    made = stream(random_histories(n), smallest=2)
    sizes = sorted(len(batch) for batch in made.epoch(0))
    assert made.steps_per_epoch == len(sizes) == steps
    assert min(sizes) >= min(n, 2)
    assert sum(sizes) == n


def test_one_user():
    (batch,) = stream([[4, 5]]).epoch(0)
    assert batch.tokens.tolist() == [4, 5, UR]


def test_batches_hold_histories_of_like_length():
    histories = random_histories(2000, longest=200)
    lengths = np.array([len(history) for history in histories])

    def padding(batches):
        cells = sum(len(batch) * batch.longest for batch in batches)
        return 1 - sum(len(batch.tokens) for batch in batches) / cells

    bucketed = padding(list(stream(histories, 32, 200).epoch(0)))
    order = np.random.default_rng(0).permutation(2000)
    sequences = Sequences.from_lists(histories)
    shuffled = padding([pack(sequences, order[i : i + 32], 200) for i in range(0, 2000, 32)])
    assert bucketed < 0.05 < 0.4 < shuffled
    # yet lengths do not rise through the epoch: batches come in random order
    means = [lengths[batch.users].mean() for batch in stream(histories, 32, 200).epoch(0)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.4


def test_bucketing_looks_at_the_lengths_that_are_read():
    """Longer than max_len is as long as max_len: such histories are not kept together for nothing."""
    histories = [[4] * (10 + user) for user in range(40)]
    made = [set(users) for users in users_of(stream(histories, batch_size=10, max_len=5).epoch(0))]
    assert made != [set(range(start, start + 10)) for start in range(0, 40, 10)]
    assert all(max(users) - min(users) > 12 for users in made)


def test_source_is_drawn_anew_each_epoch_from_the_epochs_generator():
    def source(generator):
        return Sequences.from_lists([[FIRST_ITEM + generator.integers(1000)] for _ in range(6)]), np.arange(6)

    made = BatchStream(source, 6, 4, 5, seed=1)

    def drawn(epoch, stream=made):
        return sorted(
            (int(u), int(t), int(y)) for b in stream.epoch(epoch) for u, t, y in zip(b.users, b.tokens[::2], b.targets, strict=True)
        )

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert drawn(0) != drawn(0, replace(made, seed=2))
    assert all(user == target for user, _, target in drawn(0))


@settings(max_examples=50, deadline=None)
@given(
    histories=st.lists(st.lists(st.integers(FIRST_ITEM, 99), max_size=9), max_size=20),
    tokens=st.integers(1, 20),
    most=st.none() | st.integers(1, 4),
)
def test_sorted_batches_cover_all_shortest_first(histories, tokens, most):
    batches = list(sorted_batches(Sequences.from_lists(histories), tokens, 6, most))
    for batch in batches:
        check(batch, histories, 6)
    assert sorted(user for users in users_of(batches) for user in users) == list(range(len(histories)))
    longest = [batch.longest for batch in batches]
    assert longest == sorted(longest)
    assert all(len(batch) == 1 or (len(batch) <= (most or 20) and len(batch.tokens) <= tokens) for batch in batches)
    # None could have taken the first sequence of the next one as well.
    for batch, after in pairwise(batches):
        assert len(batch) == most or len(batch.tokens) + int(after.offsets[1]) > tokens


SHARE = 0.3


@settings(max_examples=100, deadline=None)
@given(histories=HISTORIES, max_len=st.integers(1, 10), share=st.floats(0, 1), seed=st.integers(0, 9))
def test_a_window_is_a_piece_of_the_history(histories, max_len, share, seed):
    sequences = Sequences.from_lists(histories)
    windows = random_windows(sequences, max_len, share, np.random.default_rng(seed))
    for user, history in enumerate(histories):
        most = min(len(history), max_len)
        assert sequences.starts[user] <= windows.starts[user] <= windows.ends[user] <= sequences.ends[user]
        assert min(most, max(1, math.ceil(share * most))) <= windows.lengths[user] <= most
        assert (windows.lengths[user] > 0) == (len(history) > 0)


def test_windows_lie_anywhere_in_the_history_and_have_any_length():
    n, max_len, times = 12, 5, 20_000
    sequences = Sequences.from_lists([list(range(n))] * times)
    windows = random_windows(sequences, max_len, SHARE, np.random.default_rng(0))
    lengths, places = np.unique(windows.lengths, return_counts=True)
    assert lengths.tolist() == [2, 3, 4, 5]
    assert chisquare(places).pvalue > 1e-4
    starts = windows.starts - sequences.starts
    for length in lengths:
        found, count = np.unique(starts[windows.lengths == length], return_counts=True)
        assert found.tolist() == list(range(n - length + 1))
        assert chisquare(count).pvalue > 1e-4


def windowed(histories, **values):
    return replace(stream(histories, batch_size=8, max_len=6), windows=SHARE, **values)


def test_a_stream_of_windows_gives_two_of_each_history():
    histories = [list(range(FIRST_ITEM, FIRST_ITEM + 40))] * 40
    made = windowed(histories)
    early = differ = 0
    for batch in made.epoch(0):
        assert torch.equal(batch.users, batch.other.users)
        for one in (batch, batch.other):
            for begin, end in pairwise(one.offsets.tolist()):
                window = one.tokens[begin : end - 1]
                assert 2 <= len(window) <= 6
                assert torch.equal(window, torch.arange(int(window[0]), int(window[0]) + len(window)))
                early += int(window[0]) < FIRST_ITEM + 30  # not only of the last six
        differ += not torch.equal(batch.tokens, batch.other.tokens)
    assert early > 50
    assert differ == made.steps_per_epoch
    assert sorted(user for users in users_of(made.epoch(0)) for user in users) == list(range(40))


def test_windows_depend_on_seed_and_epoch_and_a_resumed_epoch_gives_its_tail():
    made = windowed(random_histories(40))

    def drawn(epoch, skip=0, stream=made):
        return [(batch.tokens.tolist(), batch.other.tokens.tolist()) for batch in stream.epoch(epoch, skip)]

    assert drawn(1) == drawn(1)
    assert drawn(1, skip=3) == drawn(1)[3:]
    assert drawn(1) != drawn(2)
    assert drawn(1) != drawn(1, stream=replace(made, seed=5))


def test_groups_follow_their_sequences():
    groups = np.array([3, 3, 1, 1, 0, 9], np.int32)
    made = replace(stream([[4], [5], [6], [7], [8], [9]]), groups=groups)
    for batch in made.epoch(0):
        assert batch.groups.tolist() == groups[batch.users].tolist()
        assert batch.groups.dtype == torch.int64
    assert next(stream([[4], [5]]).epoch(0)).groups is None


def test_every_part_of_a_batch_moves():
    batch = next(windowed(random_histories(9), groups=np.arange(9)).epoch(0)).to(torch.device("meta"))
    for one in (batch, batch.other):
        assert {one.tokens.device.type, one.offsets.device.type, one.users.device.type} == {"meta"}
    assert batch.groups.device.type == "meta"
