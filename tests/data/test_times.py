import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from userclue.data.store import Dataset
from userclue.data.times import UNITS, from_ms, parse_instant, to_ms, unit_of
from userclue.errors import UsageError

Make = Callable[..., Dataset]
Log = Callable[..., Path]
NOON = 1_704_110_400  # 2024-01-01T12:00Z


@pytest.mark.parametrize(
    ("texts", "unit", "expected"),
    [
        ([str(NOON), "0"], "s", [0, NOON * 1000]),
        ([str(NOON * 10**3 + 7)], "ms", [NOON * 1000 + 7]),
        ([str(NOON * 10**6 + 7999)], "us", [NOON * 1000 + 7]),
        ([str(NOON * 10**9 + 7_999_999), "0"], "ns", [0, NOON * 1000 + 7]),
        ([f"{NOON}.25", str(NOON)], "s", [NOON * 1000, NOON * 1000 + 250]),
        (["1.704e9"], "s", [1_704_000_000_000]),
        ([f"{NOON * 1000}.5"], "ms", [NOON * 1000]),
        ([" 5 ", "+7"], "s", [5000, 7000]),
        (["-5", "3"], "s", [-5000, 3000]),
        (["2024-01-01"], "iso", [(NOON - 43200) * 1000]),
        (["2024-01-01T12:00:00", "2024-01-01 12:00"], "iso", [NOON * 1000] * 2),
        (["2024-01-01T12:00:00.123456789"], "iso", [NOON * 1000 + 123]),
        (["2024-01-01T12:00:00Z", "2024-01-01T14:00:00+02:00", "2024-01-01 07:00:00-0500"], "iso", [NOON * 1000] * 3),
        (["1969-12-31T23:59:59.9995"], "iso", [-1]),
    ],
    ids=str,
)
def test_kinds_of_times(log: Log, make: Make, texts: list[str], unit: str, expected: list[int]) -> None:
    dataset = make(log("".join(f"1,a,{text}\n" for text in texts)))
    assert dataset.times is not None
    assert dataset.times.tolist() == expected
    assert dataset.manifest["time"] == {"unit": unit, "min": min(expected), "max": max(expected)}


@pytest.mark.parametrize(
    "kind",
    [
        pa.timestamp("s"),
        pa.timestamp("ms"),
        pa.timestamp("us"),
        pa.timestamp("ns"),
        pa.timestamp("us", "UTC"),
        pa.timestamp("ns", "Europe/Berlin"),
        pa.date32(),
        pa.date64(),
    ],
    ids=str,
)
def test_typed_times(make: Make, kind: pa.DataType) -> None:
    times = pa.array([datetime(2024, 1, 1), datetime(1960, 1, 1)]).cast(kind)
    dataset = make(pa.table({"user_id": [1, 1], "item_id": ["a", "b"], "timestamp": times}))
    assert dataset.times is not None
    assert dataset.times.tolist() == [-315_619_200_000, 1_704_067_200_000]
    assert dataset.manifest["time"]["unit"] == "date"


@pytest.mark.parametrize("kind", [pa.int32(), pa.uint32(), pa.uint64(), pa.float64(), pa.string()], ids=str)
def test_numbers_of_any_type(make: Make, kind: pa.DataType) -> None:
    frame = pa.table({"user_id": [1, 1], "item_id": ["a", "b"], "timestamp": pa.array([NOON, 5]).cast(kind)})
    dataset = make(frame)
    assert dataset.times is not None
    assert dataset.times.tolist() == [5000, NOON * 1000]


def test_finer_times_than_ms_still_order_events(log: Log, make: Make, histories: Callable[[Dataset], Any]) -> None:
    assert histories(make(log(f"1,b,{NOON}000002\n1,a,{NOON}000001\n"))) == {1: ["a", "b"]}
    frame = pa.table({"user_id": [1, 1], "item_id": ["b", "a"], "timestamp": pa.array([2, 1], pa.timestamp("ns"))})
    assert histories(make(frame)) == {1: ["a", "b"]}


def test_a_unit_that_is_named_is_taken(log: Log, make: Make) -> None:
    dataset = make(log(f"1,a,5\n1,b,{NOON}000\n"), time_unit="ms")
    assert dataset.times is not None
    assert dataset.times.tolist() == [5, NOON * 1000]


def test_negative_and_future_times_are_kept_and_flagged(log: Log, make: Make) -> None:
    warnings = make(log("1,a,-5\n1,b,99999999999\n1,c,5\n")).manifest["warnings"]
    assert any("1 events are before 1970" in one for one in warnings)
    assert any("1 events are in the future" in one for one in warnings)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024-01-01T12:00Z", NOON * 1000),
        ("2024-01-01T14:00+02:00", NOON * 1000),
        ("2024-01-01 12:00", NOON * 1000),
        ("2024-01-01", (NOON - 43200) * 1000),
        (NOON, NOON * 1000),
        (str(NOON * 1000), NOON * 1000),
        (NOON + 0.25, NOON * 1000 + 250),
        (datetime(2024, 1, 1, 12, tzinfo=UTC), NOON * 1000),
        (date(2024, 1, 1), (NOON - 43200) * 1000),
    ],
)
def test_parse_instant(value: Any, expected: int) -> None:
    assert parse_instant(value) == expected


@pytest.mark.parametrize("value", ["soon", "", "2024-13-01", None])
def test_what_is_no_instant(value: Any) -> None:
    with pytest.raises(UsageError, match=r"until .*: give an ISO date"):
        parse_instant(value, "until")


@given(st.integers(-(10**15), 10**15), st.sampled_from(list(UNITS)))
def test_from_ms_is_the_first_value_at_or_after(ms: int, unit: str) -> None:
    value = from_ms(ms, unit)
    assert to_ms(value, unit) >= ms
    assert to_ms(value - 1, unit) < ms


def test_units_by_magnitude() -> None:
    assert [unit_of(NOON * 10**power) for power in (0, 3, 6, 9)] == ["s", "ms", "us", "ns"]
    assert [unit_of(-NOON * 10**power) for power in (0, 3, 6, 9)] == ["s", "ms", "us", "ns"]


def test_nothing_depends_on_where_the_machine_stands(tmp_path: Path) -> None:
    """A fresh process in another zone: the zone is read once a process."""
    code = (
        "import pyarrow as pa; from datetime import datetime; from userclue.data.prepare import prepare\n"
        "for kind in (pa.timestamp('us', 'Europe/Berlin'), pa.timestamp('ns', 'UTC'), pa.timestamp('us'), pa.date32(), pa.string()):\n"
        "    times = pa.array(['2024-01-01']) if kind == pa.string() else pa.array([datetime(2024, 1, 1)]).cast(kind)\n"
        "    frame = pa.table({'user_id': [1], 'item_id': [1], 'timestamp': times})\n"
        f"    print(prepare(frame, {str(tmp_path / 'out')!r}, overwrite=True, threads=1).times[0])"
    )
    environment = os.environ | {"TZ": "America/New_York"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["1704067200000"] * 5
