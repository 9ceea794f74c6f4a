"""Views: what each may do to a user's items, for every user of any ragged batch; rates, and that every place is as likely."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from userclue.config import PretrainSettings
from userclue.data.batches import Batch, pack
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, MASK, UR
from userclue.errors import UsageError
from userclue.views import VIEWS, WINDOW_SHARE, cut_segment, view_named, window_share

HISTORIES = st.lists(st.lists(st.integers(FIRST_ITEM, 30), max_size=12), min_size=1, max_size=10)
SHARES = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))
SEEDS = st.integers(0, 2**32)
EXPLICIT = ("mask", "crop", "crop-keep", "permute")
TRIALS = 6000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def packed(lists: list[list[int]]) -> Batch:
    return pack(Sequences.from_lists(lists), np.arange(len(lists)), max(1, *map(len, lists)))


def counting(n: int, times: int = TRIALS) -> Batch:
    """`times` users with the history FIRST_ITEM, FIRST_ITEM + 1, … of n items."""
    return packed([list(range(FIRST_ITEM, FIRST_ITEM + n))] * times)


def unpacked(batch: Batch) -> list[list[int]]:
    """The sequences without UR, after checking that UR closes each, that no other is there, and that the batch says itself right."""
    lists = [batch.tokens[begin:end].tolist() for begin, end in pairwise(batch.offsets.tolist())]
    assert batch.offsets[0] == 0
    assert batch.offsets[-1] == len(batch.tokens)
    assert batch.longest == max(map(len, lists))
    assert {batch.tokens.dtype, batch.offsets.dtype} == {torch.int64}
    assert all(one[-1] == UR and one.count(UR) == 1 for one in lists)
    return [one[:-1] for one in lists]


def allowed(n: int, share: float) -> set[int]:
    """The whole numbers beside share · n (what is drawn is never more than one off, rounding of the product apart)."""
    return {int(n * share), min(n, int(n * share + 1 - 1e-9)), min(n, int(n * share + 1e-9))}


def check_mask(before: list[int], after: list[int], share: float) -> None:
    assert len(after) == len(before)
    changed = [b != a for b, a in zip(before, after, strict=True)]
    assert all(a == MASK for a, c in zip(after, changed, strict=True) if c)
    assert sum(changed) in {min(k, max(len(before) - 1, 0)) for k in allowed(len(before), share)}


def check_crop(before: list[int], after: list[int], share: float) -> None:
    dropped = len(before) - len(after)
    assert dropped in {min(k, max(len(before) - 1, 0)) for k in allowed(len(before), share)}
    assert any(before[:i] + before[i + dropped :] == after for i in range(len(after) + 1))


def check_crop_keep(before: list[int], after: list[int], share: float) -> None:
    assert len(after) in {max(k, min(1, len(before))) for k in allowed(len(before), share)}
    assert any(before[i : i + len(after)] == after for i in range(len(before) - len(after) + 1))


def check_permute(before: list[int], after: list[int], share: float) -> None:
    assert Counter(after) == Counter(before)
    moved = [i for i, (b, a) in enumerate(zip(before, after, strict=True)) if b != a]
    assert not moved or moved[-1] - moved[0] + 1 <= max(allowed(len(before), share))


def check_nothing(before: list[int], after: list[int], share: float) -> None:
    del share
    assert after == before


CHECKS: dict[str, Callable[[list[int], list[int], float], None]] = {
    "dropout": check_nothing,
    "mask": check_mask,
    "crop": check_crop,
    "crop-keep": check_crop_keep,
    "permute": check_permute,
    "window": check_nothing,
}


def test_every_view_is_checked() -> None:
    assert CHECKS.keys() == VIEWS.keys()


@pytest.mark.parametrize("name", VIEWS)
@settings(max_examples=60, deadline=None)
@given(histories=HISTORIES, share=SHARES, seed=SEEDS)
def test_what_a_view_may_do(name: str, histories: list[list[int]], share: float, seed: int) -> None:
    given_batch = packed(histories)
    kept = given_batch.tokens.clone()
    after = view_named(name, share)(given_batch, generator(seed))
    for before, one in zip(histories, unpacked(after), strict=True):
        CHECKS[name](before, one, share)
        assert bool(one) == bool(before)
        if len(before) == 1:
            assert one == before
    assert torch.equal(after.users, given_batch.users)
    assert torch.equal(given_batch.tokens, kept)
    again = view_named(name, share)(given_batch, generator(seed))
    assert torch.equal(after.tokens, again.tokens)
    assert torch.equal(after.offsets, again.offsets)


@pytest.mark.parametrize("name", EXPLICIT)
def test_two_views_of_a_user_differ_and_so_do_users(name: str) -> None:
    batch = counting(30, times=200)
    draw, view = generator(), view_named(name)
    first, second = unpacked(view(batch, draw)), unpacked(view(batch, draw))
    assert sum(a != b for a, b in zip(first, second, strict=True)) > 160
    assert len({tuple(one) for one in first}) > (10 if name.startswith("crop") else 150)


@pytest.mark.parametrize("name", EXPLICIT)
def test_a_view_does_not_depend_on_the_global_random_state(name: str) -> None:
    batch = counting(10, times=20)
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        made.append(unpacked(view_named(name)(batch, generator(5))))
    assert made[0] == made[1]
    assert made[0] != unpacked(view_named(name)(batch, generator(6)))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("n", [7, 20])
@pytest.mark.parametrize("name", ["mask", "crop", "crop-keep"])
def test_the_mean_share_is_the_one_asked_for(name: str, n: int, share: float) -> None:
    """At 7 items 0.1 of them is 0.7: no item for three users in ten, one for the others."""
    after = unpacked(view_named(name, share)(counting(n), generator()))
    taken = {
        "mask": [one.count(MASK) for one in after],
        "crop": [n - len(one) for one in after],
        "crop-keep": [len(one) for one in after],
    }[name]
    whole, rest = divmod(n * share, 1)
    expected = n * share
    if name == "crop-keep" and n * share < 1:
        expected = 1  # one is always kept
    elif name != "crop-keep" and n * share > n - 1:
        expected = n - 1
    assert np.mean(taken) == pytest.approx(expected, abs=4 * np.sqrt(rest * (1 - rest) / TRIALS) + 1e-9)
    assert {int(whole), int(whole) + 1} >= set(taken) or expected in (1, n - 1)


def uniform(counts: list[int]) -> bool:
    """Whether equal probabilities explain the counts (by chi-square, at one in ten thousand)."""
    return chisquare(counts).pvalue > 1e-4


def test_every_item_is_as_likely_to_be_masked() -> None:
    after = unpacked(view_named("mask", 0.3)(counting(10), generator()))
    assert uniform(np.sum([[token == MASK for token in one] for one in after], axis=0).tolist())
    pairs = Counter(
        tuple(i for i, token in enumerate(one) if token == MASK) for one in unpacked(view_named("mask", 0.4)(counting(5), generator()))
    )
    assert len(pairs) == 10
    assert uniform(list(pairs.values()))


def test_every_place_of_a_span_is_as_likely() -> None:
    dropped = Counter(tuple(one) for one in unpacked(view_named("crop", 0.3)(counting(10), generator())))
    kept = Counter(one[0] for one in unpacked(view_named("crop-keep", 0.6)(counting(10), generator())))
    assert len(dropped) == 8
    assert len(kept) == 5
    assert uniform(list(dropped.values()))
    assert uniform(list(kept.values()))


def test_every_order_of_a_span_is_as_likely() -> None:
    orders = Counter(tuple(one) for one in unpacked(view_named("permute", 1.0)(counting(3), generator())))
    assert orders.keys() == set(permutations(range(FIRST_ITEM, FIRST_ITEM + 3)))
    assert uniform(list(orders.values()))
    half = Counter(tuple(one) for one in unpacked(view_named("permute", 0.5)(counting(4), generator())))
    swapped = [half[order] for order in ((5, 4, 6, 7), (4, 6, 5, 7), (4, 5, 7, 6))]
    assert len(half) == 4
    assert uniform([*swapped, round((half[4, 5, 6, 7]) / 3)])


def test_several_in_turn() -> None:
    batch = counting(20, times=100)
    after = unpacked(view_named("crop+mask", 0.5)(batch, generator()))
    assert {len(one) for one in after} == {10}
    assert {one.count(MASK) for one in after} == {5}
    draw = generator(3)
    by_hand = VIEWS["mask"](VIEWS["crop"](batch, draw), draw)
    assert torch.equal(view_named("crop+mask")(batch, generator(3)).tokens, by_hand.tokens)


@pytest.mark.parametrize("name", ["maks", "", "mask+", "crop_keep", "mask,crop"])
def test_an_unknown_view_names_the_known(name: str) -> None:
    with pytest.raises(
        UsageError, match=r"unknown view .*; known: dropout, mask, crop, crop-keep, permute, window, or several joined by \+"
    ):
        view_named(name)


def test_windows_are_asked_of_the_stream() -> None:
    assert window_share("dropout") is None
    assert window_share("mask+crop", 0.5) is None
    assert window_share("window") == window_share("mask+window") == WINDOW_SHARE
    assert window_share("window+mask", 0.5) == 0.5


def test_the_setting_tells_of_every_view() -> None:
    described = PretrainSettings.model_fields["view"].description or ""
    assert all(name in described for name in VIEWS)


def test_both_crops_say_which_they_are() -> None:
    for name, word in (("crop", "*dropped*"), ("crop-keep", "*kept*")):
        assert word in (VIEWS[name].__doc__ or "").splitlines()[0]


@given(lists=HISTORIES, seed=SEEDS)
@settings(max_examples=80, deadline=None)
def test_a_cut_segment_is_masked_in_one_and_alone_in_the_other(lists: list[list[int]], seed: int) -> None:
    rest, segment, there = cut_segment(packed(lists), generator(seed))
    assert there.tolist() == [len(one) > 1 for one in lists]
    for before, masked, alone in zip(lists, unpacked(rest), unpacked(segment), strict=True):
        at = [place for place, token in enumerate(masked) if token == MASK]
        assert at == list(range(at[0], at[-1] + 1)) if at else len(before) < 2
        assert [before[place] for place in at] == alone
        assert len(alone) <= len(before) // 2
        assert [token for token in masked if token != MASK] == [b for place, b in enumerate(before) if place not in at]


def test_segments_of_every_length_up_to_half_and_every_place_are_as_likely() -> None:
    _, segment, _ = cut_segment(counting(7), generator())
    found = Counter((len(one), one[0] - FIRST_ITEM) for one in unpacked(segment))
    for length in (1, 2, 3):
        counts = [found[length, place] for place in range(8 - length)]
        assert chisquare(counts).pvalue > 1e-4
    assert chisquare([sum(n for (length, _), n in found.items() if length == wanted) for wanted in (1, 2, 3)]).pvalue > 1e-4
    assert sum(found.values()) == TRIALS
