"""Trained baselines beside a model: each fitted to the same task, with the budget of the model's own fit."""

import time

from userclue.baselines.registry import BASELINES
from userclue.config import FinetuneSettings
from userclue.data.store import Dataset
from userclue.encoder import UserEncoder
from userclue.jobs.pretrain import run_pretraining
from userclue.tasks.base import FittedModel, Task
from userclue.train.journal import Watch


def check_rivals(names: list[str], encoder: UserEncoder, task: Task, settings: FinetuneSettings, dataset: Dataset) -> None:
    """Before anything is fitted: UsageError or DataError where `dataset` lacks item attributes that one of `names` needs to read."""
    for name in names:
        wanted = BASELINES[name](encoder, settings).pretraining(task, dataset)
        if wanted is not None:
            UserEncoder.blank(wanted.encoder(), dataset.vocabulary)


def fit_rivals(
    names: list[str], encoder: UserEncoder, task: Task, settings: FinetuneSettings, dataset: Dataset, watch: Watch
) -> dict[str, FittedModel]:
    """The trained baselines `names`, each fitted to `task`; those that start from the same pre-training share one run of it."""
    pretrained: dict[str, UserEncoder] = {}
    rivals: dict[str, FittedModel] = {}
    for name in names:
        begin = time.perf_counter()
        baseline = BASELINES[name](encoder, settings)
        wanted, start = baseline.pretraining(task, dataset), None
        if wanted is not None:
            key = wanted.model_dump_json()
            if key not in pretrained:
                pretrained[key] = run_pretraining(dataset, wanted, watch=watch).encoder
            start = pretrained[key]
        rivals[name] = baseline.fit(task, dataset, start, watch)
        rivals[name].facts["seconds"] = round(time.perf_counter() - begin, 2)
    return rivals


def account(rivals: dict[str, FittedModel]) -> dict[str, dict[str, object]]:
    """What task.json says of each: its encoder, its steps and parameters, the epoch that was kept, the seconds with pre-training."""
    told = ("mode", "steps", "best_epoch", "trained_parameters", "total_parameters", "seconds")
    return {
        name: {
            "encoder": model.encoder.config.model_dump(),
            **{key: model.facts[key] for key in told},
            **({"pretrain": model.encoder.facts["pretrain"]} if "pretrain" in model.encoder.facts else {}),
        }
        for name, model in rivals.items()
    }


def terms(rivals: dict[str, FittedModel], settings: FinetuneSettings) -> str:
    """A sentence on how the trained baselines were fitted, to end the conditions with; empty where there is none."""
    if not rivals:
        return ""
    budget = next(f"{getattr(settings, name):g} {name}" for name in ("epochs", "steps", "minutes") if getattr(settings, name) is not None)
    pretrained = [name for name, model in rivals.items() if model.encoder.facts.get("pretrain")]
    text = (
        f" Trained baselines ({', '.join(rivals)}) learned from the same training part under the same budget ({budget} at most, patience "
        f"{settings.patience} epochs of validation log-loss), batch {settings.batch_size} and learning rate {settings.lr:g}, an epoch "
        "having as many steps for each; width and window are the model's, the rest of the network too in clue_zero and peterrec, and in "
        "the others what their papers say."
    )
    if pretrained:
        text += f" {', '.join(pretrained)}: pre-trained under the budget that the model was pre-trained under."
    return text
