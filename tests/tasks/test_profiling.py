"""Profiling: what is learned in each mode, what a prediction looks like, and who is tested on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from userclue.data.prepare import prepare
from userclue.data.store import Dataset
from userclue.encoder import UserEncoder
from userclue.errors import ArtifactError, DataError, UsageError
from userclue.jobs.finetune import evaluate, finetune
from userclue.tasks.profiling import ProfilingModel
from userclue.tasks.sequential import SequentialModel

Fit = Callable[..., ProfilingModel]
Log = Callable[..., pa.Table]


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_an_easy_label_is_learned(profile: ProfilingModel) -> None:
    assert profile.facts["metrics"]["accuracy"]["value"] >= 0.9
    assert profile.facts["classes"] == ["a", "b", "c"]
    assert profile.facts["split"] == {"name": "80/5/15", "seed": 0, "train": 72, "valid": 4, "test": 14}


def test_unknown_users_are_predicted_by_what_they_buy(profile: ProfilingModel) -> None:
    histories = [["a0", "a1"], ["b4"], ["c1", "c2", "c3"]]
    assert profile.predict(histories).tolist() == ["a", "b", "c"]
    proba = profile.predict_proba(histories)
    assert proba.shape == (3, 3)
    assert proba.dtype == np.float64
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_array_equal(profile.classes[proba.argmax(axis=1)], profile.predict(histories))


def test_predictions_do_not_depend_on_where_the_history_comes_from(profile: ProfilingModel, rings: Dataset, make_log: Log) -> None:
    expected = profile.predict_proba(rings)
    log = make_log()
    vocabulary = rings.vocabulary
    lists = [vocabulary.ids(rings.sequences()[place]).to_pylist() for place in range(rings.n_users)]
    for histories in (lists, log, log.to_pandas(), pl.from_arrow(log), str(rings.path)):
        np.testing.assert_allclose(profile.predict_proba(histories), expected, atol=1e-5)
    renamed = pd.DataFrame(log.to_pandas()).rename(columns={"item_id": "sku"})
    np.testing.assert_allclose(profile.predict_proba(renamed, item_col="sku"), expected, atol=1e-5)


def test_no_histories_give_no_predictions_and_an_empty_one_is_refused(profile: ProfilingModel) -> None:
    assert profile.predict_proba([]).shape == (0, 3)
    assert profile.predict([]).shape == (0,)
    with pytest.raises(DataError, match=r"histories\[1\] is empty"):
        profile.predict([["a0"], []])


def test_a_probe_leaves_the_encoder_as_it_was(fit_profile: Fit, encoder: UserEncoder) -> None:
    model = fit_profile(mode="probe", epochs=2)
    assert same_weights(model.encoder, encoder)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert (model.facts["mode"], model.facts["system"]) == ("probe", "clue_frozen")


def test_fine_tuning_changes_the_copy_and_not_the_encoder_it_was_given(fit_profile: Fit, encoder: UserEncoder) -> None:
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    model = fit_profile(epochs=1)
    assert not same_weights(model.encoder, encoder)
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())


def test_from_scratch_the_pre_trained_weights_do_not_matter(fit_profile: Fit, encoder: UserEncoder, other_encoder: UserEncoder) -> None:
    assert not same_weights(encoder, other_encoder)
    one, other = fit_profile(encoder, mode="scratch", epochs=2), fit_profile(other_encoder, mode="scratch", epochs=2)
    assert same_weights(one, other)
    assert one.facts["metrics"] == other.facts["metrics"]
    assert one.facts["system"] == "clue_zero"
    assert not same_weights(fit_profile(encoder, epochs=2), fit_profile(other_encoder, epochs=2))


def test_a_saved_model_predicts_and_scores_the_same(fit_profile: Fit, rings: Dataset, labels: pa.Table, tmp_path: Path) -> None:
    model = fit_profile(out=tmp_path / "fitted", baselines=True, with_scratch=True, epochs=2)
    loaded = ProfilingModel.from_pretrained(tmp_path / "fitted")
    np.testing.assert_array_equal(loaded.predict_proba(rings), model.predict_proba(rings))
    facts = evaluate(loaded, rings, labels=labels)
    for key in ("task", "mode", "users", "metrics", "split", "primary", "system"):
        assert facts[key] == model.facts[key], key
    plain = {name: metrics for name, metrics in model.facts["baselines"].items() if name != "clue_zero"}
    assert facts["baselines"] == plain
    with pytest.raises(ArtifactError, match="was fitted to profiling, not to sequential"):
        SequentialModel.from_pretrained(tmp_path / "fitted")


def test_users_of_training_are_never_tested_on_in_other_data(
    profile: ProfilingModel, rings: Dataset, make_log: Log, make_labels: Callable[[range], pa.Table], tmp_path: Path
) -> None:
    assert profile.parts is not None
    parts = dict(zip(profile.parts["user_id"].to_pylist(), profile.parts["part"].to_pylist(), strict=True))
    data = prepare(make_log(first=60, users=60), tmp_path / "overlap", threads=1)  # 60 to 89 are known, 90 to 119 are new
    facts = evaluate(profile, data, labels=make_labels(range(60, 120)), baselines=False)
    tested = [user for user in range(60, 90) if parts[user] == "test"]
    assert facts["users"] == len(tested) + 30
    assert facts["split"]["test"] == len(tested) + 30
    assert facts["split"]["train"] == sum(parts[user] == "train" for user in range(60, 90))
    trained = pa.table({"user_id": [u for u, part in parts.items() if part == "train"]})
    known = make_labels(range(90)).filter(pa.compute.is_in(make_labels(range(90))["user_id"], trained["user_id"]))
    with pytest.raises(DataError, match="every labelled user was in another part"):
        evaluate(profile, rings, labels=known)


def test_without_a_training_user_there_are_no_baselines_and_a_warning_says_so(
    profile: ProfilingModel, make_log: Log, make_labels: Callable[[range], pa.Table], tmp_path: Path
) -> None:
    data = prepare(make_log(first=200, users=12), tmp_path / "new", threads=1)
    facts = evaluate(profile, data, labels=make_labels(range(200, 212)))
    assert facts["users"] == 12
    assert facts["baselines"] == {}
    assert "no baseline" in facts["warnings"][0]


def test_a_class_the_model_does_not_know_is_refused(profile: ProfilingModel, rings: Dataset) -> None:
    strange = pa.table({"user_id": [1, 2], "label": ["a", "z"]})
    with pytest.raises(DataError, match="label 'z' is none of the classes the model was fitted to: a, b, c"):
        evaluate(profile, rings, labels=strange)


def test_fewer_training_users_leave_the_other_parts_as_they_are(fit_profile: Fit, profile: ProfilingModel) -> None:
    model = fit_profile(train_fraction=0.25, epochs=1)
    assert model.facts["split"] == {**profile.facts["split"], "train": 18}
    assert model.parts is not None
    assert profile.parts is not None
    for part in ("valid", "test"):
        mine, all_of = (table.filter(pa.compute.equal(table["part"], part)) for table in (model.parts, profile.parts))
        assert mine.equals(all_of)


def test_users_left_out_of_a_small_training_set_are_not_tested_on(fit_profile: Fit, rings: Dataset, labels: pa.Table) -> None:
    model = fit_profile(train_fraction=0.25, epochs=1)
    again = evaluate(model, rings, labels=labels, baselines=False)
    assert again["users"] == model.facts["users"]
    assert again["metrics"] == model.facts["metrics"]


def test_windows_of_a_person_stay_in_one_part(make_log: Log, tmp_path: Path) -> None:
    data = prepare(make_log(), tmp_path / "windows", window=3, threads=1)
    table = data.user_table
    labels = pa.table({"user_id": table["user_id"], "label": ["abc"[user % 3] for user in table["source_user"].to_pylist()]})
    encoder_settings = {"dim": 8, "blocks": 1, "heads": 1, "max_len": 4, "dropout": 0.1}
    from userclue.jobs.pretrain import pretrain

    model = finetune(pretrain(data, epochs=1, **encoder_settings), data, task="profiling", labels=labels, epochs=1, baselines=False)
    assert isinstance(model, ProfilingModel)
    assert model.parts is not None
    homes: dict[str, set[str]] = {}
    for user, part in zip(model.parts["user_id"].to_pylist(), model.parts["part"].to_pylist(), strict=True):
        homes.setdefault(user.partition("#")[0], set()).add(part)
    assert max(len(found) for found in homes.values()) == 1
    assert any(user.endswith("#1") for user in model.parts["user_id"].to_pylist())


def test_labels_join_by_the_text_of_an_id(
    fit_profile: Fit, profile: ProfilingModel, labels: pa.Table, make_log: Log, tmp_path: Path
) -> None:
    as_text = labels.set_column(0, "user_id", labels["user_id"].cast(pa.string()))
    assert fit_profile(labels=as_text).facts["metrics"] == profile.facts["metrics"]
    log = make_log()
    text_log = log.set_column(0, "user_id", log["user_id"].cast(pa.string()))
    data = prepare(text_log, tmp_path / "text", threads=1)
    assert fit_profile(data=data, epochs=1).facts["labels_without_user"] == 0


def test_labels_from_a_file_name_the_label_and_strangers_are_counted(fit_profile: Fit, labels: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "hobby.csv"
    rows = [*zip(labels["user_id"].to_pylist(), labels["label"].to_pylist(), strict=True), (900, "a"), (901, "b")]
    path.write_text("user_id,label\n" + "".join(f"{user},{label}\n" for user, label in rows))
    model = fit_profile(labels=path, epochs=1)
    assert model.facts["label"] == "hobby"
    assert model.facts["labels_without_user"] == 2


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"user_id": [900, 901], "label": ["a", "b"]}, "none of the 2 labelled users is among the 90 users.*labels have 900"),
        ({"user_id": [1, 2, 3], "label": ["a", "a", "a"]}, "all 3 labels are 'a'; a classifier needs at least two classes"),
        ({"user_id": [1, 2], "label": ["a", "b"]}, "cannot be parted into train, valid and test"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(fit_profile: Fit, table: dict[str, list[object]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_profile(labels=pa.table(table))


def test_wrong_tasks_splits_and_parts_are_refused(fit_profile: Fit, profile: ProfilingModel, rings: Dataset, labels: pa.Table) -> None:
    with pytest.raises(UsageError, match="unknown split leave-one-out for profiling; known: 80/5/15"):
        fit_profile(split="leave-one-out")
    with pytest.raises(UsageError, match="profiling needs --labels"):
        fit_profile(labels=None)
    with pytest.raises(UsageError, match="unknown part train; known: test, valid"):
        evaluate(profile, rings, labels=labels, part="train")
    with pytest.raises(UsageError, match="unknown setting patince; did you mean patience"):
        fit_profile(patince=3)
