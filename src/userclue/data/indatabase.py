"""A log of any size and kind, read, checked, filtered and coded in the database, which holds what it can and spills the rest."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from userclue.data.badrows import refuse_or_quarantine
from userclue.data.coded import Tally
from userclue.data.coding import code_ids
from userclue.data.columns import to_arrow
from userclue.data.cores import Core, k_core
from userclue.data.events import Opened, load_events
from userclue.data.histories import Written, write_sorted
from userclue.data.log import Log
from userclue.data.options import PrepareOptions
from userclue.data.sql import one_row
from userclue.data.times import from_ms, parse_instant
from userclue.errors import DataError, UsageError


class InDatabase:
    """A `Coded` log: the table raw(u, i, t), and the views users(u, code) and items(i, code) of those that stay."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, opened: Opened, options: PrepareOptions, folder: Path) -> None:
        """Bad rows set aside go into `folder`. Raises DataError for a log that cannot be used, UsageError for options it cannot fill."""
        self._connection = connection
        log = self.facts = load_events(connection, opened)
        if log.problems:
            raise DataError(log.problems[0])
        self.tally = Tally(log.n_rows + log.n_rejected)
        self.tally.quarantined = refuse_or_quarantine(log, options.on_error, options.max_bad_share, folder)
        _filter(log, options, self.tally)
        core = _code(log, options, self.tally)
        _keep_only(connection, core)
        self.lengths, self._n_items = core.user_events, len(core.items)

    def user_ids(self) -> pa.Array:
        """The user of each code, [U]: int64, uint64 or string."""
        return self._ids("u", "all_users")

    def item_ids(self) -> pa.Array:
        """The item of each code, [I]: int64, uint64 or string."""
        return self._ids("i", "all_items")

    def _ids(self, column: str, table: str) -> pa.Array:
        return self._connection.sql(f"SELECT {column} FROM {table} ORDER BY code").to_arrow_table()[column].combine_chunks()

    def write(self, folder: Path, spill: Path, kept: np.ndarray, now_ms: int) -> Written:
        """Write the first `kept` (int64 [U]) events of each user, as `histories.write_pieces` does."""
        return write_sorted(self._connection, folder, spill, self.lengths, kept, self._n_items, self.facts.unit, now_ms)


def _filter(log: Log, options: PrepareOptions, tally: Tally) -> None:
    """Take bad rows, late events and repeated ones out of raw; what is left keeps its order."""
    connection = log.connection
    conditions = [f"NOT ({log.bad_condition()})"] if tally.quarantined else []
    if options.until is not None:
        if log.unit is None:
            raise UsageError("until needs times, and the log has none; name the time column with time_col (--time-col)")
        bound = from_ms(parse_instant(options.until, "until"), log.unit)
        late = f"raw.t >= {bound}"
        tally.dropped["until"] = one_row(connection, f"SELECT count(*) FROM raw WHERE {' AND '.join([*conditions, late])}")[0]
        conditions.append(f"NOT ({late})")
    if options.duplicates == "drop":
        if log.unit is None:
            raise UsageError('duplicates "drop" needs times to tell repeated events from copies, and the log has none')
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        connection.execute(
            f"CREATE TABLE twice AS SELECT u, i, t, min(rowid) AS first, count(*) - 1 AS extra FROM raw {where} "
            "GROUP BY u, i, t HAVING count(*) > 1"
        )
        tally.dropped["duplicates"] = int(one_row(connection, "SELECT coalesce(sum(extra), 0) FROM twice")[0])
        conditions.append(
            "NOT EXISTS (FROM twice WHERE twice.u = raw.u AND twice.i = raw.i AND twice.t = raw.t AND twice.first <> raw.rowid)"
        )
    if tally.quarantined or tally.dropped["until"] or tally.dropped["duplicates"]:
        connection.execute(f"CREATE TABLE clean AS SELECT raw.* FROM raw WHERE {' AND '.join(conditions)}")
        connection.execute("DROP TABLE raw")
        connection.execute("ALTER TABLE clean RENAME TO raw")


def _code(log: Log, options: PrepareOptions, tally: Tally) -> Core:
    """Give users and items codes in the order of their ids, and find the core."""
    connection = log.connection
    events, n_items = code_ids(connection)
    for table, column in (("all_users", "u"), ("all_items", "i")):
        _warn_of_floats(log, table, column)
    tally.longest = int(events.max(initial=0))
    core = k_core(connection, events, n_items, options.min_user_events, options.min_item_users)
    tally.dropped["min_user_events"], tally.dropped["min_item_users"] = core.lost_to_users, core.lost_to_items
    return core


def _warn_of_floats(log: Log, table: str, column: str) -> None:
    """Warn of ids that look as if integers had been written out as floats."""
    if log.types[column] != "text":
        return
    name = log.columns["ui".index(column)]
    floats, present = one_row(log.connection, rf"SELECT count(*) FILTER (regexp_full_match({column}, '-?\d+\.0')), count(*) FROM {table}")
    if present and floats == present:
        log.warnings.append(f'column "{name}": every id ends in ".0", as when integers are written as floats; they are kept as text')


def _keep_only(connection: duckdb.DuckDBPyConnection, core: Core) -> None:
    """Narrow the views users and items to the core."""
    for table, mask, column in (("users", core.users, "u"), ("items", core.items, "i")):
        if mask.all():
            continue
        connection.register("staying", pa.table({"code": to_arrow(np.flatnonzero(mask).astype(np.int32))}))
        connection.execute(f"CREATE TABLE core_{table} AS SELECT {column}, code FROM all_{table} SEMI JOIN staying USING (code)")
        connection.unregister("staying")
        connection.execute(f"CREATE OR REPLACE VIEW {table} AS SELECT {column}, code FROM core_{table}")
