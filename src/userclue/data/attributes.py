"""Item attributes: a table of their own, one row an item, joined to a vocabulary by the item id's text."""

from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from userclue.data.events import open_sources, read_columns
from userclue.data.formats import is_frame
from userclue.data.lookup import Lookup, as_array, texts
from userclue.data.vocabulary import COLUMNS, Vocabulary
from userclue.errors import DataError


def with_attributes(connection: duckdb.DuckDBPyConnection, vocabulary: Vocabulary, items: Any, item_col: str) -> tuple[Vocabulary, int]:
    """The vocabulary with the other columns of `items` (file or frame) added, and how many of its items have none (nulls there).

    The key is the column `item_col`, or `item_id` when there is none. Columns of a CSV stay text. A column that the vocabulary has
    already is replaced. Raises DataError for a missing key, null or repeated keys, and columns called `index` or `count`.
    """
    if is_frame(items):
        items = pa.table(items if hasattr(items, "__arrow_c_stream__") else items.collect())
    key = item_col if item_col in open_sources(connection, items, [item_col])[0].columns else "item_id"
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
    found = Lookup(ids, "item ids").positions(vocabulary.table["item_id"])
    places = pa.array(found, mask=found < 0)
    result = vocabulary.table
    for name in table.column_names:
        if name == key:
            continue
        if name in COLUMNS:
            raise DataError(f'{origins.parts[0].name}: an attribute is called "{name}", which the vocabulary uses itself; rename it')
        if name in result.column_names:
            result = result.drop_columns(name)
        result = result.append_column(name, table[name].take(places))
    return Vocabulary(result.combine_chunks()), int(np.count_nonzero(found < 0))
