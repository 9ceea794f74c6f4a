"""Figures as data: what is drawn, and how it is written."""

import re

import numpy as np
import pytest

from userclue.report import plots
from userclue.report.figures import column
from userclue.report.runs import UserMap


def test_long_curves_are_thinned_to_means() -> None:
    steps, values = np.arange(10_001.0), np.linspace(0, 1, 10_001)
    few, means = plots.thinned(steps, values)
    assert len(few) == len(means) == plots.MAX_POINTS
    assert 0 < few[0] < few[-1] < 10_000
    np.testing.assert_allclose(means, few / 10_000)


def test_all_users_are_drawn_each_in_the_mark_of_its_class() -> None:
    rng = np.random.default_rng(0)
    labels = tuple("abc"[number] for number in rng.integers(0, 3, 500))
    drawn = plots.scatter("m", UserMap(rng.normal(size=500), rng.normal(size=500), labels, (0.5, 0.25)))
    points = sum(len(re.findall("<use ", group)) for group in re.findall(r"<g[^>]*fill-opacity[^>]*>(?:<use [^>]*>)+</g>", drawn))
    assert points == 500
    assert "component 1 (50 % of variance)" in drawn
    assert "component 2 (25 % of variance)" in drawn
    assert {"--s1", "--s2", "--s3"} <= set(re.findall(r"--s\d", drawn))
    assert "--s4" not in drawn


def test_rare_classes_are_joined_where_the_palette_ends() -> None:
    labels = [f"c{number:02}" for number in range(12) for _ in range(20 - number)]
    order = plots.class_order(labels)
    assert len(order) == plots.MAX_CLASSES
    assert order[0] == ("c00", 20)
    assert order[-1] == ("5 other classes", 13 + 12 + 11 + 10 + 9)
    rng = np.random.default_rng(0)
    size = len(labels)
    assert "--s8" in plots.scatter("m", UserMap(rng.normal(size=size), rng.normal(size=size), tuple(labels), None))


@pytest.mark.parametrize("size", [0, 1, 2])
def test_few_users_make_a_map(size: int) -> None:
    assert plots.scatter("m", UserMap(np.zeros(size), np.zeros(size), ("a",) * size, None)).startswith("<svg viewBox=")


def test_a_curve_of_one_point_and_references_outside_it() -> None:
    references = [plots.Reference(64, "full: D = 64", "good")]
    drawn = plots.curve("c", [("rank", np.array([5.0]), np.array([3.0]))], references, floor=0.0)
    assert "full: D = 64" in drawn


def test_names_stay_as_they_are_written() -> None:
    name = 'a 0.123456 id="x" url(#y) > $z$'
    drawn = plots.whiskers("w", [plots.Whisker(name, 0.5, 0.4, 0.6, ours=True)], "accuracy", 3, narrow=False)
    assert 'a 0.123456 id="x" url(#y) &gt; $z$' in drawn


def test_columns_leave_out_what_was_not_logged() -> None:
    steps, values = column(
        [{"step": 1, "a": 2}, {"step": 2}, {"step": 3, "a": None}, {"step": 4, "a": float("nan")}, {"step": 5, "a": 1.5}], "a"
    )
    assert steps.tolist() == [1, 5]
    assert values.tolist() == [2, 1.5]
    assert len(column([], "a")[0]) == 0
