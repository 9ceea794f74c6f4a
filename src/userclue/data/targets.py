"""What users took in another domain, from a file or frame: the labels of cold-start recommendation."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from userclue.data.badrows import refuse_or_quarantine
from userclue.data.events import DEFAULT_COLUMNS, load_events, open_events, open_sources, require_column
from userclue.data.formats import is_frame
from userclue.data.peterrec import PeterRecFile
from userclue.data.readers import SequenceFile
from userclue.data.sql import bounded, connect
from userclue.data.times import UNITS
from userclue.errors import DataError


def read_targets(source: Any) -> pa.Table:
    """A table (user_id, item_id: integers or strings as in the source; time: int64 ms since 1970, only where the source has times).

    source: a log like those `prepare` reads (file, glob, folder or frame) with the columns user_id, item_id and perhaps timestamp, or
    one user a line. Rows stay in its order. Raises DataError for missing columns, empty or float ids, unreadable or mixed times, no rows.
    """
    if is_frame(source):
        source = pa.table(source if hasattr(source, "__arrow_c_stream__") else source.collect())
    with tempfile.TemporaryDirectory(prefix="userclue-targets-") as folder:
        connection = connect(Path(folder) / "spill")
        try:
            with bounded("targets"):
                for one in open_sources(lambda: connection, source, DEFAULT_COLUMNS, "auto"):
                    if isinstance(one, PeterRecFile):
                        raise DataError(
                            f"{one.name}: is in PeterRec's layout; `prepare` it, and give the targets.csv in the dataset's folder"
                        )
                    for name in () if isinstance(one, SequenceFile) else DEFAULT_COLUMNS[:2]:
                        require_column(one, name, "rename it", DEFAULT_COLUMNS)
                log = load_events(connection, open_events(lambda: connection, source))
                if log.problems:
                    raise DataError(log.problems[0])
                refuse_or_quarantine(log, "fail", 0.0, Path(folder))
                table = connection.sql(f"SELECT u, i{', t' if log.unit else ''} FROM raw ORDER BY rowid").to_arrow_table()
        finally:
            connection.close()
    columns = {"user_id": table["u"], "item_id": table["i"]}
    if log.unit is not None:
        raw, scale = table["t"].to_numpy().astype(np.int64), UNITS[log.unit]
        columns["time"] = pa.chunked_array([pa.array(raw * scale if scale > 0 else raw // -scale)])
    return pa.table(columns)


def choose_targets(users: np.ndarray, items: np.ndarray, times: np.ndarray | None, most: int, seed: int) -> np.ndarray:
    """Positions, rising by (user, position), of the targets that become instances: distinct items, at most `most` a user.

    users, items: int [n], any codes; times: int64 [n] or None. With times a user's most recent targets are chosen (of equal times the
    later row), and of an item taken twice the later time; without, they are drawn with the seed, as the order of rows may mean nothing.
    """
    order = np.random.default_rng(seed).permutation(len(users))
    if times is not None:
        order = np.lexsort((np.arange(len(users)), times))[::-1]
    # np.unique names the first of each pair in the order of preference; ranking those by it and cutting within users is a stable sort.
    pairs = np.stack([users, items], axis=1)[order]
    firsts = np.sort(np.unique(pairs, axis=0, return_index=True)[1])
    chosen = order[firsts]
    chosen = chosen[np.argsort(users[chosen], kind="stable")]
    owner = users[chosen]
    begins = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]]) if len(owner) else np.zeros(0, np.int64)
    rank = np.arange(len(owner)) - np.repeat(begins, np.diff(np.r_[begins, len(owner)]))
    chosen = chosen[rank < most]
    return np.asarray(chosen[np.lexsort((chosen, users[chosen]))])
