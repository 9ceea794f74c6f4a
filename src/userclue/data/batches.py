"""Packed, length-bucketed batches in an order that depends on (seed, epoch) alone.

A packed batch holds B sequences one after another, each closed by the UR token:

    tokens   a b c UR d UR e f UR        N = 9 tokens
    offsets  0        4    6      9      B + 1 bounds
    last           3    5      8         where the user vector is read
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, UR

BUCKET_BATCHES = 64


@dataclass(frozen=True)
class Batch:
    """B packed sequences; `targets` holds a class or item index per sequence where there is one."""

    tokens: Tensor  # int64 [N]
    offsets: Tensor  # int64 [B + 1]
    longest: int  # tokens of the longest sequence, UR included
    users: Tensor  # int64 [B], position of each sequence in the source
    targets: Tensor | None = None  # int64 [B]
    groups: Tensor | None = None  # int64 [B], alike for sequences of one person; None: each is another's
    other: "Batch | None" = None  # a second window of each history

    def __len__(self) -> int:
        return self.offsets.shape[0] - 1

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        if self.tokens.device == device:
            return self
        moved = {name: getattr(self, name) for name in ("tokens", "offsets", "users", "targets", "groups")}
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in moved.items() if tensor is not None}
        return replace(self, **moved, other=None if self.other is None else self.other.to(device))

    def pinned(self) -> "Batch":
        """The same batch in page-locked memory, from which a copy to a GPU need not be waited for."""
        pinned = {name: getattr(self, name).pin_memory() for name in ("tokens", "offsets", "users")}
        return replace(self, **pinned, targets=None if self.targets is None else self.targets.pin_memory())


def concatenate(first: Batch, second: Batch) -> Batch:
    """Both batches as one of B1 + B2 sequences, for one pass through the parts without batch normalisation."""
    return Batch(
        tokens=torch.cat([first.tokens, second.tokens]),
        offsets=torch.cat([first.offsets, second.offsets[1:] + first.offsets[-1]]),
        longest=max(first.longest, second.longest),
        users=torch.cat([first.users, second.users]),
    )


def without_ur(batch: Batch) -> Batch:
    """The same sequences without the UR that closes each: tokens [N - B], the last item of each sequence last."""
    ends = torch.zeros(len(batch.tokens), dtype=torch.bool, device=batch.tokens.device)
    ends[batch.offsets[1:] - 1] = True
    rows = torch.arange(len(batch.offsets), device=batch.offsets.device)
    return replace(batch, tokens=batch.tokens[~ends], offsets=batch.offsets - rows, longest=batch.longest - 1)


def places_before_items(tokens: Tensor) -> Tensor:
    """Places int64 [M] of the packed tokens [N] that a real item of the same sequence follows: where the next item can be learned."""
    return torch.nonzero((tokens[1:] >= FIRST_ITEM) & (tokens[:-1] != UR))[:, 0]


def pack(sequences: Sequences, users: np.ndarray, max_len: int, targets: np.ndarray | None = None) -> Batch:
    """The most recent `max_len` items of the chosen sequences, UR appended to each; `users` int64 [B] are positions in `sequences`."""
    ends = sequences.ends[users]
    lengths = np.minimum(ends - sequences.starts[users], max_len)
    offsets = np.zeros(len(users) + 1, dtype=np.int64)
    np.cumsum(lengths + 1, out=offsets[1:])
    # Token t of sequence b lies at items[ends[b] - lengths[b] + t - offsets[b]].
    source = np.repeat(ends - lengths - offsets[:-1], lengths + 1) + np.arange(offsets[-1])
    last = offsets[1:] - 1
    source[last] = 0
    tokens = sequences.items[source].astype(np.int64) if len(sequences.items) else np.zeros(offsets[-1], dtype=np.int64)
    tokens[last] = UR
    return Batch(
        tokens=torch.from_numpy(tokens),
        offsets=torch.from_numpy(offsets),
        longest=int(lengths.max(initial=0)) + 1,
        users=torch.from_numpy(np.asarray(users, dtype=np.int64)),
        targets=None if targets is None else torch.from_numpy(targets[users].astype(np.int64)),
    )


def random_windows(sequences: Sequences, max_len: int, share: float, generator: np.random.Generator) -> Sequences:
    """A random contiguous window of each sequence, from anywhere in it (CoLES, Babaev et al. 2022: random slices).

    Its length is uniform between `share` (0…1, at least one event) and all of what fits into `max_len`; then its place is uniform.
    """
    most = np.minimum(sequences.lengths, max_len)
    least = np.minimum(np.maximum(np.ceil(most * share).astype(np.int64), 1), most)
    lengths = generator.integers(least, most, endpoint=True)
    starts = sequences.starts + generator.integers(0, sequences.lengths - lengths, endpoint=True)
    return Sequences(sequences.items, starts, starts + lengths)


Source = Callable[[np.random.Generator], tuple[Sequences, np.ndarray | None]]


@dataclass(frozen=True)
class BatchStream:
    """Shuffled training batches. The same (seed, epoch) gives the same batches, so a run resumes at any step.

    `source` gives the sequences (and targets) of an epoch: the same every time, or drawn anew with the generator it gets.
    `smallest`: a last batch below this size joins the one before it (batch normalisation cannot stand one row).
    `groups`: int64 [n_sequences], alike for sequences of one person. `windows`: each batch holds a random window of each history, and
    another in `Batch.other`, both drawn anew each epoch from the whole history and at least this share of what fits into `max_len`.
    """

    source: Source
    n_sequences: int
    batch_size: int
    max_len: int
    seed: int
    smallest: int = 1
    groups: np.ndarray | None = None
    windows: float | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, at least 1."""
        whole, rest = divmod(self.n_sequences, self.batch_size)
        return max(1, whole + (rest >= self.smallest))

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Batches of an epoch, the first `skip` left out without being built."""
        generator = np.random.default_rng([self.seed, epoch])
        sequences, targets = self.source(generator)
        other = None
        if self.windows is not None:
            sequences, other = (random_windows(sequences, self.max_len, self.windows, generator) for _ in range(2))
        for users in self._order(sequences, generator)[skip:]:
            yield replace(
                pack(sequences, users, self.max_len, targets),
                groups=None if self.groups is None else torch.from_numpy(self.groups[users].astype(np.int64)),
                other=None if other is None else pack(other, users, self.max_len),
            )

    def _order(self, sequences: Sequences, generator: np.random.Generator) -> list[np.ndarray]:
        order = generator.permutation(self.n_sequences)
        lengths = np.minimum(sequences.lengths, self.max_len)
        bucket = self.batch_size * BUCKET_BATCHES
        # Sorting by length inside large shuffled buckets keeps neighbours alike in length and different from epoch to epoch.
        order = np.concatenate(
            [part[np.argsort(lengths[part], kind="stable")] for part in (order[i : i + bucket] for i in range(0, len(order), bucket))]
        )
        cuts = np.arange(1, self.steps_per_epoch) * self.batch_size
        batches = np.split(order, cuts)
        return [batches[i] for i in generator.permutation(len(batches))]


def sorted_batches(sequences: Sequences, tokens: int, max_len: int, most: int | None = None) -> Iterator[Batch]:
    """Every sequence once, shortest first, for encoding without training; `Batch.users` tells where each belongs.

    A batch has as many sequences as hold `tokens` tokens together, their URs counted, but at least one and at most `most`.
    """
    lengths = np.minimum(sequences.lengths, max_len)
    order = np.argsort(lengths, kind="stable")
    ends = np.cumsum(lengths[order] + 1)
    start = 0
    while start < len(order):
        room = ends[start] - lengths[order[start]] - 1 + tokens
        stop = max(start + 1, int(np.searchsorted(ends, room, side="right")))
        stop = stop if most is None else min(stop, start + most)
        yield pack(sequences, order[start:stop], max_len)
        start = stop
