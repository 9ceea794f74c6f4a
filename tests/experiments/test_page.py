"""What a reproduction publishes: figures that open, tables, and a page that needs nothing from outside."""

import re
import struct
from typing import Any
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest

from userclue.experiments.figures import DRAWN, figure
from userclue.experiments.rows import Collected
from userclue.experiments.studies import STUDIES, TITLES

pytestmark = pytest.mark.slow

MOST_BYTES = 300_000


def read(made: Any) -> Collected:
    return Collected(*(pq.read_table(made.out / f"{name}.parquet") for name in ("rows", "pooled", "curves", "maps")))


@pytest.mark.parametrize("name", DRAWN)
def test_figures_open(made: Any, name: str) -> None:
    png = (made.out / "figures" / f"{name}.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert png[-8:-4] == b"IEND"
    width, height = struct.unpack(">II", png[16:24])
    assert width > 400
    assert height > 200
    assert len(png) < MOST_BYTES
    svg = (made.out / "figures" / f"{name}.svg").read_bytes()
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert len(svg) < MOST_BYTES


def test_figures_are_the_same_for_the_same_rows(made: Any) -> None:
    collected = read(made)
    assert figure("fig6", collected) == figure("fig6", collected)
    assert (figure("fig5", collected) or {})["svg"] == (made.out / "figures" / "fig5.svg").read_bytes()


@pytest.mark.parametrize("name", STUDIES)
def test_tables_of_every_experiment(made: Any, name: str) -> None:
    for suffix, sign in (("md", "| --- |"), ("tex", r"\begin{tabular}"), ("html", "<table>")):
        assert sign in (made.out / "tables" / f"{name}.{suffix}").read_text()


def test_the_page(made: Any) -> None:
    page = (made.out / "report.html").read_text()
    for title in TITLES.values():
        assert title in page
    assert "What holds, what does not" in page
    assert "steps" in page
    assert not re.search(r'(?:src|href)="https?:', page)
    assert all(claim["statement"].split(":")[0] in page for claim in made.done.claims)


def test_the_page_in_markdown(made: Any) -> None:
    page = (made.out / "report.md").read_text()
    assert all(f"## {title}\n" in page for title in TITLES.values())
    drawn = re.findall(r"!\[[^]]+\]\((figures/[^)]+)\)", page)
    assert len(drawn) == len(DRAWN)
    assert all((made.out / path).is_file() for path in drawn)
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert sum(line.endswith(("| holds |", "| does not hold |", "| undecided |")) for line in rows) == len(made.done.claims)
    assert "&amp;" not in page


def test_files_named_are_there(made: Any) -> None:
    assert all((made.out / name).is_file() for name in made.done.files)
    assert {"rows.parquet", "report.html", "figures/fig7.png", "tables/table2.tex"} <= set(made.done.files)
