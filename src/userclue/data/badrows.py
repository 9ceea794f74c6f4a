"""Rows of a log that are no event: the first one named, or all of them set aside in quarantine.parquet."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from userclue.data.log import Log
from userclue.data.sql import first_row, literal, one_row
from userclue.errors import DataError
from userclue.files import PARQUET

QUARANTINE = "quarantine.parquet"
SCHEMA = pa.schema([("file", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("text", pa.string())])
_AT_ONCE = 1 << 16


def count_bad(log: Log) -> int:
    """Rows that are no event: refused by the reader, or without user, item or readable time."""
    return log.n_rejected + int(one_row(log.connection, f"SELECT count(*) FROM raw WHERE {log.bad_condition()}")[0])


def _query(log: Log) -> str:
    """Bad rows of raw in order: rowid, column at fault, its reason, and the row as JSON."""
    user, item, time = log.columns
    texts = bool(log.unit) and one_row(log.connection, "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'bad_times'")[0]
    value = "b.t" if texts else "NULL"
    shown = f"{literal(user)}, r.u, {literal(item)}, r.i" + (
        f", {literal(time)}, {'coalesce(b.t, CAST(r.t AS VARCHAR))' if texts else 'r.t'}" if time else ""
    )
    cases = f"CASE WHEN r.u IS NULL THEN {literal(user)} WHEN r.i IS NULL THEN {literal(item)} ELSE {literal(time or '')} END"
    reason = f"CASE WHEN r.u IS NOT NULL AND r.i IS NOT NULL AND {value} IS NOT NULL THEN 'cannot be read as a time' ELSE 'is empty' END"
    return (
        f"SELECT r.rowid, {cases} AS fault, {reason} AS reason, {value} AS value, CAST(json_object({shown}) AS VARCHAR) AS text "
        f"FROM raw r {'LEFT JOIN bad_times b ON b.place = r.rowid' if texts else ''} "
        f"WHERE r.u IS NULL OR r.i IS NULL{' OR r.t IS NULL' if log.unit else ''} ORDER BY r.rowid"
    )


def first_bad(log: Log) -> str:
    """The first bad row in words, or the empty string: place, column, value."""
    found: list[tuple[int, int, str]] = []
    row = first_row(log.connection, _query(log))
    if row is not None:
        which, number = (int(one[0]) for one in log.origins.locate(np.array([row[0]])))
        value = f" {json.dumps(row[3], ensure_ascii=False)}" if row[3] is not None and row[2].startswith("cannot") else ""
        found.append((which, number, f'{log.origins.named(which, number)}, column "{row[1]}":{value} {row[2]}'))
    for which, rejects in enumerate(log.rejects):
        if len(rejects.numbers):
            number = int(rejects.numbers[0])
            text = rejects.texts[0].splitlines()[0][:80] if rejects.texts[0] else ""
            found.append((which, number, f"{log.origins.parts[which].name} line {number}: {rejects.reasons[0]} ({text})"))
    return min(found)[2] if found else ""


def refuse_or_quarantine(log: Log, on_error: str, max_bad_share: float, folder: Path) -> int:
    """The number of bad rows. With on_error "fail" any is a DataError naming the first; else they are written to quarantine.parquet.

    Raises DataError when more than `max_bad_share` of all rows are bad.
    """
    bad, read = count_bad(log), log.n_rows + log.n_rejected
    if not bad:
        return 0
    first = first_bad(log)
    more = f" ({bad - 1} more bad rows)" if bad > 1 else ""
    if on_error == "fail":
        raise DataError(f'{first}{more}; correct it, or set bad rows aside with on_error="quarantine" (--on-error quarantine)')
    if bad > max_bad_share * read:
        raise DataError(f"{bad} of {read} rows are bad, more than the allowed share {max_bad_share:g}; the first: {first}; correct the log")
    _write(log, folder / QUARANTINE)
    return bad


def _write(log: Log, path: Path) -> None:
    names = [part.name for part in log.origins.parts]
    with pq.ParquetWriter(path, SCHEMA, **PARQUET) as writer:
        for which, rejects in enumerate(log.rejects):
            if len(rejects.numbers):
                file = pa.array([names[which]] * len(rejects.numbers))
                writer.write_table(pa.table([file, pa.array(rejects.numbers), rejects.reasons, rejects.texts], schema=SCHEMA))
        for batch in log.connection.sql(_query(log)).to_arrow_reader(_AT_ONCE):
            part, number = log.origins.locate(batch.column(0).to_numpy())
            reason = [f"{column} {why}" for column, why in zip(batch.column(1).to_pylist(), batch.column(2).to_pylist(), strict=True)]
            columns = [pa.array(names).take(pa.array(part)), pa.array(number), pa.array(reason), batch.column(4).cast(pa.string())]
            writer.write_table(pa.table(columns, schema=SCHEMA))
