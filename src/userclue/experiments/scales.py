"""How much is spent on a reproduction: one budget for every system, and seconds to expect, measured on two cores."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from userclue.config import FinetuneSettings, PretrainSettings
from userclue.errors import UsageError

ROUNDS = 20  # logged rows of a pre-training whose steps are known
BUDGETS = ("epochs", "steps", "minutes")
# Seconds of a pre-training and of a fit beside those of CLUE: they learn from every position, or have other work to do.
RELATIVE_COST = {"best": (3.0, 4.0), "s3rec": (6.0, 4.0), "peterrec": (1.5, 1.0), **dict.fromkeys(("sasrec", "gru4rec"), (1.0, 3.0))}


@dataclass(frozen=True)
class Scale:
    """The budget of every system and the breadth of every experiment.

    pretrain, fit: settings that all systems get. dropouts: of Figure 5. shares: of Figure 4. grid: values that the search of each
    system tries, chosen by the validation part; none: no search. most_users: of a source. seconds: of a pre-training and of a fit.
    """

    name: str
    pretrain: Mapping[str, Any]
    fit: Mapping[str, Any]
    seeds: tuple[int, ...]
    most_users: int | None
    dropouts: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    shares: tuple[float, ...] = (0.4, 0.6, 0.8, 1.0)
    grid: tuple[float, ...] = ()
    seconds: tuple[float, float] = (0.0, 0.0)

    @property
    def minutes(self) -> float | None:
        """Of a pre-training and a fit together, where time is the budget."""
        return together(self.pretrain, self.fit)

    def with_steps(self, pretrain: int | None, fit: int | None) -> "Scale":
        """The same with another number of steps. UsageError where time is the budget."""
        if self.minutes is not None and (pretrain or fit):
            raise UsageError(f"scale {self.name}: time is the budget here; give steps with another scale")
        first, second = self.seconds
        mine = self
        if pretrain is not None:
            known = self.pretrain.get("steps")
            mine = replace(mine, pretrain=_stepped(self.pretrain, pretrain), seconds=(first * pretrain / known if known else first, second))
        if fit is not None:
            known = self.fit.get("steps")
            mine = replace(mine, fit=_stepped(self.fit, fit), seconds=(mine.seconds[0], second * fit / known if known else second))
        return mine

    def cost(self, system: str) -> tuple[float, float]:
        """Seconds to expect of a pre-training and of a fit of `system`, where it has both."""
        first, second = (1.0, 1.0) if self.minutes is not None else RELATIVE_COST.get(system.removesuffix("_adapter"), (1.0, 1.0))
        return self.seconds[0] * first, self.seconds[1] * second

    def budget(self, of: type[PretrainSettings] | type[FinetuneSettings], *, alone: bool = False) -> dict[str, Any]:
        """Settings for a pre-training or a fit (`alone`: without one before); what a preset says of the budget is put aside."""
        chosen = dict(self.pretrain if of is PretrainSettings else self.fit)
        if alone and self.minutes is not None:
            chosen["minutes"] = self.minutes
        if of is PretrainSettings and "steps" in chosen:
            chosen["log_every"] = max(1, chosen["steps"] // ROUNDS)
        return {**dict.fromkeys(BUDGETS), **chosen}


def _stepped(settings: Mapping[str, Any], steps: int) -> dict[str, Any]:
    return {**_unbudgeted(settings), "steps": steps}


def _unbudgeted(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in BUDGETS}


NINE = tuple(round(0.1 * n, 1) for n in range(1, 10))
SCALES: dict[str, Scale] = {
    scale.name: scale
    for scale in (
        Scale("smoke", {"steps": 300}, {"steps": 150}, (0,), 3_000, dropouts=(0.1, 0.5, 0.9), seconds=(3.0, 1.5)),
        Scale("small", {"steps": 1_000}, {"steps": 500}, (0, 1, 2), 10_000, seconds=(18.0, 6.0)),
        # Paper V-A: the dropout of every system and the share of every view are searched in 0.1 … 0.9. The paper tells no epochs.
        Scale("paper", {"epochs": 20}, {"epochs": 20}, (0, 1, 2), None, dropouts=NINE, grid=NINE, seconds=(3_600.0, 3_600.0)),
    )
}


def scale_named(name: str) -> Scale:
    """One of SCALES, or `Mmin`; UsageError that lists the known ones."""
    if name in SCALES:
        return SCALES[name]
    minutes = re.fullmatch(r"(\d*\.?\d+)min", name)
    if minutes is None or not float(minutes[1]):
        raise UsageError(f"unknown scale {name}; known: {', '.join(SCALES)}, and equal time for every system, such as 3min")
    return of_minutes(SCALES["small"], float(minutes[1]))


def of_minutes(scale: Scale, minutes: float) -> Scale:
    """As broad, with equal time for all: half of it for the pre-training where a system has one, all of it for the fit where not."""
    half = {"minutes": minutes / 2}
    pretrain, fit = ({**_unbudgeted(settings), **half} for settings in (scale.pretrain, scale.fit))
    return replace(scale, name=f"{minutes:g}min", pretrain=pretrain, fit=fit, seconds=(30 * minutes, 30 * minutes))


def together(pretrain: Mapping[str, Any], fit: Mapping[str, Any]) -> float | None:
    """Minutes of a pre-training and a fit, where time is the budget."""
    return pretrain["minutes"] + fit["minutes"] if "minutes" in pretrain and "minutes" in fit else None
