"""The comparison of one fitted run with its baselines: table, verdict, conditions, dots with whiskers."""

import math

from markupsafe import Markup

from userclue.report.plots import Whisker, whiskers
from userclue.report.runs import Json, Run
from userclue.report.wording import count, duration, heading, interval, metric_name, number, our_name, readable, system_name

LOWER_IS_BETTER = ("log_loss", "loss", "brier")


def comparison(run: Run, ident: str) -> Json:
    """What the section of one fitted run shows; `ident` begins the ids of its figures."""
    task = run.task or {}
    primary = task["primary"]
    systems = [task["metrics"], *(task.get("baselines") or {}).values()]
    # As the verdict's sentences have it: 0.812, and 0.0509 where all values are small.
    decimals = 3 if max((abs(_value(scores, primary)) for scores in systems if scores.get(primary)), default=1) >= 0.3 else 4
    ours = our_name(run, task)
    status = _status(task.get("differences") or {}, primary)
    verdict = [readable(str(sentence), run, task) for sentence in task.get("verdict") or []]
    unseen = task.get("unseen") or {}
    sequential = task["task"] == "sequential"
    tables = [_table(task, task, ours, decimals, "All items are candidates" if sequential else "")]
    if unseen.get("metrics"):
        tables.append(_table(unseen, task, ours, decimals, "Only items the user has not seen are candidates"))
        tables[1]["verdict"] = [readable(str(sentence), run, task) for sentence in unseen.get("verdict") or []]
    by_user = task.get("by_user") or {}
    if by_user.get("metrics"):
        tables[0]["remark"] = "Averaged over instances"
        tables.append(_table(by_user, task, ours, decimals, "Averaged over users, each user's mean counting once"))
        tables[1]["verdict"] = [readable(str(sentence), run, task) for sentence in by_user.get("verdict") or []]
    rows = _whisker_rows(task, ours)
    title = metric_name(primary)
    words = "; ".join(f"{row.name} {number(row.value, decimals)} {interval(vars(row), decimals)}" for row in rows)
    figures = [whiskers(f"{ident}{size}", rows, title, decimals, size == "n") for size in "wn"] if rows else []
    mine = task["metrics"].get(primary) or {}
    return {
        "id": ident,
        "heading": heading(task),
        "run": run.name,
        "answer": {
            "text": verdict[0] if verdict else _fallback(status),
            "status": status,
            "heading": heading(task),
            "id": ident,
            "ours": ours,
        },
        "ours": ours,
        "verdict": verdict or [_fallback(status)],
        "tables": tables,
        "primary": title,
        "mine": {"value": number(mine.get("value"), decimals), "interval": interval(mine, decimals)},
        "best": _best_baseline(tables[0]),
        "figures": [Markup(svg) for svg in figures],
        "figure_label": f"{title} with 95 % intervals: {words}",
        "undefined": [f"{metric_name(name)} has no value here: {why}." for name, why in (task.get("undefined") or {}).items()],
        "protocol": _protocol(run, task),
        "conditions": task.get("conditions") or "",
        "warnings": [str(warning) for warning in task.get("warnings") or []],
    }


def _better(metric: str) -> int:
    return -1 if metric in LOWER_IS_BETTER else 1


def _status(differences: Json, metric: str) -> str:
    """How the paired intervals stand on the primary metric: "ahead" of every baseline, "behind" one, or "open"."""
    scores = [scores[metric] for scores in differences.values() if metric in scores]
    signs = [_sign(score, metric) for score in scores]
    return "" if not signs else "behind" if -1 in signs else "ahead" if set(signs) == {1} else "open"


def _sign(score: Json, metric: str) -> int:
    """1 when ours is better beyond its interval, -1 when worse, else 0."""
    low, high = score.get("low"), score.get("high")
    if low is None or high is None:
        return 0
    return _better(metric) * (1 if low > 0 else -1 if high < 0 else 0)


def _fallback(status: str) -> str:
    return {
        "ahead": "Our model is better than every baseline.",
        "behind": "A plain baseline is better than our model.",
        "open": "The data do not decide between our model and the best baseline.",
    }.get(status, "No verdict was written for this run.")


def _table(scores: Json, task: Json, ours: str, decimals: int, remark: str) -> Json:
    """Rows ordered by the primary metric; `scores` has metrics, baselines and (paired, ours − baseline) differences."""
    primary, names = task["primary"], list(scores["metrics"])
    baselines, differences = scores.get("baselines") or {}, scores.get("differences") or {}
    systems = [(None, scores["metrics"]), *baselines.items()]
    best = {}
    for name in names:
        values = [s[name]["value"] for _, s in systems if s.get(name, {}).get("value") is not None]
        best[name] = max(values, key=lambda value: _better(name) * value) if len(values) > 1 else None
    systems.sort(key=lambda pair: -_better(primary) * _value(pair[1], primary))
    rows = []
    for system, result in systems:
        difference = (differences.get(system) or {}).get(primary) if system is not None else None
        rows.append(
            {
                "name": ours if system is None else system_name(system),
                "ours": system is None,
                "cells": [_cell(result.get(name) or {}, best[name], decimals) for name in names],
                "difference": difference
                and {
                    "value": number(difference.get("value"), decimals, signed=True),
                    "interval": interval(difference, decimals, signed=True),
                    "word": {1: "ours better", -1: "ours worse", 0: "undecided"}[_sign(difference, primary)],
                    "sign": _sign(difference, primary),
                },
            }
        )
    return {
        "names": [metric_name(name) for name in names],
        "lower": [_better(name) < 0 for name in names],
        "primary": metric_name(primary),
        "rows": rows,
        "remark": remark,
        "verdict": [],
        "differences": bool(differences),
    }


def _value(scores: Json, metric: str) -> float:
    value = (scores.get(metric) or {}).get("value")
    return -math.inf * _better(metric) if value is None else float(value)


def _cell(score: Json, best: float | None, decimals: int) -> Json:
    value = score.get("value")
    return {
        "value": number(value, decimals),
        "interval": interval(score, decimals),
        "best": best is not None and value == best,
    }


def _best_baseline(table: Json) -> Json | None:
    """The baseline highest in a table, as the overview shows it."""
    if table["primary"] not in table["names"]:
        return None
    column = table["names"].index(table["primary"])
    row = next((row for row in table["rows"] if not row["ours"]), None)
    return row and {"name": row["name"], "cell": row["cells"][column], "difference": row["difference"]}


def _whisker_rows(task: Json, ours: str) -> list[Whisker]:
    primary = task["primary"]
    systems = [(ours, True, task["metrics"].get(primary))]
    systems += [(system_name(name), False, scores.get(primary)) for name, scores in (task.get("baselines") or {}).items()]
    rows = []
    for name, mine, score in systems:
        if score and score.get("value") is not None:
            low, high = (score["value"] if score.get(end) is None else score[end] for end in ("low", "high"))
            rows.append(Whisker(name, score["value"], low, high, mine))
    return sorted(rows, key=lambda row: -_better(primary) * row.value)


def _protocol(run: Run, task: Json) -> str:
    """One sentence on who was trained on and scored, and the seeds."""
    split = task.get("split") or {}
    parts = [f"{part} {count(split[key])}" for key, part in (("train", "train"), ("valid", "validation"), ("test", "test")) if key in split]
    text = f"Split {split['name']}" if "name" in split else "Split not stated"
    text += f" ({', '.join(parts)})" if parts else ""
    seeds = [f"split {split['seed']}"] if "seed" in split else []
    seeds += [f"pre-training {run.pretrain['seed']}"] if "seed" in run.pretrain else []
    tuning = task.get("settings") or {}
    seeds += [f"fine-tuning {tuning['seed']}"] if "seed" in tuning else []
    text += f". Seeds: {', '.join(seeds)}" if seeds else ""
    text += f". Scored on {count(task['users'])} users" if task.get("users") is not None else ""
    return f"{text}. Fitted in {duration(task['seconds'])}." if task.get("seconds") is not None else f"{text}."
