"""Views: augmented copies of a packed batch (paper IV-B), drawn for all its sequences at once.

A view takes a batch, a generator on the batch's device, and its share in 0…1 of each user's items. UR stays last, and at least one item
of a user stays as it is, so no sequence becomes empty or says nothing. Where the share of n items is no whole number it is rounded up
or down at random, so that its mean is right at every length.

`dropout` (implicit) changes no token: the masks inside the encoder differ. Nor does `window`: the batch stream has drawn the user's two
views already, as windows of the whole history (`BatchStream.windows`).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from userclue.data.batches import Batch
from userclue.data.vocabulary import MASK
from userclue.errors import UsageError

View = Callable[[Batch, torch.Generator], Batch]
WINDOW_SHARE = 0.2


def dropout(batch: Batch, generator: torch.Generator, share: float = 0.0) -> Batch:
    """The same sequence again; its two encodings differ by their dropout masks alone (paper IV-B-2). The share means nothing."""
    del generator, share
    return batch


def mask(batch: Batch, generator: torch.Generator, share: float = 0.3) -> Batch:
    """A share of the items, drawn without replacement, becomes MASK (paper IV-B-1, item masking)."""
    at = _places(batch)
    count = _count(at.items, share, at.items - 1, generator)
    # Random keys between two whole numbers sort each sequence in itself; the largest is UR's, so that it is never among the first.
    key = at.owner + 0.5 * _uniform(at.owner, generator)
    key[batch.offsets[1:] - 1] += 0.5
    chosen = torch.argsort(key)[at.place < count[at.owner]]
    return replace(batch, tokens=batch.tokens.index_fill(0, chosen, MASK))


def crop(batch: Batch, generator: torch.Generator, share: float = 0.3) -> Batch:
    """Crop as in CLUE: a contiguous span, a share of the items, is *dropped* and the rest joined (paper IV-B-1, item cropping)."""
    at = _places(batch)
    count = _count(at.items, share, at.items - 1, generator)
    return _select(batch, ~_span(at, count, generator)[0])


def crop_keep(batch: Batch, generator: torch.Generator, share: float = 0.6) -> Batch:
    """Crop as in CL4SRec: a contiguous span, a share of the items and at least one, is *kept* (Xie et al. 2022, item crop)."""
    at = _places(batch)
    count = torch.maximum(_count(at.items, share, at.items, generator), at.items.clamp(max=1))
    kept = _span(at, count, generator)[0]
    kept[batch.offsets[1:] - 1] = True
    return _select(batch, kept)


def permute(batch: Batch, generator: torch.Generator, share: float = 0.3) -> Batch:
    """The items of a contiguous span, a share of all, in random order (paper IV-B-1, permutation)."""
    at = _places(batch)
    inside, start = _span(at, _count(at.items, share, at.items, generator), generator)
    # Keys of a span lie between the index of its first item and that of the second, so they sort among themselves and stay in place.
    first = batch.offsets[:-1] + start
    here = torch.arange(len(batch.tokens), dtype=torch.float64, device=batch.tokens.device)
    key = torch.where(inside, first[at.owner] + _uniform(at.owner, generator), here)
    return replace(batch, tokens=batch.tokens[torch.argsort(key)])


def cut_segment(batch: Batch, generator: torch.Generator) -> tuple[Batch, Batch, Tensor]:
    """A contiguous segment of at least one item and at most half of them, length and place uniform (S3-Rec, segment prediction).

    Returns the batch with the segments masked, the segments as histories of their own, and bool [B]: who has one. A user of one
    item has none: its history stays whole, and its segment is UR alone.
    """
    at = _places(batch)
    most = at.items // 2
    count = torch.minimum(1 + (_uniform(at.items, generator) * most).long(), most)
    inside = _span(at, count, generator)[0]
    kept = inside.clone()
    kept[batch.offsets[1:] - 1] = True
    return replace(batch, tokens=batch.tokens.masked_fill(inside, MASK)), _select(batch, kept), most > 0


VIEWS: dict[str, Callable[..., Batch]] = {
    "dropout": dropout,
    "mask": mask,
    "crop": crop,
    "crop-keep": crop_keep,
    "permute": permute,
    "window": dropout,
}

UNCHANGED = frozenset(name for name, view in VIEWS.items() if view is dropout)  # those that leave tokens as they are


def view_named(name: str, share: float | None = None) -> View:
    """The view `name`, or several joined by `+` and applied in turn; `share` in 0…1, each view's own if None.

    Raises UsageError for a name that is not known.
    """
    parts = name.split("+")
    for part in parts:
        if part not in VIEWS:
            raise UsageError(f"unknown view {part}; known: {', '.join(VIEWS)}, or several joined by +")
    views = [VIEWS[part] if share is None else partial(VIEWS[part], share=share) for part in parts]

    def compose(batch: Batch, generator: torch.Generator) -> Batch:
        for view in views:
            batch = view(batch, generator)
        return batch

    return compose


def window_share(name: str, share: float | None = None) -> float | None:
    """What `BatchStream.windows` must be for the view `name`: None unless `window` is a part of it."""
    if "window" not in name.split("+"):
        return None
    return WINDOW_SHARE if share is None else share


class _Places(NamedTuple):
    items: Tensor  # int64 [B], items of each sequence, without UR
    owner: Tensor  # int64 [N], sequence of each token
    place: Tensor  # int64 [N], place in its sequence, 0 first


def _places(batch: Batch) -> _Places:
    lengths = batch.offsets[1:] - batch.offsets[:-1]
    n, device = len(batch.tokens), batch.tokens.device
    owner = torch.repeat_interleave(torch.arange(len(batch), device=device), lengths, output_size=n)
    return _Places(lengths - 1, owner, torch.arange(n, device=device) - batch.offsets[owner])


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Float64 in [0, 1): single precision would tie keys of long batches."""
    return torch.rand(like.shape, generator=generator, dtype=torch.float64, device=like.device)


def _count(items: Tensor, share: float, most: Tensor, generator: torch.Generator) -> Tensor:
    """int64 [B]: `share` of the items, rounded at random, at most `most` and never below 0."""
    return torch.minimum((items * share + _uniform(items, generator)).long(), most).clamp(min=0)


def _span(at: _Places, count: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A span of `count` items in each sequence, every place alike: bool [N] where it is, int64 [B] the place of its first item."""
    start = (_uniform(count, generator) * (at.items - count + 1)).long()
    return (at.place >= start[at.owner]) & (at.place < (start + count)[at.owner]), start


def _select(batch: Batch, kept: Tensor) -> Batch:
    """The batch with only those tokens where `kept`, bool [N], is true."""
    total = torch.zeros(len(kept) + 1, dtype=torch.int64, device=kept.device)
    torch.cumsum(kept, 0, out=total[1:])
    offsets = total[batch.offsets]
    return replace(batch, tokens=batch.tokens[kept], offsets=offsets, longest=int((offsets[1:] - offsets[:-1]).max()))
