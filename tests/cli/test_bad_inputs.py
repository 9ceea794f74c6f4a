"""The issue's twelve bad inputs, through the commands: exit code 3 or 2, one clear line, no traceback, nothing left behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
Tree = Callable[[Path], dict[str, bytes]]
HEAD = "user_id,item_id,timestamp\n"
GOOD = "1,a,1700000000\n1,b,1700000001\n2,a,1700000002\n"


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["table", "json"])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.csv", b"", ["empty.csv", "the file is empty"]),
        ("column.csv", b"user_id,product,timestamp\n1,a,1700000000\n", ["column.csv", 'no column "item_id"', '"product"']),
        ("user.csv", (HEAD + GOOD + ",c,1700000003\n").encode(), ["user.csv line 5", 'column "user_id"', "is empty"]),
        ("item.csv", (HEAD + "1,,1700000000\n" + GOOD).encode(), ["item.csv line 2", 'column "item_id"', "is empty"]),
        ("time.csv", (HEAD + GOOD + "2,c,noon\n").encode(), ["time.csv line 5", 'column "timestamp"', '"noon" cannot be read as a time']),
        ("units.csv", (HEAD + GOOD + "2,c,1700000003000\n").encode(), ["units.csv", "mixes", "line 5", "1700000003000", "milliseconds"]),
        ("fields.csv", (HEAD + GOOD + "2,c,1700000003,x\n").encode(), ["fields.csv line 5", "has 4 fields, the header has 3"]),
        ("broken.parquet", b"PAR1 and then something else entirely", ["broken.parquet", "cannot be read"]),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)  # fmt: skip
def test_bad_logs(run: Run, tree: Tree, tmp_path: Path, flags: list[str], name: str, content: bytes, said: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    before = tree(tmp_path)
    outcome = run("prepare", tmp_path / name, "-o", tmp_path / "data", *flags)
    assert outcome.code == 3
    for part in said:
        assert part in outcome.error
    assert tree(tmp_path) == before
    audited = run("audit", tmp_path / name, *flags)
    assert audited.code in (0, 3)
    assert "Traceback" not in audited.err


@pytest.mark.parametrize("split", ["leave-one-out", "time"])
def test_histories_too_short_for_the_split(run: Run, tree: Tree, small: list[str], tmp_path: Path, split: str) -> None:
    (tmp_path / "short.csv").write_text(HEAD + "".join(f"{user},{item},{1_700_000_000 + user}\n" for user in range(9) for item in "ab"))
    assert run("prepare", tmp_path / "short.csv", "-o", tmp_path / "data").code == 0
    assert run("pretrain", tmp_path / "data", "-o", tmp_path / "model", "--steps", 1, "--hold-out", 0, *small).code == 0
    before = tree(tmp_path)
    outcome = run("finetune", tmp_path / "model", tmp_path / "data", "--task", "sequential", "--split", split, "-o", tmp_path / "fitted")
    assert outcome.code == 3
    assert "no user" in outcome.error
    assert tree(tmp_path) == before


def test_a_rule_that_drops_everything(run: Run, tree: Tree, shop: Any, tmp_path: Path) -> None:
    outcome = run("prepare", shop["events.csv"], "-o", tmp_path / "data", "--min-user-events", 100)
    assert outcome.code == 3
    assert "min_user_events 100 dropped" in outcome.error
    assert "the longest history has 11 events" in outcome.error
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("user_id,label\n901,a\n902,b\n", ["none of the 2 labelled users is among the 60 users", "901"]),
        ("user_id,label\n1,a\n2,a\n3,a\n", ["all 3 labels are 'a'", "at least two classes"]),
        ("user_id,age\n1,a\n", ['no column "label"', '"age"']),
        ("user_id,label\n1,a\n1,b\n", ["line 3", "user 1 has the label 'b', and 'a' at", "line 2", "give each user one label"]),
        ("user_id,label\n1,a\n,b\n", ["line 3", 'column "user_id"', "is empty"]),
        ("user_id,label\n", ["labels.csv", "has no labels; give at least one row"]),
        ("", ["labels.csv", "the file is empty"]),
        (None, ["labels.csv", "no such file"]),
    ],
    ids=["strangers", "one class", "column", "torn", "null", "no rows", "empty", "missing"],
)
def test_bad_labels(run: Run, tree: Tree, shop: Any, tmp_path: Path, content: str | None, said: list[str]) -> None:
    if content is not None:
        (tmp_path / "labels.csv").write_text(content)
    before = tree(tmp_path)
    words = ["--task", "profiling", "--labels", tmp_path / "labels.csv", "-o", tmp_path / "fitted"]
    outcome = run("finetune", shop["model"], shop["data"], *words)
    assert outcome.code == 3
    for part in said:
        assert part in outcome.error
    assert tree(tmp_path) == before


def test_an_output_that_exists(run: Run, tree: Tree, shop: Any, small: list[str]) -> None:
    before = tree(shop.path)
    profiling = ["--task", "profiling", "--labels", shop["labels.csv"]]
    for words in (
        ["prepare", shop["events.csv"], "-o", shop["data"]],
        ["pretrain", shop["data"], "-o", shop["model"], *small],
        ["finetune", shop["model"], shop["data"], *profiling, "-o", shop["profile"]],
        ["embed", shop["model"], shop["data"], "-o", shop["users.parquet"]],
        ["report", shop["model"], "-o", shop["report.html"]],
        ["demo", "--out", shop["data"]],
    ):
        outcome = run(*words)
        assert outcome.code == 2, words[0]
        assert "already exists; choose another output or add --overwrite" in outcome.error
        assert tree(shop.path) == before


def test_overwrite_never_deletes_what_userclue_did_not_write(run: Run, tree: Tree, shop: Any, small: list[str], tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("ten years of work")
    before = tree(tmp_path)
    for words in (
        ["prepare", shop["events.csv"], "-o", tmp_path / "thesis"],
        ["pretrain", shop["data"], "-o", tmp_path / "thesis", *small],
        ["finetune", shop["model"], shop["data"], "--task", "sequential", "-o", tmp_path / "thesis"],
        ["demo", "--out", tmp_path / "thesis"],
        ["embed", shop["model"], shop["data"], "-o", tmp_path / "thesis"],
        ["report", shop["model"], "-o", tmp_path / "thesis"],
    ):
        outcome = run(*words, "--overwrite")
        assert outcome.code == 2, words[0]
        assert "is a folder" in outcome.error
        assert tree(tmp_path) == before


def test_a_failed_command_leaves_no_new_parent_folder(run: Run, tree: Tree, shop: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text(HEAD + ",a,1\n")
    for words in (
        ["prepare", tmp_path / "bad.csv", "-o", tmp_path / "new" / "parent" / "data"],
        ["embed", shop["model"], tmp_path / "bad.csv", "-o", tmp_path / "new" / "parent" / "users.parquet"],
        ["report", shop["data"], "-o", tmp_path / "new" / "parent" / "report.html"],
    ):
        assert run(*words).code in (3, 4)
        assert set(tree(tmp_path)) == {"bad.csv"}, words[0]
