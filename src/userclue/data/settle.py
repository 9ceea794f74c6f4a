"""What the columns of a loaded log are: ids integers or text, times of one unit. Tried on the first rows, proved on all.

A column of text is integer only when every value is its canonical integer text ("007" is a string). Proof rides along with the
load: each row notes whether it is odd under the guess, and one odd row sends the whole log the slower way through text.
"""

import re
from collections.abc import Sequence

import duckdb

from userclue.data.log import Log
from userclue.data.readers import CsvFile, SequenceFile, Source, drop_rejects
from userclue.data.sql import first_row, one_row, translated
from userclue.data.times import BOUNDS, INTEGER, LOCAL, NAMES, NUMBER, UNITS, ZONED, kind_sql, local_sql, unit_of, zoned_sql

GUESSED = ("int", "zoned", "local")
_SNIFFED = 1000
_CANONICAL = re.compile(r"0|-?[1-9]\d{0,17}")


def guess(connection: duckdb.DuckDBPyConnection, sources: Sequence[Source], wanted: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """For each wanted column what its first rows look like (int, zoned, local), text, or "" to load it as it is."""
    first = sources[0]
    if isinstance(first, SequenceFile):
        return ["int" for _ in kinds]
    if not isinstance(first, CsvFile):
        return as_text(kinds)
    drop_rejects(connection)
    with translated(first.name):
        connection.execute(f"CREATE OR REPLACE TABLE sniffed AS SELECT * FROM {first.relation(wanted)} LIMIT {_SNIFFED}")
    drop_rejects(connection)
    rows = connection.execute("SELECT * FROM sniffed").fetchall()
    connection.execute("DROP TABLE sniffed")
    return [_guess_one([row[place] for row in rows if row[place]], place == 2) for place in range(len(wanted))]


def as_text(kinds: Sequence[str]) -> list[str]:
    """No guess: text stays text, other columns stay as they are."""
    return ["text" if kind in ("loose", "text") else "" for kind in kinds]


def _guess_one(values: list[str], is_time: bool) -> str:
    if not values:
        return "text"
    if all(_CANONICAL.fullmatch(value) for value in values):
        return "int"
    for kind, pattern in (("local", LOCAL), ("zoned", ZONED)):
        if is_time and all(re.fullmatch(pattern, value) for value in values):
            return kind
    return "text"


def select_list(names: Sequence[str], guesses: Sequence[str]) -> str:
    """The select list of raw(u, i, t, odd) under the guesses; where none can be wrong there is no column odd."""
    columns, odd = [], []
    for name, column, one in zip(names, "uit", guesses, strict=False):
        if one == "int":
            value = f"TRY_CAST({name} AS BIGINT)"
            odd.append(f"{name} <> coalesce(CAST({value} AS VARCHAR), '')")
        elif one == "text":
            value = name if column == "t" else f"nullif({name}, '')"
        elif one:
            value = local_sql(name) if one == "local" else zoned_sql(name)
            pattern = LOCAL if one == "local" else ZONED
            odd.append(f"({name} <> '' AND ({value} IS NULL OR NOT regexp_full_match({name}, '{pattern}')))")
        else:
            value = name
        columns.append(f"{value} AS {column}")
    return ", ".join(columns + ([f"({' OR '.join(odd)}) AS odd"] if odd else []))


def settle(log: Log, time_unit: str | None) -> None:
    """Bring raw to its final types, in place; note on the log what is wrong with it."""
    described = {row[0]: row[1] for row in log.connection.execute("DESCRIBE raw").fetchall()}
    changes = {name: _settle_ids(log, name, described[name]) for name in "ui"}
    if log.columns[2] is not None:
        changes["t"] = _settle_times(log, described["t"], time_unit)
    if any(expression != name for name, expression in changes.items()):
        columns = ", ".join(f"{expression} AS {name}" for name, expression in changes.items())
        log.connection.execute(f"CREATE TABLE settled AS SELECT {columns} FROM raw")
        log.connection.execute("DROP TABLE raw")
        log.connection.execute("ALTER TABLE settled RENAME TO raw")


def _settle_ids(log: Log, name: str, sql_type: str) -> str:
    """The expression that makes raw's column `name` (u or i) what it is to be."""
    kind, column = log.types[name], log.columns["ui".index(name)]
    if kind == "float" or kind.startswith("other:"):
        what = "floats" if kind == "float" else f"of type {kind.removeprefix('other:')}"
        remedy = 'cast it to integers ("Int64" in pandas) or strings' if kind == "float" else "cast it to integers or strings"
        found = first_row(log.connection, f"SELECT rowid, {name} FROM raw WHERE {name} IS NOT NULL")
        where = f"{log.origins.place(found[0])}, " if found else ""
        example = f", for example {found[1]}" if found else ""
        log.problems.append(f'{where}column "{column}": ids are {what}{example}; {remedy}')
        log.types[name] = "text"
        return f"CAST({name} AS VARCHAR)"
    if sql_type != "VARCHAR":
        log.types[name] = "uint" if sql_type == "UBIGINT" else "int"
        return name
    # One look at the first text that is no integer spares the casts: a failed cast is slow.
    spoiler = f"SELECT 1 FROM raw WHERE NOT regexp_full_match({name}, '0|-?[1-9][0-9]*')"
    if kind == "loose" and not first_row(log.connection, spoiler):
        for integer, short in (("BIGINT", "int"), ("UBIGINT", "uint")):
            value = f"TRY_CAST({name} AS {integer})"
            odd = one_row(log.connection, f"SELECT count(*) FROM raw WHERE {name} <> coalesce(CAST({value} AS VARCHAR), '')")[0]
            present = one_row(log.connection, f"SELECT count({name}) FROM raw")[0]
            if present and not odd:
                log.types[name] = short
                return value
    log.types[name] = "text"
    if kind == "loose":  # of a text file, whose bytes were looked at before
        return name
    found = first_row(log.connection, f"SELECT rowid, {name} FROM raw WHERE contains({name}, chr(0))")
    if found:
        log.problems.append(f'{log.origins.place(found[0])}, column "{column}": the id {found[1]!r} holds a NUL byte; correct it')
    return name


def _settle_times(log: Log, sql_type: str, time_unit: str | None) -> str:
    kind = log.types["t"]
    if kind in ("us", "ns", "local", "zoned"):
        log.unit, log.time_kind = ("ns" if kind == "ns" else "us"), ("date" if kind in ("us", "ns") else "iso")
        if time_unit is not None:
            log.warnings.append(f"time_unit {time_unit} is not used: the times are dates")
        return "t"
    if sql_type == "VARCHAR" and kind.startswith("other:"):
        log.problems.append(f'column "{log.columns[2]}" has type {kind.removeprefix("other:")}; give numbers, dates or timestamps')
        log.unit, log.time_kind = "s", None
        return "CAST(NULL AS BIGINT)"
    if sql_type == "VARCHAR":
        return _settle_texts(log, time_unit)
    if sql_type == "UBIGINT":
        return _settle_numbers(log, "TRY_CAST(t AS BIGINT)", time_unit)
    return _settle_numbers(log, "CASE WHEN isfinite(t) THEN t END" if sql_type == "DOUBLE" else "t", time_unit)


def _settle_texts(log: Log, time_unit: str | None) -> str:
    """Tell the kinds of texts apart; bad ones become null, their text is kept in the table bad_times."""
    log.connection.execute(f"CREATE TABLE kinds AS SELECT {kind_sql('t')} AS kind, t, u IS NULL OR i IS NULL AS lost FROM raw")
    found = {row[0]: row[1] for row in log.connection.execute("SELECT kind, min(rowid) FROM kinds GROUP BY kind").fetchall()}
    log.connection.execute("CREATE TABLE bad_times AS SELECT rowid AS place, t FROM kinds WHERE kind = 'bad' OR lost ORDER BY rowid")
    present = {"numbers": [found[kind] for kind in ("integer", "number") if kind in found]}
    present |= {name: [found[kind]] for kind, name in (("zoned", "dates with a zone"), ("local", "dates without a zone")) if kind in found}
    firsts = {name: min(rows) for name, rows in present.items() if rows}
    if len(firsts) > 1:
        log.problems.append(_mixture(log, firsts, "make them all of one kind"))
    log.connection.execute("DROP TABLE kinds")
    kind = min(firsts, key=lambda name: firsts[name]) if firsts else "numbers"
    if kind != "numbers":
        log.unit, log.time_kind = "us", "iso"
        if time_unit is not None:
            log.warnings.append(f"time_unit {time_unit} is not used: the times are dates")
        pattern, value = (ZONED, zoned_sql("t")) if "with a" in kind else (LOCAL, local_sql("t"))
        return f"CASE WHEN regexp_full_match(trim(t), '{pattern}') THEN {value} END"
    if "number" in found:
        number = f"CASE WHEN regexp_full_match(trim(t), '{NUMBER}') THEN TRY_CAST(trim(t) AS DOUBLE) END"
        return _settle_numbers(log, number, time_unit, floats=True)
    return _settle_numbers(log, f"CASE WHEN regexp_full_match(trim(t), '{INTEGER}') THEN TRY_CAST(trim(t) AS BIGINT) END", time_unit)


def _settle_numbers(log: Log, expression: str, time_unit: str | None, floats: bool | None = None) -> str:
    """Find the unit of numbers by magnitude, unless it is given; fractions of any unit become µs (ns are whole)."""
    low, high = one_row(log.connection, f"SELECT min(abs(v)) FILTER (v <> 0), max(abs(v)) FROM (SELECT {expression} AS v FROM raw)")
    unit = time_unit or unit_of(high or 0)
    if time_unit is None and low is not None and unit_of(low) != unit:
        firsts = _first_of_each_unit(log, expression)
        log.problems.append(_mixture(log, firsts, "make them one unit, or name it with time_unit (--time-unit)"))
    log.unit, log.time_kind = unit, unit
    if floats is None:
        floats = "DOUBLE" in str(one_row(log.connection, f"SELECT typeof({expression}) FROM raw LIMIT 1")[0]) if log.n_rows else False
    if not floats:
        if high is not None and UNITS[unit] > 0 and high * UNITS[unit] >= 2**63:
            log.problems.append(f'column "{log.columns[2]}": times reach {high} {unit}, beyond 64 bits of ms; name the unit with time_unit')
            return "CAST(NULL AS BIGINT)"
        return expression
    factor = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1.0}[unit]
    log.unit = "ns" if unit == "ns" else "us"
    return f"TRY_CAST(round({expression} * {factor!r}) AS BIGINT)"


def _first_of_each_unit(log: Log, expression: str) -> dict[str, int]:
    bounds = list(BOUNDS.items())
    cases = " ".join(f"WHEN abs(v) < {bound} THEN '{unit}'" for unit, bound in bounds[:-1])
    rows = log.connection.execute(
        f"SELECT CASE {cases} ELSE 'ns' END AS unit, min(place) FROM (SELECT rowid AS place, {expression} AS v FROM raw) "
        "WHERE v <> 0 GROUP BY unit ORDER BY 2"
    ).fetchall()
    return {NAMES[unit]: place for unit, place in rows}


def _mixture(log: Log, firsts: dict[str, int], remedy: str) -> str:
    shown = []
    for name, row in sorted(firsts.items(), key=lambda pair: pair[1]):
        value = one_row(log.connection, f"SELECT t FROM raw WHERE rowid = {row}")[0]
        shown.append(f"{log.origins.place(row)} has {name} ({value})")
    return f'column "{log.columns[2]}" mixes kinds of time: {"; ".join(shown)}; {remedy}'
