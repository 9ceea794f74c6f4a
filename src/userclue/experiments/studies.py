"""The experiments: each a list of cells, with the place of each cell's result in its table or figure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from userclue.baselines.registry import BASELINES
from userclue.experiments.cells import OURS, PLAIN, Cell, systems_for
from userclue.experiments.ingredients import ALONE, IN_VECTORS, ONE_POSITION, WITHOUT, Settings, Ways
from userclue.experiments.plans import (
    COLD_START_SLOTS,
    PROFILING_SLOTS,
    SEQUENTIAL_SLOTS,
    SLOTS,
    Plan,
    plans_for,
    plans_for_all_systems,
)
from userclue.experiments.scales import Scale

VIEWS = ("mask", "crop", "permute", "dropout")
TABLE2 = (PLAIN, "nfm", "deepfm", "clue_zero", "peterrec", *OURS)
SHARED = (PLAIN, "deepfm", "clue_zero", "peterrec", *OURS)
NOT_SEQUENTIAL = ("nfm", "deepfm", "peterrec_adapter")
# A batch norm at the projector's output would stretch whatever difference is left, and hide in the std that users fall together.
BARE = ("projector_norm", "hidden")
ABLATIONS: dict[str, tuple[tuple[str, Any], ...]] = {
    "both": (BARE,),
    "no predictor": (BARE, ("predictor", False)),
    "no stop-gradient": (BARE, ("stop_gradient", False)),
}

PROBE: Settings = (("mode", "probe"), ("wide", "none"))
LABEL_SHARES = (0.01, 0.05, 0.1, 0.4, 1.0)
# What of the network is trained by the labels.
MODES: dict[str, Settings] = {
    "fine-tune": (),
    "frozen probe": (("mode", "probe"),),
    "adapter": (("mode", "adapter"),),
    "random start": (("mode", "scratch"),),
}
LENGTHS = (10, 25, 50, 100)
FROZEN = ", frozen"


@dataclass(frozen=True)
class Entry:
    """A cell, and what varies in its experiment beside system and seed: `variant`, the base's or another value."""

    cell: Cell
    variant: str = ""


Study = Callable[[Path | None, Scale, Sequence[int]], list[Entry]]


def table1(data: Path | None, scale: Scale, seeds: Sequence[int]) -> list[Entry]:
    """Counts of every data set."""
    del scale
    return [Entry(Cell(plan, "data", seeds[0], kind="counts")) for plan in plans_for(SLOTS, data)]


def table2(data: Path | None, scale: Scale, seeds: Sequence[int]) -> list[Entry]:
    """Cold start and profiling by system."""
    return _by_system(plans_for((*COLD_START_SLOTS, *PROFILING_SLOTS), data), TABLE2, scale, seeds)


def table3(data: Path | None, scale: Scale, seeds: Sequence[int]) -> list[Entry]:
    """Views, on windows of two lengths. With dropout as the view its probability is searched, else the view's share."""
    return [
        Entry(_cell(plan, "clue", seed, scale, "dropout" if view == "dropout" else "view_share", pretrain=_unless(view)), view)
        for plan in plans_for(SEQUENTIAL_SLOTS, data)
        for view in VIEWS
        for seed in seeds
    ]


def fig3(data: Path | None, scale: Scale, seeds: Sequence[int]) -> list[Entry]:
    """Sequential recommendation by system."""
    chosen = tuple(name for name in systems_for("sequential") if name not in NOT_SEQUENTIAL)
    return _by_system(plans_for(SEQUENTIAL_SLOTS, data), chosen, scale, seeds)


def fig4(data: Path | None, scale: Scale, seeds: Sequence[int]) -> list[Entry]:
    """Cold start by share of the training users."""
    return [
        Entry(_cell(plan, system, seed, scale, share=share), f"{share:g}")
        for plan in plans_for(COLD_START_SLOTS[1:], data)
        for share in scale.shares
        for system in systems_for(plan.task, SHARED)
        for seed in seeds
    ]


def fig5(data: Path | None, scale: Scale, seeds: Sequence[int]) -> list[Entry]:
    """The probability of dropout, in pre-training and in the fit."""
    return [
        Entry(Cell(plan, "clue", seed, pretrain=() if dropout == 0.5 else (("dropout", dropout),)), f"{dropout:g}")
        for plan in plans_for(SEQUENTIAL_SLOTS[:1], data)
        for dropout in scale.dropouts
        for seed in seeds
    ]


def fig6(data: Path | None, scale: Scale, seeds: Sequence[int]) -> list[Entry]:
    """Without the predictor, without the stop-gradient."""
    del scale
    return [
        Entry(Cell(plan, "clue", seed, pretrain=settings), name)
        for plan in plans_for(SEQUENTIAL_SLOTS[:1], data)
        for name, settings in ABLATIONS.items()
        for seed in seeds
    ]


def fig7(data: Path | None, scale: Scale, seeds: Sequence[int]) -> list[Entry]:
    """Vectors on a map, PeterRec's and CLUE's."""
    del scale
    return [Entry(Cell(plan, system, seeds[0], kind="map")) for plan in plans_for(("GenEst",), data)[:1] for system in ("peterrec", "clue")]


def systems(data: Path | None, scale: Scale, seeds: Sequence[int]) -> list[Entry]:
    """Every system on every data set, null controls among them."""
    plans = plans_for_all_systems(data)
    return [entry for plan in plans for entry in _by_system([plan], tuple(systems_for(plan.task)), scale, seeds)]


def ablation(data: Path | None, scale: Scale, seeds: Sequence[int]) -> list[Entry]:
    """The preset `best` without each of its ingredients in turn."""
    return _ingredients(WITHOUT, {}, data, scale, seeds)


def alone(data: Path | None, scale: Scale, seeds: Sequence[int]) -> list[Entry]:
    """Each ingredient of the preset `best` without the others."""
    return _ingredients(ALONE, ONE_POSITION, data, scale, seeds)


def _ingredients(ways: Ways, base: Mapping[str, Settings], data: Path | None, scale: Scale, seeds: Sequence[int]) -> list[Entry]:
    """A cell for each way on each plan whose task has it. base: settings of the fit, by task, that a way may override."""
    return [
        Entry(_cell(plan, "best", seed, scale, pretrain=pretrain, fit=tuple(dict((*base.get(plan.task, ()), *fit)).items())), name)
        for plan in plans_for((COLD_START_SLOTS[1], *PROFILING_SLOTS[:2], SEQUENTIAL_SLOTS[0]), data)
        for seed in seeds
        for name, (pretrain, fit, tasks) in ways.items()
        if plan.task in tasks
    ]


def frozen(data: Path | None, scale: Scale, seeds: Sequence[int]) -> list[Entry]:
    """The vectors of preset `best` as they are, read by a linear layer and nothing else, without ingredients of their pre-training."""
    return [
        Entry(_cell(plan, "best", seed, scale, pretrain=WITHOUT[name][0], fit=PROBE), name)
        for plan in plans_for((COLD_START_SLOTS[1], *PROFILING_SLOTS), data)
        for seed in seeds
        for name in IN_VECTORS
    ]


def labels(data: Path | None, scale: Scale, seeds: Sequence[int]) -> list[Entry]:
    """How the gain depends on the share of the training users whose labels (or histories, at the next item) are learned from."""
    return [
        Entry(_cell(plan, system, seed, scale, share=share), f"{share:g}")
        for plan in plans_for((*PROFILING_SLOTS[:2], SEQUENTIAL_SLOTS[0]), data)
        for share in LABEL_SHARES
        for system in systems_for(plan.task, (PLAIN, "clue_zero", *OURS))
        for seed in seeds
    ]


def modes(data: Path | None, scale: Scale, seeds: Sequence[int]) -> list[Entry]:
    """What is left of the gain when the pre-trained network stays as it is, or only patches of it are trained."""
    return [
        Entry(_cell(plan, "clue", seed, scale, fit=settings), name)
        for plan in plans_for((COLD_START_SLOTS[1], *PROFILING_SLOTS, SEQUENTIAL_SLOTS[0]), data)
        for name, settings in MODES.items()
        for seed in seeds
    ]


def history(data: Path | None, scale: Scale, seeds: Sequence[int]) -> list[Entry]:
    """How much of a history is read, from its end, in pre-training and fit."""
    return [
        Entry(_cell(replace(plan, max_len=length), system, seed, scale), str(length))
        for slot in PROFILING_SLOTS[:2]
        for plan in plans_for((slot,), data)[:1]
        for length in LENGTHS
        for system in systems_for(plan.task, (PLAIN, "clue_zero", "clue"))
        for seed in seeds
    ]


def geometry(data: Path | None, scale: Scale, seeds: Sequence[int]) -> list[Entry]:
    """Pre-trainings that lay the users out differently (views, dropout, collapse), each fine-tuned and frozen."""
    found = []
    for plan in plans_for(SEQUENTIAL_SLOTS[:1], data):
        ways: dict[str, Settings] = {
            **{f"dropout {value:g}": () if value == 0.5 else (("dropout", value),) for value in scale.dropouts},
            **{view: (("view", view),) for view in VIEWS if view != "dropout"},
            **ABLATIONS,
        }
        for seed in seeds:
            for name, settings in ways.items():
                found.append(Entry(Cell(plan, "clue", seed, pretrain=settings), name))
                found.append(Entry(Cell(plan, "clue", seed, pretrain=settings, fit=MODES["frozen probe"]), name + FROZEN))
    return found


def _by_system(plans: list[Plan], names: tuple[str, ...], scale: Scale, seeds: Sequence[int]) -> list[Entry]:
    return [Entry(_cell(plan, system, seed, scale)) for plan in plans for seed in seeds for system in systems_for(plan.task, names)]


def _cell(plan: Plan, system: str, seed: int, scale: Scale, searched: str = "dropout", **more: Any) -> Cell:
    """A cell whose one setting is searched where the scale searches at all and the system has it."""
    trained = system in OURS or system in BASELINES
    return Cell(plan, system, seed, searched=searched if scale.grid and trained else "", **more)


def _unless(view: str) -> tuple[tuple[str, Any], ...]:
    """Settings of a view; none for the default, so that its pre-training is the one that the other experiments use."""
    return () if view == "dropout" else (("view", view),)


STUDIES: dict[str, Study] = {
    "systems": systems,
    "ablation": ablation,
    "alone": alone,
    "frozen": frozen,
    "labels": labels,
    "modes": modes,
    "history": history,
    "geometry": geometry,
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "fig3": fig3,
    "fig4": fig4,
    "fig5": fig5,
    "fig6": fig6,
    "fig7": fig7,
}
PAPER = tuple(name for name in STUDIES if name.startswith(("table", "fig")))
TITLES = {
    "systems": "All systems on public data",
    "ablation": "Preset best without each of its ingredients",
    "alone": "Each ingredient of preset best alone",
    "frozen": "Frozen vectors of preset best without each of its ingredients",
    "labels": "Share of the labels",
    "modes": "Frozen probe, adapter, fine-tune",
    "history": "Length of the history",
    "geometry": "Geometry and transfer",
    "table1": "Table I: the data",
    "table2": "Table II: cold start and profiling",
    "table3": "Table III: views",
    "fig3": "Figure 3: sequential recommendation",
    "fig4": "Figure 4: share of the training data",
    "fig5": "Figure 5: probability of dropout",
    "fig6": "Figure 6: without predictor, without stop-gradient",
    "fig7": "Figure 7: map of users",
}
