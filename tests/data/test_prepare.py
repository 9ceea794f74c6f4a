import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from userclue.data.histories import windowed
from userclue.data.prepare import prepare
from userclue.data.store import Dataset
from userclue.data.vocabulary import FIRST_ITEM, UNK
from userclue.errors import ArtifactError, DataError

Make = Callable[..., Dataset]
Log = Callable[..., Path]
Histories = Callable[[Dataset], dict[Any, list[Any]]]

ids = st.one_of(st.integers(-3, 3), st.integers(2**63 - 2, 2**63 - 1))
texts = st.text("ab\u0301é,\"'", min_size=1, max_size=3)
logs = st.one_of(
    st.lists(st.tuples(ids, texts, st.integers(-5, 5)), min_size=1, max_size=30),
    st.lists(st.tuples(texts, ids, st.integers(-5, 5)), min_size=1, max_size=30),
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(logs, st.booleans())
def test_order_against_pandas(make: Make, histories: Histories, tmp_path: Path, events: list[Any], as_file: bool) -> None:
    """Users by id; inside a user by (time, input row), stably; items by (count falling, id)."""
    frame = pd.DataFrame(events, columns=["user_id", "item_id", "timestamp"])
    expected: dict[Any, list[Any]] = {
        user: part.sort_values("timestamp", kind="stable")["item_id"].tolist() for user, part in frame.groupby("user_id", sort=False)
    }
    users = sorted(expected, key=lambda user: user.encode() if isinstance(user, str) else user)
    if as_file:
        frame.to_csv(tmp_path / "log.csv", index=False)
    dataset = make(tmp_path / "log.csv" if as_file else frame)
    assert histories(dataset) == expected
    assert dataset.users.to_pylist() == users
    counts = Counter(item for _, item, _ in events)
    order = sorted(counts, key=lambda item: (-counts[item], item.encode() if isinstance(item, str) else item))
    assert dataset.vocabulary.table["item_id"].to_pylist() == order
    assert dataset.vocabulary.counts[FIRST_ITEM:].tolist() == [counts[item] for item in order]


def test_the_same_from_every_format_and_thread(tmp_path: Path, make: Make) -> None:
    random = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "user_id": random.integers(0, 300, 20_000),
            "item_id": [f"p{one}" for one in random.zipf(1.5, 20_000)],
            "timestamp": random.integers(0, 500, 20_000),
        }
    )
    frame.write_csv(tmp_path / "log.csv")
    frame.write_parquet(tmp_path / "log.parquet")
    frame.write_ndjson(tmp_path / "log.jsonl")
    first = make(frame)
    files = {name: first.manifest["files"][name]["sha256"] for name in first.manifest["files"]}
    for source in ("log.csv", "log.parquet", "log.jsonl"):
        other = prepare(tmp_path / source, tmp_path / "other", overwrite=True, threads=2, memory_limit="200MB")
        assert {name: other.manifest["files"][name]["sha256"] for name in other.manifest["files"]} == files
    assert sorted(path.name for path in other.path.iterdir()) == sorted([*files, "manifest.json"])


def test_manifest(log: Log, make: Make) -> None:
    manifest = make(log("1,a,3\n1,b,4\n2,a,1\n")).manifest
    assert json.loads(json.dumps(manifest)) == manifest
    assert manifest["columns"] == {"user": "user_id", "item": "item_id", "time": "timestamp"}
    assert manifest["lengths"] == {"min": 1, "q25": 1.25, "median": 1.5, "q75": 1.75, "q95": 1.95, "max": 2, "mean": 1.5}
    assert manifest["settings"]["min_user_events"] == 1
    assert manifest["warnings"] == []


def test_thin_users_and_rare_items(log: Log, make: Make, histories: Histories) -> None:
    dataset = make(log("1,a,1\n1,b,2\n2,a,1\n2,b,3\n2,c,2\n3,a,1\n"), min_user_events=2, min_item_users=2)
    assert histories(dataset) == {1: ["a", "b"], 2: ["a", "b"]}
    dropped = {rule: n for rule, n in dataset.manifest["events_dropped"].items() if n}
    assert dropped == {"min_user_events": 1, "min_item_users": 1}
    assert dataset.n_items == 2


def test_windows(log: Log, make: Make, histories: Histories) -> None:
    rows = "".join(f"{user},i{n},{n}\n" for user, count in (("a", 5), ("b", 1), ("a#0", 2)) for n in range(count))
    dataset = make(log(rows), window=2)
    assert histories(dataset) == {"a#0": ["i0", "i1"], "a#1": ["i2", "i3"], "a#0#0": ["i0", "i1"]}
    assert dataset.user_table["source_user"].to_pylist() == ["a", "a", "a#0"]
    assert dataset.user_table["window"].to_pylist() == [0, 1, 0]
    assert dataset.manifest["events_dropped"]["window"] == 2
    # What is left over at the end of a history leaves the vocabulary too.
    assert dataset.vocabulary.table["item_id"].to_pylist() == ["i0", "i1", "i2", "i3"]
    assert dataset.times is not None
    assert dataset.times.tolist() == [0, 1000, 2000, 3000, 0, 1000]


@pytest.mark.parametrize("window", [1, 3, 50])
def test_windows_across_batches(make: Make, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr("userclue.data.histories._AT_ONCE", 7)
    random = np.random.default_rng(1)
    users = np.sort(random.integers(0, 60, 5000))
    items = random.integers(0, 9, 5000)
    dataset = make(pa.table({"user_id": users, "item_id": items}), window=window)
    kept = np.concatenate([items[users == user][: int(windowed(np.array([sum(users == user)]), window)[0])] for user in range(60)])
    assert dataset.vocabulary.ids(dataset.items).to_pylist() == kept.tolist()


def test_repeated_events(log: Log, make: Make, histories: Histories) -> None:
    path = log("1,a,3\n1,b,3\n1,a,3\n1,a,4\n2,a,3\n1,a,3\n")
    assert histories(make(path)) == {1: ["a", "b", "a", "a", "a"], 2: ["a"]}
    dataset = make(path, duplicates="drop")
    assert histories(dataset) == {1: ["a", "b", "a"], 2: ["a"]}
    assert dataset.manifest["events_dropped"]["duplicates"] == 2


@pytest.mark.parametrize(
    ("until", "kept"), [(4, ["a"]), ("1970-01-01T00:00:04.5", ["a", "b"]), ("1970-01-01T00:00:04", ["a"]), (99, ["a", "b", "c"])]
)
def test_until(log: Log, make: Make, histories: Histories, until: Any, kept: list[str]) -> None:
    dataset = make(log("1,a,3\n1,b,4\n1,c,5\n"), until=until)
    assert histories(dataset) == {1: kept}
    assert dataset.manifest["events_dropped"]["until"] == 3 - len(kept)


def test_rules_together_balance(log: Log, make: Make) -> None:
    rows = "1,a,1\n1,a,1\n,x,1\n1,b,2\n1,c,3\n2,a,1\n3,a,9\n3,b,50\n1,d,4\n"
    dataset = make(log(rows), until=10, duplicates="drop", min_user_events=2, window=3, on_error="quarantine")
    assert dataset.manifest["events_dropped"] == {"until": 1, "duplicates": 1, "min_user_events": 2, "min_item_users": 0, "window": 1}
    assert dataset.manifest["events_quarantined"] == 1
    assert dataset.manifest["events_kept"] == 3


def test_a_vocabulary_is_kept(log: Log, make: Make, tmp_path: Path) -> None:
    old = prepare(log("1,b,1\n1,b,2\n1,a,3\n"), tmp_path / "old", items=pl.DataFrame({"item_id": ["a", "b"], "kind": ["x", "y"]}))
    rows = log("1,c,1\n1,a,2\n1,c,3\n2,0,4\n")
    new = make(rows, vocabulary=old.path)
    assert new.items.tolist() == [UNK, 5, UNK, UNK]
    assert new.vocabulary.table["item_id"].equals(old.vocabulary.table["item_id"])
    assert new.vocabulary.counts.tolist() == [0, 0, 0, 0, 0, 1]
    assert (new.manifest["unknown_items"], new.manifest["unknown_events"]) == (2, 3)
    assert "3 of 4 events are of 2 items unknown" in new.manifest["warnings"][0]
    grown = make(rows, vocabulary=old.path, grow=True)
    assert grown.items.tolist() == [6, 5, 6, 7]
    assert grown.vocabulary.table["item_id"].to_pylist() == ["b", "a", "c", "0"]
    assert grown.vocabulary.table["kind"].to_pylist() == ["y", "x", None, None]
    assert "all of 1 events" in make(log("1,zzz,1\n"), vocabulary=old.path).manifest["warnings"][0]
    with pytest.raises(ArtifactError, match="no such file"):
        make(rows, vocabulary=tmp_path / "none")


def test_item_attributes(log: Log, make: Make) -> None:
    rows = log("1,7,1\n1,8,2\n1,7,3\n")
    by_item = pl.DataFrame({"size": [1, 2], "item_id": ["9", "7"], "tags": [["a"], ["b", "c"]]})
    for items in (by_item, by_item.lazy(), by_item.to_arrow().to_reader()):
        dataset = make(rows, items=items)
        assert dataset.vocabulary.table.select(["item_id", "size", "tags"]).to_pylist() == [
            {"item_id": 7, "size": 2, "tags": ["b", "c"]},
            {"item_id": 8, "size": None, "tags": None},
        ]
        assert "1 of 2 items have no row" in dataset.manifest["warnings"][0]
    path = log("7,007\n8,x\n", "items.csv", "product,code\n")
    named = make(log("1,7,1\n", "l.csv", "user_id,product,timestamp\n"), item_col="product", items=path)
    assert named.vocabulary.table["code"].to_pylist() == ["007"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("item_id,a\n7,x\n7,y\n", "line 3|line 2.*item '7' has several rows"),
        ("item_id,a\n,x\n", 'line 2, column "item_id": is empty'),
        ("item_id,count\n7,x\n", 'an attribute is called "count".*rename it'),
        ("item,a\n7,x\n", 'no column "item_id"'),
        ("item_id,a\n7\n", "line 2: has 1 fields"),
    ],
)
def test_bad_item_attributes(log: Log, make: Make, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(log("1,7,1\n"), items=log(content.encode(), "items.csv"))


def test_ids_that_look_like_floats_are_warned_of(log: Log, make: Make) -> None:
    assert "every id ends in" in make(log("1.0,a,1\n2.0,b,2\n")).manifest["warnings"][0]


def test_a_killed_process_leaves_nothing_at_the_target(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 5000, (200_000, 3))
    np.savetxt(tmp_path / "log.csv", rows, "%d", ",", header="user_id,item_id,timestamp", comments="")
    code = (
        "import sys; from userclue.data import histories; from userclue.data.prepare import prepare; import time\n"
        "whole = histories.NpyWriter.append\n"
        "def slow(self, values): whole(self, values); print('writing', flush=True); time.sleep(0.2)\n"
        "histories.NpyWriter.append = slow\n"
        f"prepare({str(tmp_path / 'log.csv')!r}, {str(tmp_path / 'out')!r}, threads=1)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "out").exists()
    assert any(path.name.endswith(".partial") for path in tmp_path.iterdir())
    # The next writer takes away what the killed one left aside.
    dataset = prepare(tmp_path / "log.csv", tmp_path / "out", threads=1)
    assert dataset.n_events == 200_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "out"]


def test_opening_is_quick_and_lazy(log: Log, make: Make) -> None:
    dataset = Dataset.open(make(log("1,a,1\n")).path)
    assert "vocabulary" not in vars(dataset)
    assert "user_table" not in vars(dataset)


def test_a_hundred_thousand_users_take_no_loop_over_them(make: Make) -> None:
    """Calls of Python functions must not grow with users: a profile counts them."""

    def calls(n: int) -> int:
        frame = pa.table({"user_id": np.repeat(np.arange(n), 2), "item_id": np.tile([1, 2], n)})
        count = 0

        def tick(*_: Any) -> None:
            nonlocal count
            count += 1

        sys.setprofile(tick)
        try:
            make(frame, window=2, min_user_events=2, min_item_users=2)
        finally:
            sys.setprofile(None)
        return count

    assert calls(100_000) < 1.2 * calls(1_000) + 1_000


def test_time_is_not_part_of_the_bits(log: Log, make: Make) -> None:
    path = log("1,a,1\n")
    first = (make(path).path / "manifest.json").read_bytes()
    time.sleep(0.01)
    assert (make(path).path / "manifest.json").read_bytes() == first
