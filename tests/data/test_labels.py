from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from userclue.data.labels import read_labels
from userclue.errors import DataError

Log = Callable[..., Path]


@pytest.mark.parametrize(
    ("source", "users", "labels"),
    [
        (b"user_id,label\n2,M\n1,F\n2,M\n", ["2", "1"], ["M", "F"]),
        (pd.DataFrame({"user_id": [1, 2], "label": [True, False]}), [1, 2], ["true", "false"]),
        (pd.DataFrame({"user_id": [1, 2], "label": [1.0, 0.0]}), [1, 2], ["1", "0"]),
        (pl.DataFrame({"x": [0, 0], "user_id": ["a", "b"], "label": ["007", "é"]}), ["a", "b"], ["007", "é"]),
        (pa.table({"user_id": pa.array([2**64 - 1], pa.uint64()), "label": ["x"]}), [2**64 - 1], ["x"]),
    ],
)
def test_labels(log: Log, source: Any, users: list[Any], labels: list[str]) -> None:
    table = read_labels(log(source) if isinstance(source, bytes) else source)
    assert table["user_id"].to_pylist() == users
    assert table["label"].to_pylist() == labels
    assert table["label"].type == pa.string()


def test_named_columns_and_other_formats(log: Log) -> None:
    assert read_labels(log(b'{"u": 1, "y": "a"}\n', "l.jsonl"), "u", "y").to_pylist() == [{"user_id": "1", "label": "a"}]
    assert read_labels(log(b"u\ty\n1\ta\n", "l.tsv"), "u", "y").num_rows == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"user_id,label\n1,F\n2,M\n1,M\n", "line 4, column \"label\": user 1 has the label 'M', and 'F' at .*line 2; give each user one"),
        (b"user_id,label\n1,F\n2,\n", 'line 3, column "label": is empty'),
        (b"user_id,label\n,F\n", 'line 2, column "user_id": is empty'),
        (b"user_id,label\n1,F,3\n", "line 2: has 3 fields"),
        (b"user_id,label\n", "has no labels"),
        (b"user,label\n1,2\n", 'no column "user_id"; it has "user", "label"; did you mean "user"'),
        (b"", "the file is empty"),
    ],
)
def test_bad_labels(log: Log, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_labels(log(content))


def test_bad_frames() -> None:
    with pytest.raises(DataError, match="user ids of the labels are floats"):
        read_labels(pd.DataFrame({"user_id": [1.5], "label": ["a"]}))
    with pytest.raises(DataError, match="row 2"):
        read_labels(pl.DataFrame({"user_id": [1, 2], "label": ["a", None]}))
