"""What is measured: cases of systems that do the same work, each system a worker in an environment."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import data

OURS = "userclue"
RATES = "rates"
MODULES = {
    OURS: "ours",
    RATES: "rates",
    "rectools": "peer_rectools",
    "recbole": "peer_recbole",
    "lifestream": "peer_lifestream",
}
PEERS = ("rectools", "recbole", "lifestream")
# The paper's own size (V-A-3), and what every worker needs to be told.
COMMON: dict[str, Any] = {
    "max_len": 50,
    "dim": 64,
    "blocks": 2,
    "heads": 4,
    "dropout": 0.5,
    "batch": 64,
    "warm_up": 10,
    "steps": None,
    "peer_users": 2048,
    "device": "cpu",
    "precision": "float32",
    "item_updates": "auto",
    "torch_adam": False,
    "tokens": 6400,
    "items": 3416,
}


@dataclass(frozen=True)
class System:
    """One line of a table: which environment runs which measurement of its worker."""

    name: str
    environment: str
    measurement: str
    variables: tuple[tuple[str, str], ...] = ()  # environment variables of its process

    @property
    def module(self) -> str:
        """The worker's module."""
        return f"benchmarks.workers.{MODULES[self.environment]}"


@dataclass(frozen=True)
class Case:
    """One table: the same work for several systems. `fresh`: a new process for each repetition, for its peak of memory."""

    measurement: str
    label: str
    unit: str
    systems: tuple[System, ...]
    config: dict[str, Any]
    fresh: bool = False
    x: float | None = None  # what a growth table varies


@dataclass(frozen=True)
class Place:
    """Where data come from and go to, and what was asked for."""

    data: Path
    work: Path
    device: str = "cpu"
    huge: bool = False
    sizes: tuple[int, ...] = field(default=(1_000_000, 10_000_000))


def _systems(measurement: str, *names: str) -> tuple[System, ...]:
    return tuple(System(name, name, RATES if name == RATES else measurement) for name in names)


def _plain(measurement: str) -> System:
    """userclue without its compiled kernels, as it runs where there is no compiler."""
    return System(f"{OURS}, plain PyTorch", OURS, measurement, (("USERCLUE_KERNELS", "off"),))


def _on_ml_1m(place: Place, **more: Any) -> dict[str, Any]:
    path = data.ml_1m(place.data, place.work)
    return {**COMMON, "csv": str(path), "work": str(place.work), "device": place.device, **more}


def pretrain(place: Place) -> Iterator[Case]:
    """CLUE beside CoLES, and beside the SASRec of both libraries, whose sequences cost other FLOPs: they are stated."""
    systems = (*_systems("pretrain", OURS, "lifestream", "rectools", "recbole", RATES), _plain("pretrain"))
    for batch in (64, 256):
        warm_up = 640 // batch
        yield Case("pretrain", f"batch {batch}", "sequences", systems, _on_ml_1m(place, batch=batch, warm_up=warm_up, tokens=100 * batch))


def next_item(place: Place) -> Iterator[Case]:
    """The same loss at the same positions: every one beside RecTools, the last of a prefix beside RecBole."""
    for label, ours, peer in (("every position", "next", "rectools"), ("last position", "last", "recbole")):
        systems = (System(OURS, OURS, ours), System(peer, peer, "pretrain"), System(RATES, RATES, RATES))
        yield Case("next", f"{label}, batch 64", "sequences", systems, _on_ml_1m(place))


def embed(place: Place) -> Iterator[Case]:
    """Vectors of all users of MovieLens-1M."""
    systems = (*_systems("embed", OURS, "lifestream", "rectools", RATES), _plain("embed"))
    yield Case("embed", "all users of MovieLens-1M", "users", systems, _on_ml_1m(place))


def processes(place: Place) -> Iterator[Case]:
    """Vectors of all users of a large log on two processes, beside one."""
    size = max(place.sizes)
    systems = (System(OURS, OURS, "embed-2"), System(f"{OURS}, one process", OURS, "embed-1"))
    config = {**COMMON, "csv": str(data.generated(size, place.work)), "work": str(place.work)}
    yield Case("processes", f"two processes, {size // data.EVENTS_A_USER:,} users", "users", systems, config)


def rank(place: Place) -> Iterator[Case]:
    """Full ranking, forward pass included."""
    systems = _systems("rank", OURS, "recbole", "rectools", RATES)
    yield Case("rank", "last event of every user, all items", "users", systems, _on_ml_1m(place))


def agree(place: Place) -> Iterator[Case]:
    """Do the evaluators of `rank` say the same of the same scores?"""
    systems = _systems("agree", OURS, "recbole", "rectools")
    yield Case("agree", "equal scores", "users", systems, _on_ml_1m(place))


def prepare(place: Place) -> Iterator[Case]:
    """CSV to histories; RecBole's split and prefixes, which need minutes and 13 GB at 10^7, from text at the smallest size alone."""
    histories = System("rectools, histories", "rectools", "prepare-histories")
    for size in place.sizes:
        for text in (False, True):
            systems = (*_systems("prepare", OURS, "rectools"), histories, *_systems("prepare", "lifestream", "recbole"))
            if not text or size == min(place.sizes):
                systems = (*systems, System("recbole, split and prefixes", "recbole", "prepare-histories"))
            path = data.generated(size, place.work, text)
            config = {**COMMON, "csv": str(path), "work": str(place.work)}
            yield Case("prepare", f"{size:,} events, ids are {'text' if text else 'integers'}", "events", systems, config, fresh=True)


def growth_events(place: Place) -> Iterator[Case]:
    """Preparation against the length of the log, in processes that have prepared one before: what a first call loads is no event's."""
    warm = str(data.generated(1_000, place.work))
    for power in (5, 6, 7, *((8,) if place.huge else ())):
        config = {**COMMON, "csv": str(data.generated(10**power, place.work)), "work": str(place.work), "warm_csv": warm}
        yield Case("growth-events", f"10^{power} events", "events", _systems("prepare", OURS), config, fresh=True, x=10**power)


def _drawn(place: Place, measurement: str, label: str, x: float, users: int, items: int, length: int, **more: Any) -> Case:
    config = {**COMMON, "work": str(place.work), "device": place.device, "drawn": {"users": users, "items": items, "length": length}}
    systems = _systems("embed" if measurement == "growth-users" else "pretrain", OURS)
    if measurement == "widths":
        systems = (*systems, *_systems("pretrain", RATES))
    return Case(measurement, label, "users", systems, {**config, "max_len": length, **more}, x=x)


def growth_items(place: Place) -> Iterator[Case]:
    """A step against the size of the catalogue; by the default, lazy Adam above 30,000 items, and twice by dense Adam."""
    for items in (10**3, 3_416, 10**4, 10**5, 646_000, 10**6):
        yield _drawn(place, "growth-items", f"{items:,} items", items, 64 * 50, items, 50, steps=50, warm_up=5)
    whole = {"item_updates": "dense", "steps": 10, "warm_up": 2}
    for label, more in (("dense Adam", {}), ("torch.optim.Adam", {"torch_adam": True})):
        yield _drawn(place, "growth-items", f"646,000 items, {label}", 646_000, 64 * 50, 646_000, 50, **whole, **more)


def growth_length(place: Place) -> Iterator[Case]:
    """A step against the length of the histories."""
    for length in (30, 50, 100, 200, 500, 1000):
        steps = max(4, 1000 // length)
        yield _drawn(place, "growth-length", f"{length} items a history", length, 64 * 40, 3_416, length, steps=steps, warm_up=2)


def growth_users(place: Place) -> Iterator[Case]:
    """Embedding against the number of users."""
    for users in (10**3, 10**4, 10**5):
        yield _drawn(place, "growth-users", f"{users:,} users", users, users, 3_416, 50)


def widths(place: Place) -> Iterator[Case]:
    """Pre-training at other widths, lengths and batches, in bfloat16: for a GPU, `--device cuda --only widths`."""
    for dim in (64, 256):
        for length in (50, 200):
            for batch in (64, 1024, 16_384):
                shape = {"dim": dim, "batch": batch, "steps": 20, "warm_up": 5, "precision": "bfloat16", "tokens": 2 * batch * (length + 1)}
                label = f"D {dim}, L {length}, batch {batch:,}"
                yield _drawn(place, "widths", label, batch, batch * 4, 100_000, length, **shape)


MEASUREMENTS: dict[str, Callable[[Place], Iterator[Case]]] = {
    "pretrain": pretrain,
    "next": next_item,
    "embed": embed,
    "processes": processes,
    "rank": rank,
    "agree": agree,
    "prepare": prepare,
    "growth-events": growth_events,
    "growth-items": growth_items,
    "growth-length": growth_length,
    "growth-users": growth_users,
    "widths": widths,
}
BY_DEFAULT = tuple(name for name in MEASUREMENTS if name != "widths")
