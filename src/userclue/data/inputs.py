"""Histories to encode, from anywhere: lists of item ids, a frame or file of events, or a dataset; users need not be known."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from userclue.data.prepare import prepare
from userclue.data.store import Dataset, Sequences
from userclue.data.vocabulary import UNK, Vocabulary
from userclue.errors import DataError
from userclue.files import MANIFEST


@dataclass(frozen=True)
class Histories:
    """Sequences whose items are numbered by a model's vocabulary, once `lookup` (if any) is applied."""

    sequences: Sequences
    users: pa.ChunkedArray | None
    lookup: np.ndarray | None = None  # int32: index in the data's own vocabulary → index in the model's
    dataset: Path | None = None  # the folder they lie in

    def chunks(self, size: int) -> Iterator[tuple[Sequences, np.ndarray]]:
        """Consecutive users, at most `size` at a time, each as `part` gives it."""
        for start in range(0, len(self.sequences), size):
            yield self.part(start, min(start + size, len(self.sequences)))

    def part(self, begin: int, end: int) -> tuple[Sequences, np.ndarray]:
        """The users begin…end: their sequences, and how many unknown items each has, int64."""
        flat, offsets = self.sequences.take(np.arange(begin, end)).gather()
        if self.lookup is not None:
            flat = self.lookup[flat]
        before = np.concatenate([[0], np.cumsum(flat == UNK)])
        return Sequences.from_offsets(flat, offsets), before[offsets[1:]] - before[offsets[:-1]]

    def whole(self) -> Sequences:
        """All users at once; copied only where the vocabularies differ."""
        if self.lookup is None:
            return self.sequences
        flat, offsets = self.sequences.gather()
        return Sequences.from_offsets(self.lookup[flat], offsets)


def of_dataset(dataset: Dataset, vocabulary: Vocabulary) -> Histories:
    """The sequences of `dataset` in the numbering of `vocabulary`; its items that the model does not know become UNK."""
    own = dataset.vocabulary
    if own.table["item_id"].equals(vocabulary.table["item_id"]):
        return Histories(dataset.sequences(), dataset.users, dataset=dataset.path)
    lookup = np.arange(len(own), dtype=np.int32)
    lookup[len(own) - own.n_items :] = vocabulary.indices(own.table["item_id"])
    return Histories(dataset.sequences(), dataset.users, lookup, dataset.path)


def of_lists(histories: Sequence[Sequence[Any]], vocabulary: Vocabulary) -> Histories:
    """Lists of item ids, oldest first. DataError for an empty one: a user without an event has no vector."""
    lengths = np.fromiter((len(history) for history in histories), np.int64, len(histories))
    if len(lengths) and lengths.min() == 0:
        raise DataError(f"histories[{int(lengths.argmin())}] is empty; a user without an event has no vector, leave such users out")
    flat = vocabulary.indices([item for history in histories for item in history]) if len(lengths) else np.zeros(0, np.int32)
    return Histories(Sequences.from_offsets(flat, np.concatenate([[0], np.cumsum(lengths)])), None)


@contextmanager
def open_histories(source: Any, vocabulary: Vocabulary, **columns: Any) -> Iterator[Histories]:
    """Histories from a Dataset, a dataset folder, event files, a frame of events, or lists of item ids.

    Events are prepared out of core in a temporary folder that lasts as long as the block; `columns` goes to `prepare`.
    """
    if isinstance(source, str | Path) and (Path(source) / MANIFEST).exists():
        source = Dataset.open(source)
    if isinstance(source, Dataset):
        yield of_dataset(source, vocabulary)
    elif hasattr(source, "__arrow_c_stream__") or isinstance(source, str | Path) or _are_paths(source):
        with tempfile.TemporaryDirectory(prefix="userclue-") as folder:
            yield of_dataset(prepare(source, Path(folder) / "data", **columns), vocabulary)
    else:
        yield of_lists(source, vocabulary)


def _are_paths(source: Any) -> bool:
    return isinstance(source, list | tuple) and len(source) > 0 and all(isinstance(one, str | Path) for one in source)
