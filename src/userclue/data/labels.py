"""Labels of users: one text a user, from a file or frame."""

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from userclue.data.events import read_columns
from userclue.data.lookup import as_array, texts
from userclue.data.sql import connect
from userclue.errors import DataError


def read_labels(source: Any, user_col: str = "user_id", label_col: str = "label") -> pa.Table:
    """A table (user_id: integers or strings as in the source; label: string) with one row a user, in the order of the source.

    source: CSV, TSV, JSON lines or Parquet file, or a Polars, pandas or Arrow table. A user named twice with one label is kept once.
    Raises DataError for missing columns, empty users or labels, float user ids, users with two different labels, and no rows.
    """
    with tempfile.TemporaryDirectory(prefix="userclue-labels-") as folder:
        connection = connect(Path(folder) / "spill", threads=1)
        try:
            table, origins = read_columns(connection, source, [user_col, label_col], [user_col, label_col])
        finally:
            connection.close()
    if not table.num_rows:
        raise DataError(f"{origins.parts[0].name}: has no labels; give at least one row")
    users = as_array(table[user_col], "user ids of the labels")
    labels = table[label_col]
    for name, column in ((user_col, users), (label_col, labels)):
        empty = pc.is_null(column)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            empty = pc.or_(empty, pc.equal(pc.fill_null(column, ""), ""))
        row = pc.index(empty, True).as_py()
        if row >= 0:
            raise DataError(f'{origins.place(row)}, column "{name}": is empty; give every row a user and a label')
    labels = _as_text(labels)
    grouped = pa.table({"user": texts(users), "label": labels, "row": pa.array(range(len(labels)), pa.int64())})
    spread = grouped.group_by("user").aggregate([("label", "count_distinct"), ("row", "min")])
    torn = spread.filter(pc.greater(spread["label_count_distinct"], 1))
    if torn.num_rows:
        user = torn["user"][0].as_py()
        rows = grouped.filter(pc.equal(grouped["user"], user))
        first = rows["label"][0].as_py()
        other = rows.filter(pc.not_equal(rows["label"], first))
        raise DataError(
            f'{origins.place(other["row"][0].as_py())}, column "{label_col}": user {user} has the label {other["label"][0].as_py()!r}, '
            f"and {first!r} at {origins.place(rows['row'][0].as_py())}; give each user one label"
        )
    firsts = pc.sort_indices(spread["row_min"])
    rows = spread["row_min"].take(firsts)
    return pa.table({"user_id": users.take(rows), "label": labels.take(rows)})


def _as_text(labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """Labels as strings; a whole number written as a float (1.0, as frames with gaps do) loses its point."""
    kind = labels.type
    if pa.types.is_floating(kind) and pc.all(pc.equal(labels, pc.floor(labels))).as_py():
        labels = pc.cast(labels, pa.int64())
    try:
        return pc.cast(labels, pa.string())
    except pa.ArrowException:
        raise DataError(f"labels have type {kind}; give text, integers or booleans") from None
