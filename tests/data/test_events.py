"""Every kind of source gives the same dataset."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from userclue.data.store import Dataset

Make = Callable[..., Dataset]
Log = Callable[..., Path]
Histories = Callable[[Dataset], dict[Any, list[Any]]]

USERS = [3, 1, 3, 2, 1, 3]
ITEMS = ["b", "a", 'é, "x"', "a", "c/../d", "a"]
TIMES = [30, 20, 10, 20, 20, 30]
EXPECTED = {1: ["a", "c/../d"], 2: ["a"], 3: ['é, "x"', "b", "a"]}


def arrow() -> pa.Table:
    return pa.table({"other": [0.5] * 6, "user_id": USERS, "item_id": ITEMS, "timestamp": TIMES})


def csv_text(mark: str, end: str = "\n") -> str:
    rows = [("other", "user_id", "item_id", "timestamp"), *zip(["x"] * 6, USERS, ITEMS, TIMES, strict=True)]
    return "".join(mark.join('"' + str(one).replace('"', '""') + '"' for one in row) + end for row in rows)


def json_text() -> str:
    rows = zip(USERS, ITEMS, TIMES, strict=True)
    return "".join(json.dumps({"user_id": user, "item_id": item, "timestamp": time}) + "\n" for user, item, time in rows)


def written(folder: Path, kind: str) -> Path:
    path = folder / f"log.{kind}"
    if kind == "parquet":
        pq.write_table(arrow(), path)
    elif kind.endswith(".gz"):
        text = json_text() if "json" in kind else csv_text("\t" if "tsv" in kind else ",")
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(json_text() if "json" in kind else csv_text("\t" if kind == "tsv" else ","))
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "ndjson", "parquet", "csv.gz", "tsv.gz", "jsonl.gz"])
def test_files(tmp_path: Path, make: Make, histories: Histories, kind: str) -> None:
    dataset = make(written(tmp_path, kind))
    assert histories(dataset) == EXPECTED
    assert dataset.users.type == pa.int64()
    assert dataset.times is not None
    assert dataset.times.tolist() == [20000, 20000, 20000, 10000, 30000, 30000]


@pytest.mark.parametrize(
    "frame",
    [
        arrow(),
        arrow().to_reader(),
        arrow().to_pandas(),
        pl.from_arrow(arrow()),
        pl.from_arrow(arrow()).lazy(),  # type: ignore[union-attr]
        pl.from_arrow(arrow()).with_columns(pl.col("item_id").cast(pl.Categorical)),  # type: ignore[union-attr]
    ],
    ids=["arrow", "reader", "pandas", "polars", "lazy", "categorical"],
)
def test_frames(make: Make, histories: Histories, frame: Any) -> None:
    assert histories(make(frame)) == EXPECTED


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [",", ";", "|", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["", "BOM"])
def test_delimiters_line_ends_and_bom(log: Log, make: Make, histories: Histories, mark: str, end: str, start: str) -> None:
    assert histories(make(log((start + csv_text(mark, end)).encode()))) == EXPECTED


def test_no_line_end_at_the_end(log: Log, make: Make, histories: Histories) -> None:
    assert histories(make(log("1,a,5\n1,b,6"))) == {1: ["a", "b"]}


def test_blank_lines_and_line_ends_inside_quotes(log: Log, make: Make, histories: Histories) -> None:
    assert histories(make(log('1,a,5\n\n1,"b\nc",6\n\n'))) == {1: ["a", "b\nc"]}


def test_several_files_a_folder_a_glob_in_order(tmp_path: Path, make: Make, histories: Histories) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "b[1].csv").write_text("user_id,item_id\n1,x\n1,y\n")
    (folder / "a*.csv").write_text("item_id,user_id\nz,1\n")
    (folder / "_SUCCESS").touch()
    for source in (folder, str(folder / "*.csv"), [folder / "a*.csv", folder / "b[1].csv"]):
        assert histories(make(source)) == {1: ["z", "x", "y"]}
    assert histories(make([folder / "b[1].csv", folder / "a*.csv"])) == {1: ["x", "y", "z"]}


def test_the_order_of_files_does_not_matter_where_times_differ(tmp_path: Path, make: Make, histories: Histories) -> None:
    for name, row in (("a", "1,x,9"), ("b", "1,y,5"), ("c", "1,z,7")):
        (tmp_path / f"{name}.csv").write_text(f"user_id,item_id,timestamp\n{row}\n")
    found = [make([tmp_path / f"{name}.csv" for name in order]) for order in ("abc", "cab")]
    assert [histories(one) for one in found] == [{1: ["y", "z", "x"]}] * 2


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        ("1\t3 1 3\n2\t5\n", "log.tsv", {1: [3, 1, 3], 2: [5]}),
        ("u1 3 1\r\nu2 x  y \r\n", "log.txt", {"u1": ["3", "1"], "u2": ["x", "y"]}),
        ("a b\t3 1\n\nc\t2 2\na b\t9\n", "log.tsv", {"a b": [3, 1, 9], "c": [2, 2]}),
    ],
)
def test_sequences_one_user_a_line(log: Log, make: Make, histories: Histories, content: str, name: str, expected: Any) -> None:
    dataset = make(log(content.encode(), name))
    assert histories(dataset) == expected
    assert dataset.times is None
    assert dataset.manifest["layout"] == "sequences"
    assert any("no time" in one for one in dataset.manifest["warnings"]) is False


def test_sequences_only_when_plain_or_asked_for(log: Log, make: Make, histories: Histories) -> None:
    short = log(b"u\t3\nv\t4 5\n", "short.tsv")
    assert histories(make(short, layout="sequences")) == {"u": [3], "v": [4, 5]}
    with pytest.raises(Exception, match='no column "user_id"'):
        make(short)
    with pytest.raises(Exception, match='no column "user"'):
        make(log(b"1\t3 4\n", "log.tsv"), user_col="user")


def test_a_very_long_history_on_one_line(log: Log, make: Make) -> None:
    dataset = make(log(b"u\t" + b"12345 678 " * 300_000 + b"\nv\t1 2\n", "log.tsv"))
    assert dataset.sequences().lengths.tolist() == [600_000, 2]


@pytest.mark.parametrize(
    ("ids", "expected", "kind"),
    [
        (["007", "8"], ["007", "8"], pa.string()),
        (["-5", "0", "8"], [-5, 0, 8], pa.int64()),
        (["-0", "8"], ["-0", "8"], pa.string()),
        (["+1", "8"], ["+1", "8"], pa.string()),
        (["1 ", "8"], ["1 ", "8"], pa.string()),
        (["1.0", "8"], ["1.0", "8"], pa.string()),
        ([str(2**64 - 1), "8"], [8, 2**64 - 1], pa.uint64()),
        ([str(2**64 - 1), "-8"], ["-8", str(2**64 - 1)], pa.string()),
        ([str(2**64), "8"], [str(2**64), "8"], pa.string()),
        ([str(-(2**63)), str(2**63 - 1)], [-(2**63), 2**63 - 1], pa.int64()),
        (["é", "e\u0301"], ["e\u0301", "é"], pa.string()),
        (["../../etc/passwd", "=1+1"], ["../../etc/passwd", "=1+1"], pa.string()),
        (["NULL", "nan", "None"], ["NULL", "None", "nan"], pa.string()),
        ([*map(str, range(1500)), "007"], sorted([*map(str, range(1500)), "007"]), pa.string()),
        ([*map(str, range(1500)), str(2**63)], [*range(1500), 2**63], pa.uint64()),
    ],
    ids=lambda value: str(value)[:20],
)
def test_ids_from_text_are_integers_only_when_every_one_is_canonical(
    log: Log, make: Make, ids: list[str], expected: list[Any], kind: pa.DataType
) -> None:
    dataset = make(log("".join(f"{one},{one},1\n" for one in ids)))
    assert dataset.users.to_pylist() == expected
    assert dataset.users.type == kind
    assert sorted(dataset.vocabulary.table["item_id"].to_pylist()) == sorted(expected)


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.int64(), pa.uint8(), pa.uint32(), pa.uint64(), pa.string(), pa.large_string()])
def test_typed_ids_round_trip(make: Make, kind: pa.DataType) -> None:
    ids = pa.array([100, 7, 20], pa.int64()).cast(kind)
    dataset = make(pa.table({"user_id": ids, "item_id": ids}))
    expected = pa.uint64() if kind == pa.uint64() else pa.int64() if pa.types.is_integer(kind) else pa.string()
    assert dataset.users.type == expected
    assert dataset.users.to_pylist() == (["100", "20", "7"] if expected == pa.string() else [7, 20, 100])


def test_json_strings_stay_strings(log: Log, make: Make) -> None:
    dataset = make(log(b'{"user_id": "7", "item_id": 7}\n{"item_id": 18446744073709551615, "user_id": "8"}\n', "log.jsonl"))
    assert dataset.users.to_pylist() == ["7", "8"]
    assert dataset.vocabulary.table["item_id"].to_pylist() == [7, 2**64 - 1]


def test_odd_column_names(make: Make, log: Log, histories: Histories) -> None:
    names = {"user_col": "a/b'~\"c", "item_col": "$i", "time_col": "t t"}
    frame = pd.DataFrame({names["user_col"]: [1], names["item_col"]: ["x"], names["time_col"]: [5]})
    assert histories(make(frame, **names)) == {1: ["x"]}
    assert histories(make(log(frame.to_csv(index=False).encode()), **names)) == {1: ["x"]}
    assert histories(make(log(frame.to_json(orient="records", lines=True).encode(), "l.jsonl"), **names)) == {1: ["x"]}


def test_a_log_without_times_keeps_its_order(log: Log, make: Make, histories: Histories) -> None:
    dataset = make(log("2,b\n1,a\n2,a\n1,c\n", header="user_id,item_id\n"))
    assert histories(dataset) == {1: ["a", "c"], 2: ["b", "a"]}
    assert dataset.times is None
    assert dataset.manifest["time"] is None
    assert "no time" in dataset.manifest["warnings"][0]
    assert histories(make(log("1,b,9\n1,a,8\n"), time_col=None)) == {1: ["b", "a"]}
