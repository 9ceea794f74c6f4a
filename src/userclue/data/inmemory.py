"""A small log of nothing but integers, read and coded in memory, in less time than the database takes to start and to plan.

Whatever this cannot vouch for is left to the database, and all that is to be said of it: here it is None, and no error.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from userclue.data.coded import Tally
from userclue.data.columns import to_arrow, to_numpy
from userclue.data.cores import without_thin_users
from userclue.data.events import NO_TIME, Opened
from userclue.data.histories import Written, first_of_each, in_order, write_pieces
from userclue.data.log import Facts
from userclue.data.options import PrepareOptions
from userclue.data.readers import CsvFile
from userclue.data.times import UNITS, unit_of

MOST_LINES = 1 << 20  # some 100 MB at the most
_BLOCK = 1 << 18  # bytes: a block stays in the processor's cache, and the next one lies where it lay
_SPARSE = 8  # so many numbers between the least id and the greatest for each event: from there on a sort takes less than a table of them


class InMemory:
    """A `Coded` log. user, item: ids, int64 [N]; time: int64 [N] in the unit of `facts`, None without time."""

    def __init__(self, facts: Facts, user: np.ndarray, item: np.ndarray, time: np.ndarray | None, min_user_events: int) -> None:
        self.facts, self._time = facts, time
        self._users, self._user = codes(user)
        self._items, self._item = codes(item)
        events = np.bincount(self._user)
        core = without_thin_users(events, len(self._items), min_user_events)
        self.lengths = core.user_events
        self.tally = Tally(len(user), longest=int(events.max()))
        self.tally.dropped["min_user_events"] = core.lost_to_users

    @classmethod
    def of(cls, opened: Opened, options: PrepareOptions) -> "InMemory | None":
        """The log, if it is text of less than MOST_LINES lines in which every row is integers, and no rule is about pairs or times."""
        files = [one for one in opened.sources if isinstance(one, CsvFile) and one.scan.integers]
        rows = sum(one.scan.lines - 1 for one in files)
        plain = len(files) == len(opened.sources) and 0 < rows < MOST_LINES
        if not plain or options.until is not None or options.duplicates == "drop" or options.min_item_users > 1:
            return None
        try:
            table = pa.concat_tables([_read(one, [name for name in opened.columns if name is not None]) for one in files])
        except (pa.ArrowInvalid, OSError):
            return None
        if len(table) != rows or any(column.null_count for column in table.columns):
            return None
        user, item, *times = (to_numpy(column) for column in table.columns)
        facts, time = Facts(columns=opened.columns), times[0] if times else None
        if time is None:
            facts.warnings.append(NO_TIME)
        else:
            facts.unit = facts.time_kind = _unit(time, opened.time_unit)
            if facts.unit is None:
                return None
        return cls(facts, user, item, time, options.min_user_events)

    def user_ids(self) -> pa.Array:
        """The user of each code, int64 [U]."""
        return to_arrow(self._users)

    def item_ids(self) -> pa.Array:
        """The item of each code, int64 [I]."""
        return to_arrow(self._items)

    def write(self, folder: Path, spill: Path, kept: np.ndarray, now_ms: int) -> Written:
        """Write the first `kept` (int64 [U]) events of each user, as `histories.write_pieces` does."""
        user, item, time = self._user, self._item, self._time
        if not self.lengths.all():
            staying = np.flatnonzero(self.lengths[user])
            user, item, time = user[staying], item[staying], None if time is None else time[staying]
        order = first_of_each(in_order(user, np.arange(len(user)), time), self.lengths, kept)
        piece = item[order], time[order] if time is not None else np.zeros(0, np.int64)
        return write_pieces([piece], folder, spill, int(kept.sum()), len(self._items), self.facts.unit, now_ms)


def codes(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct ids, rising, int64 [U], and the place of each id among them, int32 [N]. ids: int64 [N], N > 0."""
    low, high = int(ids.min()), int(ids.max())
    if high - low >= _SPARSE * len(ids):
        distinct, code = np.unique(ids, return_inverse=True)
        return distinct, code.astype(np.int32)
    ids = ids - low
    present = np.zeros(high - low + 1, bool)
    present[ids] = True
    place = np.cumsum(present, dtype=np.int32) - 1
    return np.flatnonzero(present) + low, place[ids]


def _read(file: CsvFile, wanted: list[str]) -> pa.Table:
    """The wanted columns as int64; pa.ArrowInvalid where a line has another number of fields, or a field is no integer of 64 bits."""
    names = [f"k{place}" for place in range(len(file.columns))]
    picked = [names[file.columns.index(name)] for name in wanted]
    table = csv.read_csv(
        str(file.path),
        csv.ReadOptions(use_threads=False, column_names=names, skip_rows=1, block_size=_BLOCK),
        csv.ParseOptions(delimiter=file.delimiter, quote_char=False),
        csv.ConvertOptions(column_types=dict.fromkeys(picked, pa.int64()), include_columns=picked),
        pa.system_memory_pool(),  # NumPy uses its pages again; Arrow's own pool asks the system for others
    )
    return table.rename_columns(wanted)


def _unit(time: np.ndarray, told: str | None) -> str | None:
    """The unit of times that are not negative; None where they seem to be of several, or would not fit 64 bits of ms."""
    high = int(time.max())
    unit = told or unit_of(high)
    mixed = told is None and high > 0 and unit_of(int(time[time > 0].min())) != unit
    return None if mixed or high * max(UNITS[unit], 1) >= 2**63 else unit
