"""Figures as inline SVG. Colours are CSS variables of the page, so that one figure serves the light and the dark theme.

Matplotlib draws with stand-in colours; `_svg` turns each into its variable, takes out what a page does not need
(prolog, date, namespaces, idle ids) and puts a prefix before the ids that are left, so that figures do not clash.
"""

import io
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from userclue.report.runs import UserMap

# Stand-in colour -> CSS variable. Classes of a map use s1 ... s8; "s8" is the grey of the rest.
VARIABLES = ("ink", "muted", "grid", "accent", "bad", "good", "paper", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8")
STAND_IN = {name: f"#0a0b{number:02x}" for number, name in enumerate(VARIABLES, start=1)}
VARIABLE_OF = {code: f"var(--{name})" for name, code in STAND_IN.items()}
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "o")
MAX_CLASSES = len(MARKERS)
MAX_POINTS = 400
# From Matplotlib's own defaults and not from a person's matplotlibrc: the same runs give the same bytes everywhere.
STYLE: Any = {
    **{key: value for key, value in mpl.rcParamsDefault.items() if not key.startswith(("backend", "toolbar", "interactive"))},
    "svg.fonttype": "none",
    "svg.hashsalt": "userclue",
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "text.parse_math": False,
    "text.usetex": False,
    "text.color": STAND_IN["ink"],
    "axes.edgecolor": STAND_IN["muted"],
    "axes.labelcolor": STAND_IN["muted"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": STAND_IN["muted"],
    "ytick.color": STAND_IN["muted"],
    "grid.color": STAND_IN["grid"],
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "path.simplify": True,
}


@dataclass(frozen=True)
class Reference:
    """A horizontal line that says what a value means; `tone` is a CSS variable's name."""

    value: float
    text: str
    tone: str


@dataclass(frozen=True)
class Whisker:
    """One system in a comparison: its value with a 95 % interval."""

    name: str
    value: float
    low: float
    high: float
    ours: bool


def curve(
    ident: str,
    series: Sequence[tuple[str, np.ndarray, np.ndarray]],
    references: Sequence[Reference] = (),
    floor: float | None = None,
    mark: float | None = None,
) -> str:
    """Lines over training steps, 320 × 205 units. `series` holds (name, steps [n], values [n]); names are shown if several.

    `floor` is the lowest value the axis must reach; `mark` a step to be marked (the one that was kept).
    """
    with mpl.rc_context(STYLE):
        figure, axes = _figure(320, 205)
        for number, (name, steps, values) in enumerate(series):
            steps, values = thinned(steps, values)
            tone, dashes = ("accent", "-") if number == len(series) - 1 else ("s2", (0, (4, 2)))
            few = "o" if len(steps) < 30 else ""
            axes.plot(steps, values, color=STAND_IN[tone], linestyle=dashes, marker=few, markersize=3.5, label=name)
        for reference in references:
            axes.axhline(reference.value, color=STAND_IN[reference.tone], linewidth=1.2, linestyle=(0, (5, 3)))
        axes.margins(x=0.02, y=0.08)
        if floor is not None:
            # Room over the highest line for the words that stand on it.
            top = max((reference.value for reference in references), default=floor) * 1.18
            axes.set_ylim(bottom=floor, top=max(axes.get_ylim()[1], top))
        for reference in references:
            axes.annotate(
                reference.text,
                (1.0, reference.value),
                (0, 4),
                axes.get_yaxis_transform(),
                textcoords="offset points",
                color=STAND_IN[reference.tone],
                fontsize=10,
                va="bottom",
                ha="right",
            )
        if mark is not None:
            axes.axvline(mark, color=STAND_IN["muted"], linewidth=1.0, linestyle=(0, (1, 2)))
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=10, loc="best")
        axes.grid(axis="y")
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        return _svg(figure, ident)


def whiskers(ident: str, systems: Sequence[Whisker], metric: str, decimals: int, narrow: bool) -> str:
    """Dots with 95 % intervals, best system on top; `narrow` puts each name above its dot for a small screen."""
    step, width = (38, 360) if narrow else (30, 760)
    with mpl.rc_context(STYLE):
        figure, axes = _figure(width, step * len(systems) + 56)
        rows = np.arange(len(systems))[::-1]
        for row, system in zip(rows, systems, strict=True):
            tone = STAND_IN["accent" if system.ours else "muted"]
            axes.plot([system.low, system.high], [row, row], color=tone, linewidth=3.0 if system.ours else 1.8, solid_capstyle="butt")
            face = tone if system.ours else STAND_IN["paper"]
            axes.plot([system.value], [row], "o", color=tone, markerfacecolor=face, markersize=9 if system.ours else 7, markeredgewidth=1.8)
            weight = "bold" if system.ours else "normal"
            ink = STAND_IN["accent" if system.ours else "ink"]
            if narrow:
                axes.annotate(
                    system.name, (0, row), (2, 9), axes.get_yaxis_transform(), textcoords="offset points", color=ink, weight=weight
                )
            else:
                axes.annotate(
                    system.name, (0, row), (-10, 0), axes.get_yaxis_transform(),
                    textcoords="offset points", color=ink, weight=weight, va="center", ha="right",
                )  # fmt: skip
            axes.annotate(
                f"{system.value:.{decimals}f}", (1, row), (6, 0), axes.get_yaxis_transform(),
                textcoords="offset points", color=ink, weight=weight, va="center",
            )  # fmt: skip
            if system.ours:
                axes.axvline(system.value, color=tone, linewidth=1.0, linestyle=(0, (1, 2)), zorder=0)
        axes.set_yticks([])
        axes.set_ylim(-0.6, len(systems) - (0.2 if narrow else 0.4))
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.margins(x=0.04)
        axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 7))
        axes.set_xlabel(f"{metric}, 95 % interval")
        return _svg(figure, ident)


def class_order(labels: Sequence[str]) -> list[tuple[str, int]]:
    """Classes with their number of users, most frequent first; what exceeds the palette is joined into one."""
    order = sorted(Counter(labels).items(), key=lambda pair: (-pair[1], pair[0]))
    if len(order) <= MAX_CLASSES:
        return order
    rest = order[MAX_CLASSES - 1 :]
    return [*order[: MAX_CLASSES - 1], (f"{len(rest)} other classes", sum(count for _, count in rest))]


def scatter(ident: str, users: UserMap) -> str:
    """Users in two dimensions, one colour and one mark a class, drawn in turns so that no class covers the others."""
    names = [name for name, _ in class_order(users.labels)]
    numbers = np.array([names.index(label) if label in names else len(names) - 1 for label in users.labels])
    order = np.random.default_rng(0).permutation(len(numbers))
    with mpl.rc_context(STYLE):
        figure, axes = _figure(420, 360)
        for part in np.array_split(order, max(1, min(12, len(order)))):
            for number in np.unique(numbers[part]):
                chosen = part[numbers[part] == number]
                tone = STAND_IN[f"s{number + 1}"]
                axes.plot(
                    users.x[chosen], users.y[chosen], MARKERS[number], color=tone, alpha=0.6, markersize=3.8, markeredgewidth=0
                )  # fmt: skip
        axes.grid()
        for axis, name, share in zip((axes.xaxis, axes.yaxis), "12", users.explained or (None, None), strict=True):
            axis.set_label_text(f"component {name}" + ("" if share is None else f" ({100 * share:.0f} % of variance)"))
            axis.set_major_locator(MaxNLocator(5))
        return _svg(figure, ident)


def swatch(number: int) -> str:
    """The mark of class `number` (from 0) for a legend, as SVG of 12 × 12 units."""
    shapes = {
        "o": '<circle cx="6" cy="6" r="4.2"/>',
        "^": '<path d="M6 1.6 10.6 10H1.4z"/>',
        "v": '<path d="M6 10.4 1.4 2h9.2z"/>',
        "s": '<path d="M2 2h8v8H2z"/>',
        "D": '<path d="M6 1 11 6 6 11 1 6z"/>',
        "P": '<path d="M4.3 1.2h3.4v3.1h3.1v3.4H7.7v3.1H4.3V7.7H1.2V4.3h3.1z"/>',
        "X": '<path d="M3.2 1 6 3.8 8.8 1 11 3.2 8.2 6 11 8.8 8.8 11 6 8.2 3.2 11 1 8.8 3.8 6 1 3.2z"/>',
    }
    return f'<svg viewBox="0 0 12 12" aria-hidden="true" style="fill: var(--s{number + 1})">{shapes[MARKERS[number]]}</svg>'


def thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MAX_POINTS points: the means of equal stretches of a long curve."""
    if len(steps) <= MAX_POINTS:
        return steps, values
    cuts = np.linspace(0, len(steps), MAX_POINTS + 1).astype(np.int64)
    widths = np.diff(cuts)
    return np.add.reduceat(steps, cuts[:-1]) / widths, np.add.reduceat(values, cuts[:-1]) / widths


def _figure(width: int, height: int) -> tuple[Figure, Axes]:
    """A figure measured in SVG units: 72 to the inch."""
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    return figure, axes


def _svg(figure: Figure, ident: str) -> str:
    """The figure as an SVG element without ids or names that could clash on a page."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        # The browser picks the font, so a letter that Matplotlib's own font lacks is no fault.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = content.getvalue().decode()
    start = text.index("<svg")
    opening, body = text[start : text.index(">", start)], text[text.index(">", start) + 1 :]
    box = opening.partition('viewBox="')[2].partition('"')[0]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    used = {name for pair in re.findall(r'xlink:href="#([^"]+)"|url\(#([^)]+)\)', body) for name in pair}
    # Only tags are rewritten: what stands between them may be a name that a user chose.
    body = re.sub(r"<[^>]+>", lambda hit: _tag(hit[0], ident, used), body)
    body = re.sub(r">\s+<", "><", body).strip().replace("<defs></defs>", "")
    # Marks of one group share their style: said once, a map of 2,000 users weighs a third.
    body = re.sub(r'<g([^>]*)>((?:<use [^>]*?( style="[^"]*")/>)(?:<use [^>]*?\3/>)*)</g>', _hoisted, body)
    return f'<svg viewBox="{box}" aria-hidden="true">{body}'


def _tag(tag: str, ident: str, used: set[str]) -> str:
    tag = re.sub(r' id="([^"]+)"', lambda hit: f' id="{ident}-{hit[1]}"' if hit[1] in used else "", tag)
    tag = re.sub(r'(?:xlink:(href="#)|(url\(#))', lambda hit: f"{hit[1] or hit[2]}{ident}-", tag)
    tag = re.sub(r"(fill|stroke): (#0a0b[0-9a-f]{2})", lambda hit: f"{hit[1]}: {VARIABLE_OF.get(hit[2], hit[2])}", tag)
    tag = re.sub(r"(\d+\.\d{2})\d+", r"\1", tag.replace("'DejaVu Sans'", "system-ui, sans-serif"))
    return re.sub(r"\s+", " ", re.sub(r' transform="rotate\(-0 [^"]*"', "", tag))


def _hoisted(hit: re.Match[str]) -> str:
    return f"<g{hit[1]}{hit[3]}>{hit[2].replace(hit[3], '')}</g>"
