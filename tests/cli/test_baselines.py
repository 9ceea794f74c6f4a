"""`finetune --baselines`: with names, without, and `--no-baselines`, as it may be written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PLAIN = {"popularity", "markov", "item_knn", "item_knn_window"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], PLAIN),
        (["--baselines"], PLAIN),
        (["--baselines", "plain,sasrec"], {*PLAIN, "sasrec"}),
        (["--baselines=nfm,clue_zero"], {"nfm", "clue_zero"}),
        (["--baselines", "none"], set()),
        (["--no-baselines"], set()),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_forms(run: Callable[..., Any], shop: Any, tmp_path: Path, words: list[str], expected: set[str], last: bool) -> None:
    rest = ["--task", "sequential", "--steps", 2, "-o", tmp_path / "fitted", "--json"]
    outcome = run("finetune", shop["model"], shop["data"], *(rest if last else words), *(words if last else rest))
    assert outcome.code == 0, outcome.err
    assert set(outcome.json["baselines"]) == expected
    assert set(outcome.json["trained_baselines"]) == expected - PLAIN


def test_a_baseline_of_another_task_is_wrong_usage(run: Callable[..., Any], shop: Any, tmp_path: Path) -> None:
    words = ["--task", "profiling", "--labels", shop["labels.csv"], "-o", tmp_path / "fitted", "--baselines", "caser"]
    outcome = run("finetune", shop["model"], shop["data"], *words)
    assert outcome.code == 2
    assert outcome.error == (
        "baseline caser does not serve profiling; those that do: plain, clue_zero, peterrec, peterrec_adapter, s3rec, nfm, deepfm"
    )


def test_bags_are_pretrained_by_nothing(run: Callable[..., Any], shop: Any, tmp_path: Path) -> None:
    outcome = run("pretrain", shop["data"], "-o", tmp_path / "model", "--backbone", "nfm")
    assert outcome.code == 2
    assert outcome.error == "unknown backbone nfm; known: transformer, gru, nextitnet, caser"


def test_help_names_every_trained_baseline(run: Callable[..., Any]) -> None:
    from userclue.baselines.registry import BASELINES

    text = " ".join(run("finetune", "--help").out.replace("│", " ").split())
    assert [name for name in BASELINES if name not in text] == []
