"""Without --json: a result a person can read, on standard output; progress on standard error."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["audit", "events.csv"], ["audit of", "users", "60", "nothing odd found"]),
        (["doctor", "data", "model"], ["data: dataset of 60 users", "model: model ", "whole", "torch", "cores"]),
        (["evaluate", "profile", "data", "--labels", "labels.csv"], ["profiling: labels, 9 test users", "majority", "Split 80/5/15"]),
        (["evaluate", "cold", "data", "--labels", "targets.csv"], ["cold-start: targets, 9 test users", "counting once", "Split user"]),
        (["evaluate", "next", "data"], ["sequential: next item, 60 test users", "items in the history left out", "markov"]),
    ],
)  # fmt: skip
def test_readable_results(run: Run, shop: Any, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: list[str]) -> None:
    monkeypatch.chdir(shop.path)
    outcome = run(*words)
    assert outcome.code == 0
    for text in expected:
        assert text in outcome.out, text
    assert outcome.err == ""
    assert not outcome.out.startswith("{")


def test_the_way_from_a_log_to_a_report_names_the_next_step(
    run: Run, shop: Any, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared = run("prepare", shop["events.csv"], "-o", "data")
    assert "next: userclue pretrain data -o MODEL" in prepared.out
    assert "2023-11-14" in prepared.out
    trained = run("pretrain", "data", "-o", "model", "--steps", 2, *small)
    assert "effective rank" in trained.out
    assert "next:    userclue embed model EVENTS -o users.parquet" in trained.out
    assert "pretrain: step 1/2, loss" in trained.err
    assert "pretrain: step 2/2, loss" in trained.err
    embedded = run("embed", "model", "data", "-o", "users.parquet")
    assert "60 users × 16 dimensions" in embedded.out
    assert "0 events with unknown items" in embedded.out
    fitted = run("finetune", "model", "data", "--task", "sequential", "-o", "fitted/next", "--epochs", 1)
    assert "sequential: next item, 60 test users" in fitted.out
    assert "finetune sequential: step 1/" in fitted.err
    assert "parameters were trained (finetune)." in fitted.out
    written = run("report", "model", "fitted/next", "-o", "pages/report.html")
    assert "written: pages/report.html" in written.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "fitted", "model", "pages", "users.parquet"]
    for outcome in (prepared, trained, embedded, fitted, written):
        assert outcome.code == 0
        assert all(len(line) <= 120 for line in outcome.out.splitlines())


@pytest.mark.parametrize(("objective", "end"), [("byol", "−1 is perfect agreement"), ("infonce", "less is better")])
def test_another_objective_and_views_in_turn(run: Run, shop: Any, small: list[str], tmp_path: Path, objective: str, end: str) -> None:
    words = ["--objective", objective, "--view", "window+mask", "--view-share", 0.5, "--steps", 2, *small]
    outcome = run("pretrain", shop["data"], "-o", tmp_path / "model", *words)
    assert outcome.code == 0, outcome.err
    assert next(line for line in outcome.out.splitlines() if " loss " in line).count(end) == 1
    wrong = run("pretrain", shop["data"], "-o", tmp_path / "other", "--view", "window,mask")
    assert (wrong.code, wrong.out) == (2, "")
    assert "unknown view window,mask; known: dropout, mask" in " ".join(wrong.err.split())
