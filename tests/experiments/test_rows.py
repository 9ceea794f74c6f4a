"""Pooling over seeds against brute force; claims from their definition; tables word for word."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from userclue.experiments.cells import Yield
from userclue.experiments.claims import FAILS, HOLDS, OPEN, claims
from userclue.experiments.kept import write_cell
from userclue.experiments.paper import PRINTED
from userclue.experiments.rows import Collected, collect
from userclue.experiments.tables import FORMATS, tables
from userclue.metrics.ranking import ranking_metrics

PLAN = {"name": "toy", "source": "toy", "task": "cold-start", "kind": "stand-in", "stands_for": "ColdRec-1", "label": "", "max_len": 50}
SCORE = {"value": 0.5, "low": 0.4, "high": 0.6}


def cell(folder: Path, key: str, system: str, ranks: list[int], groups: list[int], **record: Any) -> None:
    metrics = {"": {system: dict.fromkeys(("mrr@10", "recall@10", "ndcg@10"), SCORE)}}
    told = {
        "metrics": metrics,
        "primary": "mrr@10",
        "n": len(ranks),
        "split": {"name": "user"},
        "fit_seconds": 3.0,
        "pretrain_seconds": 0.0,
    }
    table = pa.table({"group": pa.array(groups, pa.int64()), f"rank_{system}": pa.array(ranks, pa.int64())})
    write_cell(folder / "cells" / f"{key}.parquet", Yield({**told, **record}, table))


def entry(key: str, system: str, seed: int, variant: str = "", **plan: Any) -> dict[str, Any]:
    return {"cell": key, "variant": variant, "system": system, "seed": seed, "kind": "fit", "plan": {**PLAN, **plan}}


@pytest.fixture
def collected(tmp_path: Path) -> Collected:
    """Two systems under two seeds; user 0 has two instances under seed 0 and one under seed 1."""
    cell(tmp_path, "a", "clue", [1, 2, 20], [0, 0, 1])
    cell(tmp_path, "b", "peterrec", [2, 2, 1], [0, 0, 1])
    cell(tmp_path, "c", "clue", [1, 4], [0, 2])
    cell(tmp_path, "d", "peterrec", [5, 4], [0, 2])
    listed = [entry("a", "clue", 0), entry("b", "peterrec", 0), entry("c", "clue", 1), entry("d", "peterrec", 1)]
    return collect(tmp_path, {"experiments": {"table2": {"entries": listed}}})


def pooled(collected: Collected, **wanted: Any) -> dict[str, Any]:
    (row,) = [row for row in collected.pooled.to_pylist() if all(row[key] == value for key, value in wanted.items())]
    return dict(row)


def by_hand(values: np.ndarray, groups: np.ndarray, seeds: np.ndarray, resamples: int = 4_000) -> tuple[float, float]:
    """Percentiles of means over resampled users and seeds, value by value; a resample that holds none is left out."""
    draw = np.random.default_rng(7)
    means = []
    for _ in range(resamples):
        users, runs = (draw.integers(0, n, n) for n in (groups.max() + 1, seeds.max() + 1))
        often = [(users == user).sum() * (runs == run).sum() for user, run in zip(groups, seeds, strict=True)]
        drawn = np.repeat(values, often)
        means += [drawn.mean()] if len(drawn) else []
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def test_values_and_differences_are_pooled_over_seeds_by_user_and_seed(collected: Collected) -> None:
    own = ranking_metrics(np.array([1, 2, 20, 1, 4]))["mrr@10"]
    theirs = ranking_metrics(np.array([2, 2, 1, 5, 4]))["mrr@10"]
    groups, seeds = np.array([0, 0, 1, 0, 2]), np.array([0, 0, 0, 1, 1])
    value = pooled(collected, system="clue", metric="mrr@10", against_system=None)
    gap = pooled(collected, system="clue", metric="mrr@10", against_system="peterrec")
    for row, values in ((value, own), (gap, own - theirs)):
        assert row["value"] == pytest.approx(values.mean())
        assert (row["n"], row["users"], row["seeds"]) == (5, 3, 2)
        assert (row["low"], row["high"]) == pytest.approx(by_hand(values, groups, seeds), abs=0.03)
    assert (value["least"], value["most"]) == pytest.approx((0.5, 0.625))  # (1 + 1/2 + 0) / 3 and (1 + 1/4) / 2


def test_rows_are_tidy(collected: Collected) -> None:
    rows = collected.rows.to_pylist()
    assert len(rows) == 4 * 3
    first = rows[0]
    wanted = {
        "experiment": "table2", "data": "toy", "task": "cold-start", "split": "user", "system": "clue", "seed": 0, "metric": "mrr@10",
        "value": 0.5, "low": 0.4, "high": 0.6, "n": 3,
    }  # fmt: skip
    assert {key: first[key] for key in wanted} == wanted
    assert (first["unit"], first["candidates"], first["fit_seconds"]) == ("instances", "all", 3.0)


@pytest.mark.parametrize(
    ("ours", "theirs", "outcome"),
    [([1] * 40, [9] * 40, HOLDS), ([9] * 40, [1] * 40, FAILS), ([1, 9] * 20, [9, 1] * 20, OPEN)],
)
def test_a_printed_order_holds_fails_or_stays_open(tmp_path: Path, ours: list[int], theirs: list[int], outcome: str) -> None:
    """The paper has CLUE above PeterRec on ColdRec-1."""
    cell(tmp_path, "a", "clue", ours, list(range(40)))
    cell(tmp_path, "b", "peterrec", theirs, list(range(40)))
    collected = collect(tmp_path, {"experiments": {"table2": {"entries": [entry("a", "clue", 0), entry("b", "peterrec", 0)]}}})
    (claim,) = claims(collected)
    assert (claim.outcome, claim.statement, claim.paper) == (outcome, "ColdRec-1: clue is above peterrec", "0.0139 against 0.0123")


def test_where_the_paper_loses_the_statement_is_turned_round(tmp_path: Path) -> None:
    """On AgeEst the paper has CLUE below PeterRec; an interval below zero confirms it."""
    for key, system, right in (("a", "clue", [False] * 30), ("b", "peterrec", [True] * 30)):
        record = {"metrics": {"": {system: {"accuracy": SCORE}}}, "split": {"name": "80/5/15"}, "n": 30}
        table = pa.table({"group": pa.array(range(30), pa.int64()), f"right_{system}": pa.array(right)})
        write_cell(tmp_path / "cells" / f"{key}.parquet", Yield(record, table))
    plan = {"task": "profiling", "stands_for": "AgeEst", "label": "age"}
    listed = [entry("a", "clue", 0, **plan), entry("b", "peterrec", 0, **plan)]
    (claim,) = claims(collect(tmp_path, {"experiments": {"table2": {"entries": listed}}}))
    assert (claim.outcome, claim.statement) == (HOLDS, "AgeEst: clue is below peterrec")


def test_the_best_plain_baseline_is_beaten_or_not(tmp_path: Path) -> None:
    for key, system, rank in (("a", "clue", 3), ("b", "popularity", 9), ("c", "user_knn", 1)):
        cell(tmp_path, key, system, [rank] * 30, list(range(30)))
    listed = [entry("a", "clue", 0), entry("b", "popularity", 0), entry("c", "user_knn", 0)]
    (claim,) = claims(collect(tmp_path, {"experiments": {"table2": {"entries": listed}}}))
    assert (claim.outcome, claim.statement) == (FAILS, "clue is above the best plain baseline, user_knn")


def test_a_gain_on_a_null_control_is_called_false(tmp_path: Path) -> None:
    cell(tmp_path, "a", "clue", [1] * 30, list(range(30)))
    cell(tmp_path, "b", "popularity", [9] * 30, list(range(30)))
    plan = {"kind": "control", "stands_for": ""}
    listed = [entry("a", "clue", 0, **plan), entry("b", "popularity", 0, **plan)]
    found = claims(collect(tmp_path, {"experiments": {"systems": {"entries": listed}}}))
    assert [(claim.outcome, claim.statement) for claim in found] == [
        (HOLDS, "clue is above the best plain baseline, popularity"),
        (FAILS, "null control: clue is not above popularity"),
    ]


def test_collapse_is_told_by_loss_and_spread(tmp_path: Path) -> None:
    ends = {"both": (-0.8, 0.9), "no predictor": (-0.999, 0.05), "no stop-gradient": (-0.9, 0.6)}
    listed = []
    for variant, (loss, std) in ends.items():
        curve = [{"step": 1, "loss": 0.0, "std_sqrt_d": 1.0}, {"step": 9, "loss": loss, "std_sqrt_d": std}]
        cell(tmp_path, variant, "clue", [1, 2], [0, 1], curve=curve)
        listed.append(entry(variant, "clue", 0, variant))
    found = [(claim.statement, claim.outcome) for claim in claims(collect(tmp_path, {"experiments": {"fig6": {"entries": listed}}}))]
    assert found == [
        ("with both parts the users stay apart", HOLDS),
        ("no predictor: the users fall together", HOLDS),
        ("no stop-gradient: the users fall together", FAILS),
    ]


MARKDOWN = """\
**Overview, mean over seeds; in brackets what the paper prints; ★ best of a column**

|  | toy (for ColdRec-1), MRR@10 |
| --- | ---: |
| CLUE | ★ 0.5500 (0.0139) |
| PeterRec | 0.4900 (0.0123) |

**toy (for ColdRec-1): cold start**

|  | MRR@10 | Recall@10 | NDCG@10 | CLUE − this, MRR@10 | Seeds, MRR@10 | Pre-training + fit | Paper |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def test_tables_word_for_word(collected: Collected) -> None:
    text = FORMATS["md"](tables("table2", collected))
    assert text.startswith(MARKDOWN)
    rows = [line for line in text.splitlines() if line.startswith(("| CLUE |", "| PeterRec |"))]
    assert rows[2].endswith("| — | 0.5000–0.6250 | 3.0 s | 0.0139 / 0.0150 |")
    gap = pooled(collected, system="clue", metric="mrr@10", against_system="peterrec")
    shown = f"+0.0600 [{gap['low']:+.4f}, {gap['high']:+.4f}]".replace("-", "−")
    assert f"| {shown} |" in rows[3]
    assert "5 instances of 3 people over 2 seed(s)" in text
    assert "compare orders, not values" in text


def test_latex_and_html_hold_the_same_cells(collected: Collected) -> None:
    found = tables("table2", collected)
    latex, page = FORMATS["tex"](found), FORMATS["html"](found)
    assert r"PeterRec & 0.4900 (0.0123) \\" in latex
    assert latex.count(r"\begin{tabular}{lr}") == 1
    assert "−" not in latex
    assert '<th scope="row">PeterRec</th><td class="n">0.4900 (0.0123)</td>' in page
    assert page.count("<table>") == len(found) == 2


def test_the_paper_s_numbers_are_all_there() -> None:
    """Table II has 5 systems on 5 data sets, Table III 4 views on 2; those of CLUE on ColdRec are quoted in its text as the best."""
    assert len(PRINTED["table2"]) == 25
    assert len(PRINTED["table3"]) == 8
    for slot in ("ColdRec-1", "ColdRec-2"):
        values = {system: found["mrr@10"] for (one, system, _), found in PRINTED["table2"].items() if one == slot}
        assert max(values, key=values.__getitem__) == "clue"
