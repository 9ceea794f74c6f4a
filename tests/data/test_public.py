"""Readers of public data sets, on files a few lines long in the publishers' own forms."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from userclue.data.public import PUBLIC, Tables


def read(name: str, folder: Path, **files: str) -> Tables:
    """`files`: name (a dot as two underscores) and content."""
    for file, content in files.items():
        (folder / file.replace("__", ".")).write_text(content, encoding="latin-1")
    assert all((folder / file).is_file() for file in PUBLIC[name].files)
    return PUBLIC[name].read(folder)


def histories(tables: Tables) -> dict[object, list[object]]:
    found: dict[object, list[object]] = {}
    for event in tables.events.to_pylist():
        found.setdefault(event["user_id"], []).append(event["item_id"])
    return found


ML_1M = {
    "sequences__tsv": "1\t10 30 20\n2\t20\n",
    "users__dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
    "movies__dat": "10::Clé (1998)::Drama|Horror\n20::B (1999)::Horror\n30::C (2000)::Romance\n",
}


def test_ml_1m(tmp_path: Path) -> None:
    tables = read("ml-1m", tmp_path, **ML_1M)
    assert histories(tables) == {1: [10, 30, 20], 2: [20]}
    assert tables.labels == {"gender": {1: "F", 2: "M"}, "age": {1: "under 18", 2: "56 and over"}, "occupation": {1: "10", 2: "16"}}
    assert tables.items is not None
    assert tables.items.to_pylist()[0] == {"item_id": 10, "genre": ["Drama", "Horror"]}
    assert "timestamp" not in tables.events.column_names


def test_ml_1m_without_a_genre_parts_the_log(tmp_path: Path) -> None:
    tables = read("ml-1m-horror", tmp_path, **ML_1M)
    assert histories(tables) == {1: [30]}
    assert tables.targets is not None
    assert tables.targets.to_pylist() == [{"user_id": 1, "item_id": 10}, {"user_id": 1, "item_id": 20}, {"user_id": 2, "item_id": 20}]


def test_ml_100k(tmp_path: Path) -> None:
    tables = read(
        "ml-100k",
        tmp_path,
        u__data="7\t1\t5\t881250949\n",
        u__user="7|24|M|writer|85711\n8|7|F|other|1\n",
        u__genre="Action|0\nComedy|1\n",
        u__item="1|Toy|01-Jan-1995||url|0|1\n",
    )
    assert tables.events.to_pylist() == [{"user_id": 7, "item_id": 1, "timestamp": datetime(1997, 12, 4, 15, 55, 49)}]
    assert tables.labels["age"] == {7: "20s", 8: "00s"}
    assert tables.items is not None
    assert tables.items.to_pylist() == [{"item_id": 1, "genre": ["Comedy"]}]


def test_ml_25m(tmp_path: Path) -> None:
    tables = read("ml-25m", tmp_path, ratings__csv="userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n")
    assert tables.events.to_pylist() == [{"user_id": 1, "item_id": 296, "timestamp": datetime(2006, 5, 17, 15, 34, 4)}]


def test_s3rec(tmp_path: Path) -> None:
    tables = read("beauty", tmp_path, Beauty__txt="1 3 1 2\n2 1\n", Beauty_item2attributes__json=json.dumps({"3": [5, 5, 1]}))
    assert histories(tables) == {1: [3, 1, 2], 2: [1]}
    assert tables.items is not None
    assert tables.items.to_pylist() == [{"item_id": 3, "attribute": ["5", "1"]}]


def test_pakdd_makes_an_event_of_every_level(tmp_path: Path) -> None:
    tables = read(
        "pakdd2015",
        tmp_path,
        sessions__csv="u1,2014-11-14 00:02:14,2014-11-14 00:02:20,A1/B2/C3/D4/;A1/B2/\n",
        unlabelled_sessions__csv="u2,2014-11-15 10:00:00,2014-11-15 10:01:00,A2/\n",
        labels__csv="u1,female\n",
    )
    assert histories(tables) == {"u1": ["A1", "B2", "C3", "D4", "A1", "B2"], "u2": ["A2"]}
    assert tables.labels == {"gender": {"u1": "female"}}


def test_atus_puts_the_longest_activity_last(tmp_path: Path) -> None:
    head = "tucaseid,sex,age,marital,partner_hh,hh_child,labor_status,edu\n"
    tables = read("atus", tmp_path, activities__tsv="1\t10101:300 5:1000 18:15\n", profile__csv=head + "1,2,34,married,yes,,1,3\n")
    assert histories(tables) == {1: ["18", "10101", "5"]}
    assert tables.labels["age"] == {1: "30s"}
    assert tables.labels["marital"] == {1: "married"}
    assert tables.labels["child"] == {}  # not told


def test_completejourney(tmp_path: Path) -> None:
    tables = read(
        "completejourney",
        tmp_path,
        transactions_sample__csv="household_id,product_id,transaction_timestamp\n5,9,2017-01-28 19:06:53\n",
        demographics__csv="household_id,age,income,marital_status,kids_count\n5,65+,35-49K,NA,0\n",
    )
    assert tables.events.to_pylist() == [{"user_id": 5, "item_id": 9, "timestamp": datetime(2017, 1, 28, 19, 6, 53)}]
    assert tables.labels == {"age": {5: "65+"}, "income": {5: "35-49K"}, "marital": {}, "kids": {5: "0"}}


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [("elec-cell", "source_electronic__tsv", "target_cell__tsv"), ("loan-account", "source_loan__tsv", "target_account__tsv")],
)
def test_two_domains(tmp_path: Path, name: str, source: str, target: str) -> None:
    tables = read(name, tmp_path, **{source: "a\t1 2\n", target: "a\t7\nb\t8 9\n"})
    assert histories(tables) == {"a": ["1", "2"]}
    assert tables.targets is not None
    assert tables.targets["item_id"].to_pylist() == ["7", "8", "9"]
