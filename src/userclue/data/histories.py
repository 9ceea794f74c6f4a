"""Sorted histories streamed to disk: one sort by (user, time, input row) in the database, then flat arrays, piece by piece."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

from userclue.data.store import NpyWriter
from userclue.data.times import UNITS

_AT_ONCE = 1 << 17
_COPIED = 1 << 22


@dataclass
class Written:
    """item_counts: int64 [I] events of each item code. first, last: epoch ms, None without time. negative, future: events so timed."""

    item_counts: np.ndarray
    first: int | None = None
    last: int | None = None
    negative: int = 0
    future: int = 0


def windowed(lengths: np.ndarray, window: int | None) -> np.ndarray:
    """Events kept of each history: all, or whole windows of `window` from the oldest on. int64, like `lengths`."""
    return lengths if window is None else lengths // window * window


def write_sorted(
    connection: duckdb.DuckDBPyConnection, folder: Path, lengths: np.ndarray, kept: np.ndarray, n_items: int, unit: str | None, now_ms: int
) -> Written:
    """Write codes.npy (int32 item codes) and, if the log has a `unit`, times.npy (int64 ms).

    Reads raw(u, i, t), users(u, code), items(i, code), joined on what is in all three. lengths: int64 [U], events of each user there;
    kept: how many of them, from the oldest on, are written.
    """
    result = Written(np.zeros(n_items, np.int64))
    total = int(kept.sum())
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    whole = bool(np.array_equal(lengths, kept))
    query = (
        f"SELECT items.code{', raw.t' if unit else ''} FROM raw JOIN users USING (u) JOIN items USING (i) "
        f"ORDER BY users.code{', raw.t' if unit else ''}, raw.rowid"
    )
    with ExitStack() as stack:
        codes = stack.enter_context(NpyWriter(folder / "codes.npy", np.int32, total))
        times = stack.enter_context(NpyWriter(folder / "times.npy", np.int64, total)) if unit else None
        place = 0
        for batch in connection.sql(query).to_arrow_reader(_AT_ONCE):
            found = batch.column(0).to_numpy()
            stay = None if whole else _stay(starts, kept, place, len(found))
            place += len(found)
            found = found if stay is None else found[stay]
            codes.append(found)
            np.add.at(result.item_counts, found, 1)
            if times is not None and unit is not None:
                at = batch.column(1).to_numpy()
                _append_times(times, at if stay is None else at[stay], unit, result, now_ms)
    return result


def _append_times(writer: NpyWriter, raw: np.ndarray, unit: str, result: Written, now_ms: int) -> None:
    scale = UNITS[unit]
    ms = raw * scale if scale > 0 else raw // -scale  # floor, so that instants before 1970 keep their order
    writer.append(ms)
    if not len(ms):
        return
    low, high = int(ms.min()), int(ms.max())
    result.first = low if result.first is None else min(result.first, low)
    result.last = high if result.last is None else max(result.last, high)
    if low < 0:
        result.negative += int(np.count_nonzero(ms < 0))
    if high > now_ms:
        result.future += int(np.count_nonzero(ms > now_ms))


def _stay(starts: np.ndarray, kept: np.ndarray, place: int, count: int) -> np.ndarray:
    """bool [count]: whether the events at sorted places place..place+count are among those kept of their user."""
    first = int(np.searchsorted(starts, place, side="right")) - 1
    last = int(np.searchsorted(starts, place + count - 1, side="right"))
    ends = (starts[first:last] + kept[first:last]).clip(place, place + count)
    begins = starts[first:last].clip(place, place + count)
    change = np.zeros(count + 1, np.int32)
    np.add.at(change, begins - place, 1)
    np.add.at(change, ends - place, -1)
    return np.cumsum(change[:-1]) > 0


def number_items(folder: Path, index_of_code: np.ndarray) -> None:
    """Turn codes.npy into items.npy by index_of_code (int32 [I]), and take codes.npy away."""
    codes = np.load(folder / "codes.npy", mmap_mode="r")
    with NpyWriter(folder / "items.npy", np.int32, len(codes)) as writer:
        for begin in range(0, len(codes), _COPIED):
            writer.append(index_of_code[codes[begin : begin + _COPIED]])
    del codes
    (folder / "codes.npy").unlink()
