"""Batches made ahead: the same ones in the same order, errors in their turn, and no thread left behind."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from userclue.data.batches import Batch, BatchStream
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM
from userclue.train.feed import AHEAD, ahead, feed


def stream() -> BatchStream:
    draw = np.random.default_rng(0)
    sequences = Sequences.from_lists([draw.integers(FIRST_ITEM, 20, draw.integers(1, 10)) for _ in range(50)])
    return BatchStream(lambda _: (sequences, draw.integers(0, 5, 50)), 50, 4, 6, seed=3)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("userclue-feed")]


@pytest.mark.parametrize("skip", [0, 5])
def test_the_same_batches_in_the_same_order(skip: int) -> None:
    for epoch in range(2):
        found, expected = list(ahead(stream().epoch(epoch, skip), lambda batch: batch)), list(stream().epoch(epoch, skip))
        assert len(found) == len(expected) == 13 - skip
        assert all(torch.equal(a.tokens, b.tokens) and torch.equal(a.users, b.users) for a, b in zip(found, expected, strict=True))
    assert threads() == []


def test_no_more_than_a_few_are_made_ahead_and_an_end_in_between_ends_the_thread() -> None:
    made = 0

    def count(batch: Batch) -> Batch:
        nonlocal made
        made += 1
        return batch

    batches = ahead(stream().epoch(0), count)
    for _ in range(2):
        next(batches)
    assert threads() == ["userclue-feed_0"]
    batches.close()  # type: ignore[attr-defined]
    assert 2 <= made <= 2 + AHEAD
    assert threads() == []


def test_an_error_of_the_thread_is_raised_in_its_turn() -> None:
    def broken() -> Iterator[Batch]:
        yield from list(stream().epoch(0))[:2]
        raise OSError("the disk is gone")

    batches = ahead(broken(), lambda batch: batch)
    assert len([next(batches), next(batches)]) == 2
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert threads() == []


def test_a_cpu_is_fed_directly() -> None:
    batches = feed(stream().epoch(0), torch.device("cpu"))
    next(batches)
    assert threads() == []
    assert sum(len(batch) for batch in batches) == 46


def test_a_run_fed_ahead_ends_with_the_same_bits(make, same, monkeypatch) -> None:
    plain, fed = make(epochs=3), make(epochs=3)
    plain.run()
    monkeypatch.setattr("userclue.train.loop.feed", lambda batches, _: ahead(batches, lambda batch: batch))
    fed.run()
    same(plain, fed)


def test_an_interrupted_run_leaves_no_thread_and_goes_on_bit_equal(make, killed, same, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("userclue.train.loop.feed", lambda batches, _: ahead(batches, lambda batch: batch))
    with pytest.raises(killed) as held:  # the traceback holds the loop's frames all the while
        make(target=tmp_path, kill_at=4).run()
    assert held.value.__traceback__ is not None
    assert threads() == []
    resumed, whole = make(target=tmp_path), make()
    resumed.resume()
    resumed.run()
    whole.run()
    same(resumed, whole)
