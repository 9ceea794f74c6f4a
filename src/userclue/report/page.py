"""From run folders to one HTML file that needs no network, no script and no other file."""

import json
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from userclue.errors import UsageError
from userclue.files import refuse_existing, write_bytes
from userclue.report.comparison import comparison
from userclue.report.figures import column, maps, pretraining, tuning
from userclue.report.runs import Json, Run, read_runs
from userclue.report.wording import count, duration, setting

CLOCKS = {"s": 1, "ms": 1e3, "us": 1e6, "µs": 1e6, "ns": 1e9}


def build_report(runs: Sequence[Path], out: Path, overwrite: bool = False, title: str | None = None) -> None:
    """Write one HTML page about `runs`, folders of pre-trained and of fitted models, in the order given.

    The same folders give the same bytes. In a fitted run, `differences` are ours minus the baseline, paired by user.

    Raises:
        UsageError: no run is given, or `out` exists without `overwrite`, or is a folder.
        ArtifactError: a run is no artifact of ours, is damaged, or lacks what its part of the page is made of.
    """
    if not runs:
        raise UsageError("a report needs at least one run; give folders that userclue pretrain or finetune wrote")
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; name the HTML file to write")
    refuse_existing(out, overwrite)
    content = render(read_runs([Path(run) for run in runs]), title).encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, content)


def render(runs: Sequence[Run], title: str | None = None) -> str:
    """The page as text. User-supplied text is escaped; only the figures, made here, are not."""
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    models = [run for run in runs if run.kind == "model"]
    fitted = [comparison(run, f"f{number}") for number, run in enumerate(runs) if run.task]
    trained = [pretraining(run, f"p{number}") for number, run in enumerate(models)]
    tuned = [panel for number, run in enumerate(runs) if run.kind == "fitted" for panel in tuning(run, f"t{number}")]
    sources = _sources(runs)
    return environment.get_template("template.html.j2").render(
        title=title or f"What was learned from {', '.join(source['name'] for source in sources) or 'these runs'}",
        css=Markup((here / "report.css").read_text(encoding="utf-8")),
        answers=[section["answer"] for section in fitted],
        sources=sources,
        fitted=fitted,
        maps=maps(runs),
        pretraining=trained,
        tuning=tuned,
        settings=_settings(runs),
        runs=runs,
        versions=[_versions(run) for run in runs],
        usage=[_usage(run) for run in runs],
    )


def _sources(runs: Sequence[Run]) -> list[Json]:
    """Each data set once, with the facts that runs tell about it."""
    found: dict[str, Json] = {}
    for run in runs:
        data = run.config.get("data") or {}
        key = json.dumps([data.get(part) for part in ("source", "users", "items", "events")])
        if data and key not in found:
            files = data.get("source") or []
            files = [str(file) for file in files] if isinstance(files, list) else [str(files)]
            name = Path(files[0] if files else run.name).name.rpartition(":")[2] or "data"
            name += f" and {len(files) - 1} more" if len(files) > 1 else ""
            shown = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
            found[key] = {"name": name, "facts": _facts(data), "source": shown}
    return list(found.values())


def _facts(data: Json) -> list[tuple[str, str, str]]:
    """(what, value, remark) of one data set."""
    facts = [(name.capitalize(), count(data[name]), "") for name in ("users", "items", "events") if data.get(name) is not None]
    time, lengths = data.get("time") or {}, data.get("lengths") or {}
    first, last = (_day(time.get(end), time.get("unit")) for end in ("min", "max"))
    if first and last:
        days = (datetime.fromisoformat(last) - datetime.fromisoformat(first)).days
        facts.append(("Time span", f"{first} – {last}", f"{days:,} days"))
    if {"median", "q25", "q75", "max"} <= set(lengths):
        spread = f"middle half {count(lengths['q25'])}–{count(lengths['q75'])}; longest {count(lengths['max'])}"
        facts.append(("Events a user, median", count(lengths["median"]), spread))
    return facts


def _day(value: Any, unit: Any) -> str | None:
    """A moment's date. Datasets keep milliseconds whatever the log's unit was, so what is absurd in one is read as the other."""
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value).date().isoformat()
        except ValueError:
            return None
    if not isinstance(value, int | float):
        return None
    for scale in (CLOCKS.get(str(unit), 1e3), 1e3):
        seconds = value / scale
        if -2.2e9 < seconds < 9e9:
            return datetime.fromtimestamp(seconds, UTC).date().isoformat()
    return None


def _settings(runs: Sequence[Run]) -> list[Json]:
    """Groups of settings; a row a setting, a column a run."""
    groups = []
    for title, of in (
        ("Encoder", [run.encoder for run in runs]),
        ("Pre-training", [run.pretrain for run in runs]),
        ("Fine-tuning", [(run.task or {}).get("settings") or {} for run in runs]),
    ):
        keys = {key: None for values in of for key, value in values.items() if value is not None}
        if keys:
            groups.append({"title": title, "rows": [(key, [setting(values.get(key)) for values in of]) for key in keys]})
    return groups


def _versions(run: Run) -> Json:
    """What made the run, how long it took, and its files. A fitted run's config speaks of its pre-training, its task of itself."""
    own = run.task or run.config
    environment = own.get("environment") or run.config.get("environment") or {}
    facts = {"userclue": run.manifest.get("userclue_version"), "created": run.manifest.get("created"), **environment}
    if own.get("seconds") is not None:
        facts["run time"] = duration(own["seconds"])
    speed = column(run.rows, "users_per_second")[1]
    if len(speed):
        facts["users a second, median"] = count(float(np.median(speed)))
    files = [
        {"name": name, "bytes": count(entry.get("bytes")), "sha256": str(entry.get("sha256", "—"))}
        for name, entry in run.manifest["files"].items()
    ]
    return {"run": run.name, "facts": [(key, setting(value)) for key, value in facts.items() if value is not None], "files": files}


def _usage(run: Run) -> Json:
    """How to go on with this artifact, in Python and on the command line."""
    folder, dim = str(run.path), run.encoder.get("dim", "dim")
    shell = shlex.quote(folder)
    python = (
        "import userclue as uc\n"
        f"encoder = uc.UserEncoder.from_pretrained({folder!r})\n"
        f'vectors = encoder.encode([["item-1", "item-2"], ["item-3"]])  # float32 [2, {dim}]'
    )
    labels = " --labels LABELS" if run.task and run.task.get("task") == "profiling" else ""
    verb = f"embed {shell} EVENTS_OR_DATASET -o users.parquet" if run.kind == "model" else f"evaluate {shell} DATASET{labels}"
    return {"run": run.name, "python": python if run.kind == "model" else "", "shell": f"userclue {verb}"}
