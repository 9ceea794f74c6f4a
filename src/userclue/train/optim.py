"""Optimiser and learning-rate schedule from the settings."""

import math
from typing import Any

import torch
from torch import nn

from userclue.config import TrainSettings
from userclue.train.adam import FusedAdam
from userclue.train.rows import AdamWithRows, row_tables


def build_optimizer(module: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Adam (fused, the paper's V-A) or SGD with momentum (its IV-A) over the parameters that need gradients.

    Parameters in `module.constant_rate` (SimSiam's predictor) keep their rate under a schedule. Large item tables, or those the
    settings say, are updated by row; UsageError where they cannot be.
    """
    by_row = row_tables(module, settings)
    # Without a schedule all rates are constant, and one group costs less than two.
    constant = {id(parameter) for parameter in getattr(module, "constant_rate", ()) if settings.schedule != "constant"}
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    apart = constant | {id(parameter) for parameter in by_row}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if id(p) not in apart], "scheduled": True},
        {"params": [p for p in trainable if id(p) in constant], "scheduled": False},
        {"params": by_row, "scheduled": True, "rows": "lazy-adam" if settings.item_updates == "auto" else settings.item_updates},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adam":
        kind = AdamWithRows if by_row else FusedAdam
        return kind(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)


def set_rate(optimizer: torch.optim.Optimizer, settings: TrainSettings, progress: float) -> None:
    """Set the learning rate for `progress` in [0, 1] of the run: constant, or half a cosine from lr to 0."""
    if settings.schedule == "constant":
        return
    for group in optimizer.param_groups:
        if group["scheduled"]:
            group["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
