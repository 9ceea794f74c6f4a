"""The figures from rows only, each as PNG and SVG, the same bytes for the same rows."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from userclue.experiments.claims import PRIMARY
from userclue.experiments.rows import Collected
from userclue.experiments.tables import name_of
from userclue.experiments.transfer import MEASURES, points
from userclue.report.plots import MARKERS, class_order
from userclue.report.wording import metric_name

Json = dict[str, Any]
# Okabe and Ito's colours, told apart by those who see few.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6a00", "#56b4e9", "#5b3fa0", "#6b6b6b", "#000000")
STYLE: Any = {
    **{key: value for key, value in mpl.rcParamsDefault.items() if not key.startswith(("backend", "toolbar", "interactive"))},
    "svg.fonttype": "none",
    "svg.hashsalt": "userclue",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e3e3de",
}
DPI = 120
DODGE = 0.1  # of the width
WIDE = 5  # from a last place so many times the first on, places stand apart by factors


def figure(experiment: str, collected: Collected) -> dict[str, bytes] | None:
    """The figure of an experiment as {"png": …, "svg": …}; None where the experiment has none, or no row."""
    rows = [row for row in collected.pooled.to_pylist() if row["experiment"] == experiment and not row["against_system"]]
    if experiment not in DRAWN or (experiment != "fig7" and not rows):
        return None
    with mpl.rc_context(STYLE):
        drawn = DRAWN[experiment](rows, collected)
        return {"png": _bytes(drawn, "png"), "svg": _bytes(drawn, "svg")}


def _bytes(drawn: Figure, kind: str) -> bytes:
    content = io.BytesIO()
    drawn.savefig(content, format=kind, dpi=DPI, metadata={"Date": None, "Creator": None} if kind == "svg" else {"Software": None})
    return content.getvalue()


def _panels(n: int, width: float = 4.2, height: float = 3.1) -> tuple[Figure, list[Axes]]:
    drawn = Figure(figsize=(width * n, height), layout="constrained")
    return drawn, list(drawn.subplots(1, n, squeeze=False)[0])


def _by_plan(rows: list[Json], collected: Collected) -> Iterator[tuple[str, str, list[Json]]]:
    """(plan, metric, rows) of every data set: its main metric, all items candidates."""
    task = {row["plan"]: row["task"] for row in collected.rows.to_pylist()}
    for plan in dict.fromkeys(row["plan"] for row in rows):
        metric = PRIMARY[task[plan]]
        yield plan, metric, [row for row in rows if row["plan"] == plan and row["metric"] == metric and row["candidates"] == "all"]


def _comparison(rows: list[Json], collected: Collected) -> Figure:
    """Figure 3: a dot a system, with its interval, the best on top."""
    plans = list(_by_plan(rows, collected))
    most = max(len(own) for _, _, own in plans)
    drawn, axes = _panels(len(plans), 4.8, 1.0 + 0.26 * most)
    for axis, (_, metric, own) in zip(axes, plans, strict=True):
        own = sorted(own, key=lambda row: row["value"])
        for place, row in enumerate(own):
            colour = COLOURS[1] if row["system"] in ("clue", "best") else COLOURS[0]
            axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
            axis.plot([row["value"]], [place], "o", color=colour, markersize=5)
        axis.set_yticks(range(len(own)), [name_of(row["system"]) for row in own])
        axis.set_title(_heading(own[0]), fontsize=9)
        axis.set_xlabel(f"{metric_name(metric)}, 95 % interval")
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.grid(axis="x")
    return drawn


def _lines(rows: list[Json], collected: Collected, label: str) -> Figure:
    """A line a system over the variant, a number, with intervals."""
    plans = list(_by_plan(rows, collected))
    drawn, axes = _panels(len(plans), 5.4, 3.4)
    for axis, (_, metric, own) in zip(axes, plans, strict=True):
        systems = list(dict.fromkeys(row["system"] for row in own))
        places = sorted({float(row["variant"]) for row in own})
        by_factor = places[-1] > WIDE * places[0]
        scale, back = (np.log, np.exp) if by_factor else (np.asarray, np.asarray)
        apart = DODGE * float(scale(places[-1]) - scale(places[0])) / max(len(systems) - 1, 1)  # so that intervals can be told apart
        if by_factor:
            axis.set_xscale("log")
            axis.set_xticks(places, [f"{value:g}" for value in places], minor=False)
            axis.xaxis.set_minor_locator(NullLocator())
        for place, system in enumerate(systems):
            line = sorted((row for row in own if row["system"] == system), key=lambda row: float(row["variant"]))
            x, value, low, high = (np.array([float(row[name]) for row in line], np.float64) for name in ("variant", "value", "low", "high"))
            x = back(scale(x) + (place - (len(systems) - 1) / 2) * apart)
            colour, mark = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
            ends = np.maximum(np.stack([value - low, high - value]), 0)
            axis.errorbar(x, value, ends, color=colour, marker=mark, markersize=5, linewidth=1.5, capsize=2, label=name_of(system))
        axis.set_title(_heading(own[0]), fontsize=9)
        axis.set_xlabel(label)
        axis.set_ylabel(f"{metric_name(metric)}, 95 % interval")
        axis.grid(axis="y")
        axis.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return drawn


def _scatter(rows: list[Json], collected: Collected) -> Figure:
    """Geometry against transfer: a dot a pre-training under a seed, a panel a measure, fine-tuned above and frozen below."""
    del rows
    every = points(collected)
    plans = list(dict.fromkeys(point.plan for point in every))
    drawn = Figure(figsize=(3.4 * len(MEASURES), 2.6 * 2 * len(plans)), layout="constrained")
    axes = drawn.subplots(2 * len(plans), len(MEASURES), squeeze=False)
    variants = list(dict.fromkeys(point.variant for point in every))
    for line, (plan, fit) in enumerate((plan, fit) for plan in plans for fit in ("fine_tuned", "frozen")):
        for axis, name in zip(axes[line], MEASURES, strict=True):
            for place, variant in enumerate(variants):
                own = [point for point in every if (point.plan, point.variant) == (plan, variant)]
                axis.plot(
                    [point.measures[name] for point in own], [getattr(point, fit) for point in own],
                    MARKERS[place % len(MARKERS)], color=COLOURS[place % len(COLOURS)], markersize=5, label=variant,
                )  # fmt: skip
            axis.set_xlabel(MEASURES[name])
            axis.grid()
        axes[line][0].set_ylabel(f"{plan}, {fit.replace('_', '-')}")
    axes[0][-1].legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return drawn


def _heading(row: Json) -> str:
    return f"{row['plan']}, for {row['stands_for']}" if row["stands_for"] and row["stands_for"].lower() != row["plan"] else str(row["plan"])


def _ablation(rows: list[Json], collected: Collected) -> Figure:
    """Figure 6: loss and spread over the steps of pre-training, a line a seed, and the next-item result of each variant."""
    points = [row for row in collected.curves.to_pylist() if row["experiment"] == "fig6"]
    drawn, axes = _panels(3)
    variants = list(dict.fromkeys(row["variant"] for row in points))
    for axis, name, title in zip(axes, ("loss", "std_sqrt_d"), ("loss", "std × √D"), strict=False):
        for place, variant in enumerate(variants):
            for number, seed in enumerate(dict.fromkeys(row["seed"] for row in points)):
                line = [row for row in points if row["variant"] == variant and row["seed"] == seed and row[name] is not None]
                steps, values = [row["step"] for row in line], [row[name] for row in line]
                axis.plot(steps, values, color=COLOURS[place], linewidth=1.4, label=variant if number == 0 else None)
        axis.set_xlabel("step of pre-training")
        axis.set_title(title, fontsize=9)
        axis.grid(axis="y")
    axes[0].legend(frameon=False, fontsize=8)
    axes[0].axhline(-1, color="#6b6b6b", linewidth=0.8, linestyle="--")
    _, metric, own = next(_by_plan(rows, collected))
    for place, row in enumerate(own):
        axes[2].plot([place, place], [row["low"], row["high"]], color=COLOURS[place], linewidth=2.2)
        axes[2].plot([place], [row["value"]], "o", color=COLOURS[place])
    axes[2].set_xticks(range(len(own)), [row["variant"] for row in own])
    axes[2].margins(x=0.3)
    axes[2].set_title(f"fitted to the next item: {metric_name(metric)}, 95 % interval", fontsize=9)
    axes[2].grid(axis="y")
    return drawn


def _map(rows: list[Json], collected: Collected) -> Figure:
    """Figure 7: a panel a system, users on the first two principal components, on one scale."""
    del rows
    points = collected.maps.to_pylist()
    systems = list(dict.fromkeys(point["system"] for point in points))
    names = [name for name, _ in class_order([point["label"] for point in points])]
    drawn, axes = _panels(len(systems), 4.2, 3.9)
    for axis, system in zip(axes, systems, strict=True):
        for place, name in enumerate(names):
            own = [
                point
                for point in points
                if point["system"] == system and (point["label"] if point["label"] in names else names[-1]) == name
            ]
            axis.plot(
                [point["x"] for point in own], [point["y"] for point in own], MARKERS[place], color=COLOURS[place],
                alpha=0.5, markersize=3, markeredgewidth=0, label=name,
            )  # fmt: skip
        axis.set_title(name_of(system), fontsize=9)
        axis.set_xlabel("component 1")
        axis.set_ylabel("component 2")
        axis.grid()
    limits = [abs(end) for axis in axes for end in (*axis.get_xlim(), *axis.get_ylim())]
    for axis in axes:
        axis.set_xlim(-max(limits), max(limits))
        axis.set_ylim(-max(limits), max(limits))
    axes[0].legend(frameon=False, fontsize=7)
    return drawn


DRAWN: dict[str, Callable[[list[Json], Collected], Figure]] = {
    "fig3": _comparison,
    "labels": lambda rows, collected: _lines(rows, collected, "share of the training users"),
    "history": lambda rows, collected: _lines(rows, collected, "events read of a history"),
    "geometry": _scatter,
    "fig4": lambda rows, collected: _lines(rows, collected, "share of the training users"),
    "fig5": lambda rows, collected: _lines(rows, collected, "probability of dropout"),
    "fig6": _ablation,
    "fig7": _map,
}
