"""Scores of instances and items a block at a time, so that all of them never exist at once.

    instances [b] ──┬─ items [c] ─┬─ items [c] ─┬─ …    b × c scores: formed, used, formed over

A block is small enough to stay in the processor's cache, and special tokens are in none.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM

# Instances and items of a block: 4 MB of float32, the fastest of those tried on a CPU; a GPU wants fewer and larger launches.
_BLOCK = {"cpu": (256, 4096), "cuda": (1024, 65_536)}
_VECTORS_AT_ONCE = 65_536
_FIRST_ROWS = 16  # scored before the width of a row is known

Rows = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class InnerProducts:
    """Scores that are inner products of an instance's vector with each item's, plus a bias an item.

    vectors: takes instance numbers int64 [b], returns float32 [b, D]. items: float32 [V, D]. bias: float32 [V].
    """

    vectors: Callable[[np.ndarray], np.ndarray]
    items: Tensor
    bias: Tensor | None = None


class Chunk:
    """The scores of some instances; each block is written over the one before.

    instances: int64 [b], their numbers. width: V.
    """

    def __init__(
        self, instances: np.ndarray, width: int, step: int, buffer: Tensor, fill: Callable[[int, Tensor], None], *, finite: bool = False
    ) -> None:
        """`fill` writes the scores from a column on into the tensor that it gets; `buffer` has room for [b, step]; finite: never NaN."""
        self.instances, self.width, self._step, self._buffer, self._fill = instances, width, step, buffer, fill
        self._finite = finite

    def ranges(self) -> list[tuple[int, int]]:
        """Bounds of the blocks' columns."""
        return [(begin, min(begin + self._step, self.width)) for begin in range(FIRST_ITEM, self.width, self._step)]

    def empty(self, *shape: int) -> Tensor:
        """A tensor of the scores' own type and device, its content undefined."""
        return self._buffer.new_empty(shape)

    def block(self, begin: int, end: int) -> Tensor:
        """Scores [b, end - begin], contiguous, the caller's to change; ValueError on NaN."""
        b = len(self.instances)
        block = self._buffer[: b * (end - begin)].view(b, end - begin)
        self._fill(begin, block)
        # A minimum carries NaN along without making a second array.
        if not self._finite and block.amin().isnan():
            row = int(block.isnan().any(dim=1).nonzero()[0])
            raise ValueError(f"scores of row {self.instances[row]} hold NaN, which has no rank; the model diverged or its input is broken")
        return block


def chunks(score: Rows | InnerProducts, order: np.ndarray, memory_bytes: int) -> Iterator[Chunk]:
    """The instances in the given order, as many at a time as a block holds (of a function: as its rows fit into memory_bytes)."""
    if isinstance(score, InnerProducts):
        return (chunk for part in parts(score, order) for chunk in chunks_of(score, *part))
    return _of_rows(score, order, memory_bytes)


def parts(score: InnerProducts, order: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor, bool]]:
    """So many instances at a time that their vectors fit: numbers, vectors [b, D] where the items are, whether all scores must be finite.

    The last is false where a sum could overflow, and for NaN anywhere: then each score has to be looked at.
    """
    items, bias = score.items, score.bias
    largest, shift = _largest(items), 0.0 if bias is None else _largest(bias)
    for first in range(0, len(order), _VECTORS_AT_ONCE):
        part = order[first : first + _VECTORS_AT_ONCE]
        vectors = torch.from_numpy(_checked(score.vectors(part), part)).to(items.device)
        yield part, vectors, _largest(vectors) * largest * items.shape[1] + shift < torch.finfo(items.dtype).max


def chunks_of(score: InnerProducts, part: np.ndarray, vectors: Tensor, finite: bool) -> Iterator[Chunk]:
    """One of `parts`, as many instances at a time as a block holds."""
    items, bias = score.items, score.bias
    size, step = _BLOCK.get(items.device.type, _BLOCK["cpu"])
    buffer = items.new_empty(size * min(step, len(items)))
    for begin in range(0, len(part), size):
        own = vectors[begin : begin + size]

        def multiply(column: int, out: Tensor, own: Tensor = own) -> None:
            torch.mm(own, items[column : column + out.shape[1]].T, out=out)
            if bias is not None:
                out += bias[column : column + out.shape[1]]

        yield Chunk(part[begin : begin + size], len(items), step, buffer, multiply, finite=finite)


def _of_rows(score: Rows, order: np.ndarray, memory_bytes: int) -> Iterator[Chunk]:
    begin, rows, step = 0, _FIRST_ROWS, _BLOCK["cpu"][1]
    while begin < len(order):
        part = order[begin : begin + rows]
        scores = _checked(np.asarray(score(part)), part)
        buffer = torch.from_numpy(np.empty(len(part) * min(step, scores.shape[1]), scores.dtype))

        def copy(column: int, out: Tensor, scores: np.ndarray = scores) -> None:
            out.numpy()[:] = scores[:, column : column + out.shape[1]]

        yield Chunk(part, scores.shape[1], step, buffer, copy)
        begin += len(part)
        rows = max(1, memory_bytes // (scores.itemsize * scores.shape[1]))


def _largest(values: Tensor) -> float:
    """The greatest absolute value; NaN where there is one, 0 for none."""
    return float(values.abs().amax()) if values.numel() else 0.0


def _checked(rows: np.ndarray, instances: np.ndarray) -> np.ndarray:
    if len(rows) != len(instances):
        raise ValueError(f"{len(instances)} instances asked for, {len(rows)} rows of scores given")
    return rows


@dataclass(frozen=True, eq=False)
class Cells:
    """Which items stand in the histories of a chunk's instances. row: int64 [m]. item: int32 [m]."""

    row: np.ndarray
    item: np.ndarray

    @classmethod
    def of(cls, seen: Sequences) -> "Cells":
        """The events of `seen`, one history an instance."""
        item, offsets = seen.gather()
        return cls(np.repeat(np.arange(len(seen)), np.diff(offsets)), item)

    def overwrite(self, block: Tensor, begin: int, value: float) -> None:
        """Set the cells of these events in a block whose first column is `begin`; an item met twice is set twice."""
        width = block.shape[1]
        inside = (self.item >= begin) & (self.item < begin + width)
        cells = self.row[inside] * width + (self.item[inside] - begin)
        block.view(-1).index_fill_(0, torch.from_numpy(cells).to(block.device), value)
