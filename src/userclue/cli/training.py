"""`userclue pretrain`."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from userclue.cli.console import reporting
from userclue.cli.options import Json, Overwrite, Threads, with_settings
from userclue.cli.progress import TrainingProgress
from userclue.config import PretrainSettings
from userclue.presets import PRETRAIN_PRESETS

Dataset = Annotated[Path, typer.Argument(help="Dataset folder that `prepare` wrote.", show_default=False)]
Output = Annotated[Path, typer.Option("-o", "--out", help="Folder of the artifact to write.", show_default=False)]
Init = Annotated[Path | None, typer.Option("--init", help="Model to go on training from; items are matched by id.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run; the result is bit-equal to an uninterrupted one.")]


@with_settings(PretrainSettings, PRETRAIN_PRESETS)
def pretrain_command(
    dataset: Dataset,
    out: Output,
    *,
    values: dict[str, Any],
    init: Init = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Learn a user encoder from a dataset, without labels.

    Example: userclue pretrain data/shop -o models/shop --epochs 20 --dropout 0.2
    """
    from userclue.jobs.pretrain import pretrain_settings, run_pretraining
    from userclue.train.journal import Watch

    settings = pretrain_settings(**values)
    with reporting("pretrain", as_json=json, seed=settings.seed, threads=threads) as report, TrainingProgress("pretrain") as progress:
        result = run_pretraining(
            dataset,
            settings,
            out,
            init=init,
            overwrite=overwrite,
            resume=resume,
            watch=Watch(progress.started, progress),
        )
        last = result.last
        report.output = str(out)
        report.warnings += result.warnings
        report.fields = {
            "objective": settings.objective,
            "backbone": settings.backbone,
            "steps": result.steps,
            **{key: last.get(key) for key in ("loss", "std_sqrt_d", "alignment", "uniformity", "effective_rank")},
            **({"accuracy": last["accuracy"]} if "accuracy" in last else {}),
            "users_per_second": result.users_per_second,
            "collapsed": result.collapsed,
        }
        report.show_table(
            f"{settings.objective} on {dataset}",
            {"": "left", "value": "right", "what it tells": "left"},
            [
                ["steps", f"{result.steps:,}", f"{result.seconds:,.1f} s, {result.users_per_second:,.0f} users/s"],
                ["loss", _number(last, "loss"), _of_loss(settings.objective)],
                *(
                    [name, f"{last[key]:.3f}", meaning]
                    for name, key, meaning in (
                        ("accuracy", "accuracy", "share of items predicted right, among those compared with"),
                        ("std × √D", "std_sqrt_d", "near 1 is healthy, near 0 is collapse"),
                        ("effective rank", "effective_rank", f"of {settings.dim} dimensions; more is richer"),
                        ("alignment", "alignment", "distance of a user's two views; less is better"),
                        ("uniformity", "uniformity", "spread over the sphere; less is better"),
                    )
                    if last.get(key) is not None
                ),
            ],
        )
        report.show(f"written: {out}", f"next:    userclue embed {shlex.quote(str(out))} EVENTS -o users.parquet")


def _of_loss(objective: str) -> str:
    from userclue.report.figures import SIAMESE

    return "−1 is perfect agreement of the two views" if objective in SIAMESE else "less is better"


def _number(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    return "–" if value is None else f"{value:.3f}"
