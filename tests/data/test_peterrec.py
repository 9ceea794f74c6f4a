"""PeterRec's layout: histories become the dataset, targets a file beside it that the manifest knows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from userclue.data.audit import audit
from userclue.data.labels import read_labels
from userclue.data.peterrec import TARGETS, PeterRecFile
from userclue.data.store import Dataset
from userclue.data.targets import read_targets
from userclue.errors import ArtifactError, DataError

Log = Callable[..., Path]
Make = Callable[..., Dataset]
Histories = Callable[[Dataset], dict[Any, list[Any]]]
FILE = b"0,0,5,6,7,,11,12\n5,6,,11\n8\n0,0,0,,4\n\n7,5,6,8,,12,13,14\n"


@pytest.mark.parametrize("content", [FILE, FILE.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + FILE, FILE.rstrip(b"\n")])
@pytest.mark.parametrize("layout", ["auto", "peterrec"])
def test_histories_and_targets(log: Log, make: Make, histories: Histories, content: bytes, layout: str) -> None:
    dataset = make(log(content, "finetune.csv"), layout=layout)
    assert histories(dataset) == {1: [5, 6, 7], 2: [5, 6], 3: [8], 6: [7, 5, 6, 8]}
    assert dataset.manifest["layout"] == "peterrec"
    assert dataset.manifest["targets"] == {"kind": "items", "rows": 6, "users": 3}
    assert dataset.manifest["warnings"] == ["1 lines name a user without items; they are left out"]
    assert (dataset.path / TARGETS).read_text().split() == ["user_id,item_id", "1,11", "1,12", "2,11", "6,12", "6,13", "6,14"]
    assert read_targets(dataset.path / TARGETS).num_rows == 6


def test_the_manifest_guards_the_targets(log: Log, make: Make) -> None:
    dataset = make(log(FILE))
    assert TARGETS in dataset.manifest["files"]
    text = (dataset.path / TARGETS).read_text()
    (dataset.path / TARGETS).write_text(text.replace("6,14", "6,15"))
    with pytest.raises(ArtifactError, match=r"targets\.csv: its SHA-256 differs"):
        dataset.verify()
    (dataset.path / TARGETS).unlink()
    with pytest.raises(ArtifactError, match=r"targets\.csv is missing"):
        Dataset.open(dataset.path)


def test_classes_become_labels(log: Log, make: Make) -> None:
    file = log(b"0,5,6,,0\n5,,1\n6,5,,0\n6,,1\n")
    dataset = make(file)
    assert dataset.manifest["targets"] == {"kind": "labels", "rows": 4, "users": 4}
    assert read_labels(dataset.path / TARGETS)["label"].to_pylist() == ["0", "1", "0", "1"]
    with pytest.raises(DataError, match=r'user 1 .*the target "0" is padding, not an item; take it out, or give --targets labels'):
        make(file, targets="items")
    words = log(b"5,6,,single\n5,,married\n")
    assert make(words, layout="peterrec", targets="labels").manifest["targets"]["kind"] == "labels"
    assert make(words, layout="peterrec").manifest["targets"]["kind"] == "items"  # each met once: no class
    with pytest.raises(DataError, match=r"user 1 .*has several targets, and a label is one; give --targets items"):
        make(log(FILE), targets="labels")


def test_without_targets_there_is_no_file_of_them(log: Log, make: Make, histories: Histories) -> None:
    dataset = make(log(b"0,5,6\n7,8,5\n"), layout="peterrec")
    assert histories(dataset) == {1: [5, 6], 2: [7, 8, 5]}
    assert dataset.manifest["targets"] is None
    assert not (dataset.path / TARGETS).exists()


def test_users_are_counted_through_several_files(log: Log, make: Make, histories: Histories, tmp_path: Path) -> None:
    log(b"5,,1\n6,,2\n", "a.csv"), log(b"7,,3\n", "b.csv")
    dataset = make([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert histories(dataset) == {1: [5], 2: [6], 3: [7]}
    assert (dataset.path / TARGETS).read_text().split() == ["user_id,item_id", "1,1", "2,2", "3,3"]


def test_targets_are_those_of_the_users_that_stay(log: Log, make: Make) -> None:
    dataset = make(log(FILE), min_user_events=3)
    assert (dataset.path / TARGETS).read_text().split() == ["user_id,item_id", "1,11", "1,12", "6,12", "6,13", "6,14"]


BAD = [
    ("5,x,,1", 'column 2: "x" is no item number'),
    ("5,0x,,1", 'column 2: "0x" is no item number'),
    ("5,-3,,1", 'column 2: "-3" is no item number'),
    ("5,007,,1", 'column 2: "007" is no item number'),
    ("0,5,0,6,,1", 'column 3: "0" stands after an item; zeros may pad the front only'),
    ("5,6,0,,1", 'column 3: "0" stands after an item'),
    ("5,,", "column 3: no target follows the empty field"),
    ("5,6,", "column 3: no target follows the empty field"),
    ("5,,1,,2", "column 4: is empty; one empty field, between history and targets, is all there may be"),
    ("5,,,1", "column 3: is empty; one empty field"),
    ("user_id,item_id", 'column 1: "user_id" is no item number'),
]


@pytest.mark.parametrize(("line", "said"), BAD)
def test_malformed_lines_are_named(log: Log, make: Make, line: str, said: str) -> None:
    file = log(f"1,2,,3\n\n{line}\n4,,5\n".encode())
    with pytest.raises(DataError) as error:
        make(file, layout="peterrec")
    assert f"{file} line 3: {said}" in str(error.value)
    assert "correct it, or set bad rows aside" in str(error.value)
    dataset = make(file, layout="peterrec", on_error="quarantine")
    assert dataset.users.to_pylist() == [1, 4]
    assert dataset.manifest["events_quarantined"] == 1
    assert (dataset.path / TARGETS).read_text().split() == ["user_id,item_id", "1,3", "4,5"]


@pytest.mark.parametrize(
    ("line", "only"),
    [("0,0,5,,7", True), ("5,,7,8,9", True), ("5,6,7", False), ("5,6,,", False), ("5,,6,,7", False), (",5", False), ("u,,7", False)],
)
def test_only_what_can_be_nothing_else_is_recognised(line: str, only: bool) -> None:
    assert PeterRecFile.looks_like(line) is only


def test_a_line_that_is_no_text_is_named(log: Log, make: Make) -> None:
    with pytest.raises(DataError, match=r"line 2: is not valid UTF-8"):
        make(log(b"5,,7\n5,\xff,,7\n"), layout="peterrec")


def test_audit_reads_it_too(log: Log) -> None:
    found = audit(log(FILE))
    assert (found["layout"], found["users"], found["events"]) == ("peterrec", 4, 10)


def test_histories_are_not_taken_for_targets(log: Log) -> None:
    with pytest.raises(DataError, match=r"is in PeterRec's layout; `prepare` it, and give the targets\.csv"):
        read_targets(log(FILE))
