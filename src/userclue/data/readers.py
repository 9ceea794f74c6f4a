"""One file or frame as a table of the columns asked for. Every reader opens (columns known, nothing loaded), then loads.

`load` creates a table from a template: a function from the SQL names of the wanted columns to a select list. Kinds of columns:
loose (text of a text file: numbers and times are still to be told apart), text, int, uint, float, us and ns (instants), other:TYPE.
"""

import copy
import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa

from userclue.data.formats import open_text, scan_text, unused_control
from userclue.data.origins import Part
from userclue.data.sql import literal, one_row, path_literal, quoted, translated
from userclue.errors import DataError

Template = Callable[[list[str]], str]
_INTS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")


@dataclass
class Rejects:
    """Lines that gave no row: their numbers, rising, and for each the reason and the text."""

    numbers: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    reasons: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


class Source(Protocol):
    """What every reader offers."""

    name: str
    columns: list[str]

    def kinds(self, connection: duckdb.DuckDBPyConnection, wanted: Sequence[str]) -> list[str]:
        """The kind of each wanted column."""

    def load(self, connection: duckdb.DuckDBPyConnection, table: str, wanted: Sequence[str], template: Template) -> tuple[Part, Rejects]:
        """Create `table` from the template; returns its origin and the lines refused."""


def aliases(count: int) -> list[str]:
    """a0, a1, ...: what the wanted columns are called in a template."""
    return [f"a{place}" for place in range(count)]


def count_rows(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    """Rows of a table."""
    return int(one_row(connection, f"SELECT count(*) FROM {table}")[0])


def drop_rejects(connection: duckdb.DuckDBPyConnection) -> None:
    """DuckDB refuses to begin anew while the tables of an earlier scan stand."""
    for table in ("reject_errors", "reject_scans"):
        connection.execute(f"DROP TABLE IF EXISTS {table}")


def take_rejects(connection: duckdb.DuckDBPyConnection) -> Rejects:
    """What the scan just made refused, one entry a line (DuckDB reports a line once for each of its faults)."""
    rows = connection.execute(
        "SELECT line::BIGINT, arg_min(error_message, coalesce(column_idx, 0)), any_value(csv_line) "
        "FROM reject_errors GROUP BY line ORDER BY line"
    ).fetchall()
    drop_rejects(connection)
    numbers, reasons, texts = [], [], []
    for line, message, text in rows:
        # An unclosed quote swallows the lines after its own: each of them is lost, and counted.
        pieces = (text or "").strip("\r\n").split("\n")
        for place, piece in enumerate(pieces):
            numbers.append(line + place)
            reasons.append("was swallowed by a quote not closed above" if place else _plain(message))
            texts.append(piece.rstrip("\r"))
    return Rejects(np.array(numbers, np.int64), reasons, texts)


def _plain(message: str) -> str:
    """DuckDB's message in plain words, without its advice on DuckDB options."""
    first = message.strip().splitlines()[0].rstrip(".")
    fields = re.search(r"Columns: (\d+) Found: (\d+)", first)
    if fields:
        return f"has {fields[2]} fields, the header has {fields[1]}"
    if "unterminated quote" in first:
        return "has a quote that is not closed, or text after a closing quote"
    return "is not valid UTF-8" if "unicode" in first else first[0].lower() + first[1:]


class CsvFile:
    """CSV or TSV with a header, read strictly, every field as text (or the wanted ones as integers, `as_integers`)."""

    def __init__(self, path: Path, expected: Sequence[str]) -> None:
        self.path, self.name = path, str(path)
        self._type = "VARCHAR"
        self.scan = scan_text(path)
        tabs = path.name.lower().removesuffix(".gz").endswith((".tsv", ".tab"))
        headers = {mark: self._header(mark) for mark in ("\t" if tabs else ",;\t|")}
        # The delimiter under which most of the expected columns stand in the header; else the one that finds most columns.
        self.delimiter = max(headers, key=lambda mark: (len(set(expected) & set(headers[mark])), len(headers[mark])))
        self.columns = headers[self.delimiter]

    def _header(self, delimiter: str) -> list[str]:
        try:
            return next(csv.reader([self.scan.first_line], delimiter=delimiter, strict=True), [])
        except csv.Error:
            return self.scan.first_line.split(delimiter)

    def as_integers(self) -> "CsvFile":
        """The same file with the wanted columns read as BIGINT, faster than text; what is none is refused with its line.

        For a file whose scan found nothing but `integers`: in another one 007, +7 and 7.0 would become 7.
        """
        twin = copy.copy(self)
        twin._type = "BIGINT"
        return twin

    def kinds(self, connection: duckdb.DuckDBPyConnection, wanted: Sequence[str]) -> list[str]:
        """The kind of each wanted column."""
        return ["loose"] * len(wanted)

    def relation(self, wanted: Sequence[str], newlines: bool = False) -> str:
        """The FROM item: wanted columns as a0, a1, ...; with `newlines` also the line ends inside a row's fields."""
        places = [self.columns.index(name) for name in wanted]
        types = [self._type if place in places else "VARCHAR" for place in range(len(self.columns))]
        fields = ", ".join(f"'k{place}': '{one}'" for place, one in enumerate(types))
        quote = "'\"'" if self.scan.quotes else "''"
        options = (
            f"header=true, auto_detect=false, strict_mode=true, null_padding=false, delim={literal(self.delimiter)}, "
            f"quote={quote}, escape={quote}, columns={{{fields}}}, store_rejects=true, rejects_limit=0, "
            f"compression='{'gzip' if self.path.suffix == '.gz' else 'none'}'"
        )
        picked = ", ".join(f"k{place} AS a{number}" for number, place in enumerate(places))
        extra = " + ".join(f"coalesce(length(k{place}) - length(replace(k{place}, chr(10), '')), 0)" for place in range(len(self.columns)))
        return f"(SELECT {picked}{', ' + extra + ' AS newlines' if newlines else ''} FROM read_csv({path_literal(self.path)}, {options}))"

    def load(self, connection: duckdb.DuckDBPyConnection, table: str, wanted: Sequence[str], template: Template) -> tuple[Part, Rejects]:
        """Create `table` from the template; returns its origin and the lines refused."""
        drop_rejects(connection)
        with translated(self.name):
            connection.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT {template(aliases(len(wanted)))} FROM {self.relation(wanted)}")
        rejects = take_rejects(connection)
        rows = count_rows(connection, table)
        blank = np.zeros(0, np.int64)
        unit = "line"
        missing = self.scan.lines - 1 - rows - len(rejects.numbers)
        if missing:
            # Blank lines, line ends inside quoted fields, or rows that an unclosed quote swallowed: count which.
            blank = self._blank_lines()
            embedded = self._embedded(connection, wanted) if self.scan.quotes else 0
            if embedded:
                unit = "record"
            if not 0 <= missing - embedded <= len(blank):
                raise DataError(f"{self.name}: {missing - embedded} lines are in no row; look for a quote that is not closed, and close it")
        skipped = np.zeros(0, np.int64) if unit == "record" else rejects.numbers
        if len(blank) and unit != "record":
            skipped = np.union1d(rejects.numbers, blank)
        return Part(self.name, rows, 1 if unit == "record" else 2, unit, skipped), rejects

    def _blank_lines(self) -> np.ndarray:
        with open_text(self.path) as file:
            return np.array([number for number, line in enumerate(file, 1) if not line.strip(b"\r\n")], np.int64)

    def _embedded(self, connection: duckdb.DuckDBPyConnection, wanted: Sequence[str]) -> int:
        drop_rejects(connection)
        connection.execute(f"CREATE OR REPLACE TABLE embedded AS SELECT sum(newlines) n FROM {self.relation(wanted, newlines=True)}")
        drop_rejects(connection)
        return int(one_row(connection, "SELECT coalesce(n, 0) FROM embedded")[0])


def lines_relation(path: Path) -> str:
    """The FROM item of a text file's lines, one a row, in column `line`; a blank line is null."""
    control, longest = unused_control(path)
    return (
        f"read_csv({path_literal(path)}, header=false, auto_detect=false, delim={literal(control)}, quote='', escape='', "
        f"columns={{'line': 'VARCHAR'}}, max_line_size={max(longest + 16, 1 << 21)}, store_rejects=true, rejects_limit=0, "
        f"compression='{'gzip' if path.suffix == '.gz' else 'none'}')"
    )


class SequenceFile:
    """One user a line: `user TAB item item item`, or all apart by blanks; oldest item first, no times."""

    layout = "sequences"

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self.scan = scan_text(path)
        self.columns = ["user", "item"]
        self.empty_users = 0

    @staticmethod
    def looks_like(line: str) -> bool:
        """Whether a first line can only be a sequence: one tab and several items after it, or several words and no delimiter."""
        if "\t" in line:
            user, _, items = line.partition("\t")
            return bool(user) and "\t" not in items and len(items.split()) > 1
        return not set(",;|") & set(line) and len(line.split()) > 2

    def kinds(self, connection: duckdb.DuckDBPyConnection, wanted: Sequence[str]) -> list[str]:
        """The kind of each wanted column."""
        return ["loose"] * len(wanted)

    def load(self, connection: duckdb.DuckDBPyConnection, table: str, wanted: Sequence[str], template: Template) -> tuple[Part, Rejects]:
        """Create `table` from the template; returns its origin and the lines refused."""
        drop_rejects(connection)
        mark = "chr(9)" if "\t" in self.scan.first_line else "' '"
        words = "string_split(replace(substr(line, instr(line, m) + 1), chr(9), ' '), ' ')"
        with translated(self.name):
            connection.execute(f"CREATE OR REPLACE TABLE lines AS SELECT line FROM {lines_relation(self.path)}")
            rejects = take_rejects(connection)
            split = (
                f"SELECT substr(line, 1, instr(line, m) - 1) AS a0, list_filter({words}, lambda word: word <> '') AS items "
                f"FROM (SELECT trim(line) AS line, {mark} AS m FROM lines) WHERE instr(line, m) > 0"
            )
            select = template(aliases(len(wanted)))
            connection.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT {select} FROM (SELECT a0, unnest(items) AS a1 FROM ({split}))")
            empty = f"SELECT count(*) FROM lines WHERE trim(line) <> '' AND instr(trim(line), {mark}) = 0"
            self.empty_users = int(one_row(connection, empty)[0])
            connection.execute("DROP TABLE lines")
        return Part(self.name, count_rows(connection, table), 1, "event"), rejects


class ParquetFile:
    """A Parquet file. Columns are brought to their kinds' types, or loaded `as_is`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path, as_is: bool = False) -> None:
        self.as_is = as_is
        self.name = str(path)
        self._relation = f"read_parquet({path_literal(path)})"
        with translated(self.name):
            self._types = _types(connection, self._relation)
        self.columns = list(self._types)

    def kinds(self, connection: duckdb.DuckDBPyConnection, wanted: Sequence[str]) -> list[str]:
        """The kind of each wanted column."""
        return [kind_of(self._types[name])[0] for name in wanted]

    def load(self, connection: duckdb.DuckDBPyConnection, table: str, wanted: Sequence[str], template: Template) -> tuple[Part, Rejects]:
        """Create `table` from the template; returns its origin and the lines refused."""
        with translated(self.name):
            _load_typed(connection, table, self._relation, [_expression(self._types[name], name, self.as_is) for name in wanted], template)
        return Part(self.name, count_rows(connection, table)), Rejects()


class Frame:
    """A table in memory that speaks the Arrow stream protocol (Polars, pandas, Arrow); a lazy frame is collected.

    Columns are brought to their kinds' types, or loaded `as_is`.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, frame: Any, as_is: bool = False) -> None:
        self.as_is = as_is
        self.name = "the frame"
        if not hasattr(frame, "__arrow_c_stream__"):
            frame = frame.collect()
        connection.register("frame_given", pa.RecordBatchReader.from_stream(frame))
        with translated(self.name):
            self._types = _types(connection, "frame_given")
        self.columns = list(self._types)

    def kinds(self, connection: duckdb.DuckDBPyConnection, wanted: Sequence[str]) -> list[str]:
        """The kind of each wanted column."""
        return [kind_of(self._types[name])[0] for name in wanted]

    def load(self, connection: duckdb.DuckDBPyConnection, table: str, wanted: Sequence[str], template: Template) -> tuple[Part, Rejects]:
        """Create `table` from the template; returns its origin and the lines refused."""
        with translated(self.name):
            _load_typed(connection, table, "frame_given", [_expression(self._types[name], name, self.as_is) for name in wanted], template)
        connection.unregister("frame_given")
        return Part(self.name, count_rows(connection, table)), Rejects()


def _types(connection: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    return {str(row[0]): str(row[1]) for row in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()}


def _load_typed(connection: duckdb.DuckDBPyConnection, table: str, relation: str, expressions: Sequence[str], template: Template) -> None:
    columns = ", ".join(f"{expression} AS a{place}" for place, expression in enumerate(expressions))
    select = template(aliases(len(expressions)))
    connection.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT {select} FROM (SELECT {columns} FROM {relation})")


def _expression(sql_type: str, name: str, as_is: bool) -> str:
    return quoted(name) if as_is else kind_of(sql_type)[1].replace("$", quoted(name))


def kind_of(sql_type: str) -> tuple[str, str]:
    """The kind of a column of an SQL type, and the expression that brings it to that kind's one type (`$` is the column)."""
    if sql_type in _INTS:
        return "int", "CAST($ AS BIGINT)"
    if sql_type == "UBIGINT":
        return "uint", "$"
    if sql_type in ("VARCHAR", "UUID") or sql_type.startswith("ENUM"):
        return "text", "CAST($ AS VARCHAR)"
    if sql_type in ("FLOAT", "DOUBLE") or sql_type.startswith("DECIMAL"):
        return "float", "CAST($ AS DOUBLE)"
    if sql_type in ("TIMESTAMP_NS", "TIMESTAMPTZ_NS"):
        return "ns", "epoch_ns($)"
    if sql_type == "DATE" or sql_type.startswith("TIMESTAMP"):
        return "us", "epoch_us($)"
    return f"other:{sql_type}", "CAST($ AS VARCHAR)"
