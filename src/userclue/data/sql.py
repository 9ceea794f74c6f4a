"""A DuckDB session that spills beside its output, and its errors as ours."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from userclue.errors import DataError, UsageError, UserclueError

DEFAULT_MEMORY = "2GB"
Connect = Callable[[], duckdb.DuckDBPyConnection]
"""A connection, made when it is first asked for: DuckDB takes a hundredth of a second to start, and not every log needs it."""


def connect(spill: Path, memory_limit: str | None = None, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory database that keeps row order, holds at most `memory_limit` and writes the rest to the folder `spill`."""
    settings: dict[str, Any] = {
        "memory_limit": memory_limit or DEFAULT_MEMORY,
        "temp_directory": str(spill),
        "preserve_insertion_order": True,
        "autoinstall_known_extensions": False,
        "TimeZone": "UTC",  # nothing may depend on where the machine stands
    }
    check_threads(threads)
    if threads is not None:
        settings["threads"] = threads
    try:
        connection = duckdb.connect(config=settings)
    except duckdb.Error as error:
        raise UsageError(f"memory_limit {memory_limit!r}: {first_line(error)}; write it as 2GB or 500MB") from None
    connection.execute("SET enable_progress_bar = false")  # else what takes seconds may draw one into standard output
    return connection


def check_threads(threads: int | None) -> None:
    """UsageError for less than one thread; None is as many as there are cores."""
    if threads is not None and threads < 1:
        raise UsageError(f"threads {threads}: give 1 or more")


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def path_literal(path: Path) -> str:
    """A path as an SQL string in which `*`, `?` and `[` stand for themselves."""
    return literal("".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path)))


def one_row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """The first row of a query that answers with one row."""
    return connection.execute(query).fetchall()[0]


def first_row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...] | None:
    """The first row of a query's answer, None when it has none."""
    return next(iter(connection.execute(f"{query} LIMIT 1").fetchall()), None)


def first_line(error: Exception) -> str:
    """The first line of an error's message, its class's name when it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def bounded(name: str) -> Iterator[None]:
    """Raise what DuckDB says of memory or disk that ran out while working on `name` as errors of ours."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise UsageError(f"{name}: more memory is needed than allowed ({first_line(error)}); raise memory_limit") from None
    except duckdb.IOException as error:
        if "space" in str(error).lower():
            raise UserclueError(f"{name}: the disk is full ({first_line(error)}); free space and run again") from None
        raise
    except RuntimeError as error:
        if str(error) == "Query interrupted":  # how DuckDB passes on a Ctrl-C that met it in a query
            raise KeyboardInterrupt from None
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserclueError(f"{name}: the disk is full ({error}); free space and run again") from None


@contextmanager
def translated(name: str) -> Iterator[None]:
    """As `bounded`, and whatever else DuckDB finds wrong while reading `name` becomes a DataError."""
    try:
        with bounded(name):
            yield
    except duckdb.Error as error:
        raise DataError(f"{name}: cannot be read ({first_line(error)}); check the file") from None
