"""Numbers and names."""

from typing import Any

import pytest

from userclue.report import wording


@pytest.mark.parametrize(
    ("value", "decimals", "signed", "text"),
    [
        (0.8125, 3, False, "0.812"), (0.05, 4, False, "0.0500"), (-0.0231, 3, True, "−0.023"), (0.0231, 3, True, "+0.023"),
        (-0.0001, 3, True, "0.000"), (0.0, 3, True, "0.000"), (None, 3, False, "—"), (float("nan"), 3, False, "—"),
    ],
)  # fmt: skip
def test_numbers(value: float | None, decimals: int, signed: bool, text: str) -> None:
    assert wording.number(value, decimals, signed) == text


def test_intervals() -> None:
    assert wording.interval({"low": -0.01, "high": 0.02}, 3, signed=True) == "[−0.010, +0.020]"
    assert wording.interval({"value": 1}, 3) == ""


def test_names() -> None:
    assert wording.metric_name("mrr@10") == "MRR@10"
    assert wording.metric_name("hits@5") == "hits@5"
    assert wording.system_name("item_knn") == "Item kNN"
    assert wording.system_name("my_own_thing") == "My own thing"
    assert wording.heading({"task": "profiling", "label": "gender"}) == "Profile: gender"
    assert wording.heading({"task": "cold-start", "label": ""}) == "Cold start"


def test_sentences_call_systems_as_tables_do(make_run: Any, tmp_path: Any, profiling: dict[str, Any]) -> None:
    from userclue.report.runs import read_run

    run = read_run(make_run(tmp_path / "r", "fitted", task=profiling))
    sentence = "clue and bag_of_items_window beat bag_of_items by auroc; clue-zero and the clues stay."
    expected = "CLUE (fine-tuned) and Same-window bag of items beat Bag of items + history length by AUROC; clue-zero and the clues stay."
    assert wording.readable(sentence, run, profiling) == expected


@pytest.mark.parametrize(("seconds", "text"), [(3.21, "3.2 s"), (42, "42 s"), (600, "10 min"), (9000, "2.5 h"), (None, "—")])
def test_durations(seconds: Any, text: str) -> None:
    assert wording.duration(seconds) == text
