"""What preset `best` is made of: settings that take an ingredient away, and settings that leave it alone."""

from typing import Any

Settings = tuple[tuple[str, Any], ...]
# By the name of a row: settings of the pre-training, of the fit, and the tasks that have the ingredient.
Ways = dict[str, tuple[Settings, Settings, tuple[str, ...]]]
ALL_TASKS = ("profiling", "cold-start", "sequential")

# `best` without each of its ingredients in turn.
WITHOUT: Ways = {
    "whole": ((), (), ALL_TASKS),
    "no factors at the start": ((("item_start", "random"),), (), ALL_TASKS),
    "no sequence-level loss": ((("objective", "next"), ("objectives", None), ("view", "dropout")), (), ALL_TASKS),
    "no item-level loss": ((("objective", "infonce"), ("objectives", None), ("causal", True)), (), ALL_TASKS),
    "CLUE's loss in place of InfoNCE": ((("objectives", "clue:0.2,next:1"),), (), ALL_TASKS),
    "two dropout copies in place of two windows": ((("view", "dropout"),), (), ALL_TASKS),
    "no pre-training": ((), (("mode", "scratch"),), ALL_TASKS),
    "dropout 0.5": ((("dropout", 0.5),), (("dropout", 0.5),), ALL_TASKS),
    "no wide part": ((), (("wide", "none"),), ALL_TASKS),
    "one position a history": ((), (("positions", "last"),), ("sequential",)),
    "a head that starts as the item embeddings": ((), (("head", "copied"),), ("sequential",)),
    "width 64": ((("dim", 64),), (), ALL_TASKS),
    "LayerNorm before": ((("norm", "pre"),), (), ALL_TASKS),
}
# Each ingredient without the others: beside the network of `best` from a random start, that learns from one position a history.
ONE_POSITION: dict[str, Settings] = {"sequential": (("positions", "last"),)}
UNTRAINED: Settings = (("epochs", None), ("minutes", None), ("steps", 1))  # of which the factors it starts from are kept, or nothing
RANDOM: Settings = (("item_start", "random"),)
BARE_FIT: Settings = (("wide", "none"),)
ALONE: Ways = {
    "none of them": ((*UNTRAINED, *RANDOM), (*BARE_FIT, ("mode", "scratch")), ALL_TASKS),
    "the factors at the start": (UNTRAINED, BARE_FIT, ALL_TASKS),
    "the item-level loss": ((*RANDOM, *WITHOUT["no sequence-level loss"][0]), BARE_FIT, ALL_TASKS),
    "the sequence-level loss": ((*RANDOM, *WITHOUT["no item-level loss"][0]), BARE_FIT, ALL_TASKS),
    "CLUE's loss": ((*RANDOM, ("objective", "clue"), ("objectives", None), ("view", "dropout"), ("causal", True)), BARE_FIT, ALL_TASKS),
    "the wide part": ((*UNTRAINED, *RANDOM), (("mode", "scratch"),), ALL_TASKS),
    "every position": ((*UNTRAINED, *RANDOM), (*BARE_FIT, ("mode", "scratch"), ("positions", "all")), ("sequential",)),
}
# What of the ingredients is in the pre-trained vectors as they are.
IN_VECTORS = (
    "whole",
    "no factors at the start",
    "no sequence-level loss",
    "no item-level loss",
    "CLUE's loss in place of InfoNCE",
    "two dropout copies in place of two windows",
    "dropout 0.5",
)
