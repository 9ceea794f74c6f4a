"""The objectives by name: a new one is its file, a line here and a numeric test."""

from collections.abc import Callable

import torch

from userclue.config import PretrainSettings
from userclue.encoder import UserEncoder
from userclue.objectives.base import Objective
from userclue.objectives.hybrid import Hybrid
from userclue.objectives.items import MaskedItem, NextItem
from userclue.objectives.siamese import Clue


def _hybrid(encoder: UserEncoder, settings: PretrainSettings, generator: torch.Generator) -> Hybrid:
    return Hybrid(encoder, settings, generator, OBJECTIVES)


OBJECTIVES: dict[str, Callable[[UserEncoder, PretrainSettings, torch.Generator], Objective]] = {
    "clue": Clue,
    "masked": MaskedItem,
    "next": NextItem,
    "hybrid": _hybrid,
}
