"""`userclue audit` and `userclue prepare`."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from userclue.cli.console import Report, reporting
from userclue.cli.options import ItemColumn, Json, Overwrite, Threads, UnusedSeed, UserColumn, with_settings
from userclue.data.options import PrepareOptions

Events = Annotated[
    list[str], typer.Argument(help="Event log: files, globs or a folder (CSV, TSV, JSON lines, Parquet).", show_default=False)
]
Output = Annotated[Path, typer.Option("-o", "--out", help="Dataset folder to write.", show_default=False)]
Items = Annotated[str | None, typer.Option("--items", help="Table of item attributes, keyed by the item column or item_id.")]
VocabularyFrom = Annotated[Path | None, typer.Option("--vocabulary", help="Dataset or model whose item numbering is kept.")]
Memory = Annotated[str | None, typer.Option("--memory-limit", help="Memory for the sort, such as 4GB; the rest is spilled to disk.")]
TimeColumn = Annotated[str, typer.Option("--time-col", help="Column of the time.")]
TimeUnit = Annotated[str | None, typer.Option("--time-unit", help="s, ms, us or ns; detected if not given.")]
Layout = Annotated[str, typer.Option("--layout", help="auto, events (a row an event), sequences or peterrec (a line a user).")]
MinUser = Annotated[int, typer.Option("--min-user-events", min=1, help="What `prepare` would drop: users with fewer events.")]
MinItem = Annotated[int, typer.Option("--min-item-users", min=1, help="What `prepare` would drop: items of fewer users.")]


@with_settings(PrepareOptions)
def prepare_command(
    events: Events,
    *,
    out: Output,
    values: dict[str, Any],
    items: Items = None,
    vocabulary: VocabularyFrom = None,
    memory_limit: Memory = None,
    overwrite: Overwrite = False,
    seed: UnusedSeed = 0,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Turn an event log into a dataset: checked, ordered, numbered, memory-mapped.

    Example: userclue prepare events.csv -o data/shop --min-user-events 3
    """
    from userclue.data.prepare import prepare

    with reporting("prepare", as_json=json, seed=seed) as report:
        dataset = prepare(
            _source(events),
            out,
            items=items,
            vocabulary=vocabulary,
            memory_limit=memory_limit,
            threads=threads,
            overwrite=overwrite,
            **values,
        )
        manifest = dataset.manifest
        names = (
            "events_read",
            "events_kept",
            "events_dropped",
            "events_quarantined",
            "users",
            "items",
            "unknown_events",
            "time",
            "lengths",
            "targets",
        )
        report.output = str(out)
        report.warnings += manifest["warnings"]
        report.fields = {name: manifest[name] for name in names if name in manifest}
        _show_dataset(report, manifest, out)


def audit_command(
    events: Events,
    *,
    user_col: UserColumn = "user_id",
    item_col: ItemColumn = "item_id",
    time_col: TimeColumn = "timestamp",
    layout: Layout = "auto",
    time_unit: TimeUnit = None,
    min_user_events: MinUser = 1,
    min_item_users: MinItem = 1,
    seed: UnusedSeed = 0,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Look at a log: what is there, what is odd, what `prepare` would drop.

    Example: userclue audit events.csv
    """
    from userclue.data.audit import audit

    with reporting("audit", as_json=json, seed=seed) as report:
        found = audit(
            _source(events),
            user_col=user_col,
            item_col=item_col,
            time_col=time_col,
            layout=layout,
            time_unit=time_unit,
            min_user_events=min_user_events,
            min_item_users=min_item_users,
            threads=threads,
        )
        report.fields = found
        rows = [[key, _text(value)] for key, value in found.items() if key not in ("findings", "warnings", "problems")]
        report.show_table(f"audit of {', '.join(events)}", {"": "left", "found": "left"}, rows)
        report.show(*(f"- {finding}" for finding in found["findings"] or ["nothing odd found; `userclue prepare` will take it as it is"]))


def _source(events: list[str]) -> str | list[str]:
    return events[0] if len(events) == 1 else events


def _show_dataset(report: Report, manifest: dict[str, Any], out: Path) -> None:
    dropped = {rule: count for rule, count in manifest["events_dropped"].items() if count}
    lengths, time = manifest["lengths"], manifest["time"]
    rows = [
        ["events", f"{manifest['events_kept']:,} of {manifest['events_read']:,} read"],
        ["dropped", ", ".join(f"{count:,} by {rule}" for rule, count in dropped.items()) or "none"],
        ["bad rows", f"{manifest['events_quarantined']:,}"],
        ["users", f"{manifest['users']:,}"],
        ["items", f"{manifest['items']:,}"],
        ["events a user", f"median {lengths['median']:g}, from {lengths['min']:g} to {lengths['max']:g}"],
        ["time", "none: input order kept" if time is None else f"{time['unit']}, {_day(time['min'])} to {_day(time['max'])}"],
    ]
    targets = manifest.get("targets")
    if targets:
        rows.append(["targets", f"{targets['rows']:,} {targets['kind']} of {targets['users']:,} users in targets.csv, for --labels"])
    report.show_table(f"dataset {out}", {"": "left", "found": "left"}, rows)
    report.show(f"next: userclue pretrain {shlex.quote(str(out))} -o MODEL")


def _day(ms: int) -> str:
    from datetime import UTC, datetime, timedelta

    return str((datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)).date())


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(one)}" for key, one in value.items())
    if isinstance(value, list):
        return "; ".join(_text(one) for one in value) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else "none" if value is None else str(value)
