"""Data plans: for each data set of the paper the real files where they are, else public data of the same kind, else the built-in data.

A plan is a task on a source. A source is a folder below --data that is read in its publisher's own form, or the built-in data.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc

from userclue.data.public import PUBLIC, Tables
from userclue.data.sources import load_builtin, read_purchases, spending_brackets
from userclue.errors import UsageError

Kind = Literal["paper", "stand-in", "built-in", "control"]
Task = Literal["profiling", "cold-start", "sequential"]


@dataclass(frozen=True)
class Source:
    """Where the histories of a plan come from.

    folder: below --data; None for the built-in data. read: None for PeterRec's CSV files, which `prepare` reads by itself.
    options: of `prepare`.
    """

    folder: str | None
    files: tuple[str, ...]
    read: Callable[[Path], Tables] | None
    about: str
    options: dict[str, Any] = field(default_factory=dict)

    def found(self, data: Path | None) -> list[Path]:
        """The files below `data`; none where one of them is missing."""
        if self.folder is None or data is None:
            return []
        folder = data / self.folder
        paths = [folder / name for name in self.files] if self.files else sorted(folder.glob("*.csv"))
        return paths if all(path.is_file() for path in paths) else []


@dataclass(frozen=True)
class Plan:
    """A task on a source. stands_for: the data set of the paper that it is, or whose place it takes.

    label: of profiling. max_len: items read of a history; max_targets: of a user, at cold start.
    """

    name: str
    source: str
    task: Task
    kind: Kind
    stands_for: str = ""
    label: str = ""
    max_len: int = 50
    max_targets: int = 3


def _builtin(_: Path) -> Tables:
    """The built-in log up to its cut; labels from what follows it: whether the household spends much, and a bracket of how much."""
    builtin = load_builtin()
    return Tables(
        builtin.events,
        builtin.items,
        {
            "high-spender": dict(zip(*builtin.labels.to_pydict().values(), strict=True)),
            "spending": dict(zip(*spending_brackets(read_purchases()).to_pydict().values(), strict=True)),
        },
    )


def _builtin_without(_: Path, department: str) -> Tables:
    """The built-in log outside a department, and as targets what was bought in it, with times."""
    builtin = load_builtin()
    inside = builtin.items.filter(pc.equal(builtin.items["department"], department))["item_id"]
    target = pc.is_in(builtin.events["item_id"], value_set=inside.combine_chunks())
    return Tables(builtin.events.filter(pc.invert(target)), targets=builtin.events.filter(target))


FOLDERS = {
    **dict.fromkeys(("ml-1m", "ml-1m-romance", "ml-1m-horror", "ml-1m-sci-fi"), "ml-1m"),
    "beauty": "s3rec",
    "lastfm": "s3rec",
    "pakdd2015": "pakdd2015-gender",
    "atus": "atus",
    "completejourney": "completejourney",
    "elec-cell": "amazon-elec-cell/clean",
    "loan-account": "mybank-cdr/loan_account",
}
BUILTIN_ABOUT = "built-in data (The Complete Journey, product types, CC0)"
# Paper V-A-3: items of fewer than 5 users and users of fewer than 10 items go, histories are cut into windows.
MOVIELENS: dict[str, Any] = {"min_item_users": 5, "min_user_events": 10}


def _public(name: str, folder: str, about: str = "", **options: Any) -> Source:
    data = PUBLIC[name]
    return Source(folder, data.files, data.read, about or data.about, options)


SOURCES: dict[str, Source] = {
    **{name: _public(name, folder) for name, folder in FOLDERS.items()},
    **{f"ml-1m-{n}": _public("ml-1m", "ml-1m", f"MovieLens-1M in windows of {n}; order only", window=n) for n in (30, 50)},
    **{f"ml-25m-{n}": _public("ml-25m", "ml-25m", f"MovieLens-25M in windows of {n}", window=n, **MOVIELENS) for n in (30, 50)},
    **{
        name.lower(): Source(name, (), None, f"{name}, in PeterRec's format", {"layout": "peterrec", "targets": kind})
        for kind, names in (("items", ("ColdRec-1", "ColdRec-2")), ("labels", ("AgeEst", "GenEst", "LifeEst")))
        for name in names
    },
    "builtin": Source(None, (), _builtin, BUILTIN_ABOUT),
    **{f"builtin-{n}": Source(None, (), _builtin, f"{BUILTIN_ABOUT} in windows of {n}", {"window": n}) for n in (10, 20)},
    **{
        f"builtin-{name}": Source(None, (), partial(_builtin_without, department=department), f"{BUILTIN_ABOUT}, the rest → {department}")
        for name, department in (("produce", "PRODUCE"), ("drug-gm", "DRUG GM"))
    },
}

PLANS: tuple[Plan, ...] = (
    Plan("coldrec-1", "coldrec-1", "cold-start", "paper", "ColdRec-1"),
    Plan("elec-cell", "elec-cell", "cold-start", "stand-in", "ColdRec-1"),
    Plan("builtin-produce", "builtin-produce", "cold-start", "built-in", "ColdRec-1"),
    Plan("coldrec-2", "coldrec-2", "cold-start", "paper", "ColdRec-2", max_len=100, max_targets=5),
    Plan("ml-1m-sci-fi", "ml-1m-sci-fi", "cold-start", "stand-in", "ColdRec-2", max_targets=5),
    Plan("builtin-drug-gm", "builtin-drug-gm", "cold-start", "built-in", "ColdRec-2", max_targets=5),
    Plan("ageest", "ageest", "profiling", "paper", "AgeEst", "targets", max_len=100),
    Plan("ml-1m-age", "ml-1m", "profiling", "stand-in", "AgeEst", "age"),
    Plan("atus-age", "atus", "profiling", "stand-in", "AgeEst", "age"),
    Plan("builtin-spending", "builtin", "profiling", "built-in", "AgeEst", "spending"),
    Plan("genest", "genest", "profiling", "paper", "GenEst", "targets", max_len=100),
    Plan("ml-1m-gender", "ml-1m", "profiling", "stand-in", "GenEst", "gender"),
    Plan("atus-sex", "atus", "profiling", "stand-in", "GenEst", "sex"),
    Plan("builtin-high-spender", "builtin", "profiling", "built-in", "GenEst", "high-spender"),
    Plan("lifeest", "lifeest", "profiling", "paper", "LifeEst", "targets", max_len=100),
    Plan("atus-marital", "atus", "profiling", "stand-in", "LifeEst", "marital"),
    Plan("ml-25m-30", "ml-25m-30", "sequential", "paper", "MovieLens30", max_len=30),
    Plan("ml-1m-30", "ml-1m-30", "sequential", "stand-in", "MovieLens30", max_len=30),
    Plan("builtin-10", "builtin-10", "sequential", "built-in", "MovieLens30", max_len=10),
    Plan("ml-25m-50", "ml-25m-50", "sequential", "paper", "MovieLens50"),
    Plan("ml-1m-50", "ml-1m-50", "sequential", "stand-in", "MovieLens50"),
    Plan("builtin-20", "builtin-20", "sequential", "built-in", "MovieLens50", max_len=20),
    # For the table of all systems alone.
    Plan("ml-1m-romance", "ml-1m-romance", "cold-start", "stand-in"),
    Plan("ml-1m-horror", "ml-1m-horror", "cold-start", "stand-in"),
    Plan("ml-1m-occupation", "ml-1m", "profiling", "stand-in", label="occupation"),
    Plan("pakdd-gender", "pakdd2015", "profiling", "stand-in", label="gender"),
    Plan("ml-1m-next", "ml-1m", "sequential", "stand-in"),
    Plan("beauty-next", "beauty", "sequential", "stand-in"),
    Plan("lastfm-next", "lastfm", "sequential", "stand-in"),
    Plan("builtin-next", "builtin", "sequential", "built-in"),
    Plan("loan-account", "loan-account", "cold-start", "control"),
    *(Plan(f"household-{label}", "completejourney", "profiling", "control", label=label) for label in ("age", "income", "marital", "kids")),
)
SLOTS = tuple(dict.fromkeys(plan.stands_for for plan in PLANS if plan.stands_for))
COLD_START_SLOTS, PROFILING_SLOTS, SEQUENTIAL_SLOTS = SLOTS[:2], SLOTS[2:5], SLOTS[5:]


def usable(plan: Plan, data: Path | None) -> bool:
    """Whether its files are there; the built-in data always is."""
    source = SOURCES[plan.source]
    return source.folder is None or bool(source.found(data))


def plans_for(slots: Iterable[str], data: Path | None) -> list[Plan]:
    """For each data set of the paper: itself where it is, else every stand-in there is, else what the built-in data has (perhaps none)."""
    return [plan for slot in slots for plan in _first_kind([plan for plan in PLANS if plan.stands_for == slot], data)]


def plans_for_all_systems(data: Path | None) -> list[Plan]:
    """Every stand-in and null control that `data` holds; without any, what the built-in data has."""
    found = [plan for plan in PLANS if plan.kind in ("stand-in", "control") and plan.name not in ("ml-1m-30", "ml-1m-50")]
    found = [plan for plan in found if usable(plan, data)]
    return found or [plan for plan in PLANS if plan.kind == "built-in" and plan.name not in ("builtin-10", "builtin-20")]


def refuse_empty(data: Path | None) -> None:
    """UsageError when `data` was given and holds nothing that a plan can read."""
    if data is not None and not any(SOURCES[plan.source].found(data) for plan in PLANS):
        folders = sorted({source.folder for source in SOURCES.values() if source.folder is not None})
        raise UsageError(f"{data}: holds none of the data sets known ({', '.join(folders)}); correct --data, or leave it out")


def _first_kind(plans: list[Plan], data: Path | None) -> list[Plan]:
    for kind in ("paper", "stand-in", "built-in"):
        found = [plan for plan in plans if plan.kind == kind and usable(plan, data)]
        if found:
            return found
    return []
