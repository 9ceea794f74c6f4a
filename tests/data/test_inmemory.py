"""A small log of integers makes the same dataset in memory as in the database; what is no such log is left to the database."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from userclue.data import inmemory, prepare
from userclue.data.events import open_events
from userclue.data.inmemory import InMemory, codes
from userclue.data.options import PrepareOptions
from userclue.data.store import Dataset
from userclue.errors import UsageError

Make = Callable[..., Dataset]
Log = Callable[..., Path]

HERE = [HealthCheck.function_scoped_fixture]
numbers = st.one_of(st.integers(0, 5), st.integers(0, 2**63 - 1))
rows = st.lists(st.tuples(numbers, numbers, st.integers(0, 9)), min_size=1, max_size=40)


def no_database() -> duckdb.DuckDBPyConnection:
    raise AssertionError("the database was asked for")


def read(events: Any, **options: Any) -> InMemory | None:
    """The log in memory, if it can be."""
    chosen = PrepareOptions.of(options)
    named = chosen.model_dump(include={"user_col", "item_col", "time_col", "layout", "time_unit"})
    return InMemory.of(open_events(no_database, events, **named), chosen)


def both_ways(make: Make, monkeypatch: pytest.MonkeyPatch, events: Any, **options: Any) -> dict[str, Any]:
    """The manifest that the log gives in memory, after the one that the database gives was seen to be the same."""
    assert read(events, **options) is not None
    first = make(events, **options).manifest
    with monkeypatch.context() as patch:
        patch.setattr(inmemory, "MOST_LINES", 0)
        assert read(events, **options) is None
        assert make(events, **options).manifest == first
    return first


@settings(max_examples=40, deadline=None, suppress_health_check=HERE)
@given(rows, st.integers(0, 40), st.integers(1, 3), st.one_of(st.none(), st.integers(1, 3)), st.booleans())
def test_the_same_dataset_as_the_database_makes(
    log: Log, make: Make, monkeypatch: pytest.MonkeyPatch, events: list[Any], cut: int, thin: int, window: int | None, timed: bool
) -> None:
    """In two files of other columns; with and without time; thin users dropped, histories cut into windows."""
    first = [f"{user},{item},{time}" for user, item, time in events[:cut]]
    second = [f"7;{time};{item};{user}" for user, item, time in events[cut:]]
    files = {"1.csv": ["user_id,item_id,timestamp", *first], "2.csv": ["more;timestamp;item_id;user_id", *second]}
    paths = [log("\n".join(lines).encode(), name) for name, lines in files.items() if len(lines) > 1]
    counts = np.unique([user for user, *_ in events], return_counts=True)[1]
    options = {"min_user_events": thin, "window": window, "time_col": "timestamp" if timed else None}
    if counts.max() >= max(thin, window or 1):
        both_ways(make, monkeypatch, paths, **options)


@pytest.mark.parametrize("shape", ["rising", "by user", "shuffled"])
def test_more_users_than_16_bits_number(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    random = np.random.default_rng(0)
    user, time = random.integers(0, 100_000, 200_000), np.arange(200_000)
    frame = pl.DataFrame({"user_id": user, "item_id": random.zipf(1.5, 200_000) % 2**40, "timestamp": time + 10**12})
    frame = {"rising": frame, "by user": frame.sort("user_id"), "shuffled": frame.sample(fraction=1, shuffle=True, seed=1)}[shape]
    frame.write_csv(tmp_path / "log.csv")
    assert both_ways(make, monkeypatch, tmp_path / "log.csv")["users"] > 2**16


def test_gz_crlf_a_mark_of_order_and_no_last_line_end(log: Log, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b'\xef\xbb\xbf"user_id",item_id,timestamp\r\n5,10,3\r\n5,2,1\r\n12,10,2'
    both_ways(make, monkeypatch, log(text))
    both_ways(make, monkeypatch, log(gzip.compress(text.replace(b",", b"\t")), "log.tsv.gz"))


@pytest.mark.parametrize(("times", "unit"), [((0, 5), "s"), ((10**12, 2 * 10**12), "ms"), ((0, 10**15), "us"), ((2**62, 2**63 - 1), "ns")])
def test_units_of_time(log: Log, make: Make, monkeypatch: pytest.MonkeyPatch, times: tuple[int, int], unit: str) -> None:
    path = log("".join(f"1,2,{time}\n" for time in times))
    assert both_ways(make, monkeypatch, path)["time"]["unit"] == unit
    if unit == "s":
        assert both_ways(make, monkeypatch, path, time_unit="ns")["time"]["unit"] == "ns"


def test_items_and_a_vocabulary(log: Log, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database reads the table of attributes, whoever reads the log."""
    known = make(log("1,2,3\n1,3,4\n", "old.csv")).path.rename(tmp_path / "known")
    path, items = log("5,10,3\n5,2,1\n12,10,2\n"), log("2,red\n10,blue\n", "items.csv", header="item_id,colour\n")
    assert read(path) is not None
    for grow in (False, True):
        first = make(path, items=items, vocabulary=known, grow=grow).manifest
        with monkeypatch.context() as patch:
            patch.setattr(inmemory, "MOST_LINES", 0)
            assert make(path, items=items, vocabulary=known, grow=grow).manifest == first


@pytest.mark.parametrize(
    "text",
    ["", "1,2\n", "1,2,3,4\n", "1,,3\n", "\n", "9223372036854775808,1,2\n", "a,1,2\n", "-1,1,2\n", "007,1,2\n", "1,2,100000000000\n"],
)
def test_what_is_left_to_the_database(log: Log, text: str) -> None:
    """No row at all, a bad row, a blank line, an id beyond 64 bits, ids that are text, times that mix seconds and ms."""
    assert read(log("5,10,3\n" + text if text else "")) is None


@pytest.mark.parametrize(
    "options", [{"until": 2}, {"duplicates": "drop"}, {"min_item_users": 2}, {"time_unit": "s", "time_col": "big"}, {"layout": "sequences"}]
)
def test_options_left_to_the_database(log: Log, options: dict[str, Any]) -> None:
    path = log(f"5,10,3,{2**60}\n", header="user_id,item_id,timestamp,big\n")
    assert read(path) is not None
    assert read(path, **options) is None


def test_a_limit_on_memory_is_kept_by_the_database(log: Log, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = log("5,10,3\n")
    monkeypatch.setattr(prepare, "connect", lambda *_: no_database())
    make(path)
    with pytest.raises(AssertionError, match="asked for"):
        make(path, memory_limit="1GB")
    with pytest.raises(UsageError, match="threads 0"):
        prepare.prepare(path, path.parent / "out", threads=0)


@given(st.lists(st.one_of(st.integers(0, 9), st.integers(-(2**63), 2**63 - 1)), min_size=1))
def test_codes_against_numpy(ids: list[int]) -> None:
    distinct, code = codes(np.array(ids, np.int64))
    expected, places = np.unique(np.array(ids, np.int64), return_inverse=True)
    assert (distinct.dtype, code.dtype) == (np.int64, np.int32)
    assert np.array_equal(distinct, expected)
    assert np.array_equal(code, places)
