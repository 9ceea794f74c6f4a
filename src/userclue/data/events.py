"""A log of events, loaded: one table raw(u, i, t) in row order, its types settled, its bad rows found.

Bad rows stay in the table with a null user, item or time; `prepare` decides whether they stop it, `audit` counts them.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from userclue.data.formats import close_name, find_files, format_of, is_frame
from userclue.data.jsonlines import JsonLines
from userclue.data.log import Log
from userclue.data.origins import Origins, Part
from userclue.data.peterrec import PeterRecFile
from userclue.data.readers import CsvFile, Frame, ParquetFile, Rejects, SequenceFile, Source
from userclue.data.settle import GUESSED, as_text, guess, select_list, settle
from userclue.data.sql import Connect, bounded, one_row, quoted, translated
from userclue.data.times import UNITS
from userclue.errors import DataError, UsageError

DEFAULT_COLUMNS = ("user_id", "item_id", "timestamp")
LAYOUTS = ("auto", "events", "sequences", "peterrec")
NO_TIME = "the log has no time: its rows are taken to stand in the order of events; if a column holds the time, name it with time_col"


@dataclass(frozen=True)
class Opened:
    """The readers of a log, nothing loaded; what they call user, item and time (None: there is none); the unit of time, if told."""

    sources: list[Source]
    columns: tuple[str, str, str | None]
    time_unit: str | None


def open_events(
    connection: Connect,
    events: Any,
    *,
    user_col: str = "user_id",
    item_col: str = "item_id",
    time_col: str | None = "timestamp",
    layout: str = "auto",
    time_unit: str | None = None,
) -> Opened:
    """Find the readers of `events` (path, glob, folder, list of these, or frame), and the columns in them.

    Raises DataError when a file cannot be read or a column is missing; UsageError for unknown options.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    if time_unit is not None and time_unit not in UNITS:
        raise UsageError(f"time_unit {time_unit!r}: choose one of {', '.join(UNITS)}")
    expected = [user_col, item_col, *([time_col] if time_col else [])]
    sources = open_sources(connection, events, expected, layout)
    if isinstance(sources[0], SequenceFile):
        return Opened(sources, ("user", "item", None), time_unit)
    return Opened(sources, _columns(sources, user_col, item_col, time_col), time_unit)


def load_events(connection: duckdb.DuckDBPyConnection, opened: Opened) -> Log:
    """Load a log into the connection's table raw, and settle its types.

    Raises DataError when a file cannot be read or holds no rows. What is wrong with the values is left in the log's `problems`, null
    rows and `rejects`.
    """
    sources = opened.sources
    log = _load(connection, sources, opened.columns)
    if isinstance(sources[0], SequenceFile):
        log.layout = sources[0].layout
        empty = sum(one.empty_users for one in sources if isinstance(one, SequenceFile))
        if empty:
            log.warnings.append(f"{empty} lines name a user without items; they are left out")
    elif opened.columns[2] is None:
        log.warnings.append(NO_TIME)
    if not log.n_rows + log.n_rejected:
        raise DataError(f"{log.origins.parts[0].name}: has no rows below its header; give a log with events")
    with bounded("events"):
        settle(log, opened.time_unit)
    return log


def open_sources(connection: Connect, source: Any, expected: Sequence[str], layout: str = "events", as_is: bool = False) -> list[Source]:
    """A reader for each file that `source` names, or for the frame it is; columns known, nothing loaded. as_is: keep their types."""
    if is_frame(source):
        return [Frame(connection(), source, as_is)]
    if isinstance(source, dict) or not isinstance(source, str | Sequence | Path):
        raise DataError(f"{type(source).__name__} cannot be read: give a path, or a Polars, pandas or Arrow table")
    paths = find_files(source)
    kind = format_of(paths[0])
    if kind == "parquet":
        return [ParquetFile(connection(), path, as_is) for path in paths]
    if kind == "json":
        return [JsonLines(path) for path in paths]
    if layout == "sequences":
        return [SequenceFile(path) for path in paths]
    if layout == "peterrec":
        return list(_peterrec_files(paths))
    files = [CsvFile(path, expected) for path in paths]
    named = set(expected[:2]) != set(DEFAULT_COLUMNS[:2])
    plain = not paths[0].name.removesuffix(".gz").endswith(".csv")
    unnamed = layout == "auto" and not named and not set(expected) & set(files[0].columns)
    if unnamed and plain and SequenceFile.looks_like(files[0].scan.first_line):
        return [SequenceFile(path) for path in paths]
    if unnamed and PeterRecFile.looks_like(files[0].scan.first_line):
        return list(_peterrec_files(paths))
    return list(files)


def _peterrec_files(paths: Sequence[Path]) -> Iterator[PeterRecFile]:
    """Its users have no ids: they are numbered by their lines, through all files."""
    first = 1
    for path in paths:
        file = PeterRecFile(path, first)
        first += file.scan.lines
        yield file


def _columns(sources: list[Source], user_col: str, item_col: str, time_col: str | None) -> tuple[str, str, str | None]:
    """Check that every source has the columns asked for; the default time column may be absent from all."""
    if time_col == DEFAULT_COLUMNS[2] and not any(time_col in source.columns for source in sources):
        time_col = None
    for source in sources:
        for name, option in ((user_col, "user"), (item_col, "item"), (time_col, "time")):
            if name is not None:
                taken = {user_col, item_col, time_col} - {name}
                require_column(source, name, f"name the right one with {option}_col (--{option}-col)", taken)
    return user_col, item_col, time_col


def require_column(source: Source, name: str, remedy: str, taken: Collection[str | None] = ()) -> None:
    """DataError when `source` has no column `name`, or two; the columns in `taken` are not proposed in its place."""
    times = source.columns.count(name)
    if times == 1:
        return
    if times:
        raise DataError(f'{source.name}: {times} columns are named "{name}"; rename one')
    found = ", ".join(f'"{one}"' for one in source.columns[:12]) + (", ..." if len(source.columns) > 12 else "")
    close = close_name(name, [one for one in source.columns if one not in taken])
    raise DataError(f'{source.name}: no column "{name}"; it has {found}{close or f"; {remedy}"}')


def _load(connection: duckdb.DuckDBPyConnection, sources: list[Source], columns: tuple[str, str, str | None]) -> Log:
    """Load all sources in order. Text columns are first tried as what their first rows look like; one odd value and all is text."""
    wanted = [name for name in columns if name is not None]
    kinds = [source.kinds(connection, wanted) for source in sources]
    _same_kinds(sources, kinds, wanted)
    merged = [_merge([one[place] for one in kinds]) for place in range(len(wanted))]
    integers = [source.as_integers() for source in sources if isinstance(source, CsvFile) and source.scan.integers]
    loaded = _load_integers(connection, integers, wanted) if len(integers) == len(sources) else None
    guesses = guess(connection, sources, wanted, merged) if loaded is None else ["int"] * len(wanted)
    if loaded is None:
        loaded = _load_with(connection, sources, wanted, guesses)
        if set(guesses) & set(GUESSED) and one_row(connection, "SELECT count(*) FILTER (odd) FROM raw")[0]:
            guesses = as_text(merged)
            loaded = _load_with(connection, sources, wanted, guesses)
    parts, rejects = loaded
    log = Log(columns=columns, connection=connection, origins=Origins(parts), rejects=rejects)
    types = [guess if guess in GUESSED else kind for guess, kind in zip(guesses, merged, strict=True)]
    log.types = dict(zip("uit", types, strict=False))
    return log


def _load_integers(
    connection: duckdb.DuckDBPyConnection, files: Sequence[CsvFile], wanted: list[str]
) -> tuple[list[Part], list[Rejects]] | None:
    """Load files whose bytes show that they hold integers alone; None where a line was refused."""
    parts, rejects = _load_with(connection, files, wanted, [""] * len(wanted))
    # Why a line is no row is told from its text.
    return None if any(len(one.numbers) for one in rejects) else (parts, rejects)


def _load_with(
    connection: duckdb.DuckDBPyConnection, sources: Sequence[Source], wanted: list[str], guesses: list[str]
) -> tuple[list[Part], list[Rejects]]:
    parts, rejects = [], []

    def template(names: list[str]) -> str:
        return select_list(names, guesses)

    for place, source in enumerate(sources):
        part, refused = source.load(connection, "raw" if place == 0 else "part", wanted, template)
        if place:
            with translated(source.name):
                connection.execute("INSERT INTO raw SELECT * FROM part")
                connection.execute("DROP TABLE part")
        parts.append(part)
        rejects.append(refused)
    return parts, rejects


def _merge(kinds: list[str]) -> str:
    """One kind for a column from its kinds in several files: text beside loose text is text, other pairs are equal."""
    return "text" if "text" in kinds and set(kinds) <= {"loose", "text"} else kinds[0]


def _same_kinds(sources: list[Source], kinds: list[list[str]], wanted: list[str]) -> None:
    for source, found in zip(sources, kinds, strict=True):
        for name, here, first in zip(wanted, found, kinds[0], strict=True):
            if here != first and not {here, first} <= {"loose", "text", "float"}:
                raise DataError(f'column "{name}" is {first} in {sources[0].name} and {here} in {source.name}; make the types equal')


def read_columns(
    connection: duckdb.DuckDBPyConnection, source: Any, wanted: Sequence[str] | None, required: Sequence[str]
) -> tuple[pa.Table, Origins]:
    """A small table whole: the columns `wanted` (all if None) of a file, several, or a frame; text columns of text files as text.

    Raises DataError for missing columns and for lines that are no row.
    """
    sources = open_sources(lambda: connection, source, required, as_is=True)
    tables, parts = [], []
    for one in sources:
        for name in required:
            require_column(one, name, "rename it")
        names = list(wanted) if wanted is not None else list(one.columns)
        if len(set(names)) != len(names):
            raise DataError(f"{one.name}: two columns have one name; rename one")

        def template(given: list[str], names: list[str] = names) -> str:
            return ", ".join(f"{alias} AS {quoted(name)}" for alias, name in zip(given, names, strict=True))

        part, rejects = one.load(connection, "small", names, template)
        if len(rejects.numbers):
            raise DataError(f"{one.name} {part.unit} {rejects.numbers[0]}: {rejects.reasons[0]}; correct the line")
        tables.append(connection.sql("SELECT * FROM small").to_arrow_table())
        parts.append(part)
        connection.execute("DROP TABLE small")
    try:
        return pa.concat_tables(tables, promote_options="permissive"), Origins(parts)
    except pa.ArrowException as error:
        raise DataError(f"{sources[0].name}: the files differ in their columns ({error}); make them equal") from None
