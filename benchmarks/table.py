"""Rows of a run to Markdown: medians, spread, ratios, and the share of the floor."""

from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.floor import Lengths, Shape, Work, clue_steps, embedding_pass, folded_away, formed_once, full_ranking
from benchmarks.plan import MEASUREMENTS, OURS, RATES

Row = dict[str, Any]

TITLES = {
    "pretrain": "Pre-training",
    "next": "Next item, softmax over all items",
    "embed": "Vectors of all users",
    "processes": "Vectors of all users, two processes beside one",
    "rank": "Full ranking, from history to metrics",
    "agree": "The evaluators of the ranking on equal scores",
    "prepare": "Preparation from CSV",
    "growth-events": "Growth: preparation against events",
    "growth-items": "Growth: a CLUE step against items",
    "growth-length": "Growth: a CLUE step against the length of histories",
    "growth-users": "Growth: embedding against users",
    "widths": "Widths, lengths and batches",
}


# Sizes of a growth table whose costs are compared beneath it.
COMPARED = {
    "growth-events": (("10^7 events", "10^6 events"),),
    "growth-items": (("646,000 items", "3,416 items"), ("646,000 items, torch.optim.Adam", "646,000 items")),
}


def markdown(rows: list[Row]) -> str:
    """The whole page."""
    rows = latest(rows)
    parts = ["# Results\n\nWritten by `make bench`; see [README.md](README.md) for what is measured and what makes it fair."]
    parts += [_machine(row) for row in rows if row["kind"] == "machine"][-1:]
    parts.append(_versions(rows))
    parts += [f"Left out, as its environment could not be made: {row['system']}." for row in rows if row["kind"] == "left out"]
    for name in MEASUREMENTS:
        mine = [row for row in rows if row.get("measurement") == name]
        if mine:
            parts.append(f"## {TITLES[name]}")
            parts += TABLES[name](mine)
    return "\n\n".join(part for part in parts if part) + "\n"


def latest(rows: list[Row]) -> list[Row]:
    """Of rows from several runs, those of the last run of each measurement at each number of threads."""
    last: dict[tuple[Any, ...], str] = {}
    for row in rows:
        last[_key(row)] = max(last.get(_key(row), ""), row["run"])
    return [row for row in rows if row["run"] == last[_key(row)]]


def _key(row: Row) -> tuple[Any, ...]:
    return (row.get("measurement"), row.get("threads"), row.get("device"))


def _machine(row: Row) -> str:
    return (
        f"Machine: {row['processor']}, {row['cores']} core(s), {row['memory_gb']} GB memory, {row['system']}, Python {row['python']}. "
        f"Load before the last run: {row['load']:.1f}. Last run: {row['run']}, systems in turn."
    )


def _versions(rows: list[Row]) -> str:
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["kind"] == "ready" and row["system"] != RATES:
            found.setdefault(row["system"].split(",")[0], {}).update(row["versions"])
    lines = [f"- {system}: " + ", ".join(f"{name} {version}" for name, version in versions.items()) for system, versions in found.items()]
    bare = any(row["kind"] == "ready" and row["system"] == OURS and not row.get("kernels", True) for row in rows)
    note = "\n\nuserclue's compiled kernels could not be built here: it ran in plain PyTorch." if bare else ""
    return "Versions:\n\n" + "\n".join(lines) + note


def _cases(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """(title, rows) of each case at each number of threads, in order."""
    titles: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        titles.setdefault((row["case"], row["threads"], row.get("device", "cpu")), []).append(row)
    return [
        (f"{case}, {'GPU' if device != 'cpu' else f'{threads} thread(s)'}, median of {_most_repetitions(mine)}", mine)
        for (case, threads, device), mine in titles.items()
    ]


def _most_repetitions(rows: list[Row]) -> int:
    return max((len(_repetitions(rows, system)) for system in {row["system"] for row in rows}), default=0)


def _repetitions(rows: list[Row], system: str) -> list[Row]:
    return [row for row in rows if row["kind"] == "repetition" and row["system"] == system]


def _systems(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["system"] for row in rows if row["system"] != RATES))


def _ready(rows: list[Row], system: str) -> Row:
    return next((row for row in rows if row["kind"] == "ready" and row["system"] == system), {})


def table(head: list[str], lines: list[list[str]]) -> str:
    """A Markdown table, the first column to the left, the others to the right."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *lines])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _spread(values: list[float]) -> str:
    return f"{_number(min(values))} … {_number(max(values))}"


def _by_turn(ours: dict[int, float], other: dict[int, float]) -> str:
    """How many times `other` ours is: the median over the turns in which both ran, and the spread, as the machine's clock drifts."""
    ratios = [ours[turn] / other[turn] for turn in ours if turn in other]
    if not ratios:
        return ""
    spread = f" ({min(ratios):.2f} … {max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{median(ratios):.2f}{spread}"


def _work(ready: Row) -> Work:
    """The unavoidable work of ours on all users once."""
    if "work" in ready:
        return Work(**ready["work"])
    lengths, shape = Lengths(**ready["lengths"]), Shape(ready["dim"], ready["blocks"], ready["dim"] // 4)
    rows, max_len = ready["rows"], ready["max_len"]
    if "steps_per_epoch" in ready:
        return clue_steps(lengths, rows, max_len, shape, ready["steps_per_epoch"])
    vectors = embedding_pass(lengths, rows, max_len, shape)
    return vectors + full_ranking(lengths.users, rows, shape) if ready["measurement"] == "rank" else vectors


# How often a measurement passes through the last block forward, a backward pass counting as two.
FOLDED = {"pretrain": 6, "embed": 1, "rank": 1}


def _floor(rows: list[Row]) -> tuple[dict[int, float], str] | None:
    """Units a second at the floor by turn, and what it is computed from; None where no rates were measured."""
    rates, ready = _repetitions(rows, RATES), _ready(rows, OURS)
    if not rates or "lengths" not in ready:
        return None
    work, users = _work(ready), ready["lengths"]["users"]
    floor = {row["repetition"]: users / work.seconds(max(_flops(row).values()), row["bytes"]) for row in rates}
    flops = {name: median(_flops(row)[name] for row in rates) for name in _flops(rates[0])}
    moved, best = median(row["bytes"] for row in rates), max(flops.values())
    said = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in flops.items())
    text = (
        f"Floor: {work.flops / 1e9:.2f} GFLOP ({work.flops / best * 1e3:.0f} ms) and {work.bytes / 1e6:.0f} MB "
        f"({work.bytes / moved * 1e3:.0f} ms); measured here: matrix products in GFLOP/s {said}; memory {moved / 1e9:.1f} GB/s."
    )
    if ready.get("kernels"):
        text += (
            " It counts products by what ReLU and dropout made zero, which userclue's feed-forward layers leave out "
            "where the vectors' width lets them."
        )
    times = FOLDED.get(ready["measurement"], 0) if ready.get("kernels") else 0
    if times:
        lengths, shape = Lengths(**ready["lengths"]), Shape(ready["dim"], ready["blocks"])
        less, how = times * folded_away(lengths, shape, ready["heads"]), "folds the last block's query into its weights"
        if ready["measurement"] != "pretrain":
            less += formed_once(lengths, ready["rows"], ready["max_len"], shape)
            how += " and forms the first block's queries, keys and values once an item,"
        share = (work.flops - less) / work.flops
        text += (
            f" userclue {how} and so does {less / 1e9:.2f} GFLOP less: what is left takes {share:.2f} of the floor's time at the same rate."
        )
    return floor, text


def _flops(rates: Row) -> dict[str, float]:
    return {name.removeprefix("flops_"): value for name, value in rates.items() if name.startswith("flops_")}


def speed(rows: list[Row]) -> list[str]:
    """Units a second of each system beside ours and beside the floor, ratios within a turn."""
    parts = []
    for title, mine in _cases(rows):
        unit, floor = mine[0]["unit"], _floor(mine)
        rates = {name: {row["repetition"]: row["units"] / row["seconds"] for row in _repetitions(mine, name)} for name in _systems(mine)}
        ours = rates.get(OURS, {})
        lines = []
        for name, found in rates.items():
            if not found:
                lines.append([name, "failed", "", "", "", "", ""])
                continue
            flops, values = _ready(mine, name).get("flops_per_unit"), list(found.values())
            lines.append(
                [
                    name,
                    _number(median(values)),
                    _spread(values),
                    "1" if name == OURS else _by_turn(ours, found),
                    f"{flops / 1e6:.1f} M" if flops else "",
                    _by_turn(found, floor[0]) if floor and name.startswith(OURS) else "",
                    f"{max(row['peak_mb'] for row in _repetitions(mine, name)):,.0f}",
                ]
            )
        if floor:
            values = list(floor[0].values())
            lines.append(["the floor", _number(median(values)), _spread(values), _by_turn(ours, floor[0]), "", "1", ""])
        head = ["system", f"{unit}/s, median", "min … max", "userclue is × as fast", "FLOPs each", "of the floor", "peak MB"]
        parts += [f"### {title}", table(head, lines), floor[1] if floor else "", _metrics_line(mine)]
    return parts


def _metrics_line(rows: list[Row]) -> str:
    found = [f"{name} {count}" for name in _systems(rows) if (count := sum("metrics" in row for row in _repetitions(rows, name)))]
    return (
        "Weights are random, so each system ranks with its own scores; that equal scores give equal metrics is shown below."
        if found
        else ""
    )


def agreement(rows: list[Row]) -> list[str]:
    """Metrics of every system on the same scores."""
    parts = []
    for title, mine in _cases(rows):
        metrics = {name: found[-1]["metrics"] for name in _systems(mine) if (found := _repetitions(mine, name))}
        names = list(metrics.get(OURS, {}))
        lines = []
        for system, values in metrics.items():
            same = all(abs(values[name] - metrics[OURS][name]) < 1e-9 for name in names if name in values)
            lines.append([system, *(f"{values[name]:.9f}" if name in values else "" for name in names), "yes" if same else "NO"])
        parts += [f"### {title}", table(["system", *names, "as ours"], lines)]
    return parts


def preparation(rows: list[Row]) -> list[str]:
    """Processor time and memory of preparation."""
    parts = []
    for title, mine in _cases(rows):
        spent = {name: [row["cpu_seconds"] for row in _repetitions(mine, name)] for name in _systems(mine)}
        ours = median(spent[OURS]) if spent.get(OURS) else None
        lines = []
        for name, values in spent.items():
            found = _repetitions(mine, name)
            if not values:
                lines.append([name, "failed", "", "", "", "", ""])
                continue
            middle = median(values)
            lines.append(
                [
                    name,
                    f"{middle:.2f}",
                    _spread(values),
                    f"{median(row['seconds'] for row in found):.2f}",
                    _number(found[0]["units"] / middle),
                    f"{middle / ours:.2f}" if ours else "",
                    f"{median(row['peak_mb'] for row in found):,.0f}",
                ]
            )
        head = ["system", "CPU s, median", "min … max", "s by the clock", "events/CPU s", "userclue is × as fast", "peak MB"]
        parts += [f"### {title}", table(head, lines)]
    return parts


def growth(rows: list[Row]) -> list[str]:
    """Ours alone, a line a size; the last column says how the cost of one unit stands to the first size's in the same turn.

    Preparation spends something whatever the log: for it a column says what each event costs that a log has more than the one before.
    """
    measurement = rows[0]["measurement"]
    events, step = measurement == "growth-events", measurement in ("growth-items", "growth-length")
    lines, costs, before = [], {}, (0, 0.0)
    for title, mine in _cases(rows):
        found = _repetitions(mine, OURS)
        if not found:
            continue
        cost = {row["repetition"]: row["cpu_seconds" if events else "seconds"] / row["units"] * 1e6 for row in found}
        costs[mine[0]["case"]] = cost
        units, middle = found[0]["units"], median(cost.values())
        other = f"{middle * mine[0]['batch'] / 1e3:.1f}" if step else ""
        if events and before[0]:
            other = _number((middle * units - before[1]) / (units - before[0]))
        before = units, middle * units
        peak, first = f"{max(row['peak_mb'] for row in found):,.0f}", next(iter(costs.values()))
        lines.append([title, _number(middle), _spread(list(cost.values())), other, peak, _by_turn(cost, first) if lines else "1"])
    clock, third = ("CPU µs an event", "µs a further event") if events else (f"µs a {rows[0]['unit'][:-1]}", "ms a step")
    said = [
        f"{one}: {_by_turn(costs[one], costs[other])} × {other}, in the same turn."
        for one, other in COMPARED.get(measurement, ())
        if one in costs and other in costs
    ]
    return [table(["case", f"{clock}, median", "min … max", third, "peak MB", "to the first, same turn"], lines), *said]


TABLES: dict[str, Callable[[list[Row]], list[str]]] = {
    "pretrain": speed,
    "next": speed,
    "embed": speed,
    "processes": speed,
    "rank": speed,
    "agree": agreement,
    "prepare": preparation,
    "growth-events": growth,
    "growth-items": growth,
    "growth-length": growth,
    "growth-users": growth,
    "widths": speed,
}
