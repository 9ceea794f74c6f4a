"""Next and masked items: which places are predicted, from what, against loops written out; draws against their distribution."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from userclue.config import PretrainSettings
from userclue.data.batches import BatchStream, pack, places_before_items
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, MASK, UNK, UR, Vocabulary
from userclue.encoder import UserEncoder
from userclue.errors import UsageError
from userclue.item_losses import other_rows
from userclue.jobs.pretrain import pretrain_settings
from userclue.nn.backbones import settled
from userclue.objectives.registry import OBJECTIVES
from userclue.train.journal import Journal
from userclue.train.loop import Training

ITEMS = 20


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def objective(name, dtype=torch.float64, counts=None, **values):
    shape = {"dim": 8, "heads": 2, "blocks": 2, "max_len": 9, "dropout": 0.0}
    settings = PretrainSettings.of({"objective": name, **shape, **values})
    encoder = UserEncoder.new(settings.encoder(), Vocabulary.from_ids(list(range(ITEMS)), counts), generator())
    with torch.no_grad():
        encoder.embedding.items.weight.normal_(generator=generator(1))
    return OBJECTIVES[name](encoder, settings, generator()).to(dtype)


def packed(*lists, max_len=9):
    return pack(Sequences.from_lists([np.asarray(one) for one in lists]), np.arange(len(lists)), max_len)


HISTORIES = ([4, 5, 6, 7], [8], [9, UNK, 10, 11, UNK], [12, 12])


@pytest.mark.parametrize("tied", [True, False])
def test_next_is_the_mean_over_every_item_that_follows_another(tied):
    made = objective("next", tied=tied)
    ours = made(packed(*HISTORIES), generator()).loss
    table = (made.encoder.embedding.items if tied else made.own_table).weight
    losses = []
    for history in HISTORIES:
        states = made.encoder.states(packed(history))
        for place, target in enumerate(history[1:]):
            if target != UNK:
                losses.append(cross_entropy(states[place] @ table[FIRST_ITEM:].T, torch.tensor(target - FIRST_ITEM)))
    assert len(losses) == 3 + 2 + 1
    torch.testing.assert_close(ours, torch.stack(losses).mean(), rtol=1e-10, atol=0)
    names = [name for name, _ in made.named_parameters()]
    mine = torch.autograd.grad(ours, list(made.parameters()), allow_unused=True)
    theirs = torch.autograd.grad(torch.stack(losses).mean(), list(made.parameters()), allow_unused=True)
    for name, one, other in zip(names, mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10, msg=name)


def test_next_alone_has_ur_predict_what_follows_each_history():
    made = objective("next")
    assert made.reads_what_follows
    histories, follows = [[4, 5, 6, 7], [8], [9, UNK, 10], []], [11, 12, UNK, 13]
    batch = replace(packed(*histories), targets=torch.tensor(follows))
    table, losses = made.encoder.embedding.items.weight[FIRST_ITEM:], []
    for history, last in zip(histories, follows, strict=True):
        states = made.encoder.states(packed(history))
        assert len(states) == len(history) + 1
        pairs = [*zip(range(len(history)), history[1:], strict=False), (len(history), last)]
        losses += [cross_entropy(states[place] @ table.T, torch.tensor(item - FIRST_ITEM)) for place, item in pairs if item != UNK]
    assert len(losses) == 4 + 1 + 1 + 1
    step = made(batch, generator())
    torch.testing.assert_close(step.loss, torch.stack(losses).mean(), rtol=1e-10, atol=0)
    step.loss.backward()
    assert made.encoder.embedding.items.weight.grad[UR].any()
    assert not OBJECTIVES["hybrid"](made.encoder, PretrainSettings.of({"objective": "hybrid"}), generator()).reads_what_follows


def test_no_place_predicts_past_the_end_of_its_history():
    batch = packed(*HISTORIES)
    places = places_before_items(batch.tokens)
    owner = torch.repeat_interleave(torch.arange(4), batch.offsets.diff())
    assert torch.equal(owner[places], owner[places + 1])
    assert not (batch.tokens[places] == UR).any()
    assert (batch.tokens[places + 1] >= FIRST_ITEM).all()


def test_what_comes_later_changes_no_earlier_prediction():
    """Items from `cut` on are exchanged: the states that predict the items before it stay as they were."""
    made, history = objective("next"), [4, 5, 6, 7, 8, 9]
    for cut in range(1, 6):
        changed = history[:cut] + [item + 7 for item in history[cut:]]
        one, other = made.encoder.states(packed(history)), made.encoder.states(packed(changed))
        torch.testing.assert_close(one[:cut], other[:cut], rtol=0, atol=1e-12)
        assert float((one[cut:] - other[cut:]).detach().abs().max()) > 1e-3


def test_masked_predicts_the_chosen_items_from_what_is_left():
    made, batch = objective("masked"), packed(*HISTORIES, range(4, 12), range(12, 20))
    tokens, chosen = made.mask(batch.tokens, generator(5))
    assert 3 < len(chosen) < 20
    inputs = pack(Sequences(tokens.numpy().astype(np.int32), batch.offsets[:-1].numpy(), batch.offsets[1:].numpy() - 1), np.arange(6), 9)
    states = made.encoder.states(inputs)[chosen]
    theirs = cross_entropy(states @ made.encoder.embedding.items.weight[FIRST_ITEM:].T, batch.tokens[chosen] - FIRST_ITEM)
    torch.testing.assert_close(made(batch, generator(5)).loss, theirs, rtol=1e-10, atol=0)


def test_masked_reads_both_sides():
    made = objective("masked")
    one, other = (made.encoder.states(packed([4, MASK, 6, last])) for last in (7, 8))
    assert float((one[1] - other[1]).detach().abs().max()) > 1e-3


def test_rates_of_masking():
    made = objective("masked", mask_share=0.3)
    tokens = torch.randint(FIRST_ITEM, FIRST_ITEM + ITEMS, (200_000,), generator=generator(2))
    tokens[::10], tokens[1::10] = UR, UNK
    new, chosen = made.mask(tokens, generator(3))
    n = len(chosen)
    assert n / 160_000 == pytest.approx(0.3, abs=0.005)
    assert (tokens[chosen] >= FIRST_ITEM).all()
    kept = torch.ones(len(tokens), dtype=torch.bool)
    kept[chosen] = False
    assert torch.equal(new[kept], tokens[kept])
    assert float((new[chosen] == MASK).double().mean()) == pytest.approx(0.8, abs=0.01)
    stayed = float((new[chosen] == tokens[chosen]).double().mean())
    assert stayed == pytest.approx(0.1 + 0.1 / ITEMS, abs=0.01)
    exchanged = new[chosen][(new[chosen] != MASK) & (new[chosen] != tokens[chosen])]
    assert set(exchanged.tolist()) == set(range(FIRST_ITEM, FIRST_ITEM + ITEMS))
    assert objective("masked", mask_share=1.0).mask(tokens, generator())[1].shape == (160_000,)


@pytest.mark.parametrize("power", [0.0, 0.75, 1.0])
def test_negatives_are_drawn_by_their_smoothed_frequency(power):
    counts = np.arange(ITEMS) ** 2
    made = objective("next", item_loss="sampled", negatives=50, negative_power=power, counts=counts)
    share = (counts + 1.0) ** power / ((counts + 1.0) ** power).sum()
    mass, rounds, source = np.zeros(ITEMS), 3000, generator(4)
    stood_for = np.zeros(ITEMS)
    for _ in range(rounds):
        items, log_weights = made._draw(source)
        assert bool((items.diff() > 0).all())
        places, weights = items.numpy() - FIRST_ITEM, np.exp(log_weights.double().numpy())
        mass[places] += weights * share[places] * 50  # times drawn
        stood_for[places] += weights
    np.testing.assert_allclose(mass / rounds / 50, share, atol=5 * np.sqrt(share / rounds / 50).max())
    assert np.abs(stood_for / rounds - 1)[share > 0.01].max() < 0.15  # each item stands for itself on average


def test_a_large_sample_comes_near_the_full_softmax():
    batch = packed(*HISTORIES, [15, 16, 17, 18], [7, 6, 5])
    full = objective("next", item_loss="full")(batch, generator()).loss
    sampled = objective("next", item_loss="sampled", negatives=400_000)(batch, generator()).loss
    assert float(sampled.detach()) == pytest.approx(float(full.detach()), rel=5e-3)
    few = [float(objective("next", item_loss="sampled", negatives=4)(batch, generator(seed)).loss.detach()) for seed in range(3)]
    assert len(set(few)) == 3


def test_the_one_negative_is_another_item_and_any_other():
    targets = torch.randint(FIRST_ITEM, FIRST_ITEM + ITEMS, (100_000,), generator=generator(2))
    others = other_rows(targets - FIRST_ITEM, ITEMS, generator(3)) + FIRST_ITEM
    assert not (others == targets).any()
    assert int(others.min()) == FIRST_ITEM
    assert int(others.max()) == FIRST_ITEM + ITEMS - 1
    of_first = others[targets == FIRST_ITEM].bincount(minlength=FIRST_ITEM + ITEMS)[FIRST_ITEM + 1 :]
    assert float(of_first.double().std() / of_first.double().mean()) < 0.09


def test_the_size_of_the_catalogue_decides_between_full_and_sampled():
    assert objective("next", full_softmax_items=ITEMS).loss == "full"
    assert objective("next", full_softmax_items=ITEMS - 1).loss == "sampled"
    assert [objective("masked", item_loss=loss).reads_whole_table for loss in ("full", "sampled", "bce")] == [True, False, False]


@pytest.mark.parametrize("name", ["next", "masked"])
@pytest.mark.parametrize("loss", ["full", "sampled", "bce"])
def test_one_event_users_alone_give_no_loss_and_no_nan(name, loss):
    made = objective(name, item_loss=loss, mask_share=1e-9)
    step = made(packed([4], [5]), generator())
    step.loss.backward()
    assert float(step.loss.detach()) == 0
    assert step.metrics() == {"accuracy": 0.0}
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in made.parameters())


@pytest.mark.parametrize("name", ["next", "masked"])
def test_bfloat16_leaves_the_loss_in_float32(name):
    made, batch = objective(name, dtype=torch.float32), packed(*HISTORIES, range(4, 12))
    exact = made(batch, generator(2)).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = made(batch, generator(2)).loss
    assert rough.dtype == torch.float32
    assert float(rough.detach()) == pytest.approx(float(exact.detach()), rel=0.05)


@pytest.mark.parametrize(
    ("name", "values", "accuracy"),
    [
        ("next", {}, 0.95),
        ("next", {"tied": False}, 0.95),
        ("next", {"item_loss": "sampled", "negatives": 64}, 0.95),
        ("next", {"item_loss": "bce"}, 0.95),
        ("masked", {"steps": 500}, 0.9),
    ],
)
def test_a_ring_of_items_is_learned(name, values, accuracy):
    draw = np.random.default_rng(0)
    sequences = Sequences.from_lists([(np.arange(8) + draw.integers(ITEMS)) % ITEMS + FIRST_ITEM for _ in range(64)])
    settings = PretrainSettings.of(
        {"objective": name, "dim": 16, "heads": 2, "blocks": 2, "max_len": 8, "dropout": 0.0, "lr": 0.01, "steps": 150, "batch_size": 32}
        | values
    )
    encoder = UserEncoder.new(settings.encoder(), Vocabulary.from_ids(list(range(ITEMS))), generator())
    stream = BatchStream(lambda _: (sequences, None), len(sequences), 32, 8, 0)
    run = Training(OBJECTIVES[name](encoder, settings, generator()), stream, settings, journal=Journal(), log_every=50)
    run.run()
    first, last = run.journal.rows[0], run.journal.rows[-1]
    assert last["accuracy"] > accuracy
    assert last["loss"] < first["loss"] / 2


def test_the_encoder_becomes_what_the_objective_needs():
    for given, causal in (({"objective": "next"}, True), ({"objective": "masked"}, False), ({}, False), ({"causal": True}, True)):
        assert settled(pretrain_settings(**given).encoder()).causal is causal
    with pytest.raises(UsageError, match="next needs causal=true; leave causal out"):
        pretrain_settings(objective="next", causal=False)
    with pytest.raises(UsageError, match="masked needs causal=false"):
        pretrain_settings(objective="masked", causal=True)
    settings = PretrainSettings.of({"objective": "next", "dim": 8, "heads": 2})
    both_ways = UserEncoder.new(settings.encoder().model_copy(update={"causal": False}), Vocabulary.from_ids([1, 2]), generator())
    with pytest.raises(UsageError, match="next needs a causal encoder"):
        OBJECTIVES["next"](both_ways, settings, generator())
