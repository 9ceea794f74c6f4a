"""One contract for all trained baselines, walked over family and tasks; and what the systems of the paper's comparison start from."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from userclue.baselines.registry import BASELINES, chosen_baselines
from userclue.baselines.transferred import PeterRec
from userclue.config import EncoderConfig
from userclue.data.batches import pack
from userclue.data.cuts import before, hold_out
from userclue.data.store import Dataset, Sequences
from userclue.data.vocabulary import FIRST_ITEM, UNK, Vocabulary
from userclue.encoder import UserEncoder
from userclue.errors import DataError, UsageError
from userclue.jobs.finetune import build_task
from userclue.jobs.pretrain import run_pretraining
from userclue.jobs.rivals import fit_rivals
from userclue.tasks.base import FittedModel
from userclue.tasks.registry import TASKS, load_fitted
from userclue.train.journal import UNWATCHED
from userclue.train.loop import seeded_generator

PAIRS = [(name, task) for name, kind in BASELINES.items() for task in kind.tasks]
every_pair = pytest.mark.parametrize(("name", "of"), PAIRS, ids=[f"{name}-{task}" for name, task in PAIRS])


@pytest.fixture(scope="module")
def fit(like: UserEncoder, rings: Dataset, task: Any, settings: Any) -> Any:
    made: dict[Any, FittedModel] = {}

    def run(name: str, of: str, again: int = 0, **given: Any) -> FittedModel:
        """`again` fits once more what was fitted before."""
        key = (name, of, again, *given.items())
        if key not in made:
            made[key] = fit_rivals([name], like, task(of, **given), settings(**given), rings, UNWATCHED)[name]
        return made[key]

    return run


def test_the_family() -> None:
    assert {"sasrec", "sasrec_bce", "gru4rec", "caser", "nfm", "deepfm", "peterrec", "s3rec", "clue_zero"} <= BASELINES.keys()
    for name, kind in BASELINES.items():
        assert kind.system == name
        assert set(kind.tasks) <= TASKS.keys()
        assert kind.__doc__


@every_pair
def test_the_loss_falls_within_twenty_steps(fit: Any, name: str, of: str) -> None:
    model = fit(name, of)
    losses = [row["loss"] for row in model.rows if "loss" in row]
    assert model.facts["steps"] == 20
    assert losses[-1] < 0.97 * losses[0]
    assert model.facts["system"] == name
    assert model.encoder.config.dim == 16
    assert model.encoder.config.max_len == 8


@every_pair
def test_the_same_seed_gives_the_same_bits_and_another_others(fit: Any, name: str, of: str) -> None:
    one, again, other = fit(name, of), fit(name, of, again=1), fit(name, of, seed=1)
    for key, value in one.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert not all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


@every_pair
def test_what_is_saved_scores_as_before_and_serves_any_history(fit: Any, name: str, of: str, tmp_path: Path) -> None:
    """A user of one event, of one unknown item, of as many as are read and of more; alone as in company."""
    model = fit(name, of)
    model.save_pretrained(tmp_path / "fitted")
    loaded = load_fitted(tmp_path / "fitted")
    assert loaded.facts["system"] == name
    ids = loaded.vocabulary.table["item_id"].to_pylist()
    histories = [ids[:1], ["nobody met this"], ids[:8], ids[:12], ids[3:5]]
    indices = loaded.vocabulary.indices([item for history in histories for item in history])
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])])
    sequences = Sequences.from_offsets(indices, offsets)
    scores = model.scores(sequences)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(scores, loaded.scores(sequences))
    for place in range(len(histories)):
        np.testing.assert_allclose(loaded.scores(sequences.take(np.array([place]))), scores[[place]], atol=1e-5)
    long = Sequences.from_lists([np.tile(indices[-2:], 9), np.tile(indices[-2:], 4)])
    np.testing.assert_allclose(*loaded.scores(long), atol=1e-5)  # only the last eight are read
    if of == "profiling":
        proba = loaded.predict_proba(histories)
        np.testing.assert_allclose(proba.sum(axis=1), 1)
        assert set(loaded.predict(histories)) <= {"a", "b", "c"}
    else:
        items, _ = loaded.recommend(histories, k=3)
        assert [len(one) for one in items] == [3] * len(histories)


@every_pair
def test_nothing_is_learned_from_what_is_tested_on(
    fit: Any, rings: Dataset, like: UserEncoder, task: Any, settings: Any, name: str, of: str
) -> None:
    """With every test target replaced, and for leave-one-out every event after the training part, the same bits are learned."""
    if of != "sequential":
        given = task(of)
        given.test.targets[:] = given.test.targets[::-1].copy()
    else:
        other = rings.items.copy()
        other[rings.offsets[1:] - 1] = FIRST_ITEM
        given = task(of)
        given.test.targets[:] = FIRST_ITEM
        given.train = Sequences(other, given.train.starts, given.train.ends)
    model = fit_rivals([name], like, given, settings(), rings, UNWATCHED)[name]
    for key, value in fit(name, of).state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


def test_clue_zero_is_the_models_own_network(fit: Any, like: UserEncoder) -> None:
    assert fit("clue_zero", "profiling").encoder.config == like.config
    assert "pretrain" not in fit("clue_zero", "profiling").encoder.facts


def test_adapters_train_patches_alone_and_both_peterrecs_start_from_one_pretraining(
    like: UserEncoder, rings: Dataset, task: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []

    def counted(*given: Any, **named: Any) -> Any:
        runs.append(run_pretraining(*given, **named))
        return runs[-1]

    monkeypatch.setattr("userclue.jobs.rivals.run_pretraining", counted)
    whole, patched = fit_rivals(["peterrec", "peterrec_adapter"], like, task("profiling"), settings(), rings, UNWATCHED).values()
    (run,) = runs
    assert run.settings.objective == whole.encoder.facts["pretrain"]["objective"] == "masked"
    assert patched.facts["trained_parameters"] < whole.facts["trained_parameters"]
    pretrained = run.encoder.state_dict()
    fitted = patched.encoder.state_dict()
    changed = {key for key, value in pretrained.items() if not torch.equal(value, fitted[key])}
    assert changed == {"backbone.blocks.0.norm2.weight", "backbone.blocks.0.norm2.bias"}
    assert not any(torch.equal(value, whole.encoder.state_dict()[key]) for key, value in pretrained.items() if "qkv.weight" in key)


def test_pretraining_is_that_of_the_model_beside_it_but_for_the_objective(
    like: UserEncoder, rings: Dataset, task: Any, settings: Any
) -> None:
    like = UserEncoder.new(like.config.model_copy(update={"causal": True}), like.vocabulary, seeded_generator("cpu", 0))
    like.facts = {"pretrain": {"objective": "clue", "steps": 7, "lr": 0.003, "batch_size": 16, "hold_out": 0, "view": "crop", "seed": 4}}
    found = PeterRec(like, settings()).pretraining(task("profiling"), rings)
    assert (found.objective, found.steps, found.lr, found.batch_size, found.hold_out, found.seed) == ("masked", 7, 0.003, 16, 0, 4)
    assert found.encoder() == EncoderConfig.of({**like.config.model_dump(), "causal": False})
    assert PeterRec(like, settings()).pretraining(task("sequential"), rings).hold_out == 2  # what leave-one-out tests on is not seen


def test_pretraining_ends_before_the_time_that_is_tested_on(like: UserEncoder, rings: Dataset, settings: Any) -> None:
    timed = build_task("sequential", rings, like, None, "time", settings())
    until = PeterRec(like, settings()).pretraining(timed, rings).until
    seen = before(rings.sequences(), rings.times, until)
    assert max(rings.times[end - 1] for start, end in zip(seen.starts, seen.ends, strict=True) if end > start) < timed.held_out_from
    assert len(hold_out(seen, 2)) == rings.n_users
    like = UserEncoder.new(like.config, like.vocabulary, seeded_generator("cpu", 0))
    like.facts = {"pretrain": {"steps": 1, "until": "2000-01-01"}}
    assert PeterRec(like, settings()).pretraining(timed, rings).until == "2000-01-01"  # earlier still


def test_s3rec_is_pretrained_both_ways_by_its_own_shape_and_fitted_from_the_past(
    fit: Any, like: UserEncoder, rings: Dataset, task: Any, settings: Any
) -> None:
    for of in ("sequential", "profiling"):
        model = fit("s3rec", of)
        config, pretrained = model.encoder.config, model.encoder.facts["pretrain"]
        assert (config.blocks, config.heads, config.dropout, config.causal) == (2, 2, 0.5, True)
        assert (pretrained["objective"], pretrained["steps"], pretrained["batch_size"]) == ("s3rec", 20, 32)
        assert pretrained["predicted_attributes"] is None  # these items have none
    model = fit("s3rec", "sequential")
    assert model.head.weight is not None
    assert torch.equal(model.head.weight, model.encoder.embedding.items.weight)
    one, other = (pack(Sequences.from_lists([np.array([4, 5, last])]), np.arange(1), 8) for last in (6, 7))
    torch.testing.assert_close(*(model.encoder.states(each)[:2] for each in (one, other)))  # what comes later is not seen
    histories, targets = BASELINES["s3rec"](like, settings()).source(task("sequential"))(np.random.default_rng(0))
    assert len(histories) == len(targets) == 4 * rings.n_users  # each whole history as often as others draw prefixes


def test_s3rec_starts_from_what_its_four_losses_left(like: UserEncoder, rings: Dataset, task: Any, settings: Any) -> None:
    baseline = BASELINES["s3rec"](like, settings())
    start = run_pretraining(rings, baseline.pretraining(task("cold-start"), rings)).encoder
    assert not start.config.causal
    encoder = baseline.encoder(seeded_generator("cpu", 5), start)
    assert encoder.config.causal
    for key, value in start.state_dict().items():
        assert torch.equal(value, encoder.state_dict()[key]), key


def test_s3rec_predicts_the_categories_that_items_share(like: UserEncoder, rings: Dataset, task: Any, settings: Any) -> None:
    n = rings.n_items
    table = rings.vocabulary.table
    more = {
        "ring": pa.array([str(one)[0] for one in table["item_id"].to_pylist()]),
        "title": pa.array([f"the one called {one}" for one in range(n)]),
        "price": pa.array([float(one) for one in range(n)]),
        "empty": pa.nulls(n, pa.string()),
    }
    for name, column in more.items():
        table = table.append_column(name, column)
    described = copy.copy(rings)
    described.__dict__["vocabulary"] = Vocabulary(table)
    wanted = BASELINES["s3rec"](like, settings(dropout=0.1)).pretraining(task("profiling"), described)
    assert wanted.predicted_attributes == ["ring"]
    assert wanted.encoder().attributes == ()
    assert wanted.dropout == 0.5
    model = fit_rivals(["s3rec"], like, task("profiling"), settings(dropout=0.1), described, UNWATCHED)["s3rec"]
    assert {"aap_loss", "mip_loss", "map_loss", "sp_loss"} <= run_pretraining(described, wanted).encoder.rows[-1].keys()
    assert model.encoder.facts["pretrain"]["predicted_attributes"] == ["ring"]
    assert model.encoder.config.dropout == 0.1


def test_a_catalogue_numbered_otherwise_is_matched_by_id(rings: Dataset, like: UserEncoder, settings: Any) -> None:
    ids = rings.vocabulary.table["item_id"].to_pylist()
    other = UserEncoder.new(like.config, type(rings.vocabulary).from_ids([*ids[::-1], "new"]), seeded_generator("cpu", 1))
    start = UserEncoder.new(PeterRec(other, settings()).config, rings.vocabulary, seeded_generator("cpu", 2))
    encoder = PeterRec(other, settings()).encoder(seeded_generator("cpu", 3), start)
    found = encoder.embedding.items.weight[FIRST_ITEM : FIRST_ITEM + len(ids)].flip(0)
    assert torch.equal(found, start.embedding.items.weight[FIRST_ITEM:])


def test_batch_norm_needs_two_instances(like: UserEncoder, rings: Dataset, task: Any, settings: Any) -> None:
    given = task("profiling")
    given.n_train = 1
    with pytest.raises(DataError, match=r"1 training instance\(s\); nfm needs 2"):
        BASELINES["nfm"](like, settings()).fit(given, rings)


@pytest.mark.parametrize(
    ("names", "task_name", "expected"),
    [
        (True, "profiling", (True, [])),
        (False, "profiling", (False, [])),
        ("none", "sequential", (False, [])),
        ("plain, nfm", "cold-start", (True, ["nfm"])),
        ("gru4rec,sasrec", "sequential", (False, ["sasrec", "gru4rec"])),
        ("all", "profiling", (True, ["clue_zero", "peterrec", "peterrec_adapter", "s3rec", "nfm", "deepfm"])),
        ("all", "sequential", (True, list(BASELINES))),
    ],
)
def test_names_choose(names: Any, task_name: str, expected: Any) -> None:
    assert chosen_baselines(names, task_name) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("sasrc", "unknown baseline sasrc; known: plain, all, none, clue_zero, peterrec, peterrec_adapter, s3rec, nfm, deepfm$"),
        ("plain,sasrec", "baseline sasrec does not serve profiling; those that do: plain, clue_zero, "),
        ("all,nfm", "baselines all,nfm: all and none stand alone"),
        ("", "unknown baseline ; known: "),
    ],
)
def test_wrong_names_are_refused(names: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        chosen_baselines(names, "profiling")


def test_unknown_is_no_feature_and_no_target(fit: Any) -> None:
    assert fit("nfm", "sequential").scores(Sequences.from_lists([np.array([UNK])])).shape == (1, 4 + 15)
