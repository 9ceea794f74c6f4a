"""A log of events becomes a dataset folder: load, check, filter, number, sort, write. Nothing of the log's length is held in memory.

Order: users by id, inside a user by (time, input row), stably; items numbered by falling count, then by id. The same log gives the
same dataset from any format, and from any order of files where times differ.
"""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from userclue.data.attributes import with_attributes
from userclue.data.badrows import refuse_or_quarantine
from userclue.data.coding import code_ids
from userclue.data.columns import to_arrow
from userclue.data.cores import Core, k_core
from userclue.data.events import load_events
from userclue.data.histories import Written, number_items, windowed, write_sorted
from userclue.data.log import Log
from userclue.data.numbering import Numbering, number_anew, number_by
from userclue.data.options import PrepareOptions
from userclue.data.peterrec import PeterRecFile, write_targets
from userclue.data.sql import bounded, connect, one_row
from userclue.data.store import FORMAT_VERSION, KIND, Dataset, NpyWriter
from userclue.data.times import from_ms, parse_instant
from userclue.data.vocabulary import Vocabulary
from userclue.errors import DataError, UsageError
from userclue.files import MANIFEST, file_hashes, staged_folder, write_json
from userclue.version import VERSION

RULES = ("until", "duplicates", "min_user_events", "min_item_users", "window")


@dataclass
class _Tally:
    """What became of the rows read."""

    read: int = 0
    quarantined: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RULES, 0))
    longest: int = 0
    warnings: list[str] = field(default_factory=list)


def prepare(
    events: Any,
    out: str | Path,
    *,
    items: Any = None,
    vocabulary: str | Path | None = None,
    overwrite: bool = False,
    memory_limit: str | None = None,
    threads: int | None = None,
    **options: Any,
) -> Dataset:
    """Turn `events` (path, glob, folder, list of paths, or a Polars, pandas or Arrow table) into the dataset folder `out`.

    items: table of item attributes, keyed by a column named as the items' column or `item_id`. vocabulary: a dataset or model folder
    whose item indices are kept; items it does not know become UNK, or are numbered after the old ones with `grow=True`.
    memory_limit: what the database may hold (default 2GB); the rest is spilled beside `out`. threads: all cores if not given.
    options: the fields of `PrepareOptions`: user_col, item_col, time_col (None: no time), layout, targets, time_unit, min_user_events,
    min_item_users (distinct users), window, duplicates, until, on_error, max_bad_share, grow.

    Raises DataError for a log that cannot be used or of which nothing is left, UsageError for wrong options or an `out` that exists
    without `overwrite`, ArtifactError for a `vocabulary` that cannot be read. Whatever happens, `out` is whole or untouched.
    """
    chosen = PrepareOptions.of(options)
    known = Vocabulary.load(Path(vocabulary) / "vocabulary.parquet") if vocabulary is not None else None
    if chosen.grow and known is None:
        raise UsageError("grow: needs a vocabulary to grow; name one with vocabulary (--vocabulary)")
    out = Path(out)
    with staged_folder(out, overwrite) as folder:
        spill = folder / "spill"
        connection = connect(spill, memory_limit, threads)
        try:
            with bounded("prepare"):
                manifest = _build(connection, events, folder, spill, chosen, items, known)
        finally:
            connection.close()
            shutil.rmtree(spill, ignore_errors=True)
        manifest["files"] = file_hashes(folder)
        write_json(folder / MANIFEST, manifest)
    return Dataset.open(out)


def _build(
    connection: duckdb.DuckDBPyConnection,
    events: Any,
    folder: Path,
    spill: Path,
    options: PrepareOptions,
    items: Any,
    known: Vocabulary | None,
) -> dict[str, Any]:
    """Write every file of the dataset but the manifest, and return the manifest without hashes."""
    log = load_events(
        connection,
        events,
        user_col=options.user_col,
        item_col=options.item_col,
        time_col=options.time_col,
        layout=options.layout,
        time_unit=options.time_unit,
    )
    if log.problems:
        raise DataError(log.problems[0])
    tally = _Tally(read=log.n_rows + log.n_rejected, warnings=log.warnings)
    tally.quarantined = refuse_or_quarantine(log, options.on_error, options.max_bad_share, folder)
    _filter(log, options, tally)
    core, lengths = _code(log, options, tally)
    kept = windowed(lengths, options.window)
    tally.dropped["window"] = int((lengths - kept).sum())
    if not kept.any():
        raise DataError(_nothing_left(options, tally))
    _keep_only(connection, core)
    written = write_sorted(connection, folder, spill, lengths, kept, len(core.items), log.unit, round(time.time() * 1000))
    item_ids = connection.sql("SELECT i FROM all_items ORDER BY code").to_arrow_table()["i"].combine_chunks()
    counts = written.item_counts
    numbering = number_anew(item_ids, counts) if known is None else number_by(known, item_ids, counts, options.grow)
    number_items(spill, folder, numbering.index_of_code, int(kept.sum()))
    final = _with_items(connection, numbering, items, log, tally)
    final.save(folder / "vocabulary.parquet")
    sizes = _write_users(connection, folder, kept, options.window)
    _warn(log, tally, written, numbering)
    manifest = _manifest(log, options, tally, written, numbering, final, sizes)
    if log.layout == PeterRecFile.layout:
        manifest["targets"] = write_targets(connection, folder, options.targets)
    return manifest


def _filter(log: Log, options: PrepareOptions, tally: _Tally) -> None:
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


def _code(log: Log, options: PrepareOptions, tally: _Tally) -> tuple[Core, np.ndarray]:
    """Give users and items codes in the order of their ids, and find the core. Returns it and the events of each user in it."""
    connection = log.connection
    events, n_items = code_ids(connection)
    for table, column in (("all_users", "u"), ("all_items", "i")):
        _warn_of_floats(log, table, column, tally)
    tally.longest = int(events.max(initial=0))
    core = k_core(connection, events, n_items, options.min_user_events, options.min_item_users)
    tally.dropped["min_user_events"], tally.dropped["min_item_users"] = core.lost_to_users, core.lost_to_items
    return core, core.user_events


def _warn_of_floats(log: Log, table: str, column: str, tally: _Tally) -> None:
    """Warn of ids that look as if integers had been written out as floats."""
    if log.types[column] != "text":
        return
    name = log.columns["ui".index(column)]
    floats, present = one_row(log.connection, rf"SELECT count(*) FILTER (regexp_full_match({column}, '-?\d+\.0')), count(*) FROM {table}")
    if present and floats == present:
        tally.warnings.append(f'column "{name}": every id ends in ".0", as when integers are written as floats; they are kept as text')


def _keep_only(connection: duckdb.DuckDBPyConnection, core: Core) -> None:
    """Narrow the views users and items to the core."""
    for table, mask, column in (("users", core.users, "u"), ("items", core.items, "i")):
        if mask.all():
            continue
        connection.register("staying", pa.table({"code": to_arrow(np.flatnonzero(mask).astype(np.int32))}))
        connection.execute(f"CREATE TABLE core_{table} AS SELECT {column}, code FROM all_{table} SEMI JOIN staying USING (code)")
        connection.unregister("staying")
        connection.execute(f"CREATE OR REPLACE VIEW {table} AS SELECT {column}, code FROM core_{table}")


def _with_items(connection: duckdb.DuckDBPyConnection, numbering: Numbering, items: Any, log: Log, tally: _Tally) -> Vocabulary:
    if items is None:
        return numbering.vocabulary
    vocabulary, without = with_attributes(connection, numbering.vocabulary, items, log.columns[1])
    if without:
        tally.warnings.append(f"{without} of {vocabulary.n_items} items have no row in the table of attributes; their attributes are null")
    return vocabulary


def _write_users(connection: duckdb.DuckDBPyConnection, folder: Path, kept: np.ndarray, window: int | None) -> np.ndarray:
    """Write users.parquet and offsets.npy; returns the length of each sequence, int64."""
    ids = connection.sql("SELECT u FROM all_users ORDER BY code").to_arrow_table()["u"]
    staying = np.flatnonzero(kept)
    if window is None:
        sizes = kept[staying]
        table = pa.table({"user_id": ids.take(to_arrow(staying))})
    else:
        windows = kept[staying] // window
        source = np.repeat(staying, windows)
        number = np.arange(len(source)) - np.repeat(np.cumsum(windows) - windows, windows)
        sizes = np.full(len(source), window, np.int64)
        sources = ids.take(to_arrow(source))
        names = pc.binary_join_element_wise(pc.cast(sources, pa.string()), pc.cast(to_arrow(number), pa.string()), "#")
        table = pa.table({"user_id": names, "source_user": sources, "window": to_arrow(number.astype(np.int32))})
    pq.write_table(table, folder / "users.parquet", compression="zstd", write_page_checksum=True)
    with NpyWriter(folder / "offsets.npy", np.int64, len(sizes) + 1) as writer:
        writer.append(np.zeros(1, np.int64))
        writer.append(np.cumsum(sizes))
    return sizes


def _nothing_left(options: PrepareOptions, tally: _Tally) -> str:
    """Which rule dropped everything, and what would not."""
    gone = {rule: count for rule, count in tally.dropped.items() if count}
    if not gone:
        return "no event is left: every row of the log is bad; correct the log"
    lost = ", ".join(f"{rule} {getattr(options, rule)} dropped {count}" for rule, count in gone.items())
    longest = f"the longest history has {tally.longest} events" if tally.longest else "no history was left to filter"
    return f"no event is left of {tally.read}: {lost}; {longest}; loosen the rule or give a longer log"


def _warn(log: Log, tally: _Tally, written: Written, numbering: Numbering) -> None:
    if written.negative:
        tally.warnings.append(f"{written.negative} events are before 1970 (negative times); they are kept")
    if written.future:
        tally.warnings.append(f"{written.future} events are in the future; they are kept: check the time unit ({log.time_kind})")
    if numbering.unknown_events:
        total = int(written.item_counts.sum())
        every = "all" if numbering.unknown_events == total else str(numbering.unknown_events)
        hint = "; is it another catalogue's?" if every == "all" else ""
        tally.warnings.append(f"{every} of {total} events are of {numbering.unknown_items} items unknown to the vocabulary (UNK){hint}")
    if tally.quarantined:
        tally.warnings.append(f"{tally.quarantined} bad rows are set aside in quarantine.parquet")


def _manifest(
    log: Log, options: PrepareOptions, tally: _Tally, written: Written, numbering: Numbering, vocabulary: Vocabulary, sizes: np.ndarray
) -> dict[str, Any]:
    user, item, column = log.columns
    levels = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
    # As np.quantile, which imports numpy.ma: a third of the time that a log of 100,000 events takes.
    lengths = np.interp(np.array([*levels.values()]) * (len(sizes) - 1), np.arange(len(sizes)), np.sort(sizes))
    return {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "userclue_version": VERSION,
        "users": len(sizes),
        "items": vocabulary.n_items,
        "events_read": tally.read,
        "events_kept": int(sizes.sum()),
        "events_dropped": tally.dropped,
        "events_quarantined": tally.quarantined,
        "unknown_items": numbering.unknown_items,
        "unknown_events": numbering.unknown_events,
        "columns": {"user": user, "item": item, "time": column},
        "layout": log.layout,
        "time": None if column is None else {"unit": log.time_kind, "min": written.first, "max": written.last},
        "lengths": dict(zip(levels, lengths.tolist(), strict=True)) | {"mean": float(sizes.mean())},
        "settings": options.model_dump(),
        "warnings": tally.warnings,
    }
