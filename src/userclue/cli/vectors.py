"""`userclue embed`."""

from pathlib import Path
from typing import Annotated

import typer

from userclue.cli.console import reporting
from userclue.cli.options import ItemColumn, Json, Overwrite, Threads, TimeColumn, UnusedSeed, UserColumn

Model = Annotated[Path, typer.Argument(help="Pre-trained or fitted model.", show_default=False)]
Source = Annotated[list[Path], typer.Argument(help="Event files, or one dataset folder.", show_default=False)]
Output = Annotated[Path, typer.Option("-o", "--out", help="Parquet file to write.", show_default=False)]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]


def embed_command(
    model: Model,
    events: Source,
    *,
    out: Output,
    user_col: UserColumn = "user_id",
    item_col: ItemColumn = "item_id",
    time_col: TimeColumn = None,
    device: Device = "auto",
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
        columns = {} if time_col is None else {"time_col": time_col}
        result = embed(model, source, out, overwrite=overwrite, device=device, user_col=user_col, item_col=item_col, **columns)
        report.output = str(out)
        report.warnings += result.warnings
        rate = round(result.users_per_second, 1)
        report.fields = {"users": result.users, "dim": result.dim, "unknown_items": result.unknown_items, "users_per_second": rate}
        report.show(
            f"{result.users:,} users × {result.dim} dimensions, {rate:,.0f} users/s, {result.unknown_items:,} events with unknown items",
            f"written: {out}",
        )
