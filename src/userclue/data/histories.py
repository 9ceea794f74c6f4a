"""Sorted histories on disk: events dealt out to buckets of whole users, then each bucket put in order, in bounded memory.

    rows of the log   →  bucket 0: users 0..99   |  bucket 1: users 100..180  |  ...     dealt, in the order of the rows
    each bucket       →  by user (a radix sort, stable), by time where the rows were not in order of time, appended to the files

The database only looks up the codes: to sort a whole log there costs several times as much.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np

from userclue.data.columns import to_numpy
from userclue.data.store import NpyWriter
from userclue.data.times import UNITS

_AT_ONCE = 1 << 18
_BUCKET = 1 << 19
_MOST_USERS = 1 << 16  # of a bucket, so that their numbers in it are the 16 bits that NumPy sorts by radix
# A user with more events is sorted by the database, which can spill; the others fit into memory.
_GIANT = 1 << 22
_COPIED = 1 << 22
CODES = "codes"


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
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    spill: Path,
    lengths: np.ndarray,
    kept: np.ndarray,
    n_items: int,
    unit: str | None,
    now_ms: int,
) -> Written:
    """Write the histories of a log that lies in the database, as `write_pieces` does.

    Reads raw(u, i, t), users(u, code), items(i, code), joined on what is in all three. lengths: int64 [U], events of each user there;
    kept: how many of them, from the oldest on, are written. What is dealt out takes up to 22 bytes an event of `spill`.
    """
    dealt = _Dealt(spill, lengths, timed=unit is not None)
    dealt.deal(connection)
    written = write_pieces(dealt.histories(connection, kept), folder, spill, int(kept.sum()), n_items, unit, now_ms)
    dealt.remove()
    return written


def write_pieces(
    pieces: Iterable[tuple[np.ndarray, np.ndarray]], folder: Path, spill: Path, total: int, n_items: int, unit: str | None, now_ms: int
) -> Written:
    """Write item codes (int32, for `number_items`) into `spill` and, if the log has a `unit`, times.npy (int64 ms) into `folder`.

    pieces: item codes and times, in order, `total` in all.
    """
    result = Written(np.zeros(n_items, np.int64))
    with ExitStack() as stack:
        codes = stack.enter_context((spill / CODES).open("wb"))
        times = stack.enter_context(NpyWriter(folder / "times.npy", np.int64, total)) if unit else None
        for found, at in pieces:
            codes.write(found.data)
            np.add.at(result.item_counts, found, 1)
            if times is not None and unit is not None:
                _append_times(times, at, unit, result, now_ms)
    return result


class _Dealt:
    """Events as (place of the user in its bucket, item code, row, time), those of a bucket together, in files of `spill`.

    Bucket b holds the users bounds[b]..bounds[b+1]; the events of user u have the places starts[u]..starts[u+1].
    """

    def __init__(self, spill: Path, lengths: np.ndarray, timed: bool) -> None:
        self.lengths, self.timed = lengths, timed
        self.starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        self.bounds = [0]
        while self.bounds[-1] < len(lengths):
            first = self.bounds[-1]
            end = int(np.searchsorted(self.starts, self.starts[first] + _BUCKET, side="right")) - 1
            self.bounds.append(min(max(end, first + 1), first + _MOST_USERS, len(lengths)))
        columns = {"user": np.uint16, "item": np.int32, "row": np.int64} | ({"time": np.int64} if timed else {})
        self.files = {spill / f"dealt-{name}": np.dtype(dtype) for name, dtype in columns.items()}
        self._query = (
            f"SELECT users.code, items.code, raw.rowid{', raw.t' if timed else ''} FROM raw JOIN users USING (u) JOIN items USING (i)"
        )

    def deal(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Fill the buckets, in whatever order the database's threads and joins hand out the rows."""
        n_buckets, sizes = len(self.bounds) - 1, np.diff(self.bounds)
        bucket_of = np.repeat(np.arange(n_buckets, dtype=np.min_scalar_type(n_buckets)), sizes)
        place_in_bucket = (np.arange(len(self.lengths)) - np.repeat(self.bounds[:-1], sizes)).astype(np.uint16)
        places = self.starts[self.bounds[:-1]].tolist()
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("wb")) for path in self.files]
            for batch in connection.sql(self._query).to_arrow_reader(_AT_ONCE):
                user, *columns = (to_numpy(column) for column in batch.columns)
                bucket = bucket_of[user]
                order = np.argsort(bucket, kind="stable")
                columns = [column[order] for column in (place_in_bucket[user], *columns)]
                counts = np.bincount(bucket, minlength=n_buckets)
                ends = np.cumsum(counts)
                for which in np.flatnonzero(counts).tolist():
                    end, count = int(ends[which]), int(counts[which])
                    for file, column in zip(files, columns, strict=True):
                        file.seek(places[which] * column.itemsize)
                        file.write(column[end - count : end].data)
                    places[which] += count

    def histories(self, connection: duckdb.DuckDBPyConnection, kept: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Item codes and times of the events kept, by (user, time, row), in pieces; times are empty where the log has none."""
        for first, end in pairwise(self.bounds):
            begin, count = int(self.starts[first]), int(self.starts[end] - self.starts[first])
            if count > _GIANT and end == first + 1:
                yield from self._giant(connection, first, int(kept[first]))
                continue
            user, item, row, *time = (np.fromfile(path, dtype, count, offset=begin * dtype.itemsize) for path, dtype in self.files.items())
            order = in_order(user, row, time[0] if time else None)
            order = first_of_each(order, self.lengths[first:end], kept[first:end])
            yield item[order], time[0][order] if time else np.zeros(0, np.int64)

    def _giant(self, connection: duckdb.DuckDBPyConnection, user: int, kept: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The same of one user alone, sorted by the database."""
        by = "raw.t, raw.rowid" if self.timed else "raw.rowid"
        for batch in connection.sql(f"{self._query} WHERE users.code = {user} ORDER BY {by}").to_arrow_reader(_AT_ONCE):
            _, item, _, *time = (to_numpy(column)[:kept] for column in batch.columns)
            kept -= len(item)
            yield item, time[0] if time else np.zeros(0, np.int64)

    def remove(self) -> None:
        """Give the disk back."""
        for path in self.files:
            path.unlink()


def in_order(user: np.ndarray, row: np.ndarray, time: np.ndarray | None) -> np.ndarray:
    """The order by (user, time, row), or by (user, row) without times: int64 [n]. user: uint16 [n] or int32, not negative.

    row, time: int64 [n]. Quick where the rows rise, or nearly so, and no user's next event is earlier than the one before it.
    """
    order = np.arange(len(row)) if np.all(row[1:] > row[:-1]) else np.argsort(row, kind="stable")
    order = order[np.argsort(user[order].astype(np.uint16, copy=False), kind="stable")]  # the lower 16 bits: NumPy sorts those by radix
    if user.itemsize > 2 and user.max(initial=0) > 0xFFFF:
        order = order[np.argsort((user[order] >> 16).astype(np.uint16), kind="stable")]
    if time is not None:
        user, time = user[order], time[order]
        if np.any((time[1:] < time[:-1]) & (user[1:] == user[:-1])):
            order = order[np.lexsort((time, user))]
    return order


def first_of_each(order: np.ndarray, lengths: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Of events in the order of their users, `lengths` (int64 [U]) each, the first `kept` of each."""
    if np.array_equal(lengths, kept):
        return order
    place = np.arange(len(order)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    first: np.ndarray = order[place < np.repeat(kept, lengths)]
    return first


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


def number_items(spill: Path, folder: Path, index_of_code: np.ndarray, total: int) -> None:
    """Write items.npy: the index by index_of_code (int32 [I]) of each of the `total` codes that `write_sorted` left in `spill`."""
    with (spill / CODES).open("rb") as codes, NpyWriter(folder / "items.npy", np.int32, total) as writer:
        while len(found := np.fromfile(codes, np.int32, min(_COPIED, total))):
            writer.append(index_of_code[found])
    (spill / CODES).unlink()
