"""What cannot be used is refused in one line that says where, what and what to do; and nothing is left at the target."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from userclue.data.prepare import prepare
from userclue.data.store import Dataset
from userclue.errors import DataError, UsageError

Make = Callable[..., Dataset]
Log = Callable[..., Path]


def refused(tmp_path: Path, events: Any, message: str, error: type[Exception] = DataError, **options: Any) -> None:
    before = set(tmp_path.iterdir())
    with pytest.raises(error, match=message) as caught:
        prepare(events, tmp_path / "out", threads=1, **options)
    assert "\n" not in str(caught.value)
    assert set(tmp_path.iterdir()) == before


HEADER = b"user_id,item_id,timestamp\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "log.csv: the file is empty"),
        (HEADER, "has no rows below its header"),
        (HEADER + b"1,a\0,3\n", "log.csv line 2: holds a NUL byte"),
        ("user_id,item_id\n1,a\n".encode("utf-16"), "UTF-16: convert it to UTF-8"),
        (HEADER + b"1,a,3\n1,\xff,4\n", r"log.csv line 3: is not valid UTF-8"),
        (HEADER + b"1,a,3\n1,a,3,4\n", r"log.csv line 3: has 4 fields, the header has 3 \(1,a,3,4\)"),
        (HEADER + b"1,a,3\n\n1,a\n1\n", r"log.csv line 4: has 2 fields, the header has 3 \(1,a\) \(1 more bad rows\).*quarantine"),
        (HEADER + b'1,a,3\n1,"a,3\n1,b,4\n', "log.csv line 3: has a quote that is not closed"),
        (HEADER + b'1,"a"b,3\n', "log.csv line 2: has a quote that is not closed, or text after a closing quote"),
        (HEADER + b"1,a,3\r\n1,b,4\n", "1 of 3 lines end in CRLF"),
        (HEADER.replace(b"\n", b"\r") + b"1,a,3\r", "lines end in CR alone"),
        (HEADER + b",a,3\n", 'log.csv line 2, column "user_id": is empty'),
        (HEADER + b"1,a,3\n1,,3\n", 'log.csv line 3, column "item_id": is empty'),
        (HEADER + b'1,"",3\n', 'log.csv line 2, column "item_id": is empty'),
        (HEADER + b"1,a,3\n1,b,\n", 'log.csv line 3, column "timestamp": is empty'),
        (HEADER + b"1,a,3\n1,b,soon\n", 'log.csv line 3, column "timestamp": "soon" cannot be read as a time'),
        (HEADER + b"1,a,2024-01-01\n1,b,2024-02-30\n", 'line 3, column "timestamp": "2024-02-30" cannot be read'),
        (HEADER + b"1,a,inf\n", '"inf" cannot be read as a time'),
        (
            HEADER + b"1,a,3\n1,b,1700000000000\n",
            r'"timestamp" mixes.*line 2 has seconds \(3\);.*line 3 has milliseconds \(1700000000000\)',
        ),
        (HEADER + b"1,a,2024-01-01\n1,b,1700000000\n", "line 2 has dates without a zone.*line 3 has numbers"),
        (HEADER + b"1,a,2024-01-01T00:00Z\n1,b,2024-01-01T00:00\n", "line 2 has dates with a zone.*line 3 has dates without a zone"),
        (b"user_id,item,timestamp\n1,a,3\n", 'no column "item_id"; it has "user_id", "item", "timestamp"; did you mean "item"'),
        (b"user_id,user_id,item_id\n1,2,3\n", '2 columns are named "user_id"; rename one'),
        (b"x\n1\n", 'no column "user_id"; it has "x"; name the right one with user_col'),
    ],
    ids=lambda value: str(value)[:50],
)
def test_bad_csv(tmp_path: Path, log: Log, content: bytes, message: str) -> None:
    refused(tmp_path, log(content), message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"user_id":1,"item_id":2}\n{"user_id":1\n', r'line 2: is not a JSON object \(\{"user_id":1\)'),
        (b'{"user_id":1,"item_id":2}\n\n[1,2]\n', "line 3: is not a JSON object"),
        (b'{"user_id":1.5,"item_id":2}\n', 'line 1, column "user_id": ids are floats, for example 1.5'),
        (b'{"user_id":{},"item_id":2}\n', 'line 1, column "user_id": ids are of type OBJECT'),
        (b'{"user_id":1,"item_id":null}\n', 'line 1, column "item_id": is empty'),
        (b'{"user_id":1}\n', 'no column "item_id"'),
        (b"user_id,item_id\n1,2\n", "none of the first lines is a JSON object"),
        (b'{"user_id":"a\\u0000b","item_id":2}\n', "NUL byte"),
        (b"[" * 100_000 + b"\n", "none of the first lines is a JSON object"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_bad_json_lines(tmp_path: Path, log: Log, content: bytes, message: str) -> None:
    refused(tmp_path, log(content, "log.jsonl"), message)


def table(**columns: Any) -> pa.Table:
    return pa.table({"user_id": [1, 2], "item_id": [1, 2], "timestamp": [1, 2]} | columns)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (table(user_id=[1.0, 2.0]), 'row 1, column "user_id": ids are floats, for example 1.0; cast it to integers'),
        (table(item_id=[float(2**53 + 2), 2.0]), "ids are floats"),
        (table(user_id=[True, False]), "of type BOOLEAN"),
        (table(user_id=[b"a", b"b"]), "of type BLOB"),
        (table(user_id=[[1], [2]]), "of type BIGINT\\[\\]"),
        (table(user_id=[1, None]), 'row 2, column "user_id": is empty'),
        (table(item_id=["", "a"]), 'row 1, column "item_id": is empty'),
        (table(item_id=["b", "a\0"]), "row 2, column \"item_id\": the id 'a\\\\x00' holds a NUL byte"),
        (table(timestamp=[1, None]), 'row 2, column "timestamp": is empty'),
        (table(timestamp=[True, False]), "has type BOOLEAN; give numbers, dates or timestamps"),
        (table(timestamp=[np.nan, 1.0]), 'row 1, column "timestamp": is empty'),
        (table(timestamp=[1.5, 2e12]), "mixes kinds of time"),
        (table().slice(0, 0), "has no rows"),
        (table().drop(["user_id"]), 'no column "user_id"'),
        (pd.DataFrame({"user_id": [1, None], "item_id": [1, 2]}), "ids are floats"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
@pytest.mark.parametrize("as_file", [False, True], ids=["frame", "parquet"])
def test_bad_tables(tmp_path: Path, frame: Any, message: str, as_file: bool) -> None:
    if as_file:
        frame = frame if isinstance(frame, pa.Table) else pa.Table.from_pandas(frame)
        pq.write_table(frame, tmp_path / "log.parquet")
        frame = tmp_path / "log.parquet"
    refused(tmp_path, frame, message)


def test_bad_files(tmp_path: Path, log: Log) -> None:
    pq.write_table(table(), tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    refused(tmp_path, log(whole[: len(whole) // 2], "torn.parquet"), "torn.parquet: cannot be read")
    refused(tmp_path, log(b"", "none.parquet"), "none.parquet: cannot be read")
    refused(tmp_path, log(b"\x1f\x8b\x08\0", "torn.csv.gz"), "torn.csv.gz: cannot be read")
    refused(tmp_path, log(b"1", "log.xlsx"), r"unknown file ending .xlsx; known are .csv")
    refused(tmp_path, tmp_path / "whole.parqet", "no such file; did you mean .*whole.parquet")
    refused(tmp_path, tmp_path / "nowhere" / "x.csv", "no such file")
    refused(tmp_path, [], "no events given")
    refused(tmp_path, {"user_id": [1]}, "dict cannot be read")
    refused(tmp_path, [log("1,a,1\n"), tmp_path / "whole.parquet"], "files of several formats")
    (tmp_path / "folder").mkdir()
    refused(tmp_path, tmp_path / "folder", "the folder holds no files")


def test_files_that_disagree(tmp_path: Path, log: Log) -> None:
    pq.write_table(table(), tmp_path / "a.parquet")
    pq.write_table(table(user_id=["x", "y"]), tmp_path / "b.parquet")
    refused(tmp_path, [tmp_path / "a.parquet", tmp_path / "b.parquet"], '"user_id" is int in .*a.parquet and text in .*b.parquet')
    refused(tmp_path, [log("1,a,1\n"), log("1,a\n", "b.csv", "user_id,item_id\n")], 'b.csv: no column "timestamp"')
    refused(tmp_path, [log("1,a,1\n"), log("1,a,5\n1,,3\n", "b.csv")], "b.csv line 3")


def test_bad_options(tmp_path: Path, log: Log) -> None:
    good = log("1,a,1\n")
    refused(tmp_path, good, "unknown setting min_user_event; did you mean min_user_events", UsageError, min_user_event=2)
    refused(tmp_path, good, "min_user_events: Input should be greater than or equal to 1 .given: 0.", UsageError, min_user_events=0)
    refused(tmp_path, good, "duplicates: Input should be 'keep' or 'drop' .given: 'x'", UsageError, duplicates="x")
    refused(tmp_path, good, "until 'soon'", UsageError, until="soon")
    refused(tmp_path, good, "grow: needs a vocabulary", UsageError, grow=True)
    refused(tmp_path, good, "memory_limit 'much'", UsageError, memory_limit="much")
    refused(tmp_path, good, 'no column "when"', time_col="when")
    plain = log("1,a\n", "plain.csv", "user_id,item_id\n")
    refused(tmp_path, plain, "until needs times", UsageError, until=3)
    refused(tmp_path, plain, "needs times", UsageError, duplicates="drop")


def test_an_output_that_exists_is_kept(log: Log, make: Make, tmp_path: Path) -> None:
    dataset = make(log("1,a,1\n"))
    with pytest.raises(UsageError, match="already exists; choose another output or add --overwrite"):
        prepare(log("2,b,1\n"), dataset.path)
    with pytest.raises(DataError):
        prepare(log("2,,1\n"), dataset.path, overwrite=True)
    assert Dataset.open(dataset.path).users.to_pylist() == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_user_events": 9}, "no event is left of 3: min_user_events 9 dropped 3; the longest history has 2 events"),
        ({"min_item_users": 9}, "min_item_users 9 dropped 3"),
        ({"window": 9}, "window 9 dropped 3; the longest history has 2"),
        ({"until": 1}, "until 1 dropped 3; no history was left"),
    ],
)
def test_nothing_left(tmp_path: Path, log: Log, options: dict[str, Any], message: str) -> None:
    refused(tmp_path, log("1,a,3\n1,b,4\n2,a,1\n"), message, **options)


def test_quarantine(log: Log, make: Make) -> None:
    content = '1,a,3\n\n1,b\n,c,4\n1,d,soon\n1,,5\n1,e,6,7\n2,"f",8\n3,"g,9\n3,h,9\n'
    dataset = make(log(content), on_error="quarantine", max_bad_share=0.9)
    assert dataset.manifest["events_read"] == 9
    assert dataset.manifest["events_quarantined"] == 7
    assert dataset.users.to_pylist() == [1, 2]
    rows = {row["row"]: (row["reason"], row["text"]) for row in pq.read_table(dataset.path / "quarantine.parquet").to_pylist()}
    assert rows == {
        4: ("has 2 fields, the header has 3", "1,b"),
        5: ("user_id is empty", '{"user_id":null,"item_id":"c","timestamp":"4"}'),
        6: ("timestamp cannot be read as a time", '{"user_id":1,"item_id":"d","timestamp":"soon"}'),
        7: ("item_id is empty", '{"user_id":1,"item_id":null,"timestamp":"5"}'),
        8: ("has 4 fields, the header has 3", "1,e,6,7"),
        10: ("has a quote that is not closed, or text after a closing quote", '3,"g,9'),
        11: ("was swallowed by a quote not closed above", "3,h,9"),
    }


def test_quarantine_has_a_limit(tmp_path: Path, log: Log) -> None:
    refused(
        tmp_path,
        log("1,a,3\n,b,4\n,c,5\n"),
        "2 of 3 rows are bad, more than the allowed share 0.5; the first.*line 3",
        on_error="quarantine",
    )
    refused(tmp_path, log(",b,4\n"), "every row of the log is bad", on_error="quarantine", max_bad_share=1.0)


def test_an_open_quote_that_swallows_a_megabyte_is_noticed(tmp_path: Path, log: Log) -> None:
    """DuckDB alone would pass over most of these rows in silence."""
    refused(tmp_path, log('1,x,1\n1,"a,1\n' + "2,b,3\n" * 700_000), "quote", on_error="quarantine")


def test_line_numbers_past_one_buffer(tmp_path: Path, log: Log) -> None:
    many = "1,abcdefghijklmnopqrstuvwxyz,3\n" * 80_000
    refused(tmp_path, log(many + "1,b\n" + many + "1,,4\n"), r"line 80002: has 2 fields.*1 more")
    refused(tmp_path, log(many + "\n" + many + "1,,4\n"), "line 160003, ")
