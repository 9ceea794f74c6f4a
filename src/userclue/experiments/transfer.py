"""How the users lay after a pre-training, beside what a fit made of it: the points of the experiment `geometry`."""

from dataclasses import dataclass
from typing import Any

from scipy.stats import spearmanr

from userclue.experiments.claims import PRIMARY
from userclue.experiments.rows import Collected
from userclue.experiments.studies import FROZEN

Json = dict[str, Any]
# Of the last logged step of the pre-training.
MEASURES = {"alignment": "Alignment", "uniformity": "Uniformity", "effective_rank": "Effective rank", "std_sqrt_d": "std × √D"}


@dataclass(frozen=True)
class Point:
    """A pre-training under a seed: where its vectors ended, and the main metric of two fits made of it."""

    plan: str
    variant: str
    seed: int
    measures: dict[str, float]
    fine_tuned: float
    frozen: float


def points(collected: Collected) -> list[Point]:
    """Every pre-training that both fits were made of."""
    last: dict[tuple[str, str, int], Json] = {}
    for step in collected.curves.to_pylist():  # in order of the steps
        if step["experiment"] == "geometry":
            last[step["plan"], step["variant"], step["seed"]] = step
    values = {
        (row["plan"], row["variant"], row["seed"]): row["value"]
        for row in collected.rows.to_pylist()
        if row["experiment"] == "geometry" and row["candidates"] == "all" and row["metric"] == PRIMARY[row["task"]]
    }
    return [
        Point(
            plan, variant, seed, {name: step[name] for name in MEASURES}, values[plan, variant, seed], values[plan, variant + FROZEN, seed]
        )
        for (plan, variant, seed), step in last.items()
        if (plan, variant, seed) in values and (plan, variant + FROZEN, seed) in values
    ]


def rank_correlations(found: list[Point], fit: str) -> dict[str, float]:
    """Spearman's ρ of each measure with the result of a fit (`fine_tuned` or `frozen`); NaN where one of the two is constant."""
    results = [getattr(point, fit) for point in found]
    return {name: _rho([point.measures[name] for point in found], results) for name in MEASURES}


def _rho(a: list[float], b: list[float]) -> float:
    return float("nan") if len(set(a)) < 2 or len(set(b)) < 2 else float(spearmanr(a, b).statistic)
