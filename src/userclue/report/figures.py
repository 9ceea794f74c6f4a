"""Maps of users and curves of training, each with what good looks like."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from userclue.report.plots import Reference, class_order, curve, scatter, swatch
from userclue.report.runs import Json, Run
from userclue.report.wording import OBJECTIVES, count, heading, metric_name, number

SIAMESE = ("clue", "byol")
UNHEALTHY_STD, FEW_DIRECTIONS = 1 / 3, 1 / 8


@dataclass(frozen=True)
class Panel:
    """One small figure: what it shows, what good looks like, and the same in words for those who do not see it."""

    title: str
    good: str
    label: str
    svg: Markup
    run: str = ""


def maps(runs: Sequence[Run]) -> list[Json]:
    """Each map once: runs fitted in several modes from one model to one label share theirs."""
    found: dict[tuple[bytes, bytes, tuple[str, ...]], Json] = {}
    for run in runs:
        if run.map is None or not len(run.map.x):
            continue
        users, classes = run.map, class_order(run.map.labels)
        key = (users.x.tobytes(), users.y.tobytes(), users.labels)
        if key in found:
            continue
        ident = f"m{len(found)}"
        label = str((run.task or {}).get("label") or "label")
        shown = ", ".join(f"{name} ({total:,})" for name, total in classes)
        found[key] = {
            "label": label,
            "run": run.name,
            "users": f"{len(users.x):,}",
            "share": None if users.explained is None else f"{100 * sum(users.explained):.0f} %",
            "legend": [{"name": name, "count": f"{total:,}", "swatch": Markup(swatch(i))} for i, (name, total) in enumerate(classes)],
            "figure_label": f"Scatter of {len(users.x):,} users by the first two principal components, coloured by {label}: {shown}",
            "svg": Markup(scatter(ident, users)),
        }
    return list(found.values())


def column(rows: Sequence[Json], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one logged quantity, float64 [n]; rows without it, or with null, are left out."""
    pairs = [
        (row.get("step", row.get("epoch", place)), row[key]) for place, row in enumerate(rows) if isinstance(row.get(key), int | float)
    ]
    finite = [(step, value) for step, value in pairs if math.isfinite(value)]
    steps, values = np.array(finite, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def pretraining(run: Run, ident: str) -> Json:
    """The curves of pre-training, each with what good looks like, and one sentence on health."""
    dim = run.encoder.get("dim")
    siamese = run.pretrain.get("objective", "clue") in SIAMESE
    rank = [Reference(dim, f"full: D = {dim}", "good")] if dim else []
    std = [Reference(1, "healthy: 1", "good"), Reference(UNHEALTHY_STD, "collapse: 1/3", "bad")]
    loss = "Good: falls, then levels off." + (" At −1 with a low std the vectors have collapsed." if siamese else "")
    plan: list[tuple[str, str, str, list[Reference], float | None]] = [
        ("loss", "Loss", loss, [], None),
        ("std_sqrt_d", "Spread: std × √D", "Good: near 1. Below 1/3 all users get nearly the same vector.", std, 0.0),
        ("effective_rank", "Effective rank", "Good: high. Near the bottom only a few directions carry all users.", rank, 0.0),
        ("alignment", "Alignment", "Good: low. Two views of one user lie close together.", [], 0.0),
        ("uniformity", "Uniformity", "Good: low (very negative). Users fill the sphere evenly.", [], None),
        ("accuracy", "Accuracy", "Good: rises, then levels off. Share of items predicted right, among those compared with.", [], 0.0),
        ("gradient_norm", "Gradient norm", "Good: steady. No growth without end, no fall to zero.", [], 0.0),
    ]
    known = str(run.pretrain.get("objective") or "")
    panels = []
    for key, title, good, references, floor in plan:
        steps, values = column(run.rows, key)
        if not len(values):
            continue
        label = f"{title} over {count(float(steps[-1]))} steps, from {number(values[0], 3)} to {number(values[-1], 3)}. {good}"
        svg = curve(f"{ident}-{key.replace('_', '-')}", [(title, steps, values)], references, floor)
        panels.append(Panel(title, good, label, Markup(svg)))
    return {
        "run": run.name,
        "panels": panels,
        "health": _health(run, dim),
        "objective": OBJECTIVES.get(known, known),
    }


def _health(run: Run, dim: int | None) -> str:
    """What the last logged spread and rank say; the spread alone can look healthy in a dimensional collapse."""
    std, rank = (values[-1] if len(values := column(run.rows, key)[1]) else None for key in ("std_sqrt_d", "effective_rank"))
    told = [f"std × √D {number(std, 2)}"] if std is not None else []
    told += [f"effective rank {number(rank, 1)}" + (f" of {dim}" if dim else "")] if rank is not None else []
    if not told:
        return ""
    if std is not None and std < UNHEALTHY_STD:
        word = "collapsed: all users get nearly the same vector"
    elif rank is not None and dim and rank < FEW_DIRECTIONS * dim:
        word = "dimensional collapse: the vectors differ, but along few directions"
    else:
        word = "no sign of collapse"
    return f"At the end: {', '.join(told)} – {word}."


def tuning(run: Run, ident: str) -> list[Panel]:
    """Training and validation loss of a fitted run, and any other validated quantity."""
    train, valid = column(run.rows, "loss"), column(run.rows, "valid_loss")
    of = heading(run.task) if run.task else run.name
    panels = []
    series = [(name, *line) for name, line in (("training", train), ("validation", valid)) if len(line[1])]
    if series:
        kept = float(valid[0][int(np.argmin(valid[1]))]) if len(valid[1]) else None
        good = "Good: validation falls with training; where it turns up, the model begins to learn by heart."
        good += f" Lowest validation at step {count(kept)} (dotted)." if kept is not None else ""
        words = "; ".join(f"{name} loss from {number(values[0], 3)} to {number(values[-1], 3)}" for name, _, values in series)
        svg = curve(f"{ident}-loss", series, mark=kept)
        panels.append(Panel(f"{of} – loss", good, f"{of}: {words}. {good}", Markup(svg), run.name))
    others = sorted({key for row in run.rows for key in row if key.startswith("valid_")} - {"valid_loss"})
    for place, key in enumerate(others):
        steps, values = column(run.rows, key)
        if len(values):
            title = f"{of} – validation {metric_name(key.removeprefix('valid_'))}"
            label = f"{title} from {number(values[0], 3)} to {number(values[-1], 3)}"
            svg = curve(f"{ident}-{place}", [(title, steps, values)])
            panels.append(Panel(title, "Good: rises, then levels off.", label, Markup(svg), run.name))
    return panels
