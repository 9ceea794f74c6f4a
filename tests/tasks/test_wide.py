"""The wide part against scikit-learn and the closed form; what it adds to a fitted model, and that it is saved with it."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss

from userclue.data.prepare import prepare
from userclue.data.splits import Instances
from userclue.data.store import Dataset, Sequences
from userclue.data.vocabulary import FIRST_ITEM
from userclue.encoder import UserEncoder
from userclue.errors import UsageError
from userclue.jobs.finetune import evaluate, finetune
from userclue.jobs.pretrain import pretrain
from userclue.tasks import wide
from userclue.tasks.base import FittedModel
from userclue.tasks.frozen import Frozen
from userclue.tasks.registry import load_fitted
from userclue.tasks.wide import REPEATS, SHARES, Classifier, Recommender, Transitions, WidePart, one_standard_error

SIZE = FIRST_ITEM + 30
SHAPE = {"dim": 16, "blocks": 1, "heads": 2, "max_len": 8, "batch_size": 32}
Fit = Callable[..., FittedModel]


def drawn(n: int, seed: int) -> tuple[Sequences, np.ndarray]:
    """Histories of two tastes, and whose each is."""
    generator = np.random.default_rng(seed)
    taste = generator.integers(0, 2, n)
    lists = [FIRST_ITEM + 12 * one + generator.integers(0, 18, generator.integers(1, 12)) for one in taste]
    return Sequences.from_lists([one.astype(np.int32) for one in lists]), taste


def instances(n: int, seed: int, targets: Callable[[np.ndarray], np.ndarray]) -> Instances:
    histories, taste = drawn(n, seed)
    return Instances(histories, targets(taste).astype(np.int64), np.arange(n))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_classifier_is_scikit_learns_on_the_same_features(classes: int) -> None:
    generator = np.random.default_rng(3)

    def label(taste: np.ndarray) -> np.ndarray:
        return np.where(generator.random(len(taste)) < 0.8, taste, classes - 1)

    train, valid = instances(200, 0, label), instances(60, 1, label)
    kind = Classifier(train.inputs, classes, SIZE, 0)
    part = kind.fit(train, valid)
    proba = part(torch.from_numpy(part.features(valid.inputs))).softmax(dim=1).numpy()
    x, valid_x = (kind._design(one.inputs) for one in (train, valid))
    losses = {}
    for penalty in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3):
        expected = LogisticRegression(C=penalty, tol=1e-3, max_iter=500).fit(x, train.targets).predict_proba(valid_x)
        losses[penalty] = -np.log(expected[np.arange(len(valid)), valid.targets]).mean(), expected
    np.testing.assert_allclose(proba, min(losses.values(), key=lambda pair: pair[0])[1], atol=1e-4)


def test_a_folder_from_before_rows_kept_a_part_of_their_length_reads_as_it_was() -> None:
    train = instances(100, 0, lambda taste: taste)
    part = Classifier(train.inputs, 2, SIZE, 0).fit(train, train.take(np.arange(0)))
    assert float(part.shortening) == 0.75
    older = {name: tensor for name, tensor in part.state_dict().items() if name != "shortening"}
    assert float(WidePart(**older).shortening) == 1


def test_a_class_without_training_users_is_never_likely() -> None:
    train = instances(100, 0, lambda taste: taste)
    part = Classifier(train.inputs, 3, SIZE, 0).fit(train, train.take(np.arange(0)))
    assert part(torch.from_numpy(part.features(train.inputs))).softmax(dim=1)[:, 2].max() < 1e-6


@pytest.mark.parametrize("rank", [1, 3, 64])
def test_the_recommender_is_ridge_regression_of_reduced_rank(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against scikit-learn's ridge and the singular vectors of its estimates, the penalty's own rows among them."""
    monkeypatch.setattr(wide, "UNTUNED_RANK", rank)
    train = instances(300, 0, lambda taste: FIRST_ITEM + 3 * taste)
    targets = np.random.default_rng(0).integers(FIRST_ITEM, FIRST_ITEM + 6, 300)
    train = replace(train, targets=np.where(np.arange(300) % 3, train.targets, targets))
    kind = Recommender(train.inputs, FIRST_ITEM + 6, SIZE, 0)
    part = kind.fit(train, train.take(np.arange(0)))
    x = np.asarray(kind.bag.rows(train.inputs) @ kind.basis).astype(np.float64)
    counts = np.bincount(train.targets, minlength=FIRST_ITEM + 6)
    taken = np.eye(FIRST_ITEM + 6)[train.targets] * np.maximum(counts, 1) ** -0.25
    ridge = Ridge(alpha=30.0).fit(x, taken)
    centred = x - x.mean(axis=0)
    kept = np.linalg.svd(np.concatenate([centred, 30.0**0.5 * np.eye(x.shape[1])]) @ ridge.coef_.T)[2][:rank]
    expected = centred @ ridge.coef_.T @ kept.T @ kept + taken.mean(axis=0)
    assert np.linalg.matrix_rank(ridge.coef_) > 3
    found = part(torch.from_numpy(part.features(train.inputs))).numpy() / 40.0
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_recommender_chooses_on_the_validation_part() -> None:
    train, valid = (instances(n, n, lambda taste: FIRST_ITEM + 3 * taste) for n in (300, 80))
    part = Recommender(train.inputs, FIRST_ITEM + 6, SIZE, 0).fit(train, valid)
    found = part(torch.from_numpy(part.features(valid.inputs)))
    assert (found.argmax(dim=1).numpy() == valid.targets).mean() > 0.8


def test_a_profile_model_has_it_keeps_it_and_scores_the_same_again(
    fit_profile: Fit, rings: Dataset, labels: pa.Table, tmp_path: Path
) -> None:
    model = fit_profile(wide="bag", epochs=1, mode="scratch")
    assert model.facts["wide_share"] in SHARES
    assert any("wide_share 1" in one for one in model.facts["warnings"]) == (model.facts["wide_share"] == 1)
    assert model.wide is not None
    model.save_pretrained(tmp_path / "fitted")
    again = load_fitted(tmp_path / "fitted")
    sequences = rings.sequences()
    np.testing.assert_array_equal(again.scores(sequences), model.scores(sequences))
    assert isinstance(model.wide, WidePart)
    network = (1 - model.facts["wide_share"]) * fit_profile(epochs=1, mode="scratch").scores(sequences)
    wide = model.wide(torch.from_numpy(model.wide.features(sequences))).numpy()  # scaled by its share already
    np.testing.assert_allclose(model.scores(sequences), network + wide, atol=1e-5)
    assert evaluate(again, rings, labels=labels, baselines=False)["metrics"] == model.facts["metrics"]


def test_few_labels_leave_the_encoder_as_it_is_and_regress_on_bag_and_vectors(
    fit_profile: Fit, encoder: UserEncoder, rings: Dataset, tmp_path: Path
) -> None:
    model = fit_profile(wide="bag", epochs=1)
    assert model.facts["frozen_vectors"] is True
    assert "wide_share" not in model.facts
    assert model.facts["trained_parameters"] == sum(parameter.numel() for parameter in model.head.parameters())
    sequences = rings.sequences()
    vectors = encoder.vectors(sequences)
    np.testing.assert_array_equal(model.encoder.vectors(sequences), vectors)
    assert isinstance(model.wide, WidePart)
    together = model.wide(torch.from_numpy(model.wide.features(sequences))).numpy() + vectors @ model.head.weight.detach().numpy().T
    np.testing.assert_allclose(model.scores(sequences), together, atol=1e-5)
    model.save_pretrained(tmp_path / "fitted")
    np.testing.assert_array_equal(load_fitted(tmp_path / "fitted").scores(sequences), model.scores(sequences))


def test_fine_tuning_is_kept_where_the_validation_part_has_reason_to(fit_profile: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Frozen.__init__

    def worse(self: Frozen, *arguments: Any) -> None:
        made(self, *arguments)
        self.losses += 5

    monkeypatch.setattr(Frozen, "__init__", worse)
    model = fit_profile(wide="bag", epochs=1)
    assert model.facts["frozen_vectors"] is False
    assert model.facts["wide_share"] in SHARES


@pytest.mark.parametrize("classes", [2, 3])
def test_vectors_stand_beside_the_bag_in_one_regression(classes: int) -> None:
    train, valid = instances(200, 0, lambda taste: taste * (classes - 1)), instances(60, 1, lambda taste: taste * (classes - 1))
    generator = np.random.default_rng(5)
    vectors, others = (generator.normal(3, [1, 2, 5, 0], (len(one), 4)) + one.targets[:, None] for one in (train, valid))
    kind = Classifier(train.inputs, classes, SIZE, 0)
    part, weights, told = kind.fit_with(train, valid, vectors, others)
    found = (part(torch.from_numpy(part.features(valid.inputs))).double().numpy() + others @ weights.T)[:, np.unique(train.targets)]
    mean, spread = vectors.mean(axis=0), vectors.std(axis=0)
    chances, losses = [], []
    for scale in (3, 6, 12):  # 6, 12 and 24 over the root of four columns
        x, y = (
            np.hstack([kind._design(one.inputs).toarray(), (of - mean) / spread * scale]) for one, of in ((train, vectors), (valid, others))
        )
        fits = [
            LogisticRegression(C=penalty, tol=1e-3, max_iter=500).fit(x, train.targets) for penalty in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
        ]
        chances.append(min((one.predict_proba(y) for one in fits), key=lambda proba: log_loss(valid.targets, proba)))
        losses.append(-np.log(chances[-1][np.arange(len(valid)), np.searchsorted(fits[0].classes_, valid.targets)]))
        if len(losses) > 1 and losses[-1].mean() >= losses[-2].mean():
            break
    chosen = one_standard_error(np.stack(losses))
    assert chosen > 0  # the vectors say much more than the bag
    np.testing.assert_allclose(softmax(found, axis=1), chances[chosen], atol=1e-4)
    np.testing.assert_allclose(told, losses[chosen], atol=1e-3)


def test_without_it_nothing_is_saved_of_it(fit_profile: Fit, tmp_path: Path) -> None:
    model = fit_profile(epochs=1)
    model.save_pretrained(tmp_path / "fitted")
    assert model.wide is None
    assert not (tmp_path / "fitted" / "wide.safetensors").exists()


def test_what_is_no_better_than_chance_does_not_displace_the_first() -> None:
    generator = np.random.default_rng(0)
    base = generator.random(300)
    noisy = base - 0.001 + 0.1 * generator.standard_normal(300)
    assert one_standard_error(np.stack([base, noisy])) == 0
    assert one_standard_error(np.stack([base, base - 0.05])) == 1
    assert one_standard_error(np.stack([base, base - 0.04 + 0.01 * base, base - 0.05])) == 2


def test_transitions_are_a_mixture_of_network_and_chain(fit_next: Fit, rings: Dataset, tmp_path: Path) -> None:
    model = fit_next(wide="transitions", epochs=1)
    plain = fit_next(epochs=1)
    assert isinstance(model.wide, Transitions)
    weight, repeat, sequences = model.facts["wide_share"], model.facts["repeat_factor"], rings.sequences()
    assert 0 <= weight < 1
    logits = plain.scores(sequences).astype(np.float64)[:, FIRST_ITEM:]
    network = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    training = sequences.drop_last(2)
    counts = np.zeros((len(rings.vocabulary), len(rings.vocabulary)))
    for place in range(len(training)):
        for one, other in pairwise(training[place].tolist()):
            counts[one, other] += 1
    share = np.bincount(training.gather()[0], minlength=len(counts)) / len(training.gather()[0])
    last = sequences.items[sequences.ends - 1]
    chain = (counts[last] + 20 * share) / (counts[last].sum(axis=1, keepdims=True) + 20)
    expected = (1 - weight) * network + weight * chain[:, FIRST_ITEM:]
    for place in range(len(sequences)):
        expected[place, np.unique(sequences[place]) - FIRST_ITEM] *= repeat
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(model.scores(sequences)[:, FIRST_ITEM:]), expected, atol=1e-5)
    model.save_pretrained(tmp_path / "fitted")
    again = load_fitted(tmp_path / "fitted")
    ids, scores = again.recommend([["a0", "a1"]], k=3, filter_seen=False)
    assert ids == model.recommend([["a0", "a1"]], k=3, filter_seen=False)[0]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(np.argsort(-again.scores(sequences), axis=1)[:, 0], np.argsort(-model.scores(sequences), axis=1)[:, 0])
    assert scores.shape == (1, 3)


@pytest.mark.parametrize("comes_back", [False, True])
def test_whether_people_come_back_is_learned(comes_back: bool, tmp_path: Path) -> None:
    """Everybody takes items at random, a new one each time or one of two of their own."""
    generator = np.random.default_rng(0)
    rows = []
    for user in range(200):
        own = generator.permutation(20)[: 2 if comes_back else 8]
        rows += [(user, f"i{item}", step) for step, item in enumerate(generator.choice(own, 8) if comes_back else own)]
    table = pa.table(dict(zip(("user_id", "item_id", "timestamp"), map(pa.array, zip(*rows, strict=True)), strict=True)))
    dataset = prepare(table, tmp_path / "data", threads=1)
    encoder = pretrain(dataset, steps=1, **SHAPE)
    model = finetune(encoder, dataset, task="sequential", wide="transitions", steps=5, baselines=False)
    assert isinstance(model.wide, Transitions)
    factor = model.facts["repeat_factor"]
    assert factor in REPEATS
    assert factor > 1 if comes_back else factor < 1
    histories = dataset.sequences().drop_last(1)
    best = model.scores(histories).argmax(axis=1)
    assert np.mean([one in histories[place] for place, one in enumerate(best)]) == comes_back
    older = {name: tensor for name, tensor in model.wide.state_dict().items() if name != "repeat"}
    assert float(Transitions(**older).repeat) == 1


def test_the_wide_part_of_another_task_is_refused(fit_next: Fit, fit_profile: Fit) -> None:
    with pytest.raises(UsageError, match="wide=bag does not belong to sequential; set wide to transitions or none"):
        fit_next(wide="bag", epochs=1)
    with pytest.raises(UsageError, match="wide=transitions does not belong to profiling"):
        fit_profile(wide="transitions", epochs=1)
