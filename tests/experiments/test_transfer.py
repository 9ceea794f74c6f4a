"""Geometry beside transfer, from rows made by hand."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import rankdata

from userclue.experiments.rows import CURVES, MAPS, POOLED, ROWS, Collected
from userclue.experiments.transfer import MEASURES, Point, points, rank_correlations


def a_row(variant: str, value: float, metric: str = "mrr@10", candidates: str = "all") -> dict[str, object]:
    told = {"experiment": "geometry", "plan": "toy", "task": "sequential", "system": "clue", "seed": 0}
    return {**told, "variant": variant, "metric": metric, "candidates": candidates, "value": value}


def a_step(variant: str, step: int, rank: float) -> dict[str, object]:
    told = {"experiment": "geometry", "plan": "toy", "system": "clue", "seed": 0}
    return {**told, "variant": variant, "step": step, **dict.fromkeys(MEASURES, -1.0), "effective_rank": rank}


def table(rows: list[dict[str, object]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema)


def test_points_join_the_last_step_with_both_fits() -> None:
    rows = [a_row("mask", 0.3), a_row("mask", 0.9, "recall@10"), a_row("mask", 0.8, candidates="unseen"), a_row("mask, frozen", 0.2)]
    rows += [a_row("crop", 0.5)]  # its frozen fit is missing
    steps = [a_step("mask", 10, 3.0), a_step("mask", 20, 7.0), a_step("crop", 20, 1.0)]
    collected = Collected(table(rows, ROWS), table([], POOLED), table(steps, CURVES), table([], MAPS))
    assert points(collected) == [
        Point("toy", "mask", 0, {"alignment": -1.0, "uniformity": -1.0, "effective_rank": 7.0, "std_sqrt_d": -1.0}, 0.3, 0.2)
    ]


def test_rank_correlation_is_that_of_the_ranks() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(30, 3)).round(1)  # with ties
    found = [Point("toy", str(n), 0, {**dict.fromkeys(MEASURES, 1.0), "uniformity": row[0]}, row[1], row[2]) for n, row in enumerate(drawn)]
    for fit, column in (("fine_tuned", 1), ("frozen", 2)):
        rho = rank_correlations(found, fit)
        assert rho["uniformity"] == pytest.approx(np.corrcoef(rankdata(drawn[:, 0]), rankdata(drawn[:, column]))[0, 1])
        assert np.isnan(rho["alignment"])
