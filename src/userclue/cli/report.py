"""`userclue report`."""

from pathlib import Path
from typing import Annotated

import typer

from userclue.cli.console import reporting
from userclue.cli.options import Json, Overwrite, Threads, UnusedSeed

Runs = Annotated[list[Path], typer.Argument(help="Artifact folders that `pretrain` and `finetune` wrote.", show_default=False)]
Output = Annotated[Path, typer.Option("-o", "--out", help="HTML file to write.", show_default=False)]
Title = Annotated[str | None, typer.Option("--title", help="Title of the page.")]


def report_command(
    runs: Runs,
    *,
    out: Output,
    title: Title = None,
    overwrite: Overwrite = False,
    seed: UnusedSeed = 0,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Make one self-contained HTML page of one or more runs.

    Example: userclue report models/shop fitted/age -o report.html
    """
    from userclue.report.page import build_report

    with reporting("report", as_json=json, seed=seed, threads=threads) as report:
        build_report(runs, out, overwrite=overwrite, title=title)
        report.output = str(out)
        report.fields = {"runs": [str(run) for run in runs], "bytes": out.stat().st_size}
        report.show(f"written: {out} ({out.stat().st_size / 1e6:.2f} MB, opens without a network)")
