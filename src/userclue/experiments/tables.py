"""Tables from rows only, each as Markdown, LaTeX and HTML."""

import html
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from userclue.experiments.claims import PRIMARY
from userclue.experiments.paper import TABLE1, printed
from userclue.experiments.rows import Collected
from userclue.experiments.transfer import MEASURES, points, rank_correlations
from userclue.report.wording import duration, metric_name, number, system_name

Json = dict[str, Any]
OUR_NAMES = {"clue": "CLUE", "best": "Preset best", "clue_zero": "CLUEZero (random start)", "s3rec": "S3-Rec", "data": "data"}
COUNTS = {
    "users": "Users",
    "labelled_users": "of these with labels",
    "source_items": "Source items",
    "events": "Events",
    "source_length": "Longest history read",
    "classes": "Target items (classes)",
    "most_targets": "Most targets a user",
}
CANDIDATES = {"all": "all items are candidates", "unseen": "items of the history are no candidates"}
LATEX = {
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "−": "$-$",
    "√": r"$\surd$",
    "×": r"$\times$",
    "→": r"$\to$",
    "★": r"$\star$",
    "—": "---",
    "–": "--",
}


@dataclass(frozen=True)
class Table:
    """title and note are sentences; rows hold text, the first cell of each its heading."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""

    def markdown(self) -> str:
        """A pipe table under its title."""
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        body = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
        return f"**{self.title}**\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")

    def latex(self) -> str:
        """A tabular with booktabs' rules."""
        lines = [" & ".join(map(_latex, line)) + r" \\" for line in [self.columns, *self.rows]]
        note = f"\n\\par\\footnotesize {_latex(self.note)}" if self.note else ""
        return (
            f"\\begin{{table}}\n\\caption{{{_latex(self.title)}}}\n\\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}\n\\toprule\n"
            + "\n".join([lines[0], "\\midrule", *lines[1:], "\\bottomrule"])
            + f"\n\\end{{tabular}}{note}\n\\end{{table}}\n"
        )

    def html(self) -> str:
        """A table element in the classes of the report's style sheet."""
        head = "".join(f'<th scope="col"{"" if place == 0 else _RIGHT}>{html.escape(name)}</th>' for place, name in enumerate(self.columns))
        body = "".join(
            f'<tr><th scope="row">{html.escape(row[0])}</th>'
            + "".join(f'<td class="n">{html.escape(cell)}</td>' for cell in row[1:])
            + "</tr>"
            for row in self.rows
        )
        note = f'<p class="note">{html.escape(self.note)}</p>' if self.note else ""
        caption = f"<caption>{html.escape(self.title)}</caption>"
        table = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f'<div class="scroll">{table}</div>{note}\n'


_RIGHT = ' class="n"'


def tables(experiment: str, collected: Collected) -> list[Table]:
    """The tables of an experiment."""
    rows = [row for row in collected.rows.to_pylist() if row["experiment"] == experiment]
    pooled = [row for row in collected.pooled.to_pylist() if row["experiment"] == experiment]
    if experiment == "table1":
        return [_counts(rows)]
    if experiment == "fig7":
        return [_spread(rows)]
    found = [_overview(pooled, rows)] if experiment in ("table2", "systems") else []
    for plan in dict.fromkeys(row["plan"] for row in pooled):
        for candidates in ("all", "unseen"):
            own = [row for row in pooled if row["plan"] == plan and row["candidates"] == candidates]
            if own:
                found.append(_of_plan(own, [row for row in rows if row["plan"] == plan and row["candidates"] == candidates]))
    found += [_ends(collected)] if experiment == "fig6" else []
    return [*found, *_correlations(collected)] if experiment == "geometry" else found


def name_of(system: str, variant: str = "") -> str:
    """A system or variant as tables call it."""
    told = {"mask": "Item masking", "crop": "Item cropping", "permute": "Permutation", "dropout": "Dropout"}.get(variant, variant)
    name = OUR_NAMES.get(system, system_name(system))
    return f"{name}, {told}" if told else name


def score(row: Json | None, signed: bool = False) -> str:
    """value [low, high] with four decimals, or a dash."""
    if row is None:
        return "—"
    value, low, high = (number(row[end], 4, signed) for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _counts(rows: list[Json]) -> Table:
    plans = {row["plan"]: row for row in rows}
    values = {(row["plan"], row["metric"]): row["value"] for row in rows}
    lines = []
    for metric, heading in COUNTS.items():
        cells = []
        for plan, row in plans.items():
            ours, theirs = values.get((plan, metric)), TABLE1.get(row["stands_for"], {}).get(metric)
            cells.append(("—" if ours is None else f"{ours:,.0f}") + ("" if theirs is None else f" (paper {theirs:,})"))
        lines.append([heading, *cells])
    return Table("Data sets; in brackets the paper's Table I", ["", *(_plan_name(row) for row in plans.values())], lines)


def _plan_name(row: Json) -> str:
    if not row["stands_for"]:
        return str(row["plan"])
    return row["stands_for"] if row.get("kind") == "paper" else f"{row['plan']} (for {row['stands_for']})"


def _overview(pooled: list[Json], rows: list[Json]) -> Table:
    """Systems down, data sets across: the main metric, in brackets what the paper prints; a star marks the best of a column."""
    about = {row["plan"]: row for row in rows}
    plans = list(dict.fromkeys(row["plan"] for row in pooled))
    found: dict[tuple[str, str], Json] = {}
    for row in pooled:
        if not row["against_system"] and row["candidates"] == "all" and row["metric"] == PRIMARY[about[row["plan"]]["task"]]:
            found[row["plan"], row["system"]] = row
    best = {plan: max(row["value"] for (one, _), row in found.items() if one == plan) for plan in plans}
    lines = []
    for system in dict.fromkeys(system for _, system in found):
        cells = []
        for plan in plans:
            one = found.get((plan, system))
            paper = one and printed(one["experiment"], one["stands_for"], system, "", one["metric"])
            star = "★ " if one and one["value"] == best[plan] else ""
            cells.append("—" if one is None else star + number(one["value"], 4) + (f" ({paper:.4f})" if paper else ""))
        lines.append([name_of(system), *cells])
    columns = ["", *(f"{_plan_name(about[plan])}, {metric_name(PRIMARY[about[plan]['task']])}" for plan in plans)]
    return Table("Overview, mean over seeds; in brackets what the paper prints; ★ best of a column", columns, lines)


def _of_plan(pooled: list[Json], rows: list[Json]) -> Table:
    """One data set: every system and variant with its interval, and the difference to it."""
    first = rows[0]
    primary = PRIMARY[first["task"]]
    metrics = list(dict.fromkeys(row["metric"] for row in pooled))
    own = {(row["system"], row["variant"], row["metric"]): row for row in pooled if not row["against_system"]}
    bases = list(dict.fromkeys((row["system"], row["variant"]) for row in pooled if row["against_system"]))
    by_variant = len({variant for _, variant in bases}) > 1  # each variant has a base of its own: one column serves all
    shown = [bases[0]] if by_variant else bases
    gaps = {
        (row["system"], row["variant"] if not by_variant else "", row["against_system"], row["against_variant"]): row
        for row in pooled
        if row["against_system"] and row["metric"] == primary
    }
    titles = [f"{name_of(*base) if not by_variant else name_of(base[0])} − this, {metric_name(primary)}" for base in shown]
    lines = []
    for system, variant in dict.fromkeys((system, variant) for system, variant, _ in own):
        paper = [printed(first["experiment"], first["stands_for"], system, variant, metric) for metric in metrics]
        one = own[system, variant, primary]
        lines.append(
            [
                name_of(system, variant),
                *(score(own.get((system, variant, metric))) for metric in metrics),
                *(score(gaps.get((base[0], "" if by_variant else base[1], system, variant)), True) for base in shown),
                f"{number(one['least'], 4)}–{number(one['most'], 4)}",
                _seconds(rows, system, variant),
                *(
                    [" / ".join("—" if value is None else f"{value:.4f}" for value in paper if value is not None) or "—"]
                    if _prints(first)
                    else []
                ),
            ]
        )
    columns = ["", *(metric_name(name) for name in metrics), *titles, f"Seeds, {metric_name(primary)}", "Pre-training + fit"]
    columns += ["Paper"] if _prints(first) else []
    return Table(_title(first), columns, lines, _note(pooled, rows))


def _prints(row: Json) -> bool:
    return row["experiment"] in ("table2", "table3") and bool(row["stands_for"])


def _title(row: Json) -> str:
    what = {"profiling": f"profile, {row['label']}", "cold-start": "cold start", "sequential": "next item"}[row["task"]]
    control = "; null control" if row["kind"] == "control" else ""
    view = f"; {CANDIDATES[row['candidates']]}" if row["task"] == "sequential" else ""
    return f"{_plan_name(row)}: {what}{view}{control}"


def _note(pooled: list[Json], rows: list[Json]) -> str:
    """Who was averaged over, and how the intervals came about."""
    first, row = pooled[0], rows[0]
    unit = {"profiling": "users", "sequential": "instances, one a user or window", "cold-start": "instances, several a user"}[row["task"]]
    return (
        f"Split {row['split']}; averaged over {unit} of the test part; {first['n']:,} instances of {first['users']:,} people over "
        f"{first['seeds']} seed(s). In brackets: 95 % bootstrap intervals, people and seeds resampled whole; "
        "differences are paired. Seeds: least and greatest value of one seed. The time of plain baselines is that of all together."
        + (" The paper's numbers are of its own data: compare orders, not values." if _prints(row) and row["kind"] != "paper" else "")
    )


def _seconds(rows: list[Json], system: str, variant: str) -> str:
    own = [row for row in rows if row["system"] == system and row["variant"] == variant]
    spent = [sum(row[name] or 0.0 for row in own) / max(len(own), 1) for name in ("pretrain_seconds", "fit_seconds")]
    return f"{duration(spent[0])} + {duration(spent[1])}" if spent[0] else duration(spent[1])


def _spread(rows: list[Json]) -> Table:
    """How the vectors on the map of Figure 7 spread, in all their dimensions."""
    names = {"uniformity": "Uniformity (less is wider)", "effective_rank": "Effective rank", "std_sqrt_d": "std × √D"}
    values = {(row["system"], row["metric"]): row["value"] for row in rows}
    lines = [
        [name_of(system), *(number(values[system, name], 3) for name in names)] for system in dict.fromkeys(row["system"] for row in rows)
    ]
    return Table("Spread of the pre-trained vectors of test users", ["", *names.values()], lines, "Vectors before any label was seen.")


def _ends(collected: Collected) -> Table:
    """Where the pre-trainings of Figure 6 ended."""
    points = [row for row in collected.curves.to_pylist() if row["experiment"] == "fig6"]
    last = {(row["plan"], row["variant"], row["seed"]): row for row in points}
    lines = [
        [f"{variant}, seed {seed}", f"{row['step']:,}", *(number(row[name], 3) for name in ("loss", "std_sqrt_d", "effective_rank"))]
        for (_, variant, seed), row in last.items()
    ]
    return Table(
        "End of pre-training",
        ["", "Step", "Loss", "std × √D", "Effective rank"],
        lines,
        "Collapse: loss −1 and std × √D near 0. The projector has no batch norm at its output here, which would stretch what is left.",
    )


def _correlations(collected: Collected) -> Iterator[Table]:
    """Where each pre-training ended and what became of it; and how the one goes with the other."""
    every = points(collected)
    for plan in dict.fromkeys(point.plan for point in every):
        found = [point for point in every if point.plan == plan]
        lines = [
            [
                f"{name_of('clue', point.variant)}, seed {point.seed}",
                *(number(point.measures[name], 3) for name in MEASURES),
                number(point.fine_tuned, 4),
                number(point.frozen, 4),
            ]
            for point in found
        ]
        lines += [
            [f"Spearman's ρ with {fit.replace('_', '-')}", *(number(rho, 2) for rho in rank_correlations(found, fit).values()), "", ""]
            for fit in ("fine_tuned", "frozen")
        ]
        note = (
            f"Of {len(found)} pre-trainings, at their last logged step. Alignment, uniformity and std are of the projections of two views."
        )
        yield Table(f"{plan}: geometry beside transfer", ["", *MEASURES.values(), "Fine-tuned", "Frozen"], lines, note)


def _latex(text: str) -> str:
    return re.sub("|".join(map(re.escape, LATEX)), lambda hit: LATEX[hit[0]], text)


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "md": lambda found: "\n".join(table.markdown() for table in found),
    "tex": lambda found: "\n".join(table.latex() for table in found),
    "html": lambda found: '<!doctype html><meta charset="utf-8">' + "".join(table.html() for table in found),
}
