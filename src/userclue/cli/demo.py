"""`userclue demo`."""

from pathlib import Path
from typing import Annotated

import typer

from userclue.cli.comparison import show_comparison
from userclue.cli.console import reporting, say
from userclue.cli.options import Json, Overwrite, Seed, Threads
from userclue.cli.progress import TrainingProgress

Output = Annotated[Path, typer.Option("--out", "-o", help="Folder to write everything to.")]


def demo_command(
    *,
    out: Output = Path("runs/demo"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Run the main job on the built-in data set: log to report. Takes minutes.

    Example: userclue demo --out runs/demo
    """
    from userclue.jobs.demo import demo
    from userclue.train.journal import Watch

    with reporting("demo", as_json=json, seed=seed, threads=threads) as report, TrainingProgress("  train") as progress:
        fits = demo(out, say, Watch(progress.started, progress), seed=seed, overwrite=overwrite)
        report.output = str(out)
        report.fields = {"fits": fits}
        for facts in fits.values():
            report.warnings += [warning for warning in facts["warnings"] if warning not in report.warnings]
            show_comparison(report, facts)
            report.show("")
        report.show(
            f"report:  {out / 'report.html'} (open it in a browser)",
            f"vectors: {out / 'users.parquet'}",
            f"model:   {out / 'model'}",
        )
