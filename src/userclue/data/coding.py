"""Codes for users and items of a loaded log: dense integers in the order of the ids, so that nothing later sorts text."""

import duckdb
import numpy as np

from userclue.data.sql import one_row


def code_ids(connection: duckdb.DuckDBPyConnection) -> tuple[np.ndarray, int]:
    """Make tables all_users(u, code, n) and all_items(i, code, n) from raw(u, i), and the views users and items on them.

    Returns the events of each user, int64 [U] by code, and the number of items.
    """
    for table, view, column in (("all_users", "users", "u"), ("all_items", "items", "i")):
        connection.execute(
            f"CREATE TABLE {table} AS SELECT {column}, CAST(row_number() OVER (ORDER BY {column}) - 1 AS INTEGER) AS code, n "
            f"FROM (SELECT {column}, count(*) AS n FROM raw GROUP BY {column})"
        )
        connection.execute(f"CREATE VIEW {view} AS SELECT {column}, code FROM {table}")
    events = connection.execute("SELECT n FROM all_users ORDER BY code").fetchnumpy()["n"].astype(np.int64)
    return events, int(one_row(connection, "SELECT count(*) FROM all_items")[0])
