"""Settings to start from: `paper` as printed, `best` as measured (docs/method.md#preset-best); every option still overrides."""

from collections.abc import Mapping
from typing import Any

from userclue.errors import UsageError

PRETRAIN_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "best": {
        "objective": "hybrid",
        "objectives": {"infonce": 0.3, "next": 1.0},
        "view": "window",
        "item_start": "factors",
        "dim": 128,
        "norm": "post",
        "max_len": 200,
        "dropout": 0.2,
    },
}
# By task; what stands under "" is for all of them.
FINETUNE_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {},
    "best": {
        "": {"dropout": 0.2},
        "profiling": {"wide": "bag"},
        "cold-start": {"wide": "bag"},
        # At the next item the log-loss stops falling long before the ranking stops rising.
        "sequential": {
            "head": "tied",
            "positions": "all",
            "readout": "item",
            "batch_size": 128,
            "stop_on": "metric",
            "schedule": "cosine",
            "wide": "transitions",
        },
    },
}


def preset_values(presets: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """The values of a preset; UsageError that lists the known ones."""
    if name not in presets:
        raise UsageError(f"unknown preset {name}; known: {', '.join(presets)}")
    return dict(presets[name])


def finetune_preset(name: str, task: str) -> dict[str, Any]:
    """The values of a preset of `finetune` for a task."""
    by_task = preset_values(FINETUNE_PRESETS, name)
    return {**by_task.get("", {}), **by_task.get(task, {})}
