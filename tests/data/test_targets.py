"""Targets in another domain: read like a log, chosen one by one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userclue.data.targets import choose_targets, read_targets
from userclue.errors import DataError

Log = Callable[..., Path]
DATED = pa.table({"user_id": [1], "item_id": [2], "timestamp": pa.array([3], pa.timestamp("us"))})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (b"user_id,item_id\n2,x\n1,y\n2,x\n", {"user_id": [2, 1, 2], "item_id": ["x", "y", "x"]}),
        (b"item_id,user_id,timestamp\n5,a,1700000000\n", {"user_id": ["a"], "item_id": [5], "time": [1_700_000_000_000]}),
        (b"user_id,item_id,timestamp\n1,5,2023-11-14 22:13:20\n", {"user_id": [1], "item_id": [5], "time": [1_700_000_000_000]}),
        (pd.DataFrame({"user_id": [1], "item_id": ["007"]}), {"user_id": [1], "item_id": ["007"]}),
        (pl.LazyFrame({"user_id": ["a"], "item_id": [2**64 - 1], "other": [0.5]}), {"user_id": ["a"], "item_id": [2**64 - 1]}),
        (DATED, {"user_id": [1], "item_id": [2], "time": [0]}),
    ],
)  # fmt: skip
def test_targets(log: Log, source: Any, expected: dict[str, list[Any]]) -> None:
    assert read_targets(log(source) if isinstance(source, bytes) else source).to_pydict() == expected


def test_one_user_a_line(log: Log) -> None:
    assert read_targets(log(b"a\tx y\nb\tz w\n", "cell.tsv")).to_pydict() == {"user_id": [*"aabb"], "item_id": [*"xyzw"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"user_id,label\n1,F\n", r'log\.csv: no column "item_id"; it has "user_id", "label"; rename it'),
        (b"user_id,item_id\n1,a\n2,\n", 'line 3, column "item_id": is empty'),
        (b"user_id,item_id\n1,a,3\n", "line 2: has 3 fields, the header has 2"),
        (b"user_id,item_id,timestamp\n1,a,soon\n2,b,7\n", 'line 2, column "timestamp": "soon" cannot be read as a time'),
        (b"user_id,item_id,timestamp\n1,a,1700000000\n2,b,1700000000000\n", "mixes kinds of time"),
        (b"user_id,item_id\n", "has no rows"),
        (b"", "the file is empty"),
    ],
)
def test_bad_targets(log: Log, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_targets(log(content))


def test_float_ids_are_refused() -> None:
    with pytest.raises(DataError, match='column "item_id": ids are floats'):
        read_targets(pd.DataFrame({"user_id": [1], "item_id": [1.5]}))


rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 3)), max_size=30)


@settings(max_examples=200, deadline=None)
@given(rows=rows, most=st.integers(1, 4))
def test_the_most_recent_are_chosen_as_by_hand(rows: list[tuple[int, int, int]], most: int) -> None:
    users, items, times = (np.array([row[place] for row in rows], np.int64) for place in range(3))
    expected = []
    for user in range(5):
        mine: dict[int, int] = {}
        for place in sorted((place for place, row in enumerate(rows) if row[0] == user), key=lambda p: (rows[p][2], p), reverse=True):
            mine.setdefault(rows[place][1], place)
        expected += sorted(list(mine.values())[:most])
    assert choose_targets(users, items, times, most, 0).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(rows=rows, most=st.integers(1, 4), seed=st.integers(0, 5))
def test_without_times_distinct_items_are_drawn_as_many_as_there_may_be(rows: list[tuple[int, int, int]], most: int, seed: int) -> None:
    users, items = (np.array([row[place] for row in rows], np.int64) for place in range(2))
    chosen = choose_targets(users, items, None, most, seed)
    np.testing.assert_array_equal(chosen, choose_targets(users, items, None, most, seed))
    pairs = list(zip(users[chosen].tolist(), items[chosen].tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert users[chosen].tolist() == sorted(users[chosen].tolist())
    for user in range(5):
        assert sum(pair[0] == user for pair in pairs) == min(most, len({row[1] for row in rows if row[0] == user}))


def test_every_target_is_drawn_as_often() -> None:
    users, items = np.zeros(4, np.int64), np.arange(4)
    drawn = np.concatenate([choose_targets(users, items, None, 1, seed) for seed in range(2000)])
    assert np.bincount(drawn, minlength=4) == pytest.approx([500] * 4, rel=0.15)
