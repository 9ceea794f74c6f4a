"""`userclue embed`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from userclue.cli.console import reporting
from userclue.cli.options import ItemColumn, Json, Overwrite, Threads, TimeColumn, UnusedSeed, UserColumn, with_settings
from userclue.config import EmbedSettings

Model = Annotated[Path, typer.Argument(help="Pre-trained or fitted model.", show_default=False)]
Source = Annotated[list[Path], typer.Argument(help="Event files, or one dataset folder.", show_default=False)]
Output = Annotated[Path, typer.Option("-o", "--out", help="Parquet file to write.", show_default=False)]


@with_settings(EmbedSettings)
def embed_command(
    model: Model,
    events: Source,
    *,
    out: Output,
    user_col: UserColumn = "user_id",
    item_col: ItemColumn = "item_id",
    time_col: TimeColumn = None,
    values: dict[str, Any],
    overwrite: Overwrite = False,
    seed: UnusedSeed = 0,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Write a vector for every user of a log, seen in training or not.

    Example: userclue embed models/shop events.parquet -o users.parquet
    """
    from userclue.jobs.embed import embed

    with reporting("embed", as_json=json, seed=seed, threads=threads) as report:
        source = events[0] if len(events) == 1 else events
        columns: dict[str, Any] = {} if time_col is None else {"time_col": time_col}
        result = embed(model, source, out, overwrite=overwrite, user_col=user_col, item_col=item_col, **columns, **values)
        report.output = str(out)
        report.warnings += result.warnings
        rate = round(result.users_per_second, 1)
        report.fields = {"users": result.users, "dim": result.dim, "unknown_items": result.unknown_items, "users_per_second": rate}
        report.fields |= {"workers": result.workers, "kept": result.kept, "start_seconds": round(result.start_seconds, 3)}
        if result.workers > 1:
            report.show(f"{result.workers} workers, ready after {result.start_seconds:.1f} s")
        if result.kept:
            report.show(f"{result.kept:,} users were kept from an interrupted run")
        report.show(
            f"{result.users:,} users × {result.dim} dimensions, {rate:,.0f} users/s, {result.unknown_items:,} events with unknown items",
            f"written: {out}",
        )
