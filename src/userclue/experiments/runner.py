"""The runner: experiments → cells, each carried out once and kept → rows, tables, figures, page."""

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from userclue.artifact import environment
from userclue.baselines.registry import BASELINES
from userclue.errors import Interrupted, UsageError, UserclueError, interrupts_kept
from userclue.experiments.cells import OURS, PLAIN, Cell, pretrains, run_cell
from userclue.experiments.kept import Encoders, write_cell
from userclue.experiments.material import Material, material
from userclue.experiments.page import publish
from userclue.experiments.plans import PLANS, refuse_empty
from userclue.experiments.scales import Scale
from userclue.experiments.studies import PAPER, STUDIES, Entry
from userclue.files import MANIFEST, lock, read_manifest, refuse_existing, write_json
from userclue.train.journal import Watch
from userclue.version import VERSION

KIND = "reproduction"
ALL = "all"
Json = dict[str, Any]


@dataclass(frozen=True)
class Reproduction:
    """What a call did: cells carried out and taken over, and what was written."""

    experiments: list[str]
    run: int
    kept: int
    files: list[str]
    claims: list[Json]
    warnings: list[str]


@dataclass(frozen=True)
class _Job:
    """A cell with its data and its name."""

    cell: Cell
    material: Material
    key: str


def reproduce(
    names: Sequence[str],
    out: str | Path,
    scale: Scale,
    *,
    data: str | Path | None = None,
    seeds: Sequence[int] | None = None,
    only: Sequence[str] | None = None,
    overwrite: bool = False,
    tell: Callable[[str], None],
    watch: Watch,
) -> Reproduction:
    """Carry out experiments (`all`: those of the paper) in the folder `out`, and write rows, tables, figures and report there.

    data: folder of public data sets; None: the built-in data. only: systems or plans to keep to. What a call before has finished is
    taken over. Raises UsageError for unknown names, or an `out` of another scale; Interrupted with the way on, and what the jobs raise.
    """
    out, data = Path(out), None if data is None else Path(data)
    chosen = _chosen(names)
    refuse_empty(data)
    seeds = tuple(dict.fromkeys(seeds or scale.seeds))
    entries = {name: _only(STUDIES[name](data, scale, seeds), only) for name in chosen}
    warnings = [f"{name}: nothing to do; no data for it, or --only leaves nothing" for name in chosen if not entries[name]]
    try:
        done = _carry_out(entries, out, scale, data, list(seeds), overwrite, tell, watch)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; what is finished is kept in {out}, the same command goes on from there") from None
    return Reproduction(list(entries), *done, warnings)


def _carry_out(
    entries: dict[str, list[Entry]],
    out: Path,
    scale: Scale,
    data: Path | None,
    seeds: list[int],
    overwrite: bool,
    tell: Callable[[str], None],
    watch: Watch,
) -> tuple[int, int, list[str], list[Json]]:
    """Do what is not done yet and publish; returns cells run, cells kept, files and claims."""
    with lock(out):
        manifest = _opened(out, scale, overwrite)
        begin = time.perf_counter()
        jobs = _jobs(entries, data, out, scale, tell)
        todo = [job for job in jobs.values() if not _path(out, job.key).exists()]
        try:
            _work(todo, len(jobs) - len(todo), out, scale, tell, watch)
        finally:  # a call that is interrupted has cost its time too
            manifest["seconds"] = round(manifest["seconds"] + time.perf_counter() - begin, 1)
            write_json(out / MANIFEST, manifest)
        keys = {job.cell: job.key for job in jobs.values()}
        for name, listed in entries.items():
            if listed:
                manifest["experiments"][name] = {"seeds": seeds, "entries": [_told(entry, keys[entry.cell]) for entry in listed]}
        command = shlex.join(["userclue", *sys.argv[1:]])
        manifest["commands"] = [*(one for one in manifest["commands"] if one != command), command]
        manifest["environment"] = environment()
        write_json(out / MANIFEST, manifest)
        files, claims = publish(out, manifest)
    return len(todo), len(jobs) - len(todo), files, claims


def _chosen(names: Sequence[str]) -> list[str]:
    for name in names:
        if name not in STUDIES and name != ALL:
            raise UsageError(f"unknown experiment {name}; known: {', '.join((ALL, *STUDIES))}")
    return [name for name in STUDIES if name in names or (ALL in names and name in PAPER)]


def _only(entries: list[Entry], only: Sequence[str] | None) -> list[Entry]:
    """The entries of the systems, or of the plans, that are named; of both where both are."""
    if not only:
        return entries
    known_systems, known_plans = {PLAIN, *BASELINES, *OURS}, {plan.name for plan in PLANS}
    for name in only:
        if name not in known_systems | known_plans:
            raise UsageError(
                f"--only {name}: is no system ({', '.join(sorted(known_systems))}) and no plan ({', '.join(sorted(known_plans))})"
            )
    systems, plans = known_systems & set(only), known_plans & set(only)
    return [
        entry
        for entry in entries
        if (not systems or entry.cell.system in systems or entry.cell.kind == "counts") and (not plans or entry.cell.plan.name in plans)
    ]


def _opened(out: Path, scale: Scale, overwrite: bool) -> Json:
    """The manifest to go on with, or a new one in a new folder."""
    told: Json = {"scale": scale.name, "pretrain": dict(scale.pretrain), "fit": dict(scale.fit), "most_users": scale.most_users}
    told["grid"] = list(scale.grid)
    if overwrite and out.exists():
        refuse_existing(out, overwrite)
        shutil.rmtree(out)
    if out.exists() and any(out.iterdir()):
        manifest = read_manifest(out, KIND, "choose another output")
        if manifest["budget"] != told:
            raise UsageError(
                f"{out}: holds results of another budget ({manifest['budget']['scale']}); choose another output or --overwrite"
            )
        return manifest
    out.mkdir(parents=True, exist_ok=True)
    manifest = {"kind": KIND, "files": {}, "userclue_version": VERSION, "budget": told, "seconds": 0.0, "commands": [], "experiments": {}}
    write_json(out / MANIFEST, manifest)
    return manifest


def _jobs(entries: dict[str, list[Entry]], data: Path | None, out: Path, scale: Scale, tell: Callable[[str], None]) -> dict[Cell, _Job]:
    """Every different cell once, with its data made ready."""
    ready: dict[str, Material] = {}
    jobs: dict[Cell, _Job] = {}
    for entry in (entry for listed in entries.values() for entry in listed):
        if entry.cell in jobs:
            continue
        source = entry.cell.plan.source
        if source not in ready:
            ready[source] = material(source, data, out / "data", scale.most_users, tell)
        jobs[entry.cell] = _Job(entry.cell, ready[source], entry.cell.key(ready[source], scale))
    return jobs


def _work(todo: list[_Job], kept: int, out: Path, scale: Scale, tell: Callable[[str], None], watch: Watch) -> None:
    """Carry out the cells that are not there yet, each written as soon as it is done."""
    expected = _expected([job.cell for job in todo], scale)
    tell(f"{len(todo)} cells to carry out ({kept} are there), about {_minutes(sum(expected))} on two cores at scale {scale.name}")
    encode = Encoders(out / "encoders", watch)
    begin, done = time.perf_counter(), 0.0
    for number, (job, seconds) in enumerate(zip(todo, expected, strict=True), start=1):
        name = _name(job.cell)
        try:
            with interrupts_kept():
                found = run_cell(job.cell, job.material, scale, encode, watch)
            write_cell(_path(out, job.key), found)
        except (Interrupted, KeyboardInterrupt):
            raise Interrupted(
                f"stopped at cell {number} of {len(todo)} ({name}); {number - 1 + kept} finished cells are kept in {out}, "
                "the same command goes on from there"
            ) from None
        except UserclueError as error:
            raise type(error)(f"{name}: {error} (finished cells are kept in {out})") from None
        done += seconds
        spent = time.perf_counter() - begin
        left = spent / max(done, 1e-9) * (sum(expected) - done)
        tell(f"[{number}/{len(todo)}] {name}: {_first_metric(found.record)}; {_minutes(spent)} so far, about {_minutes(left)} left")


def _expected(cells: list[Cell], scale: Scale) -> list[float]:
    """Seconds that each cell will take, the pre-training counted with the first cell that needs it."""
    seen: set[tuple[Any, ...]] = set()
    seconds = []
    for cell in cells:
        if cell.kind == "counts" or cell.system == PLAIN:
            seconds.append(1.0)
            continue
        pretrain, fit = scale.cost(cell.system)
        of = (cell.plan.source, cell.plan.max_len, cell.system.removesuffix("_adapter"), cell.seed, cell.pretrain, cell.searched)
        searches = len(scale.grid) if cell.searched else 1
        seconds.append(searches * (fit * (cell.kind == "fit") + pretrain * (pretrains(cell.system) and of not in seen)))
        seen.add(of)
    return seconds


def _told(entry: Entry, key: str) -> Json:
    """What the manifest says of an entry, so that rows are made from the folder alone."""
    cell = entry.cell
    return {"cell": key, "variant": entry.variant, "system": cell.system, "seed": cell.seed, "kind": cell.kind, "plan": asdict(cell.plan)}


def _name(cell: Cell) -> str:
    parts = [cell.plan.name, cell.system, f"seed {cell.seed}"]
    parts += [f"{cell.share:.0%} of the users"] if cell.share < 1 else []
    parts += [f"{name} {value}" for name, value in cell.pretrain]
    return ", ".join([*parts, *([cell.kind] if cell.kind != "fit" else [])])


def _first_metric(record: Json) -> str:
    system, metrics = next(iter(record["metrics"][""].items()))
    name = record.get("primary", next(iter(metrics)))
    return f"{system} {name} {metrics[name]['value']:.4g}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _path(out: Path, key: str) -> Path:
    return out / "cells" / f"{key}.parquet"
