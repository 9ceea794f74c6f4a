"""Settings: what is wrong is named with its remedy, before anything runs."""

import pytest

from userclue.config import (
    EncoderConfig,
    FinetuneSettings,
    PretrainSettings,
    TrainSettings,
    parse_assignments,
    read_toml,
)
from userclue.errors import UsageError
from userclue.presets import FINETUNE_PRESETS, PRETRAIN_PRESETS, finetune_preset, preset_values


def test_defaults_are_the_papers():
    settings = PretrainSettings()
    assert (settings.dim, settings.blocks, settings.heads, settings.dropout) == (64, 2, 4, 0.5)
    assert (settings.batch_size, settings.optimizer, settings.lr) == (64, "adam", 1e-3)
    assert (settings.stop_gradient, settings.predictor, settings.view) == (True, True, "dropout")
    assert preset_values(PRETRAIN_PRESETS, "paper") == {}
    assert finetune_preset("paper", "sequential") == {}


def test_unknown_key_names_the_nearest():
    with pytest.raises(UsageError, match=r"unknown setting droput; did you mean dropout\?"):
        PretrainSettings.of({"droput": 0.1})
    with pytest.raises(UsageError, match="unknown setting zzz; known settings: batch_size, "):
        TrainSettings.of({"zzz": 1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dropout": 1.0}, r"dropout: .* less than 1 \(given: 1.0\)"),
        ({"dropout": float("nan")}, r"dropout: .*\(given: nan\)"),
        ({"lr": 0}, r"lr: .* greater than 0 \(given: 0\)"),
        ({"lr": float("inf")}, r"lr: .*finite.*\(given: inf\)"),
        ({"batch_size": 1}, r"batch_size: .* greater than or equal to 2 \(given: 1\)"),
        ({"dim": 10**9}, r"dim: .* less than or equal to 65536 \(given: 1000000000\)"),
        ({"blocks": 10**9}, r"blocks: .* \(given: 1000000000\)"),
        ({"max_len": 0}, r"max_len: .* \(given: 0\)"),
        ({"optimizer": "lion"}, r"optimizer: Input should be 'adam' or 'sgd' \(given: 'lion'\)"),
        ({"seed": 1.5}, r"seed: .* \(given: 1.5\)"),
        ({"steps": "many"}, r"steps: .* \(given: 'many'\)"),
    ],
)
def test_wrong_value_is_named_with_key_and_rule(values, message):
    with pytest.raises(UsageError, match=message) as caught:
        PretrainSettings.of(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "pair"), [({"epochs": 1, "steps": 2}, "epochs and steps"), ({"steps": 2, "minutes": 1.0}, "steps and minutes")]
)
def test_two_budgets_are_refused(values, pair):
    with pytest.raises(UsageError, match=f"give only one of epochs, steps, minutes; got {pair}$"):
        PretrainSettings.of(values)


def test_heads_must_divide_the_width():
    with pytest.raises(UsageError, match="dim 10 cannot be shared equally by 4 heads; choose a multiple of heads"):
        EncoderConfig.of({"dim": 10})
    with pytest.raises(UsageError, match="dim 64 cannot be shared equally by 5 heads"):
        PretrainSettings.of({"heads": 5}).encoder()


def test_encoder_takes_its_part():
    shape = {"dim": 12, "blocks": 3, "heads": 3, "max_len": 7, "dropout": 0.1, "norm": "post"}
    assert PretrainSettings.of(shape).encoder() == EncoderConfig(**shape)


def test_settings_cannot_be_changed():
    with pytest.raises(Exception, match="frozen"):
        PretrainSettings().dim = 3


def test_unknown_preset_names_the_known():
    with pytest.raises(UsageError, match="unknown preset fast; known: paper, best"):
        preset_values(PRETRAIN_PRESETS, "fast")


def test_assignments_are_read_as_toml_or_text():
    given = ["lr=0.2", "stop_gradient=false", "norm=post", 'view="dropout"', "steps=1_000", "until=", "source=a=b", "clip_norm= 3.5 "]
    assert parse_assignments(given) == {
        "lr": 0.2, "stop_gradient": False, "norm": "post", "view": "dropout", "steps": 1000, "until": "", "source": "a=b", "clip_norm": 3.5,
    }  # fmt: skip
    assert parse_assignments(["lr=1", "lr=2"]) == {"lr": 2}
    assert PretrainSettings.of(parse_assignments(["steps=10", "norm=post"])).norm == "post"


@pytest.mark.parametrize("text", ["lr", "=3", ""])
def test_assignment_without_key_or_value(text):
    with pytest.raises(UsageError, match=f"--set {text}: write it as key=value"):
        parse_assignments([text])


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("2024-01-31", "2024-01-31"),
        ("2024-01-31T10:00:00Z", "2024-01-31T10:00:00+00:00"),
        ("1706659200", "1706659200"),
        ('"2024-01-31"', "2024-01-31"),
    ],
)
def test_until_may_be_what_toml_calls_a_date_or_a_number(text, until, tmp_path):
    assert PretrainSettings.of(parse_assignments([f"until={text}"])).until == until
    (tmp_path / "settings.toml").write_text(f"until = {text}\n")
    assert PretrainSettings.of(read_toml(tmp_path / "settings.toml")).until == until


def test_until_is_no_flag():
    with pytest.raises(UsageError, match="until: Input should be a valid string"):
        PretrainSettings.of({"until": True})


def test_toml_file(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('lr = 0.01\nnorm = "post"\n')
    assert read_toml(path) == {"lr": 0.01, "norm": "post"}


@pytest.mark.parametrize("content", [b"lr = \n", b"lr = 1\nlr = 2\n", b"name = '\xff'\n"])
def test_toml_file_that_is_none(tmp_path, content):
    path = tmp_path / "settings.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"settings.toml: cannot be read as TOML: "):
        read_toml(path)


def test_toml_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"none.toml: no such configuration file"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="cannot be read as TOML"):
        read_toml(tmp_path)


@pytest.mark.parametrize("task", ["profiling", "cold-start", "sequential"])
def test_every_preset_is_made_of_settings_that_fit_together(task: str):
    for values in PRETRAIN_PRESETS.values():
        PretrainSettings.of(values).encoder()
    for name in FINETUNE_PRESETS:
        FinetuneSettings.of(finetune_preset(name, task))
