"""The objectives by name: a new one is its file, a line here and a numeric test."""

from userclue.objectives.contrastive import InfoNCE
from userclue.objectives.decorrelation import Barlow, VICReg
from userclue.objectives.siamese import Byol, Clue

OBJECTIVES = {
    "clue": Clue,
    "byol": Byol,
    "infonce": InfoNCE,
    "vicreg": VICReg,
    "barlow": Barlow,
}
"""CLUE (paper IV-A, Algorithm 1) is the default; docs/method.md says what each of the others minimises, and whence it comes."""
