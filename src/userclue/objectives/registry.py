"""The objectives by name: a new one is its file, a line here and a numeric test."""

from collections.abc import Callable

import torch

from userclue.config import PretrainSettings
from userclue.encoder import UserEncoder
from userclue.objectives.base import Objective
from userclue.objectives.contrastive import InfoNCE
from userclue.objectives.decorrelation import Barlow, VICReg
from userclue.objectives.hybrid import Hybrid
from userclue.objectives.items import MaskedItem, NextItem
from userclue.objectives.s3rec import S3Rec
from userclue.objectives.siamese import Byol, Clue


def _hybrid(encoder: UserEncoder, settings: PretrainSettings, generator: torch.Generator) -> Hybrid:
    return Hybrid(encoder, settings, generator, OBJECTIVES)


OBJECTIVES: dict[str, Callable[[UserEncoder, PretrainSettings, torch.Generator], Objective]] = {
    "clue": Clue,
    "byol": Byol,
    "infonce": InfoNCE,
    "vicreg": VICReg,
    "barlow": Barlow,
    "next": NextItem,
    "masked": MaskedItem,
    "s3rec": S3Rec,
    "hybrid": _hybrid,
}
"""CLUE (paper IV-A, Algorithm 1) is the default; docs/method.md says what each of the others minimises, and whence it comes."""
