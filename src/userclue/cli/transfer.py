"""`userclue finetune` and `userclue evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from userclue.cli.comparison import show_comparison
from userclue.cli.console import Report, reporting
from userclue.cli.options import Json, Overwrite, Threads, UnusedSeed, with_settings
from userclue.cli.progress import TrainingProgress
from userclue.config import FinetuneSettings
from userclue.presets import FINETUNE_PRESETS

Model = Annotated[Path, typer.Argument(help="Artifact that `pretrain` wrote.", show_default=False)]
Fitted = Annotated[Path, typer.Argument(help="Fitted model that `finetune` wrote.", show_default=False)]
Dataset = Annotated[Path, typer.Argument(help="Dataset folder that `prepare` wrote.", show_default=False)]
Task = Annotated[str, typer.Option("--task", help="profiling, cold-start or sequential.", show_default=False)]
Output = Annotated[Path, typer.Option("-o", "--out", help="Folder of the fitted model to write.", show_default=False)]
Labels = Annotated[
    Path | None, typer.Option("--labels", help="File of user_id and label (profiling), or user_id, item_id[, timestamp] (cold-start).")
]
Split = Annotated[
    str | None, typer.Option("--split", help="80/5/15 (profiling); user or instance (cold-start); leave-one-out or time (sequential).")
]
Baselines = Annotated[
    str,
    typer.Option(
        "--baselines",
        metavar="NAMES",
        help="Compare with these, joined by commas: plain (those that need no network; nothing said means them), trained ones by name "
        "(clue_zero, peterrec, peterrec_adapter, s3rec, nfm, deepfm; sequential: sasrec, sasrec_bce, gru4rec, caser), all, or none.",
    ),
]
PlainBaselines = Annotated[bool, typer.Option("--baselines/--no-baselines", help="Compare with the plain baselines.")]
PartName = Annotated[str, typer.Option("--part", help="Part of the split to score: test or valid.")]


@with_settings(FinetuneSettings, FINETUNE_PRESETS)
def finetune_command(
    model: Model,
    dataset: Dataset,
    *,
    task: Task,
    out: Output,
    values: dict[str, Any],
    labels: Labels = None,
    split: Split = None,
    baselines: Baselines = "plain",
    overwrite: Overwrite = False,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Fit a model to a task and compare it with baselines.

    Example: userclue finetune models/shop data/shop --task profiling --labels labels.csv -o fitted/age
    """
    from userclue.jobs.finetune import finetune, finetune_settings
    from userclue.train.journal import Watch

    seed = finetune_settings(task=task, **values).seed
    with reporting("finetune", as_json=json, seed=seed, threads=threads) as report, TrainingProgress(f"finetune {task}") as progress:
        fitted = finetune(
            model,
            dataset,
            out,
            task=task,
            labels=labels,
            split=split,
            baselines=baselines,
            overwrite=overwrite,
            watch=Watch(progress.started, progress),
            **values,
        )
        report.output = str(out)
        _fill(report, fitted.facts)


def evaluate_command(
    fitted: Fitted,
    dataset: Dataset,
    *,
    labels: Labels = None,
    part: PartName = "test",
    baselines: PlainBaselines = True,
    seed: UnusedSeed = 0,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Score a fitted model on its test users, new labels or new data.

    Example: userclue evaluate fitted/age data/shop --labels labels.csv
    """
    from userclue.jobs.finetune import evaluate
    from userclue.tasks.registry import load_fitted

    del seed  # the model's own split and seed are used again, so that its figures can be repeated
    model = load_fitted(fitted)
    with reporting("evaluate", as_json=json, seed=model.facts["split"]["seed"], threads=threads) as report:
        facts = evaluate(model, dataset, labels=labels, part=part, baselines=baselines)
        report.output = str(fitted)
        _fill(report, facts)


def _fill(report: Report, facts: dict[str, Any]) -> None:
    report.warnings += facts.get("warnings", [])
    sizes = {key: facts["split"][key] for key in ("train", "valid", "test") if key in facts["split"]}
    names = ("task", "mode", "label", "users", "primary", "system", "metrics", "baselines", "differences", "undefined", "unseen", "verdict")
    more = (
        "instances",
        "by_user",
        "target_items",
        "untrained_items",
        "untrained_test_targets",
        "trained_parameters",
        "frozen_vectors",
        "wide_share",
        "repeat_factor",
        "total_parameters",
        "trained_baselines",
    )
    report.fields = {name: facts[name] for name in names + more if name in facts}
    report.fields |= {"split": facts["split"]["name"], "split_sizes": sizes, "conditions": facts["conditions"]}
    show_comparison(report, facts)
    if "trained_parameters" in facts:
        report.show(f"{facts['trained_parameters']:,} of {facts['total_parameters']:,} parameters were trained ({facts['mode']}).")
    if facts.get("frozen_vectors"):
        report.show(
            "A regression on the bag of items and the pre-trained vectors as they are: the validation part saw no gain in fine-tuning."
        )
    if "wide_share" in facts:
        report.show(f"Share of the wide part in the logits, chosen on the validation part: {facts['wide_share']:g}.")
    if facts.get("repeat_factor", 1) != 1:
        report.show(f"Items of the history count {facts['repeat_factor']:g} times, by how often the validation part comes back to one.")
