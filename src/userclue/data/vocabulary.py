"""Item id outside <-> dense index inside: the one border where ids change.

Indices 0..3 are special tokens, items are numbered from FIRST_ITEM. V is the number of embedding rows, specials included.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from userclue.data.columns import to_arrow, to_numpy
from userclue.data.lookup import Lookup, as_array, texts
from userclue.errors import ArtifactError, DataError
from userclue.files import PARQUET

PAD, MASK, UR, UNK = 0, 1, 2, 3
FIRST_ITEM = 4
COLUMNS = ("item_id", "index", "count")
_ID_TYPES = (pa.int64(), pa.uint64(), pa.string(), pa.large_string())
_MOST_ITEMS = 2**31 - 1 - FIRST_ITEM


class Vocabulary:
    """An immutable numbering of items.

    `table` has columns `item_id` (int64, uint64 or string, as in the log), `index` int32 (FIRST_ITEM, FIRST_ITEM + 1, ...),
    `count` int64 (events in the dataset it was made from), then item attributes; one row an item, ordered by index.
    """

    def __init__(self, table: pa.Table) -> None:
        """Check and keep `table`; DataError when it is not a numbering as described on the class."""
        problem = _problem(table)
        if problem:
            raise DataError(f"vocabulary: {problem}")
        self.table = table

    @classmethod
    def from_ids(cls, ids: Any, counts: Any = None) -> "Vocabulary":
        """Number distinct `ids` in the order given, with event `counts` (zeros if not given)."""
        array = as_array(ids, "item ids")
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        if pa.types.is_integer(array.type):
            array = pc.cast(array, pa.uint64() if array.type == pa.uint64() else pa.int64())
        index = np.arange(FIRST_ITEM, FIRST_ITEM + len(array), dtype=np.int32)
        numbers = np.zeros(len(array), np.int64) if counts is None else np.asarray(counts, np.int64)
        return cls(pa.table([array, to_arrow(index), to_arrow(numbers)], names=list(COLUMNS)))

    def __len__(self) -> int:
        """V: embedding rows, special tokens included."""
        return FIRST_ITEM + self.n_items

    @property
    def n_items(self) -> int:
        """Items, special tokens not counted."""
        return int(self.table.num_rows)

    @cached_property
    def counts(self) -> np.ndarray:
        """int64 [V]: events of each index, 0 for special tokens. Read-only."""
        counts = np.zeros(len(self), np.int64)
        counts[FIRST_ITEM:] = to_numpy(self.table["count"])
        counts.flags.writeable = False
        return counts

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup(self.table["item_id"], "item ids")

    def indices(self, ids: Any) -> np.ndarray:
        """int32 index of each id, UNK where it is unknown or null; 7 and "7" are the same id.

        Takes a sequence, a NumPy or Arrow array, a pandas or Polars series. Raises DataError for float ids.
        """
        found = self._lookup.positions(ids)
        return np.where(found < 0, UNK, found + FIRST_ITEM).astype(np.int32)

    def ids(self, indices: np.ndarray) -> pa.Array:
        """The outside ids of item `indices`, in their original type; ValueError on special tokens and on indices past the end."""
        wanted = np.asarray(indices, np.int64) - FIRST_ITEM
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.n_items):
            wrong = wanted[(wanted < 0) | (wanted >= self.n_items)][0] + FIRST_ITEM
            raise ValueError(f"index {wrong} is no item: items are {FIRST_ITEM}..{len(self) - 1}, below are special tokens")
        taken = self.table["item_id"].take(pa.array(wanted.ravel()))
        return taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken

    def grown(self, ids: Any, counts: Any = None) -> "Vocabulary":
        """A new vocabulary: the items of this one with the same indices, then `ids` (distinct, unknown here); their attributes are null."""
        new = Vocabulary.from_ids(ids, counts).table
        old = self.table
        kind = _type_for_both(old["item_id"], new["item_id"])
        old, new = _set_ids(old, kind), _set_ids(new, kind)
        shifted = pa.array(np.arange(len(self), len(self) + new.num_rows, dtype=np.int32))
        new = new.set_column(1, "index", shifted)
        return Vocabulary(pa.concat_tables([old, new], promote_options="default").combine_chunks())

    def save(self, path: Path) -> None:
        """Write vocabulary.parquet, with a checksum on every page."""
        pq.write_table(self.table, path, **PARQUET)

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read what `save` wrote; ArtifactError when the file is missing, damaged or no vocabulary."""
        try:
            table = pq.read_table(path, page_checksum_verification=True)
        except FileNotFoundError:
            raise ArtifactError(f"{path}: no such file; the folder is damaged, make it again") from None
        except (pa.ArrowException, OSError) as error:
            raise ArtifactError(f"{path}: cannot be read ({_first_line(error)}); the file is damaged, make it again") from None
        problem = _problem(table)
        if problem:
            raise ArtifactError(f"{path}: {problem}; the file is damaged, make it again")
        return cls(table)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _problem(table: pa.Table) -> str:
    """What is wrong with a vocabulary's table, or the empty string."""
    if tuple(table.column_names[:3]) != COLUMNS:
        return f"columns are {table.column_names}, expected {list(COLUMNS)} first"
    ids, index, count = (table[name] for name in COLUMNS)
    if ids.type not in _ID_TYPES or index.type != pa.int32() or count.type != pa.int64():
        return f"column types are {ids.type}, {index.type}, {count.type}; expected int64, uint64 or string, then int32, int64"
    if table.num_rows > _MOST_ITEMS:
        return f"{table.num_rows} items are more than 32-bit indices can number"
    if ids.null_count or index.null_count or count.null_count:
        return "an id, index or count is null"
    if not np.array_equal(to_numpy(index), np.arange(FIRST_ITEM, FIRST_ITEM + table.num_rows)):
        return f"indices are not {FIRST_ITEM}, {FIRST_ITEM + 1}, ... in order"
    if pc.count_distinct(ids).as_py() != table.num_rows:
        return "an item id appears twice"
    return ""


def _type_for_both(old: pa.ChunkedArray, new: pa.ChunkedArray) -> pa.DataType:
    """The old type when it holds the new ids without changing a text; else text."""
    if old.type == new.type:
        return old.type
    try:
        if texts(pc.cast(new, old.type)).equals(texts(new)):
            return old.type
    except pa.ArrowInvalid:
        pass
    return pa.string()


def _set_ids(table: pa.Table, kind: pa.DataType) -> pa.Table:
    ids = table["item_id"]
    return table if ids.type == kind else table.set_column(0, "item_id", pc.cast(texts(ids) if pa.types.is_string(kind) else ids, kind))
