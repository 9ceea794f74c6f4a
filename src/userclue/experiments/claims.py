"""What holds and what does not: each statement of the paper beside the sign and the interval of the same difference here."""

from dataclasses import asdict, dataclass
from typing import Any

from userclue.baselines.registry import BASELINES
from userclue.experiments.cells import OURS
from userclue.experiments.paper import printed
from userclue.experiments.rows import Collected
from userclue.report.wording import number

HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"
PRIMARY = {"profiling": "accuracy", "cold-start": "mrr@10", "sequential": "mrr@10"}
COLLAPSED = 1 / 3  # of std × √D, the share of a healthy spread under which vectors count as fallen together
COLLAPSED_LOSS = -0.99

Json = dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """A statement, the paper's ground for it, what was found here, and whether it holds."""

    experiment: str
    plan: str
    statement: str
    paper: str
    found: str
    outcome: str

    def as_dict(self) -> Json:
        """For JSON and for the page."""
        return asdict(self)


def claims(collected: Collected) -> list[Claim]:
    """Every statement that the rows can decide on."""
    pooled = [row for row in collected.pooled.to_pylist() if row["candidates"] == "all"]
    rows = collected.rows.to_pylist()
    tasks = {row["plan"]: row["task"] for row in rows}
    primary = [row for row in pooled if row["metric"] == PRIMARY[tasks[row["plan"]]]]
    differences = [row for row in primary if row["against_system"]]
    found = [claim for row in differences if (claim := _printed(row)) is not None]
    found += [claim for row in differences if (claim := _said(row)) is not None]
    found += _plain(primary)
    found += _null(differences, {row["plan"] for row in rows if row["kind"] == "control"})
    found += _share([row for row in primary if row["experiment"] == "fig4" and not row["against_system"]])
    found += _sensitive([row for row in differences if row["experiment"] == "fig5"])
    return [*found, *_collapse(collected.curves.to_pylist()), *_narrow(rows)]


def _printed(row: Json) -> Claim | None:
    """A difference that Tables II and III print."""
    base = printed(row["experiment"], row["stands_for"], row["system"], row["variant"], row["metric"])
    other = printed(row["experiment"], row["stands_for"], row["against_system"], row["against_variant"], row["metric"])
    if base is None or other is None:
        return None
    sign = 1 if base > other else -1
    first, second = (_who(row, of) for of in ("", "against_"))
    statement = f"{row['stands_for']}: {first} is {'above' if sign > 0 else 'below'} {second}"
    return _claim(row, statement, f"{base:.4f} against {other:.4f}", sign)


def _said(row: Json) -> Claim | None:
    """A difference that the text on Figures 3 and 4 speaks of; and of our own model in the table of all systems, as a question."""
    if (
        row["experiment"] == "fig3"
        and row["system"] == "clue"
        and row["against_system"] in ("gru4rec", "caser", "sasrec_bce", "clue_zero", "s3rec")
    ):
        return _claim(row, f"{row['stands_for']}: clue is above {row['against_system']}", "Figure 3, V-B", 1)
    if row["experiment"] == "fig4" and row["system"] == "clue" and row["against_system"] in ("deepfm", "clue_zero", "peterrec"):
        at = f"{float(row['variant']):.0%} of the data"
        return _claim(row, f"{row['stands_for']}, {at}: clue is above {row['against_system']}", "Figure 4, V-C", 1)
    if row["experiment"] == "systems" and row["system"] == "clue" and row["against_system"] == "clue_zero":
        return _claim(row, "clue is above the same network from a random start", "V-B: pre-training helps", 1)
    papers = {"frozen probe": "has no frozen probe", "random start": "V-B: pre-training helps"}
    if row["experiment"] == "modes" and row["against_variant"] in papers:
        return _claim(row, f"clue, fine-tuned, is above {row['against_variant']}", papers[row["against_variant"]], 1)
    return None


def _who(row: Json, of: str) -> str:
    return str(row[f"{of}variant"] or row[f"{of}system"])


def _claim(row: Json, statement: str, paper: str, sign: int) -> Claim:
    low, high = sorted((sign * row["low"], sign * row["high"]))
    outcome = HOLDS if low > 0 else FAILS if high < 0 else OPEN
    return Claim(row["experiment"], row["plan"], statement, paper, f"{row['metric']} {_gap(row)}", outcome)


def _gap(row: Json) -> str:
    value, low, high = (number(row[end], 4, True) for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _plain(primary: list[Json]) -> list[Claim]:
    """Our own systems beside the plain baseline that does best, which the paper has none of."""
    best: dict[tuple[str, str], Json] = {}
    for row in primary:
        of = (row["experiment"], row["plan"])
        if row["against_system"] or row["variant"] or row["system"] in (*BASELINES, *OURS):
            continue
        if of not in best or row["value"] > best[of]["value"]:
            best[of] = row
    return [
        _claim(row, f"{row['system']} is above the best plain baseline, {row['against_system']}", "has no plain baseline", 1)
        for row in primary
        if row["against_system"] and (one := best.get((row["experiment"], row["plan"]))) and row["against_system"] == one["system"]
    ]


def _null(differences: list[Json], controls: set[str]) -> list[Claim]:
    """On data without a signal nothing may seem better than what looks at no history."""
    return [
        Claim(
            row["experiment"],
            row["plan"],
            f"null control: {row['system']} is not above {row['against_system']}",
            "no signal is known in this data",
            f"{row['metric']} {_gap(row)}",
            FAILS if row["low"] > 0 else HOLDS,
        )
        for row in differences
        if row["plan"] in controls and row["against_system"] in ("majority", "popularity")
    ]


def _share(values: list[Json]) -> list[Claim]:
    """Less data, less success: the smallest share beside the largest, by the systems' own intervals."""
    found = []
    for plan, system in dict.fromkeys((row["plan"], row["system"]) for row in values):
        line = sorted((row for row in values if (row["plan"], row["system"]) == (plan, system)), key=lambda row: float(row["variant"]))
        if system != "clue" or len(line) < 2:
            continue
        least, most = line[0], line[-1]
        outcome = HOLDS if least["high"] < most["low"] else FAILS if least["low"] > most["high"] else OPEN
        text = " → ".join(f"{row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]" for row in (least, most))
        statement = f"clue falls with less data ({float(least['variant']):.0%} beside {float(most['variant']):.0%})"
        found.append(Claim("fig4", plan, statement, "Figure 4, V-C", f"{least['metric']} {text}", outcome))
    return found


def _sensitive(differences: list[Json]) -> list[Claim]:
    """Whether some probability of dropout is clearly better or worse than the paper's 0.5."""
    found = []
    for plan in dict.fromkeys(row["plan"] for row in differences):
        clear = [row for row in differences if row["plan"] == plan and (row["low"] > 0 or row["high"] < 0)]
        text = ", ".join(f"0.5 − {row['against_variant']}: {_gap(row)}" for row in clear) or "no difference to 0.5 is clear of zero"
        found.append(
            Claim("fig5", plan, "the result depends on the probability of dropout", "Figure 5, V-D", text, HOLDS if clear else OPEN)
        )
    return found


def _collapse(curves: list[Json]) -> list[Claim]:
    """By the last logged step of every run: with both parts users stay apart; without one the loss is at −1 and they fall together."""
    last: dict[tuple[str, str, int], Json] = {}
    for point in curves:
        if point["experiment"] == "fig6":
            last[point["plan"], point["variant"], point["seed"]] = point
    found = []
    for plan, variant in dict.fromkeys((plan, variant) for plan, variant, _ in last):
        ends = [point for (one, other, _), point in last.items() if (one, other) == (plan, variant)]
        fallen = [point["std_sqrt_d"] < COLLAPSED and point["loss"] < COLLAPSED_LOSS for point in ends]
        whole = variant == "both"
        text = "; ".join(f"loss {point['loss']:.3f}, std × √D {point['std_sqrt_d']:.3f}" for point in ends).replace("-", "−")
        holds = not any(fallen) if whole else all(fallen)
        statement = "with both parts the users stay apart" if whole else f"{variant}: the users fall together"
        found.append(Claim("fig6", plan, statement, "Figure 6, V-E", text, HOLDS if holds else FAILS))
    return found


def _narrow(rows: list[Json]) -> list[Claim]:
    """PeterRec's users in a narrower space than CLUE's, by uniformity (less is wider)."""
    values = {row["system"]: row for row in rows if row["experiment"] == "fig7" and row["metric"] == "uniformity"}
    if not {"clue", "peterrec"} <= values.keys():
        return []
    clue, peterrec = (values[name]["value"] for name in ("clue", "peterrec"))
    text = f"uniformity {clue:.2f} (clue), {peterrec:.2f} (peterrec)".replace("-", "−")
    statement = "clue spreads the users wider than peterrec"
    return [Claim("fig7", values["clue"]["plan"], statement, "Figure 7, V-F", text, HOLDS if clue < peterrec else FAILS)]
