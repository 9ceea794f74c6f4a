"""Item attributes: a table of their own, one row an item, joined to a vocabulary by the item id's text."""

import tempfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from userclue.data.events import open_sources, read_columns
from userclue.data.formats import is_frame
from userclue.data.lookup import Lookup, as_array, texts
from userclue.data.sql import bounded, connect
from userclue.data.vocabulary import COLUMNS, UNK, Vocabulary
from userclue.errors import DataError


def with_attributes(connection: duckdb.DuckDBPyConnection, vocabulary: Vocabulary, items: Any, item_col: str) -> tuple[Vocabulary, int]:
    """The vocabulary with the other columns of `items` (file or frame) added, and how many of its items have no row there (nulls).

    The key is the column `item_col`, or `item_id` when there is none. Columns of a CSV stay text. Of a column that the vocabulary has
    already, in the same type, items without a row keep their value; of another type it is replaced. Raises DataError for a missing
    key, null or repeated keys, and columns called `index` or `count`.
    """
    return _joined(vocabulary, *_read(connection, items, item_col))


def _joined(vocabulary: Vocabulary, table: pa.Table, key: str) -> tuple[Vocabulary, int]:
    found = Lookup(table[key], "item ids").positions(vocabulary.table["item_id"])
    here = np.arange(len(found))
    result = vocabulary.table
    for name in table.column_names:
        if name == key:
            continue
        new = table[name]
        if name in result.column_names and result[name].type == new.type:
            both = pa.chunked_array([*result[name].chunks, *new.chunks], new.type)
            column = both.take(pa.array(np.where(found < 0, here, len(here) + found)))
            result = result.set_column(result.column_names.index(name), name, column)
        else:
            result = result.drop_columns(name) if name in result.column_names else result
            result = result.append_column(name, new.take(pa.array(found, mask=found < 0)))
    return Vocabulary(result.combine_chunks()), int(np.count_nonzero(found < 0))


def grown_with(vocabulary: Vocabulary, items: Any, item_col: str = "item_id") -> Vocabulary:
    """The vocabulary and after it the items of the table `items` (file or frame) that it does not know, with their attributes.

    Items that it knows stay as they are. Columns that it lacks are left out, those that the table lacks are null. Raises DataError as
    `with_attributes`, and where a column's values do not fit the type it has here.
    """
    with tempfile.TemporaryDirectory(prefix="userclue-") as folder:
        connection = connect(Path(folder) / "spill")
        try:
            with bounded("attributes"):
                table, key = _read(connection, items, item_col)
                new = table.filter(pa.array(vocabulary.indices(table[key]) == UNK))
                fitting = {key: new[key]}
                for name in vocabulary.table.column_names[len(COLUMNS) :]:
                    if name in new.column_names:
                        fitting[name] = _as_type(new[name], vocabulary.table[name].type, name)
                return _joined(vocabulary.grown(new[key]), pa.table(fitting), key)[0]
        finally:
            connection.close()


def _as_type(column: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
    try:
        return pc.cast(column, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(
            f'item attribute "{name}": is of type {column.type} in the new table and {kind} in the vocabulary; give it that type'
        ) from None


def _read(connection: duckdb.DuckDBPyConnection, items: Any, item_col: str) -> tuple[pa.Table, str]:
    """The table of attributes and its key, which has neither nulls nor repeats."""
    if is_frame(items):
        items = pa.table(items if hasattr(items, "__arrow_c_stream__") else items.collect())
    key = item_col if item_col in open_sources(lambda: connection, items, [item_col])[0].columns else "item_id"
    table, origins = read_columns(connection, items, None, [key])
    ids = as_array(table[key], "item ids of the attributes")
    if ids.null_count:
        row = pc.index(pc.is_null(ids), True).as_py()
        raise DataError(f'{origins.place(row)}, column "{key}": is empty; give every row an item id')
    as_text = texts(ids)
    if pc.count_distinct(as_text).as_py() != len(as_text):
        counted = pc.value_counts(as_text.combine_chunks() if isinstance(as_text, pa.ChunkedArray) else as_text)
        twice = counted.field(0).filter(pc.greater(counted.field(1), 1))[0].as_py()
        row = pc.index(as_text, pa.scalar(twice, as_text.type)).as_py()
        raise DataError(f'{origins.place(row)}, column "{key}": item {twice!r} has several rows; give one row an item')
    for name in table.column_names:
        if name in COLUMNS and name != key:
            raise DataError(f'{origins.parts[0].name}: an attribute is called "{name}", which the vocabulary uses itself; rename it')
    return table, key
