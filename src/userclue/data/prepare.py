"""A log of events becomes a dataset folder: load, check, filter, number, sort, write. Nothing of a long log's length is held in memory.

Order: users by id, inside a user by (time, input row), stably; items numbered by falling count, then by id. The same log gives the
same dataset from any format, and from any order of files where times differ.
"""

import shutil
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from userclue.data.attributes import with_attributes
from userclue.data.coded import Coded, Tally
from userclue.data.columns import to_arrow
from userclue.data.events import open_events
from userclue.data.histories import Written, number_items, windowed
from userclue.data.indatabase import InDatabase
from userclue.data.inmemory import InMemory
from userclue.data.log import Facts
from userclue.data.numbering import Numbering, number_anew, number_by
from userclue.data.options import PrepareOptions
from userclue.data.peterrec import PeterRecFile, write_targets
from userclue.data.sql import Connect, bounded, check_threads, connect
from userclue.data.store import FORMAT_VERSION, KIND, Dataset, NpyWriter
from userclue.data.vocabulary import Vocabulary
from userclue.errors import DataError, UsageError
from userclue.files import MANIFEST, PARQUET, file_hashes, staged_folder, write_json
from userclue.version import VERSION

_OF_THE_LOG = {"user_col", "item_col", "time_col", "layout", "time_unit"}


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
    check_threads(threads)
    out = Path(out)
    with staged_folder(out, overwrite) as folder, ExitStack() as stack:
        spill = folder / "spill"
        spill.mkdir()
        stack.callback(shutil.rmtree, spill, ignore_errors=True)

        @cache
        def database() -> duckdb.DuckDBPyConnection:
            return stack.enter_context(connect(spill, memory_limit, threads))

        with bounded("prepare"):
            opened = open_events(database, events, **chosen.model_dump(include=_OF_THE_LOG))
            # A limit on memory is the database's to keep.
            small = InMemory.of(opened, chosen) if memory_limit is None else None
            log: Coded = small or InDatabase(database(), opened, chosen, folder)
            manifest = _write(log, database, folder, spill, chosen, items, known)
        manifest["files"] = file_hashes(folder)
        write_json(folder / MANIFEST, manifest)
    return Dataset.open(out)


def _write(
    log: Coded, database: Connect, folder: Path, spill: Path, options: PrepareOptions, items: Any, known: Vocabulary | None
) -> dict[str, Any]:
    """Write every file of the dataset but the manifest, and return the manifest without hashes."""
    lengths, facts, tally = log.lengths, log.facts, log.tally
    kept = windowed(lengths, options.window)
    tally.dropped["window"] = int((lengths - kept).sum())
    if not kept.any():
        raise DataError(_nothing_left(options, tally))
    written = log.write(folder, spill, kept, round(time.time() * 1000))
    item_ids, counts = log.item_ids(), written.item_counts
    numbering = number_anew(item_ids, counts) if known is None else number_by(known, item_ids, counts, options.grow)
    number_items(spill, folder, numbering.index_of_code, int(kept.sum()))
    final = numbering.vocabulary
    if items is not None:
        final, without = with_attributes(database(), final, items, facts.columns[1])
        if without:
            facts.warnings.append(f"{without} of {final.n_items} items have no row in the table of attributes; their attributes are null")
    final.save(folder / "vocabulary.parquet")
    sizes = _write_users(log.user_ids(), folder, kept, options.window)
    _warn(facts, tally, written, numbering)
    manifest = _manifest(facts, options, tally, written, numbering, final, sizes)
    if facts.layout == PeterRecFile.layout:
        manifest["targets"] = write_targets(database(), folder, options.targets)
    return manifest


def _write_users(ids: pa.Array, folder: Path, kept: np.ndarray, window: int | None) -> np.ndarray:
    """Write users.parquet and offsets.npy; returns the length of each sequence, int64."""
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
    pq.write_table(table, folder / "users.parquet", **PARQUET)
    with NpyWriter(folder / "offsets.npy", np.int64, len(sizes) + 1) as writer:
        writer.append(np.zeros(1, np.int64))
        writer.append(np.cumsum(sizes))
    return sizes


def _nothing_left(options: PrepareOptions, tally: Tally) -> str:
    """Which rule dropped everything, and what would not."""
    gone = {rule: count for rule, count in tally.dropped.items() if count}
    if not gone:
        return "no event is left: every row of the log is bad; correct the log"
    lost = ", ".join(f"{rule} {getattr(options, rule)} dropped {count}" for rule, count in gone.items())
    longest = f"the longest history has {tally.longest} events" if tally.longest else "no history was left to filter"
    return f"no event is left of {tally.read}: {lost}; {longest}; loosen the rule or give a longer log"


def _warn(log: Facts, tally: Tally, written: Written, numbering: Numbering) -> None:
    if written.negative:
        log.warnings.append(f"{written.negative} events are before 1970 (negative times); they are kept")
    if written.future:
        log.warnings.append(f"{written.future} events are in the future; they are kept: check the time unit ({log.time_kind})")
    if numbering.unknown_events:
        total = int(written.item_counts.sum())
        every = "all" if numbering.unknown_events == total else str(numbering.unknown_events)
        hint = "; is it another catalogue's?" if every == "all" else ""
        log.warnings.append(f"{every} of {total} events are of {numbering.unknown_items} items unknown to the vocabulary (UNK){hint}")
    if tally.quarantined:
        log.warnings.append(f"{tally.quarantined} bad rows are set aside in quarantine.parquet")


def _manifest(
    log: Facts, options: PrepareOptions, tally: Tally, written: Written, numbering: Numbering, vocabulary: Vocabulary, sizes: np.ndarray
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
        "warnings": log.warnings,
    }
