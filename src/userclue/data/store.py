"""The dataset folder: ragged sequences in flat, memory-mapped columns.

    items    [a b c | d e | f g h i]        int32 [n_events]
    offsets  [0       3     5         9]    int64 [n_users + 1]
    user u   items[offsets[u]:offsets[u+1]], oldest event first

Offsets are 64-bit throughout: a log may hold more than 2^31 events.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from userclue.data.lookup import Lookup
from userclue.data.vocabulary import FIRST_ITEM, UNK, Vocabulary
from userclue.errors import ArtifactError
from userclue.files import read_manifest, verify_files

KIND = "dataset"
FORMAT_VERSION = 1
REMEDY = "give a folder that `userclue prepare` wrote"
_GATHER_AT_ONCE = 1 << 22


@dataclass(frozen=True, eq=False)
class Sequences:
    """A view on ragged data; nothing is copied until `gather`.

    items: int32 [n_events], often a memory map. starts, ends: int64 [B]; sequence u is items[starts[u]:ends[u]], oldest first.
    """

    items: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def from_offsets(cls, items: np.ndarray, offsets: np.ndarray) -> "Sequences":
        """Sequences that follow one another: number u is items[offsets[u]:offsets[u+1]]."""
        offsets = np.asarray(offsets, np.int64)
        return cls(items, offsets[:-1], offsets[1:])

    @classmethod
    def from_lists(cls, lists: Sequence[Any]) -> "Sequences":
        """Sequences copied from lists or arrays of item indices."""
        ends = np.cumsum([len(one) for one in lists], dtype=np.int64)
        items = np.concatenate([np.asarray(one, np.int32) for one in lists]) if len(lists) else np.zeros(0, np.int32)
        return cls(items, np.concatenate([np.zeros(1, np.int64), ends])[:-1], ends)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> np.ndarray:
        """Events of each sequence, int64 [B]."""
        return np.asarray(self.ends - self.starts)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.items[int(self.starts[index]) : int(self.ends[index])]

    def take(self, indices: np.ndarray) -> "Sequences":
        """The sequences at `indices` (or where a boolean mask is true), in that order."""
        return Sequences(self.items, self.starts[indices], self.ends[indices])

    def last(self, n: int) -> "Sequences":
        """The most recent `n` events of each sequence."""
        return Sequences(self.items, np.maximum(self.starts, self.ends - n), self.ends)

    def drop_last(self, n: int) -> "Sequences":
        """Each sequence without its most recent `n` events, never shorter than none."""
        return Sequences(self.items, self.starts, np.maximum(self.starts, self.ends - n))

    def distinct(self) -> tuple["Sequences", np.ndarray]:
        """The different pieces of `items` that the sequences are, and which of them each sequence is, int64 [B]."""
        _, firsts, which = np.unique(np.stack([self.starts, self.ends], axis=1), axis=0, return_index=True, return_inverse=True)
        return self.take(firsts), which.reshape(-1)

    def gather(self) -> tuple[np.ndarray, np.ndarray]:
        """Copy into (flat items int32 [N], offsets int64 [B+1]), contiguous and in order."""
        return gather(self.items, self.starts, self.ends)


def gather(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Copy the pieces values[starts[b]:ends[b]] into (flat [N] of the same type, offsets int64 [B+1]), in order."""
    lengths = ends - starts
    offsets = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if len(starts) and np.array_equal(starts[1:], ends[:-1]):
        return np.array(values[int(starts[0]) : int(ends[-1])]), offsets
    flat = np.empty(int(offsets[-1]), values.dtype)
    begin = 0
    while begin < len(starts):
        # As many pieces as keep the index array small; always at least one.
        end = max(begin + 1, int(np.searchsorted(offsets, offsets[begin] + _GATHER_AT_ONCE, side="right")) - 1)
        if end == begin + 1:
            flat[offsets[begin] : offsets[end]] = values[int(starts[begin]) : int(ends[begin])]
        else:
            shift = starts[begin:end] - offsets[begin:end]
            flat[offsets[begin] : offsets[end]] = values[np.arange(offsets[begin], offsets[end]) + np.repeat(shift, lengths[begin:end])]
        begin = end
    return flat, offsets


class NpyWriter:
    """A one-dimensional .npy file of known length, written piece by piece: header first, nothing of its length in memory.

    It is on disk when the staged folder around it is put in place.
    """

    def __init__(self, path: Path, dtype: Any, length: int) -> None:
        self._path, self._dtype, self._left = path, np.dtype(dtype), length
        self._file = path.open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, values: np.ndarray) -> None:
        """Write the next values; ValueError past the announced length."""
        self._left -= len(values)
        if self._left < 0:
            raise ValueError(f"{self._path}: {-self._left} values more than announced")
        self._file.write(np.ascontiguousarray(values, self._dtype).data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._file.close()
        if kind is None and self._left:
            raise ValueError(f"{self._path}: {self._left} values fewer than announced")


def map_npy(path: Path, dtype: Any, length: int) -> np.ndarray:
    """Memory-map a one-dimensional .npy file after its header and size agree with `dtype` and `length`; else ArtifactError."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"version {version} of the .npy format")
            shape, fortran_order, found = np.lib.format.read_array_header_1_0(file)
            offset, size = file.tell(), path.stat().st_size
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: its header cannot be read ({error}); the file is damaged, make the dataset again") from None
    wanted = np.dtype(dtype)
    if found != wanted or shape != (length,) or fortran_order:
        raise ArtifactError(f"{path}: header says {found} {shape}, the manifest says {wanted} ({length},); make the dataset again")
    if size != offset + length * wanted.itemsize:
        raise ArtifactError(f"{path}: has {size} bytes where {offset + length * wanted.itemsize} are due; make the dataset again")
    if length == 0:  # nothing to map
        return np.zeros(0, wanted)
    return np.memmap(path, wanted, mode="r", offset=offset, shape=(length,))


class Dataset:
    """An opened dataset folder, memory-mapped.

    Attributes: path, manifest, n_users, n_items (of the vocabulary), n_events, items int32 [n_events], offsets int64 [n_users+1],
    times int64 [n_events] epoch ms or None.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        self.n_users, self.n_items, self.n_events = (_count(path, manifest, name) for name in ("users", "items", "events_kept"))
        self.items = map_npy(path / "items.npy", np.int32, self.n_events)
        self.offsets = map_npy(path / "offsets.npy", np.int64, self.n_users + 1)
        self.times = map_npy(path / "times.npy", np.int64, self.n_events) if "times.npy" in manifest["files"] else None
        if self.offsets[0] != 0 or self.offsets[-1] != self.n_events:
            raise ArtifactError(f"{path}/offsets.npy: runs {self.offsets[0]}..{self.offsets[-1]}, should be 0..{self.n_events}")

    @classmethod
    def open(cls, path: str | Path) -> "Dataset":
        """Open a dataset folder; sizes and headers are checked, hashes are not (`verify` does). ArtifactError when it cannot be used."""
        path = Path(path)
        manifest = read_manifest(path, KIND, REMEDY)
        version = manifest.get("format_version")
        if version != FORMAT_VERSION:
            raise ArtifactError(
                f"{path}: dataset format {version}, this userclue reads {FORMAT_VERSION}; "
                f"use userclue {manifest.get('userclue_version', '(unknown version)')} or prepare it again"
            )
        listed = manifest.get("files")
        needed = {"items.npy", "offsets.npy", "users.parquet", "vocabulary.parquet"}
        if not isinstance(listed, dict) or not needed <= listed.keys():
            raise ArtifactError(f"{path}: the manifest does not list {', '.join(sorted(needed))}; the folder is damaged, make it again")
        verify_files(path, manifest, hashes=False)
        return cls(path, manifest)

    def sequences(self) -> Sequences:
        """All users' sequences, in the order of `users`."""
        return Sequences.from_offsets(self.items, self.offsets)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The items' numbering, read on first use."""
        vocabulary = Vocabulary.load(self.path / "vocabulary.parquet")
        if vocabulary.n_items != self.n_items:
            raise ArtifactError(f"{self.path}: vocabulary.parquet has {vocabulary.n_items} items, the manifest says {self.n_items}")
        return vocabulary

    @cached_property
    def user_table(self) -> pa.Table:
        """users.parquet: `user_id`, and for windowed data `source_user` and `window`; row u is user u."""
        path = self.path / "users.parquet"
        try:
            table = pq.read_table(path, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise ArtifactError(f"{path}: cannot be read ({str(error).splitlines()[0]}); the file is damaged, make it again") from None
        if "user_id" not in table.column_names or table.num_rows != self.n_users:
            raise ArtifactError(f"{path}: is no column user_id of {self.n_users} rows; the file is damaged, make the dataset again")
        return table

    @property
    def users(self) -> pa.ChunkedArray:
        """User ids in their original type; position u is user u."""
        return self.user_table["user_id"]

    @cached_property
    def people(self) -> np.ndarray | None:
        """For windowed data, int64 [n_users]: whose window each is, alike for the windows of one person; None for whole histories."""
        if "source_user" not in self.user_table.column_names:
            return None
        codes: np.ndarray = self.user_table["source_user"].combine_chunks().dictionary_encode().indices.to_numpy()
        return codes.astype(np.int64)

    @cached_property
    def _user_lookup(self) -> Lookup:
        return Lookup(self.users, "user ids")

    def user_positions(self, ids: Any) -> np.ndarray:
        """int64 position of each user id, -1 where it is absent; 7 and "7" are the same id. Raises DataError for float ids."""
        return self._user_lookup.positions(ids)

    def verify(self) -> None:
        """Check everything: SHA-256 of every file, offsets that rise, items inside the vocabulary. ArtifactError otherwise."""
        verify_files(self.path, self.manifest, hashes=True)
        size = FIRST_ITEM + self.vocabulary.n_items
        if len(self.user_table) != self.n_users or np.any(np.diff(self.offsets) < 0):
            raise ArtifactError(f"{self.path}/offsets.npy: does not rise; make the dataset again")
        for begin in range(0, self.n_events, _GATHER_AT_ONCE):
            part = self.items[begin : begin + _GATHER_AT_ONCE]
            if part.min() < UNK or part.max() >= size:
                raise ArtifactError(f"{self.path}/items.npy: holds indices outside {UNK}..{size - 1}; make the dataset again")


def _count(path: Path, manifest: dict[str, Any], name: str) -> int:
    value = manifest.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ArtifactError(f"{path}: the manifest's {name} is {value!r}, not a count; the folder is damaged, make it again")
    return value
