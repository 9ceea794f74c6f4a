"""The page as a reader and a browser get it."""

import copy
import itertools
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from userclue.errors import ArtifactError, UsageError
from userclue.report import page
from userclue.report.page import build_report

VOID = {"meta", "link", "br", "img", "input", "hr", "base", "source"}
HOSTILE = '<script>alert("x")</script>'


class Outline(HTMLParser):
    """Tags with their attributes, headings in order, ids, and whether every tag is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, make_demo: Callable[[Path], list[Path]]) -> str:
    tmp_path = tmp_path_factory.mktemp("demo")
    build_report(make_demo(tmp_path / "runs"), tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_verdict_is_read_first_and_in_the_words_of_the_table(demo: str) -> None:
    text = Outline(demo).text
    verdict = text.index("Best by accuracy: Bag of items + history length, 0.822 [0.782, 0.862] on 353 users.")
    assert verdict < text.index("1,469,307")
    assert "bag_of_items" not in text
    assert "Best by MRR@10: CLUE (fine-tuned), 0.1012" in text


def test_sections_stand_in_order(demo: str) -> None:
    places = [demo.index(f'<section id="{name}"') for name in ("data", "overview", "f1", "f2", "map", "pretraining", "tuning", "settings")]
    assert places == sorted(places)
    assert places[-1] < demo.index('<section id="versions"') < demo.index('<section id="use"')


def test_data_are_described(demo: str) -> None:
    text = Outline(demo).text
    for fact in ("2,349", "1,708", "2017-01-01 – 2017-12-31", "364 days", "middle half 161–902; longest 4,120"):
        assert fact in text


def test_many_files_are_one_source(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    files = [f"logs/day-{number}.csv" for number in range(8)]
    build_report([make_run(tmp_path / "m", "model", config={"data": {"source": files, "users": 3}})], tmp_path / "o.html")
    text = Outline((tmp_path / "o.html").read_text()).text
    assert "What was learned from day-0.csv and 7 more" in text
    assert "logs/day-4.csv and 3 more" in text


def test_each_system_has_a_row_with_intervals_and_paired_difference(demo: str) -> None:
    rows = [Outline(row).text for row in re.findall(r"<tr.*?</tr>", demo[demo.index('<section id="f1"') :], re.DOTALL)]
    assert [row.split("0.")[0].strip().removesuffix("★").strip() for row in rows[1:5]] == [
        "Bag of items + history length",
        "CLUE (fine-tuned) ours",
        "Same-window bag of items",
        "Majority class",
    ]
    assert "★ 0.822 (best) [0.782, 0.862]" in rows[1]
    assert "−0.023 [−0.052, +0.006] undecided" in rows[1]
    assert "+0.298 [+0.237, +0.359] ours better" in rows[4]
    assert "★" not in rows[2]


def test_candidates_seeds_and_warnings_are_stated(demo: str) -> None:
    text = Outline(demo).text
    assert "All items are candidates" in text
    assert "Only items the user has not seen are candidates" in text
    assert "Seeds: split 0, pre-training 0, fine-tuning 0" in text
    assert "12 users have fewer than three events" in text


def test_health_tells_dimensional_collapse(demo: str) -> None:
    assert "dimensional collapse" in Outline(demo).text


def test_nothing_is_loaded_from_outside(demo: str) -> None:
    outline = Outline(demo)
    assert "http:" not in demo
    assert "https:" not in demo
    assert "@import" not in demo
    names = {name for name, _ in outline.tags}
    assert names.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "base", "form"})
    for tag, attributes in outline.tags:
        for key, value in attributes.items():
            assert not key.startswith("on")
            assert key not in ("src", "srcset", "action", "xlink:href")
            if key == "href":
                assert value is not None
                assert value.startswith("#"), f"{tag} {value}"
    assert set(re.findall(r"url\((.)", demo)) <= {"#"}
    assert "default-src 'none'" in demo


def test_ids_are_unique_and_every_reference_has_its_target(demo: str) -> None:
    outline = Outline(demo)
    ids = Counter(attributes["id"] for _, attributes in outline.tags if "id" in attributes)
    assert ids.most_common(1)[0][1] == 1
    targets = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', demo))
    assert {a or b for a, b in targets} <= set(ids)


def test_page_is_light(demo: str) -> None:
    assert len(demo.encode()) < 400_000


def test_figures_follow_the_theme(demo: str) -> None:
    drawn = "".join(re.findall(r"<svg.*?</svg>", demo, re.DOTALL))
    assert re.findall(r"#[0-9a-f]{6}\b", drawn) == []
    used = set(re.findall(r"var\(--([a-z0-9]+)\)", demo))
    css = demo[demo.index("<style>") : demo.index("</style>")]
    for theme in re.findall(r":root \{(.*?)\}", css, re.DOTALL):
        assert used <= set(re.findall(r"--([a-z0-9]+):", theme))


def test_every_figure_speaks_and_every_header_has_a_scope(demo: str) -> None:
    outline = Outline(demo)
    images = [attributes for _, attributes in outline.tags if attributes.get("role") == "img"]
    assert len(images) == 2 + 1 + 6 + 2
    assert all(attributes["aria-label"] for attributes in images)
    assert all(attributes.get("aria-hidden") == "true" for attributes in outline.of("svg"))
    assert all(attributes.get("scope") in ("col", "row", "rowgroup") for attributes in outline.of("th"))
    levels = [int(name[1]) for name, _ in outline.tags if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def _luminance(code: str) -> float:
    channels = [int(code[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_is_aa_in_every_theme(demo: str) -> None:
    themes = re.findall(r":root \{(.*?)\}", demo, re.DOTALL)
    assert len(themes) == 3
    for theme in themes:
        colours = dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})", theme))
        for ground in ("paper", "card", "tint"):
            for name in ("ink", "muted", "accent", "good", "bad"):
                pair = sorted((_luminance(colours[name]), _luminance(colours[ground])))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (name, ground)
        for name in (f"s{number}" for number in range(1, 9)):
            pair = sorted((_luminance(colours[name]), _luminance(colours["paper"])))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 3, name


def test_what_users_wrote_is_escaped(tmp_path: Path, make_run: Callable[..., Path], profiling: dict[str, Any], labels: Any) -> None:
    task = copy.deepcopy(profiling)
    task["label"] = HOSTILE
    task["classes"] = [HOSTILE, "b"]
    task["verdict"] = [f"{HOSTILE} & 'more'"]
    task["conditions"] = task["warnings"] = [HOSTILE]
    task["split"]["name"] = HOSTILE
    task["baselines"][HOSTILE] = task["baselines"].pop("majority")
    task["undefined"] = {HOSTILE: HOSTILE}
    task["settings"] = {HOSTILE: HOSTILE}
    run = make_run(
        tmp_path / "<script>a", "fitted", config={"data": {"source": HOSTILE, "users": 3}, "environment": {HOSTILE: HOSTILE}},
        rows=[{"step": 1, "loss": 1.0, f"valid_{HOSTILE}": 2.0}], task=task, users=labels([HOSTILE, "b"], 50),
    )  # fmt: skip
    build_report([run], tmp_path / "out.html", title=HOSTILE)
    written = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "<script" not in written
    outline = Outline(written)
    assert not outline.of("script")
    assert outline.text.count(HOSTILE) > 8


def test_letters_of_any_script_and_mathematics_are_plain_text(
    tmp_path: Path, make_run: Callable[..., Path], profiling: dict[str, Any], labels: Any
) -> None:
    task = copy.deepcopy(profiling)
    task["baselines"]["多数派 $x^2$"] = task["baselines"].pop("majority")
    build_report([make_run(tmp_path / "r", "fitted", task=task, users=labels(["女", "男 $"], 40))], tmp_path / "o.html")
    written = (tmp_path / "o.html").read_text(encoding="utf-8")
    assert written.count("多数派 $x^2$") >= 3


def test_same_runs_same_bytes_whatever_the_readers_matplotlibrc(tmp_path: Path, make_demo: Callable[[Path], list[Path]]) -> None:
    runs = make_demo(tmp_path / "runs")
    build_report(runs, tmp_path / "a.html")
    before = dict(mpl.rcParams)
    with mpl.rc_context({"lines.linewidth": 9, "axes.grid": True, "font.size": 30}):
        build_report(runs, tmp_path / "b.html")
    assert dict(mpl.rcParams) == before
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_bare_model_says_that_nothing_was_compared(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    run = make_run(tmp_path / "m", "model", config={"pretrain": None, "data": {}, "environment": {}})
    build_report([run, run], tmp_path / "deep" / "o.html")
    text = Outline((tmp_path / "deep" / "o.html").read_text(encoding="utf-8")).text
    assert "Nothing has been compared yet" in text
    assert "This run logged no curves" in text
    assert text.count("UserEncoder.from_pretrained") == 1


def test_a_metric_without_value_is_told(tmp_path: Path, make_run: Callable[..., Path], profiling: dict[str, Any]) -> None:
    task = copy.deepcopy(profiling)
    task["primary"] = "auroc"
    for scores in (task["metrics"], *task["baselines"].values()):
        del scores["auroc"]
    task["undefined"] = {"auroc": "all 353 labels are class high"}
    task["verdict"] = ["No winner can be named."]
    build_report([make_run(tmp_path / "r", "fitted", task=task)], tmp_path / "o.html")
    assert "AUROC has no value here: all 353 labels are class high." in Outline((tmp_path / "o.html").read_text()).text


def test_both_averages_of_a_cold_start_are_shown(tmp_path: Path, make_run: Callable[..., Path], profiling: dict[str, Any]) -> None:
    task = copy.deepcopy(profiling)
    numbers = {name: {"mrr@10": {"value": value, "low": value, "high": value}} for name, value in (("ours", 0.3125), ("user_knn", 0.4375))}
    gap = {"user_knn": {"mrr@10": {"value": -0.125, "low": -0.25, "high": -0.0625}}}
    view = {
        "metrics": numbers["ours"],
        "baselines": {"user_knn": numbers["user_knn"]},
        "differences": gap,
        "verdict": ["By user it loses."],
    }
    task |= {"task": "cold-start", "label": "phones", "primary": "mrr@10", **view, "verdict": ["It loses."], "by_user": view}
    build_report([make_run(tmp_path / "r", "fitted", task=task)], tmp_path / "o.html")
    text = Outline((tmp_path / "o.html").read_text()).text
    for part in ("Cold start: phones", "User kNN", "Averaged over instances", "Averaged over users, each user's mean", "By user it loses."):
        assert part in text, part
    task["by_user"] = {"metrics": {"mrr@10": {"value": "high"}}}
    with pytest.raises(ArtifactError, match="by_user metrics, 'mrr@10'"):
        build_report([make_run(tmp_path / "bad", "fitted", task=task)], tmp_path / "bad.html")


@pytest.mark.parametrize(
    ("low", "high", "told"), [(0.01, 0.03, "ahead of every baseline"), (-0.03, -0.01, "a baseline is ahead"), (-0.01, 0.02, "undecided")]
)
def test_the_tag_follows_the_paired_interval(
    tmp_path: Path, make_run: Callable[..., Path], profiling: dict[str, Any], low: float, high: float, told: str
) -> None:
    task = copy.deepcopy(profiling)
    task["differences"] = {name: {"accuracy": {"value": (low + high) / 2, "low": low, "high": high}} for name in task["baselines"]}
    build_report([make_run(tmp_path / "r", "fitted", task=task)], tmp_path / "o.html")
    assert told in Outline((tmp_path / "o.html").read_text()).text


def test_existing_output_is_kept(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    run, out = make_run(tmp_path / "m", "model"), tmp_path / "o.html"
    out.write_text("mine")
    with pytest.raises(UsageError, match=r"o\.html: already exists; choose another output or add --overwrite"):
        build_report([run], out)
    assert out.read_text() == "mine"
    build_report([run], out, overwrite=True)
    assert out.read_text().startswith("<!doctype html>")
    with pytest.raises(UsageError, match="is a folder; name the HTML file"):
        build_report([run], tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="at least one run"):
        build_report([], tmp_path / "p.html")


def test_a_bad_run_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        build_report([tmp_path / "nowhere"], tmp_path / "o.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("s", 1_483_228_800),
        ("s", 1_483_228_800_000),
        ("us", 1_483_228_800_000_000),
        ("iso", "2017-01-01T00:00:00"),
        (None, 1_483_228_800_000),
    ],
)
def test_days_are_read_in_the_units_that_datasets_have(unit: str | None, value: Any) -> None:
    assert page._day(value, unit) == "2017-01-01"
