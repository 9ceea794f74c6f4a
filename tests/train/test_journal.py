"""The journal: order, listeners, and JSON that stays JSON."""

import json
import math

import pytest

from userclue.train.journal import Journal, json_lines


def test_rows_are_kept_in_order_and_told_to_all():
    heard: list[list[dict]] = [[], []]
    journal = Journal([heard[0].append, heard[1].append])
    for step in (1, 2):
        journal.log({"step": step})
    assert journal.rows == heard[0] == heard[1] == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_becomes_null(value):
    heard = []
    journal = Journal([heard.append])
    journal.log({"step": 1, "loss": value, "note": "nan"})
    assert journal.rows == heard == [{"step": 1, "loss": None, "note": "nan"}]
    assert json_lines(journal.rows) == b'{"step": 1, "loss": null, "note": "nan"}\n'


def test_lines_are_read_back_exactly():
    rows = [{"loss": -0.1 + 0.3, "step": 2**40}, {"loss": 1e-300}]
    assert [json.loads(line) for line in json_lines(rows).splitlines()] == rows
    assert json_lines([]) == b""
