"""`userclue reproduce`."""

import re
from pathlib import Path
from typing import Annotated

import typer

from userclue.cli.console import reporting, say
from userclue.cli.options import Json, Overwrite, Threads
from userclue.errors import UsageError

Names = Annotated[
    list[str],
    typer.Argument(
        help="table1, table2, table3, fig3 … fig7, all (these, the paper's); systems, ablation, frozen, labels, modes, history, geometry.",
        show_default=False,
    ),
]
Data = Annotated[
    Path | None, typer.Option("--data", help="Folder of public data sets (see docs/reproduce.md); the built-in data if not given.")
]
Output = Annotated[Path, typer.Option("-o", "--out", help="Folder to write to; what is finished there is taken over.", show_default=False)]
ScaleName = Annotated[
    str,
    typer.Option(
        "--scale",
        help="smoke (minutes), small (about an hour on two cores) or paper (needs a GPU); or equal time for every system, such as 3min.",
    ),
]
Seeds = Annotated[
    str | None, typer.Option("--seeds", metavar="NUMBERS", help="Seeds, joined by commas or spaces; the scale's own if not given.")
]
Only = Annotated[str | None, typer.Option("--only", metavar="NAMES", help="Keep to these systems or plans, joined by commas.")]
Steps = Annotated[int | None, typer.Option("--pretrain-steps", min=1, help="Steps of every pre-training, in place of the scale's budget.")]
FitSteps = Annotated[int | None, typer.Option("--fit-steps", min=1, help="Steps of every fit at most, in place of the scale's budget.")]


def reproduce_command(
    names: Names,
    *,
    out: Output,
    data: Data = None,
    scale: ScaleName = "smoke",
    seeds: Seeds = None,
    only: Only = None,
    pretrain_steps: Steps = None,
    fit_steps: FitSteps = None,
    overwrite: Overwrite = False,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Run the paper's tables and figures again, or one table of all systems.

    Example: userclue reproduce all --data public -o runs/paper --scale small
    """
    from userclue.experiments.runner import reproduce
    from userclue.experiments.scales import scale_named
    from userclue.train.journal import UNWATCHED

    chosen = scale_named(scale).with_steps(pretrain_steps, fit_steps)
    numbers = _numbers(seeds) if seeds is not None else list(chosen.seeds)
    with reporting("reproduce", as_json=json, seed=numbers[0], threads=threads) as report:
        done = reproduce(
            names,
            out,
            chosen,
            data=data,
            seeds=numbers,
            only=[name.strip() for name in only.split(",")] if only else None,
            overwrite=overwrite,
            tell=say,
            watch=UNWATCHED,
        )
        report.output = str(out)
        report.warnings += done.warnings
        report.fields = {
            "experiments": done.experiments,
            "scale": scale,
            "seeds": numbers,
            "cells_run": done.run,
            "cells_kept": done.kept,
            "files": done.files,
            "claims": done.claims,
        }
        columns = {"statement": "left", "data": "left", "the paper": "left", "here": "left", "outcome": "left"}
        rows = [[claim[key] for key in ("statement", "plan", "paper", "found", "outcome")] for claim in done.claims]
        report.show_table("What holds, what does not", columns, rows)
        report.show(f"report: {out / 'report.html'}", f"tables: {out / 'tables'}", f"rows:   {out / 'rows.parquet'}")


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in re.split(r"[,\s]+", text.strip())]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0:
        raise UsageError(f"--seeds {text}: write whole numbers from 0 on, joined by commas, as 0,1,2")
    return numbers
