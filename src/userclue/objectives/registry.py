"""The objectives by name: a new one is its file, a line here and a numeric test."""

from userclue.objectives.siamese import Clue

OBJECTIVES = {"clue": Clue}
