"""What a reproduction publishes: rows, tables, figures and one page in two forms, all from the finished cells alone."""

import base64
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from userclue.experiments.claims import FAILS, HOLDS, OPEN, claims
from userclue.experiments.figures import figure
from userclue.experiments.paper import REMARKS
from userclue.experiments.plans import SOURCES
from userclue.experiments.rows import collect
from userclue.experiments.scales import together
from userclue.experiments.studies import STUDIES, TITLES
from userclue.experiments.tables import FORMATS, tables
from userclue.files import PARQUET, staged_file, write_bytes
from userclue.report.wording import duration

Json = dict[str, Any]
TEMPLATES = {"report.html": "report.html.j2", "report.md": "report.md.j2"}


def publish(out: Path, manifest: Json) -> tuple[list[str], list[Json]]:
    """Write rows.parquet, pooled.parquet, curves.parquet, maps.parquet, tables/, figures/, report.html and report.md.

    Returns the files written, relative to `out`, and the claims. Raises ArtifactError for a damaged cell.
    """
    collected = collect(out, manifest)
    files = []
    for name in ("rows", "pooled", "curves", "maps"):
        with staged_file(out / f"{name}.parquet", overwrite=True) as aside:
            pq.write_table(getattr(collected, name), aside, **PARQUET)
        files.append(f"{name}.parquet")
    decided = [claim.as_dict() for claim in claims(collected)]
    sections = []
    for experiment in (name for name in STUDIES if name in manifest["experiments"]):
        found = tables(experiment, collected)
        for suffix, written in FORMATS.items():
            write_bytes(out / "tables" / f"{experiment}.{suffix}", written(found).encode())
            files.append(f"tables/{experiment}.{suffix}")
        drawn = figure(experiment, collected)
        for suffix, content in (drawn or {}).items():
            write_bytes(out / "figures" / f"{experiment}.{suffix}", content)
            files.append(f"figures/{experiment}.{suffix}")
        sections.append(
            {
                "id": experiment,
                "title": TITLES[experiment],
                "remark": REMARKS.get(experiment, ""),
                "tables": [Markup(table.html()) for table in found],
                "markdown": [table.markdown() for table in found],
                "figure": base64.b64encode(drawn["png"]).decode() if drawn else "",
                "claims": [claim for claim in decided if claim["experiment"] == experiment],
            }
        )
    told = _context(manifest, sections, decided, collected.rows.to_pylist())
    for name, template in TEMPLATES.items():
        write_bytes(out / name, _filled(template, told).encode())
    return [*files, *TEMPLATES], decided


def _filled(template: str, told: Json) -> str:
    settings: Json = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    here = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=".html" in template, **settings)
    return here.get_template(template).render(told)


def _context(manifest: Json, sections: list[Json], decided: list[Json], rows: list[Json]) -> Json:
    """What the templates say."""
    sources = {row["data"]: SOURCES[row["data"]].about for row in rows}
    budget = manifest["budget"]
    return {
        "css": Markup((Path(__file__).parents[1] / "report" / "report.css").read_text(encoding="utf-8")),
        "sections": sections,
        "counts": {outcome: sum(claim["outcome"] == outcome for claim in decided) for outcome in (HOLDS, FAILS, OPEN)},
        "tones": {HOLDS: "ahead", FAILS: "behind", OPEN: "open"},
        "budget": ", ".join(f"{part} {_told(budget[part])}" for part in ("pretrain", "fit")) + _alone(budget),
        "scale": budget["scale"],
        "most_users": budget["most_users"],
        "grid": budget["grid"],
        "seeds": sorted({row["seed"] for row in rows}),
        "sources": sources,
        "commands": manifest["commands"],
        "seconds": duration(manifest["seconds"]),
        "environment": manifest["environment"],
        "version": manifest["userclue_version"],
        "settings": _settings(rows),
    }


def _told(budget: Json) -> str:
    return " ".join(f"{value} {name}" for name, value in budget.items())


def _alone(budget: Json) -> str:
    minutes = together(budget["pretrain"], budget["fit"])
    return "" if minutes is None else f", fit without a pre-training {minutes:g} minutes"


def _settings(rows: list[Json]) -> list[Json]:
    """The settings of each system's fit on each data set, once, as JSON."""
    found = {(row["experiment"], row["plan"], row["system"], row["variant"]): row["settings"] for row in rows if row["settings"] != "{}"}
    return [{"of": ", ".join(part for part in of if part), "json": text} for of, text in found.items()]
