"""Wrong usage: the exit code that fits, one line that says what would be right."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import _pop_mode

Run = Callable[..., Any]
Tree = Callable[[Path], dict[str, bytes]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("pretrain data -o OUT --set dropuot=0.2", "unknown setting dropuot; did you mean dropout?"),
        ("pretrain data -o OUT --set xyz=1", "unknown setting xyz; known settings: "),
        ("pretrain data -o OUT --set dropout", "--set dropout: write it as key=value"),
        ("pretrain data -o OUT --set dropout=much", "dropout: "),
        ("pretrain data -o OUT --dropout 1.5", "dropout: "),
        ("pretrain data -o OUT --objective clu", "unknown objective clu; known: clue"),
        ("pretrain data -o OUT --view zoom", "unknown view zoom; known: dropout"),
        ("pretrain data -o OUT --backbone rnn", "unknown backbone rnn; known: transformer"),
        ("pretrain data -o OUT --preset bst", "unknown preset bst; known: paper, best"),
        ("pretrain data -o OUT --epochs 2 --steps 3", "give only one of epochs, steps, minutes; got epochs and steps"),
        ("pretrain data -o OUT --heads 3", "dim 64 cannot be shared equally by 3 heads"),
        ("pretrain data -o OUT --until someday", "until"),
        ("pretrain data -o OUT --config none.toml", "none.toml: no such configuration file"),
        ("pretrain data -o OUT --device cudda", "unknown device cudda; use auto, cpu or cuda"),
        ("pretrain data -o model --resume", "model: holds no interrupted run to resume"),
        ("finetune model data -o OUT --task profilng", "unknown task profilng; known: profiling, cold-start, sequential"),
        ("finetune model data -o OUT --task profiling", "profiling needs --labels FILE with the columns user_id and label"),
        ("finetune model data -o OUT --task sequential --labels labels.csv", "--labels belongs to profiling and cold-start"),
        ("finetune model data -o OUT --task cold-start", "cold-start needs --labels FILE with the columns user_id and item_id"),
        ("finetune model data -o OUT --task cold-start --labels targets.csv --split time", "unknown split time for cold-start"),
        ("finetune model data -o OUT --task cold-start --labels targets.csv --max-targets 0", "max_targets: "),
        ("finetune model data -o OUT --task sequential --split 80/5/15", "unknown split 80/5/15 for sequential; known: leave-one-out"),
        ("finetune model data -o OUT --task profiling --labels labels.csv --split time", "unknown split time for profiling; known: 80"),
        ("finetune model data -o OUT --task sequential --set patince=3", "unknown setting patince; did you mean patience?"),
        ("finetune model data -o OUT --task sequential --preset bst", "unknown preset bst; known: paper, best"),
        ("evaluate profile data", "profiling needs --labels"),
        ("evaluate profile data --labels labels.csv --part train", "unknown part train; known: test, valid"),
        ("embed model data -o OUT --device cudda", "unknown device cudda; use auto, cpu or cuda"),
        ("prepare events.csv -o OUT --set min_user_event=2", "min_user_events"),
        ("prepare events.csv -o OUT --memory-limit lots", "write it as 2GB or 500MB"),
        ("prepare events.csv -o OUT --grow", "needs a vocabulary to grow"),
    ],
)  # fmt: skip
def test_wrong_choices(run: Run, tree: Tree, shop: Any, monkeypatch: pytest.MonkeyPatch, words: str, said: str) -> None:
    monkeypatch.chdir(shop.path)
    before = tree(shop.path)
    outcome = run(*words.split())
    assert outcome.code == 2, outcome.err
    assert said in outcome.error
    assert tree(shop.path) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("pretrain data", "--out"),
        ("pretrain", "dataset"),
        ("finetune model data -o OUT", "--task"),
        ("pretrain data -o OUT --epochs many", "--epochs"),
        ("pretrain data -o OUT --dropuot 0.2", "--dropuot"),
        ("prepare events.csv -o OUT --on-error ignore", "ignore"),
        ("evaluate profile data more", "more"),
    ],
)
def test_wrong_options(run: Run, shop: Any, monkeypatch: pytest.MonkeyPatch, words: str, said: str) -> None:
    monkeypatch.chdir(shop.path)
    outcome = run(*words.split())
    assert outcome.code == 2
    assert said in outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("pretrain model -o OUT", "model: is a userclue model, not a dataset; give a folder that `userclue prepare` wrote"),
        ("pretrain nowhere -o OUT", "nowhere: no such folder"),
        ("pretrain plain -o OUT", "plain: is not a userclue dataset (it has no manifest.json)"),
        ("pretrain data -o OUT --init data", "data: is a userclue dataset, not a model"),
        ("finetune data model --task sequential -o OUT", "data: is a userclue dataset, not a model"),
        ("finetune model model --task sequential -o OUT", "model: is a userclue model, not a dataset"),
        ("evaluate model data", "model: is a userclue model, not a fitted"),
        ("evaluate profile model --labels labels.csv", "model: is a userclue model, not a dataset"),
        ("embed data events.csv -o OUT", "data: is a userclue dataset, not a model"),
        ("embed model model -o OUT", "model: is a userclue model, not a dataset"),
        ("report data -o OUT", "data: is a userclue dataset, not a "),
        ("doctor plain", "plain: is neither a dataset nor an artifact"),
        ("doctor nowhere", "nowhere"),
    ],
)
def test_the_wrong_folder(run: Run, tree: Tree, shop: Any, monkeypatch: pytest.MonkeyPatch, words: str, said: str) -> None:
    monkeypatch.chdir(shop.path)
    (shop.path / "plain").mkdir(exist_ok=True)
    before = tree(shop.path)
    outcome = run(*words.split())
    assert outcome.code == 4, outcome.err
    assert said in outcome.error
    assert tree(shop.path) == before


def test_a_log_that_is_not_there(run: Run, shop: Any, tmp_path: Path) -> None:
    for command in ("audit", "prepare"):
        outcome = run(command, tmp_path / "event.csv", *(["-o", tmp_path / "data"] if command == "prepare" else []))
        assert outcome.code == 3
        assert "event.csv" in outcome.error
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(run: Run, tree: Tree, shop: Any, tmp_path: Path) -> None:
    for words in (
        ["pretrain", shop["data"], "-o", tmp_path / "out"],
        ["finetune", shop["model"], shop["data"], "--task", "sequential", "-o", tmp_path / "out"],
        ["embed", shop["model"], shop["data"], "-o", tmp_path / "out"],
    ):
        outcome = run(*words, "--device", "cuda")
        assert outcome.code == 2
        assert outcome.error == "device cuda was asked for, but PyTorch sees no GPU here; use --device cpu"
        assert tree(tmp_path) == {}


def test_missing_parent_folders_of_an_output_are_made(run: Run, shop: Any, tmp_path: Path) -> None:
    assert run("prepare", shop["events.csv"], "-o", tmp_path / "a" / "b" / "data").code == 0
    assert run("embed", shop["model"], shop["data"], "-o", tmp_path / "c" / "d" / "users.parquet").code == 0
    assert (tmp_path / "a" / "b" / "data" / "manifest.json").exists()
    assert (tmp_path / "c" / "d" / "users.parquet").exists()


def test_precedence_of_settings(run: Run, shop: Any, small: list[str], tmp_path: Path) -> None:
    """Command line over --set over --config over the preset."""
    (tmp_path / "run.toml").write_text('steps = 2\nlr = 0.5\nweight_decay = 0.25\nmomentum = 0.125\noptimizer = "sgd"\n')
    words = ["--config", tmp_path / "run.toml", "--set", "lr=0.25", "--set", "weight_decay=0.125", "--lr", 0.0625, *small]
    assert run("pretrain", shop["data"], "-o", tmp_path / "model", *words).code == 0
    settings = json.loads((tmp_path / "model" / "config.json").read_text())["pretrain"]
    assert (settings["steps"], settings["lr"], settings["weight_decay"], settings["momentum"]) == (2, 0.0625, 0.125, 0.125)
    assert (settings["optimizer"], settings["schedule"]) == ("sgd", "constant")


def test_bad_configuration_files(run: Run, shop: Any, tmp_path: Path) -> None:
    for content, said in (
        ("lr = ", "run.toml: cannot be read as TOML"),
        ("learning_rate = 1", "unknown setting learning_rate"),
        ('lr = "fast"', "lr: "),
    ):
        (tmp_path / "run.toml").write_text(content)
        outcome = run("pretrain", shop["data"], "-o", tmp_path / "model", "--config", tmp_path / "run.toml")
        assert outcome.code == 2
        assert said in outcome.error


def test_a_defect_of_ours_is_one_line_and_exit_code_1(run: Run, shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("userclue.jobs.embed.embed", fail)
    outcome = run("embed", shop["model"], shop["data"], "-o", tmp_path / "users.parquet")
    assert outcome.code == 1
    assert outcome.error.startswith("RuntimeError: first line second line; this is a defect of userclue, please report it")
    monkeypatch.setenv("USERCLUE_DEBUG", "1")
    with pytest.raises(RuntimeError):
        run("embed", shop["model"], shop["data"], "-o", tmp_path / "users.parquet")


def test_ctrl_c_outside_training_is_exit_code_5(run: Run, shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("userclue.jobs.embed.embed", interrupt)
    outcome = run("embed", shop["model"], shop["data"], "-o", tmp_path / "users.parquet")
    assert outcome.code == 5
    assert outcome.error.startswith("interrupted")


def test_ctrl_c_is_known_under_the_error_of_a_librarys_tidying_up(
    run: Run, shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        with torch.device("meta"):
            _pop_mode()  # PyTorch has its mode off the stack for the length of each call: here the signal comes in between
            raise KeyboardInterrupt

    monkeypatch.setattr("userclue.jobs.embed.embed", interrupt)
    outcome = run("embed", shop["model"], shop["data"], "-o", tmp_path / "users.parquet")
    assert (outcome.code, outcome.error) == (5, "interrupted; nothing was written")
