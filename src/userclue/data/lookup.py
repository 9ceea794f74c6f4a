"""Where an outside id stands in a column of ids. Identity is the id's text: 7 and "7" are the same id, "007" is another."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from userclue.errors import DataError

# Below this many ids a dictionary kept between calls beats building Arrow's hash table anew (a request to the service has tens).
_FEW = 4096
# ... but a dictionary of more ids than this costs too much memory.
_MOST_REMEMBERED = 4_000_000


def as_array(ids: Any, what: str) -> pa.Array | pa.ChunkedArray:
    """Ids as an Arrow array of integers or strings. Takes lists, NumPy, Arrow, and pandas or Polars series.

    Raises DataError for float ids (1.0 and 1 would be two texts of one id, and above 2^53 they lose digits) and for other types.
    """
    if hasattr(ids, "__arrow_c_stream__"):
        array = pa.chunked_array(ids)
    elif isinstance(ids, pa.Array | pa.ChunkedArray):
        array = ids
    else:
        try:
            array = pa.array(ids)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            # Integers mixed with strings, or wider than one Arrow type holds: their texts are what counts.
            if any(isinstance(one, float) for one in ids):
                raise DataError(f"{what} are floats, for example {ids[0]!r}; cast them to integers or strings") from None
            array = pa.array([None if one is None else str(one) for one in ids], pa.string())
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = pc.cast(array, kind.value_type)
        kind = array.type
    if pa.types.is_null(kind) or (pa.types.is_floating(kind) and array.null_count == len(array)):
        return pa.nulls(len(array), pa.string())
    if pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return array
    if pa.types.is_string_view(kind):
        return pc.cast(array, pa.large_string())
    if pa.types.is_floating(kind):
        raise DataError(f"{what} are floats, for example {array[0].as_py()!r}; cast them to integers or strings")
    raise DataError(f"{what} have type {kind}; ids are integers or strings")


def texts(ids: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The texts of ids, as large strings."""
    return pc.cast(ids, pa.large_string())


class Lookup:
    """Positions of ids in a column without repeats, found by text, vectorised."""

    def __init__(self, ids: pa.Array | pa.ChunkedArray, what: str) -> None:
        self._ids = ids
        self._what = what
        self._known: dict[str, int] | None = None

    def positions(self, ids: Any) -> np.ndarray:
        """int64 positions of `ids` in the column, -1 where it is absent or null."""
        asked = as_array(ids, self._what)
        if len(asked) <= _FEW and len(self._ids) <= _MOST_REMEMBERED:
            return self._few(asked)
        if asked.type == self._ids.type:
            found = pc.index_in(asked, value_set=self._ids, skip_nulls=True)
        elif pa.types.is_integer(asked.type) and pa.types.is_signed_integer(asked.type) and self._ids.type == pa.int64():
            found = pc.index_in(pc.cast(asked, pa.int64()), value_set=self._ids, skip_nulls=True)
        else:
            found = pc.index_in(texts(asked), value_set=texts(self._ids), skip_nulls=True)
        return np.asarray(pc.fill_null(pc.cast(found, pa.int64()), -1).to_numpy())

    def _few(self, asked: pa.Array | pa.ChunkedArray) -> np.ndarray:
        if self._known is None:
            self._known = {one: place for place, one in enumerate(texts(self._ids).to_pylist())}
        known = self._known
        return np.fromiter((-1 if one is None else known.get(one, -1) for one in texts(asked).to_pylist()), np.int64, len(asked))
