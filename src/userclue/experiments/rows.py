"""From finished cells to tidy rows, and to values pooled over seeds with paired intervals. Everything after this reads only these."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from userclue.experiments.cells import OURS, Yield
from userclue.experiments.kept import read_cell
from userclue.metrics.bootstrap import Interval, mean_interval
from userclue.metrics.ranking import ranking_metrics

Json = dict[str, Any]
POOL_SEED = 0
# The variant that the others of an experiment are compared with; elsewhere our own systems are compared with the others.
BASE_VARIANT = {
    "table3": "dropout", "fig5": "0.5", "fig6": "both", "modes": "fine-tune",
    "ablation": "whole", "alone": "none of them", "frozen": "whole",
}  # fmt: skip
UNITS = {
    "accuracy": "users", "auroc": "users", "macro_f1": "classes", "mrr@10": "instances", "recall@10": "instances", "ndcg@10": "instances"
}  # fmt: skip


def _schema(texts: str, numbers: str, whole: str) -> pa.Schema:
    """Columns named in three strings: texts, float64, int64."""
    kinds = ((texts, pa.string()), (numbers, pa.float64()), (whole, pa.int64()))
    return pa.schema([(name, kind) for names, kind in kinds for name in names.split()])


ROWS = _schema(
    "experiment plan stands_for kind data task label split system variant metric candidates unit settings cell",
    "value low high pretrain_seconds fit_seconds",
    "seed n steps best_epoch",
)
POOLED = _schema(
    "experiment plan stands_for candidates metric system variant against_system against_variant",
    "value low high least most",
    "n users seeds",
)
CURVES = _schema("experiment plan system variant", "loss std_sqrt_d effective_rank alignment uniformity", "seed step")
MAPS = _schema("experiment plan system label", "x y", "")


@dataclass(frozen=True)
class Collected:
    """rows: a metric of a system under a seed. pooled: over seeds; a difference where `against_system` is set. curves, maps: points."""

    rows: pa.Table
    pooled: pa.Table
    curves: pa.Table
    maps: pa.Table


@dataclass(frozen=True)
class _Seen:
    """One system and variant under one seed: float64 [n] a metric, and whose each value is, int64 [n]."""

    values: dict[str, np.ndarray]
    groups: np.ndarray


def collect(out: Path, manifest: Json) -> Collected:
    """Read every cell that the manifest lists. Raises ArtifactError for a cell that is damaged."""
    rows: list[Json] = []
    pooled: list[Json] = []
    curves: list[Json] = []
    maps: list[Json] = []
    for experiment, told in manifest["experiments"].items():
        seen: dict[tuple[str, str], dict[tuple[str, str], dict[int, _Seen]]] = {}
        of_plan: dict[str, Json] = {}
        for entry in told["entries"]:
            found = read_cell(out / "cells" / f"{entry['cell']}.parquet")
            plan, variant, seed = entry["plan"], entry["variant"], entry["seed"]
            about = {"experiment": experiment, "plan": plan["name"], "stands_for": plan["stands_for"]}
            of_plan[plan["name"]] = about
            rows += _rows(about, entry, found)
            if entry["kind"] == "map":
                maps += [{**about, "system": entry["system"], **point} for point in found.table.to_pylist()]
            point_of = {**about, "system": entry["system"], "variant": variant, "seed": seed}
            curves += [{**point_of, **point} for point in found.record.get("curve", [])]
            if entry["kind"] == "fit":
                for view, system, one in _instances(found):
                    seen.setdefault((plan["name"], view), {}).setdefault((system, variant), {})[seed] = one
        for (plan_name, view), systems in seen.items():
            pooled += [{**of_plan[plan_name], "candidates": view or "all", **one} for one in _pooled(experiment, systems)]
    return Collected(_table(rows, ROWS), _table(pooled, POOLED), _table(curves, CURVES), _table(maps, MAPS))


def _table(rows: list[Json], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema)


def _rows(about: Json, entry: Json, found: Yield) -> Iterator[Json]:
    record, plan = found.record, entry["plan"]
    kept = {name: record.get(name) for name in ("pretrain_seconds", "fit_seconds", "steps", "best_epoch", "n")}
    settings = {name: record[name] for name in ("pretrain", "settings", "search") if record.get(name)}
    shared = {
        **about,
        **kept,
        **{name: plan[name] for name in ("kind", "task", "label")},
        "data": plan["source"],
        "split": (record.get("split") or {}).get("name", ""),
        "variant": entry["variant"],
        "seed": entry["seed"],
        "settings": json.dumps(settings),
        "cell": entry["cell"],
    }
    for view, systems in record["metrics"].items():
        for system, metrics in systems.items():
            for metric, score in metrics.items():
                unit = UNITS.get(metric, "")
                yield {**shared, "system": system, "metric": metric, "candidates": view or "all", "unit": unit, **score}


def _instances(found: Yield) -> Iterator[tuple[str, str, _Seen]]:
    """(view, system, values by instance) of every column of a cell."""
    groups = found.table["group"].to_numpy()
    for view, systems in found.record["metrics"].items():
        for system in systems:
            ranks = "_".join(part for part in ("rank", view, system) if part)
            if ranks in found.table.column_names:
                yield view, system, _Seen(ranking_metrics(found.table[ranks].to_numpy()), groups)
            else:
                yield view, system, _Seen({"accuracy": found.table[f"right_{system}"].to_numpy().astype(np.float64)}, groups)


def _pooled(experiment: str, systems: dict[tuple[str, str], dict[int, _Seen]]) -> Iterator[Json]:
    """Every system's values, then the differences: our own minus each other, or the base variant minus each other."""
    for (system, variant), by_seed in systems.items():
        for metric in next(iter(by_seed.values())).values:
            parts = [one.values[metric] for one in by_seed.values()]
            yield _pool(metric, parts, list(by_seed.values()), system=system, variant=variant)
    base = BASE_VARIANT.get(experiment)
    for mine, own in systems.items():
        if (mine[1] != base) if base is not None else (mine[0] not in OURS):
            continue
        for other, theirs in systems.items():
            same = mine[0] == other[0] if base is not None else mine[1] == other[1]
            seeds = [seed for seed in own if seed in theirs]
            if other == mine or not same or not seeds:
                continue
            for metric in own[seeds[0]].values:
                parts = [own[seed].values[metric] - theirs[seed].values[metric] for seed in seeds]
                against = {"against_system": other[0], "against_variant": other[1]}
                yield _pool(metric, parts, [own[seed] for seed in seeds], system=mine[0], variant=mine[1], **against)


def _pool(metric: str, parts: list[np.ndarray], seen: list[_Seen], **who: str) -> Json:
    """The mean over all seeds' instances; users are resampled whole, with what they have under every seed, and so are the seeds."""
    groups = np.unique(np.concatenate([one.groups for one in seen]), return_inverse=True)[1]
    runs = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    interval: Interval = mean_interval(np.concatenate(parts), POOL_SEED, groups=groups, runs=runs)
    means = [float(part.mean()) for part in parts]
    ends = {"least": min(means), "most": max(means)}
    return {"metric": metric, **who, **interval.as_dict(), **ends, "n": len(runs), "users": int(groups.max()) + 1, "seeds": len(parts)}
