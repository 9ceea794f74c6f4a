import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from userclue.data.audit import audit
from userclue.data.store import Dataset
from userclue.errors import DataError, UsageError

Log = Callable[..., Path]


def look(events: Any, **options: Any) -> dict[str, Any]:
    report = audit(events, threads=1, **options)
    assert json.loads(json.dumps(report)) == report
    return report


def test_counts(log: Log) -> None:
    report = look(log("1,a,3\n1,a,3\n1,b,3\n,b,4\n1,b,x\n1,b\n2,c,9\n2,,9\n"))
    assert (report["rows"], report["events"], report["bad_rows"]) == (8, 4, 4)
    assert report["first_bad"].endswith('log.csv line 5, column "user_id": is empty')
    assert report["nulls"] == {"user_id": 1, "item_id": 1, "timestamp": 1}
    assert report["schema"] == {"user_id": "int64", "item_id": "string", "timestamp": "numbers (s)"}
    assert (report["users"], report["items"]) == (2, 3)
    assert (report["duplicates"], report["ties"]) == (1, 3)
    assert report["time"] == {"unit": "s", "min": 3000, "max": 9000, "negative": 0, "future": 0}
    assert report["lengths"]["max"] == 3
    assert report["catalogue"]["items_seen_once"] == 2
    assert any("4 of 8 rows are bad" in one for one in report["findings"])
    assert any("--duplicates drop" in one for one in report["findings"])


def test_order(log: Log) -> None:
    assert look(log("1,a,1\n1,b,2\n2,a,3\n"))["order"] == {"by_time": True, "by_user": True}
    assert look(log("1,a,1\n2,b,2\n1,a,3\n"))["order"] == {"by_time": True, "by_user": False}
    assert look(log("1,a,3\n1,b,2\n2,a,3\n"))["order"] == {"by_time": False, "by_user": True}
    assert look(log("1,a\n", header="user_id,item_id\n"))["order"] == {"by_time": None, "by_user": True}


def test_bots(log: Log) -> None:
    people = "".join(f"{user},a,{user * n * n}\n" for user in range(1, 30) for n in range(1, 4))
    clock = "".join(f"77,b,{1000 + 60 * n}\n" for n in range(120))
    mass = "".join(f"88,c,{(n * n) % 9973}\n" for n in range(400))
    bots = look(log(people + clock + mass))["bots"]
    assert bots["shown"] == [{"user": 88, "events": 400}, {"user": 77, "events": 120}]
    assert "100 times the median" in bots["rule"]
    assert look(log(people))["bots"]["users"] == 0


def test_catalogue(log: Log) -> None:
    rows = "".join(f"1,i{item},1\n" for item in range(100) for _ in range(101 if item == 0 else 1))
    assert look(log(rows))["catalogue"] == {"top_1_percent": 0.505, "top_10_percent": 0.55, "items_seen_once": 99}


def test_would_drop_is_what_prepare_drops(log: Log, make: Callable[..., Dataset]) -> None:
    path = log("".join(f"{n % 7},{(n * n) % 11},{n}\n" for n in range(60)) + "9,99,1\n")
    options = {"min_user_events": 4, "min_item_users": 3, "window": 2}
    report, dataset = look(path, **options), make(path, **options)
    dropped = dataset.manifest["events_dropped"]
    assert {rule: report["would_drop"][rule] for rule in options} == {rule: dropped[rule] for rule in options}
    assert report["would_drop"]["events_left"] == dataset.n_events
    assert report["would_drop"]["users_left"] == dataset.n_users


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ("1,a,1500000000\n1,b,1500000000000\n", "line 2 has seconds .* line 3 has milliseconds"),
        ("1,a,2024-01-01\n1,b,1500000000\n", "mixes kinds of time"),
        (pd.DataFrame({"user_id": [1.0, 2.0], "item_id": [1, 2]}), "ids are floats"),
        (",a,1\n", "1 of 1 rows are bad"),
        ("1,a,soon\n", "1 of 1 rows are bad; the first: .*soon"),
    ],
)
def test_what_prepare_refuses_is_a_finding(log: Log, events: Any, message: str) -> None:
    report = look(log(events) if isinstance(events, str) else events)
    assert pd.Series(report["findings"]).str.contains(message).any()


def test_unreadable_logs_are_errors(log: Log) -> None:
    with pytest.raises(DataError, match="empty"):
        look(log(b""))
    with pytest.raises(DataError, match='no column "user_id"'):
        look(log(b"a,b\n1,2\n"))
    with pytest.raises(UsageError, match="layout 'x'"):
        look(log("1,a,1\n"), layout="x")


def test_sequences(log: Log) -> None:
    report = look(log(b"1\t5 6 5\n2\t7 8\n", "log.tsv"))
    assert report["layout"] == "sequences"
    assert (report["events"], report["users"], report["time"]) == (5, 2, None)
