"""Next item: what is learned, what training may see, and what a recommendation looks like."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from userclue.config import FinetuneSettings
from userclue.data.batches import BatchStream, pack
from userclue.data.prepare import prepare
from userclue.data.store import Dataset, Sequences
from userclue.data.vocabulary import FIRST_ITEM, UNK
from userclue.encoder import UserEncoder
from userclue.errors import DataError, UsageError
from userclue.jobs.finetune import evaluate
from userclue.jobs.pretrain import pretrain
from userclue.tasks.base import Training
from userclue.tasks.registry import load_fitted
from userclue.tasks.sequential import Sequential, SequentialModel

Fit = Callable[..., SequentialModel]
Log = Callable[..., pa.Table]


def task_on(data: Dataset, split: str = "leave-one-out", prefixes: int = 3) -> Sequential:
    return Sequential(data, data.sequences(), len(data.vocabulary), split, 0, prefixes)


def next_in_ring(item: str) -> str:
    return f"{item[0]}{(int(item[1]) + 1) % 6}"


def with_changed_ends(log: pa.Table, events: int) -> pa.Table:
    """The log with each user's last `events` items turned into other ones of the catalogue."""
    frame = pl.from_arrow(log)
    assert isinstance(frame, pl.DataFrame)
    from_end = pl.col("timestamp").rank("ordinal", descending=True).over("user_id")
    strange = pl.lit("b") + (pl.col("user_id") % 6).cast(pl.String)
    return frame.with_columns(pl.when(from_end <= events).then(strange).otherwise(pl.col("item_id")).alias("item_id")).to_arrow()


def test_an_easy_chain_is_learned_nearly_perfectly(next_item: SequentialModel) -> None:
    metrics = next_item.facts["metrics"]
    assert metrics["mrr@10"]["value"] > 0.97
    assert metrics["recall@10"]["value"] == 1
    ids, scores = next_item.recommend([["a0", "a1", "a2"], ["b5"], ["c3", "c4"]], k=1, filter_seen=False)
    assert ids == [["a3"], ["b0"], ["c5"]]
    assert scores.shape == (3, 1)
    assert scores.dtype == np.float32


def test_a_chain_is_learned_with_a_split_by_time(fit_next: Fit) -> None:
    model = fit_next(split="time", epochs=30, lr=0.01)
    assert model.facts["split"]["name"] == "time"
    assert model.facts["metrics"]["mrr@10"]["value"] > 0.8  # thirteen users, .87 to 1 by seed


@pytest.mark.parametrize("split", ["leave-one-out", "time"])
def test_a_training_input_ends_before_its_target_and_the_target_before_what_is_held_out(rings: Dataset, split: str) -> None:
    task = task_on(rings, split)
    valid_at = dict(zip(task.valid.users.tolist(), task.valid.inputs.ends.tolist(), strict=True))
    test_at = dict(zip(task.test.users.tolist(), task.test.inputs.ends.tolist(), strict=True))
    owner = np.repeat(np.arange(rings.n_users), np.diff(rings.offsets))
    seen = set()
    for epoch in range(20):
        inputs, targets = task.source(np.random.default_rng(epoch))
        assert len(inputs) == task.n_train
        np.testing.assert_array_equal(targets, rings.items[inputs.ends])
        assert inputs.lengths.min() >= 1
        for start, end in zip(inputs.starts.tolist(), inputs.ends.tolist(), strict=True):
            user = int(owner[start])
            assert owner[end] == user
            assert start == rings.offsets[user]
            assert end < min(valid_at.get(user, np.inf), test_at.get(user, np.inf))
            seen.add(end)
    first_held = [min(valid_at.get(u, rings.offsets[u + 1]), test_at.get(u, rings.offsets[u + 1])) for u in range(rings.n_users)]
    due = {place for user in range(rings.n_users) for place in range(int(rings.offsets[user]) + 1, int(first_held[user]))}
    assert len(seen - due) == 0
    assert len(seen) > 0.95 * len(due)  # every place of a history is a target in the long run


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8).filter(lambda found: max(found) >= 4), seed=st.integers(0, 9))
def test_leave_one_out_never_draws_a_held_out_event(rings: Dataset, lengths: list[int], seed: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = np.arange(FIRST_ITEM, FIRST_ITEM + offsets[-1], dtype=np.int32)  # every event is another item
    task = Sequential(rings, Sequences.from_offsets(items, offsets), int(offsets[-1]) + FIRST_ITEM, "leave-one-out", seed, 4)
    inputs, targets = task.source(np.random.default_rng(seed))
    held = {int(end) - back + FIRST_ITEM for end, length in zip(offsets[1:], lengths, strict=True) if length >= 3 for back in (1, 2)}
    assert not held & set(targets.tolist())
    for place, target in enumerate(targets.tolist()):
        history = inputs[place].tolist()
        assert history
        assert max(history) < target
        assert not held & set(history)
    assert set(task.test.targets.tolist()) | set(task.valid.targets.tolist()) == held


def test_changing_the_held_out_events_changes_no_batch_and_no_weight(fit_next: Fit, rings: Dataset, make_log: Log, tmp_path: Path) -> None:
    changed = prepare(with_changed_ends(make_log(), 2), tmp_path / "changed", vocabulary=rings.path, threads=1)
    assert not np.array_equal(changed.items, rings.items)
    np.testing.assert_array_equal(changed.offsets, rings.offsets)

    streams = []
    for data in (rings, changed):
        task = task_on(data)
        streams.append(BatchStream(source=task.source, n_sequences=task.n_train, batch_size=32, max_len=8, seed=4))
    for epoch in range(3):
        for one, other in zip(streams[0].epoch(epoch), streams[1].epoch(epoch), strict=True):
            assert torch.equal(one.tokens, other.tokens)
            assert one.targets is not None
            assert other.targets is not None
            assert torch.equal(one.targets, other.targets)

    shape = {"dim": 16, "blocks": 1, "heads": 2, "max_len": 8, "epochs": 1}
    encoders = [pretrain(data, **shape) for data in (rings, changed)]
    # One epoch, so that the choice of the best epoch on the validation events cannot come in.
    models = [fit_next(encoder, data, epochs=1) for encoder, data in zip(encoders, (rings, changed), strict=True)]
    for left, right in (encoders, models):
        assert all(torch.equal(tensor, right.state_dict()[name]) for name, tensor in left.state_dict().items())
    assert models[0].facts["metrics"] != models[1].facts["metrics"]


def test_changing_the_test_events_alone_changes_no_weight_of_a_whole_fit(
    fit_next: Fit, next_item: SequentialModel, rings: Dataset, make_log: Log, tmp_path: Path
) -> None:
    changed = prepare(with_changed_ends(make_log(), 1), tmp_path / "changed", vocabulary=rings.path, threads=1)
    model = fit_next(data=changed)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in next_item.state_dict().items())


def test_what_was_seen_is_left_out_and_the_rest_is_in_falling_order(next_item: SequentialModel, rings: Dataset) -> None:
    ids, scores = next_item.recommend(rings, k=5)
    assert scores.shape == (rings.n_users, 5)
    assert all(len(found) == len(set(found)) == 5 for found in ids)
    assert (np.diff(scores, axis=1) <= 0).all()
    for place, found in enumerate(ids):
        assert not set(found) & set(rings.vocabulary.ids(rings.sequences()[place]).to_pylist())
    everything, all_scores = next_item.recommend(rings, k=18, filter_seen=False)
    whole = next_item.scores(rings.sequences())
    for place in (0, 40, 89):
        assert sorted(everything[place]) == sorted(rings.vocabulary.table["item_id"].to_pylist())
        columns = rings.vocabulary.indices(everything[place])
        np.testing.assert_array_equal(all_scores[place], whole[place, columns])


def test_more_items_than_there_are(next_item: SequentialModel) -> None:
    ids, scores = next_item.recommend([["a0"], ["a0", "a1", "a2", "zzz"]], k=1000)
    assert [len(found) for found in ids] == [17, 15]
    assert scores.shape == (2, 18)
    assert np.isfinite(scores).sum(axis=1).tolist() == [17, 15]
    with pytest.raises(UsageError, match="k must be at least 1; got 0"):
        next_item.recommend([["a0"]], k=0)
    assert next_item.recommend([], k=3)[0] == []


def test_equal_scores_are_ranked_by_the_order_of_the_vocabulary(next_item: SequentialModel, tmp_path: Path) -> None:
    next_item.save_pretrained(tmp_path / "copy")
    model = load_fitted(tmp_path / "copy")
    assert isinstance(model, SequentialModel)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
    order = model.vocabulary.table["item_id"].to_pylist()
    ids, scores = model.recommend([["a0"], ["b1"]], k=4, filter_seen=False)
    assert ids == [order[:4], order[:4]]
    assert not scores.any()


def test_a_target_tied_with_others_is_ranked_behind_them(next_item: SequentialModel, rings: Dataset, tmp_path: Path) -> None:
    next_item.save_pretrained(tmp_path / "copy")
    model = load_fitted(tmp_path / "copy")
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
    facts = evaluate(model, rings, baselines=False)
    assert facts["metrics"]["mrr@10"]["value"] == 0
    assert facts["metrics"]["recall@10"]["value"] == 0


@pytest.mark.parametrize("head", ["linear", "tied", "copied"])
def test_every_head_is_saved_and_loaded_whole(fit_next: Fit, rings: Dataset, tmp_path: Path, head: str) -> None:
    model = fit_next(head=head, epochs=2, out=tmp_path / "fitted", baselines=True)
    loaded = load_fitted(tmp_path / "fitted")
    assert isinstance(loaded, SequentialModel)
    np.testing.assert_array_equal(loaded.scores(rings.sequences()), model.scores(rings.sequences()))
    assert loaded.recommend(rings)[0] == model.recommend(rings)[0]
    products = loaded.inner_products(rings.sequences())
    assert products.bias is not None
    by_blocks = products.vectors(np.arange(90)) @ products.items.numpy().T + products.bias.numpy()
    np.testing.assert_allclose(by_blocks, model.scores(rings.sequences()), atol=1e-4)
    facts = evaluate(loaded, rings)
    for key in ("metrics", "baselines", "users", "split", "mode"):
        assert facts[key] == model.facts[key], key
    assert facts["unseen"] == model.facts["unseen"]


def test_a_tied_head_learns_the_chain_too(fit_next: Fit) -> None:
    assert fit_next(head="tied").facts["metrics"]["mrr@10"]["value"] > 0.9


def test_a_copied_head_starts_as_the_item_embeddings_and_leaves_them(rings: Dataset, encoder: UserEncoder, fit_next: Fit) -> None:
    task = Sequential(rings, rings.sequences(), len(rings.vocabulary), "leave-one-out", 0, 1)
    heads = [task.head(encoder, FinetuneSettings(head=name), torch.Generator().manual_seed(0)) for name in ("copied", "tied")]
    states = torch.randn(5, encoder.config.dim, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(heads[0](states), heads[1](states))
    fitted = fit_next(head="copied", epochs=2)
    assert not torch.equal(fitted.head.weight, fitted.encoder.embedding.table())


def test_a_probe_leaves_the_encoder_as_it_was(fit_next: Fit, encoder: UserEncoder) -> None:
    for head in ("linear", "tied"):
        model = fit_next(mode="probe", head=head, epochs=2)
        own = model.encoder.state_dict()
        assert all(torch.equal(tensor, own[name]) for name, tensor in encoder.state_dict().items())


def test_pre_training_that_saw_the_test_events_is_told(fit_next: Fit, rings: Dataset, next_item: SequentialModel) -> None:
    assert next_item.facts["warnings"] == []
    shape = {"dim": 8, "blocks": 1, "heads": 1, "max_len": 8, "epochs": 1}
    saw_all = pretrain(rings, hold_out=0, **shape)
    assert "pre-train with --hold-out 2" in fit_next(saw_all, epochs=1).facts["warnings"][0]
    assert fit_next(saw_all, epochs=1, mode="scratch").facts["warnings"] == []  # nothing of the pre-training is in it
    assert "pre-train with --until TIME" in fit_next(saw_all, epochs=1, split="time").facts["warnings"][0]


def test_users_with_one_event_are_neither_trained_nor_tested_on_but_served(fit_next: Fit, make_log: Log, tmp_path: Path) -> None:
    single = pa.table({"user_id": [500, 501], "item_id": ["a0", "b3"], "timestamp": [1_700_000_000, 1_700_000_001]})
    data = prepare(pa.concat_tables([make_log(), single]), tmp_path / "data", threads=1)
    task = task_on(data)
    assert (len(task.train), len(task.valid), len(task.test)) == (90, 90, 90)
    model = fit_next(data=data, epochs=2)
    assert model.facts["users"] == 90
    ids, _ = model.recommend(data, k=3)
    assert len(ids) == 92
    assert "a0" not in ids[-2]


def test_a_share_of_the_training_users_leaves_the_test_as_it_is(fit_next: Fit, rings: Dataset) -> None:
    model = fit_next(train_fraction=0.2, epochs=1)
    assert model.facts["split"] == {"name": "leave-one-out", "seed": 0, "train": 18, "valid": 90, "test": 90}


def test_targets_the_model_does_not_know_count_as_misses(next_item: SequentialModel, make_log: Log, tmp_path: Path) -> None:
    frame = pl.from_arrow(make_log())
    assert isinstance(frame, pl.DataFrame)
    last = pl.col("timestamp").rank("ordinal", descending=True).over("user_id") == 1
    new_last = frame.with_columns(pl.when(last).then(pl.lit("new item")).otherwise(pl.col("item_id")).alias("item_id"))
    data = prepare(new_last, tmp_path / "data", threads=1)
    facts = evaluate(next_item, data, baselines=False)
    assert facts["users"] == 90
    assert facts["metrics"]["recall@10"]["value"] == 0


@pytest.mark.parametrize("split", ["leave-one-out", "time"])
def test_a_log_too_short_for_the_split_is_refused(fit_next: Fit, make_log: Log, tmp_path: Path, split: str) -> None:
    short = pa.table({"user_id": [1, 1, 2, 2, 3, 3], "item_id": ["a0", "a1"] * 3, "timestamp": [1_700_000_000 + step for step in range(6)]})
    data = prepare(short, tmp_path / "data", threads=1)
    with pytest.raises(DataError, match=r"no user"):
        fit_next(data=data, split=split)


def test_wrong_splits_and_labels_are_refused(fit_next: Fit, labels: pa.Table, make_log: Log, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown split 80/5/15 for sequential; known: leave-one-out, time"):
        fit_next(split="80/5/15")
    with pytest.raises(UsageError, match="--labels belongs to profiling"):
        fit_next(labels=labels)
    timeless = prepare(make_log(users=9).drop_columns(["timestamp"]), tmp_path / "timeless", time_col=None, threads=1)
    with pytest.raises(UsageError, match="has none; prepare it with --time-col, or use leave-one-out"):
        fit_next(data=timeless, split="time")


def test_the_chain_in_the_log_is_what_the_tests_think_it_is(rings: Dataset) -> None:
    for place in range(0, rings.n_users, 7):
        history = rings.vocabulary.ids(rings.sequences()[place]).to_pylist()
        assert [next_in_ring(item) for item in history[:-1]] == history[1:]
    assert rings.items.min() > UNK


# Learning from every position.


@pytest.fixture(scope="module")
def causal_encoder(rings: Dataset) -> UserEncoder:
    return pretrain(rings, epochs=1, causal=True, dim=16, blocks=2, heads=2, max_len=8, dropout=0.1, batch_size=32)


@pytest.mark.parametrize("head", ["linear", "tied"])
@pytest.mark.parametrize("mode", ["finetune", "probe"])
def test_the_loss_at_every_position_is_the_mean_of_single_predictions(
    fit_next: Fit, causal_encoder: UserEncoder, head: str, mode: str
) -> None:
    """Each item after the first is predicted at the item before it, and the target at UR; unknown ones are left out."""
    model = fit_next(causal_encoder, head=head, epochs=1, positions="all").double()
    histories, targets = [[4, 5, 6], [7], [8, UNK, 9]], np.array([7, UNK, 10])
    batch = pack(Sequences.from_lists([np.array(one) for one in histories]), np.arange(3), 8, targets)
    training = Training(model, mode, UNK, "all")
    step = training(batch, torch.Generator().manual_seed(0)) if mode == "probe" else training._everywhere(batch, batch.targets, None)
    losses = []
    for history, target in zip(histories, targets.tolist(), strict=True):
        states = model.encoder.states(pack(Sequences.from_lists([np.array(history)]), np.arange(1), 8))
        wanted = [(place, item) for place, item in enumerate(history[1:])] + [(len(history), target)]
        losses += [cross_entropy(model.head(states[place]), torch.tensor(item)) for place, item in wanted if item != UNK]
    assert len(losses) == 3 + 0 + 2
    torch.testing.assert_close(step.loss, torch.stack(losses).mean(), rtol=1e-9, atol=0)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(parameters) == (len(list(model.head.parameters())) if mode == "probe" else len(list(model.parameters())))
    found = [torch.autograd.grad(loss, parameters) for loss in (step.loss, torch.stack(losses).mean())]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("head", ["linear", "tied", "copied"])
def test_a_chain_is_learned_from_every_position(fit_next: Fit, causal_encoder: UserEncoder, head: str) -> None:
    model = fit_next(causal_encoder, head=head, positions="all", prefixes=2, epochs=8)
    assert model.facts["metrics"]["mrr@10"]["value"] > 0.95
    assert model.facts["settings"]["positions"] == "all"
    assert model.recommend([["a0", "a1", "a2"]], k=1, filter_seen=False)[0] == [["a3"]]
    assert any("accuracy" in row for row in model.rows)


def test_every_position_needs_a_causal_encoder(fit_next: Fit) -> None:
    with pytest.raises(
        UsageError,
        match=r"positions=all .* read both ways; pre-train with --causal \(or --objective next\), fit it with --causal, or leave",
    ):
        fit_next(positions="all")


def test_the_item_table_is_updated_by_row_where_the_head_is_its_own(fit_next: Fit) -> None:
    assert fit_next(item_updates="lazy-adam").facts["metrics"]["mrr@10"]["value"] > 0.97
    with pytest.raises(UsageError, match=r"this loss scores all of them from their embeddings; .*head=linear \(finetune\)"):
        fit_next(item_updates="lazy-adam", head="tied")


def test_epochs_can_be_judged_by_the_metric(fit_next: Fit) -> None:
    model = fit_next(stop_on="metric", epochs=4)
    found = [row["valid_metric"] for row in model.rows if "valid_metric" in row]
    assert len(found) == 4
    assert model.facts["best_epoch"] == found.index(max(found))
