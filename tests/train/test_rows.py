"""Updates by row against torch.optim's SparseAdam, Adam and Adagrad; what they leave alone; norm, clipping, watch and resume."""

import numpy as np
import pytest
import torch

from userclue.config import PretrainSettings, TrainSettings
from userclue.data.batches import BatchStream
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, Vocabulary
from userclue.encoder import UserEncoder
from userclue.errors import UsageError
from userclue.nn.tables import ItemTable
from userclue.objectives.registry import OBJECTIVES
from userclue.train import rows
from userclue.train.checkpoint import Checkpoints
from userclue.train.journal import Journal
from userclue.train.loop import Training
from userclue.train.optim import build_optimizer
from userclue.train.rows import AdamWithRows, gradients, row_tables

ITEMS, DIM = 30, 4


class Model(torch.nn.Module):
    """Embeddings through a linear layer; `reads_whole_table` as objectives have it."""

    reads_whole_table = False

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.items, self.layer = ItemTable(ITEMS, DIM), torch.nn.Linear(DIM, 3)
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, generator=generator)

    def forward(self, tokens):
        return (self.layer(self.items(tokens)) ** 2).sum()


def batches(steps=30, high=ITEMS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, high, (12,), generator=generator) for _ in range(steps)]


def train(model, optimizer, tokens):
    for one in tokens:
        optimizer.zero_grad()
        model(one).backward()
        gradients(model.parameters())
        optimizer.step()
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def ours(tokens, updates, **values):
    model = Model()
    optimizer = build_optimizer(model, TrainSettings.of({"item_updates": updates, "lr": 0.01, **values}))
    return train(model, optimizer, tokens), optimizer


def test_lazy_adam_is_torchs_sparse_adam_on_the_table_and_adam_on_the_rest():
    mine, _ = ours(batches(), "lazy-adam")
    model = Model()
    model.items.sparse = True

    class Both:
        parts = (torch.optim.SparseAdam([model.items.weight], lr=0.01), torch.optim.Adam(model.layer.parameters(), lr=0.01))

        def zero_grad(self):
            model.zero_grad()

        def step(self):
            for part in self.parts:
                part.step()

    theirs = train(model, Both(), batches())
    for name, weight in theirs.items():
        torch.testing.assert_close(mine[name], weight, rtol=1e-5, atol=1e-6)


def test_lazy_adam_is_dense_adam_where_every_row_is_touched_at_each_step():
    everything = [torch.cat([torch.arange(ITEMS), one]) for one in batches()]
    lazy, dense = ours(everything, "lazy-adam")[0], ours(everything, "dense")[0]
    for name, weight in dense.items():
        torch.testing.assert_close(lazy[name], weight, rtol=1e-5, atol=5e-6)


def test_lazy_adam_is_not_dense_adam_where_rows_rest():
    """The documented difference: dense Adam goes on moving a row by its old moments, lazy Adam leaves it."""
    first, then = [torch.arange(10)], [torch.arange(10, ITEMS)] * 5
    after_one = ours(first, "lazy-adam")[0]["items.weight"]
    lazy, dense = (ours(first + then, updates)[0]["items.weight"] for updates in ("lazy-adam", "dense"))
    assert torch.equal(lazy[:10], after_one[:10])
    assert float((dense[:10] - after_one[:10]).abs().max()) > 1e-3


def test_rowwise_adagrad_is_its_formula():
    """Row r: G_r += mean(g_r²), row −= lr · g_r / (√G_r + ε), in float64."""
    mine, optimizer = ours(batches(), "rowwise-adagrad")
    written = Model().double()
    body = torch.optim.Adam(written.layer.parameters(), lr=0.01)
    total = torch.zeros(ITEMS, dtype=torch.float64)
    for one in batches():
        written.zero_grad()
        written(one).backward()
        gradient = written.items.weight.grad
        total += gradient.square().mean(1)
        with torch.no_grad():
            written.items.weight -= 0.01 * gradient / (total.sqrt() + 1e-10)[:, None].where(gradient.any(1)[:, None], torch.inf)
        body.step()
    torch.testing.assert_close(mine["items.weight"], written.items.weight.detach().float(), rtol=1e-4, atol=1e-5)
    state = optimizer.state_dict()["state"]
    assert sorted(value.numel() for name, value in state[2].items() if name == "sum") == [ITEMS]


def test_rowwise_adagrad_of_width_one_is_torchs_adagrad():
    table = ItemTable(ITEMS, 1)
    other = torch.nn.Embedding.from_pretrained(table.weight.detach().clone(), freeze=False)
    mine = build_optimizer(table, TrainSettings.of({"item_updates": "rowwise-adagrad", "lr": 0.1}))
    theirs = torch.optim.Adagrad(other.parameters(), lr=0.1)
    for one in batches():
        for module, optimizer in ((table, mine), (other, theirs)):
            module.zero_grad()
            (module(one) ** 3).sum().backward()
            gradients(module.parameters())
            optimizer.step()
    torch.testing.assert_close(table.weight, other.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("updates", ["lazy-adam", "rowwise-adagrad"])
def test_rows_that_no_step_met_stay_as_they_were(updates):
    before = Model().items.weight.detach()
    after = ours(batches(high=8), updates)[0]["items.weight"]
    assert torch.equal(after[8:], before[8:])
    assert bool((after[:8] != before[:8]).any(1).all())


def test_gradients_of_rows_are_those_of_the_dense_table_and_count_in_the_norm():
    dense, sparse = Model(), Model()
    sparse.items.sparse = True
    tokens = torch.tensor([3, 3, 5, 0, 3])
    for model in (dense, sparse):
        model(tokens).backward()
    found = gradients(sparse.parameters())
    assert [tuple(one.shape) for one in found] == [(3, DIM), (3, DIM), (3,)]
    assert sparse.items.weight.grad.is_coalesced()
    torch.testing.assert_close(sparse.items.weight.grad.to_dense(), dense.items.weight.grad)
    norms = [torch.nn.utils.get_total_norm(gradients(model.parameters())) for model in (dense, sparse)]
    torch.testing.assert_close(norms[0], norms[1])


def test_table_and_moments_lie_in_huge_pages_after_a_resume_too(monkeypatch):
    asked = set()
    monkeypatch.setattr(rows, "ask_for_huge_pages", lambda address, size: asked.add((address, size)))
    model = Model()
    before = model.items.weight.detach().clone()
    optimizer = build_optimizer(model, TrainSettings.of({"item_updates": "lazy-adam"}))
    table, size = model.items.weight, model.items.weight.nbytes
    torch.testing.assert_close(table.detach(), before, rtol=0, atol=0)
    train(model, optimizer, batches(2))
    assert {(one.data_ptr(), size) for one in (table, *moments(optimizer, table))} <= asked
    kept = [moment.clone() for moment in moments(optimizer, table)]
    asked.clear()
    optimizer.load_state_dict(optimizer.state_dict())
    assert {(one.data_ptr(), size) for one in moments(optimizer, table)} <= asked
    for moment, one in zip(moments(optimizer, table), kept, strict=True):
        torch.testing.assert_close(moment, one, rtol=0, atol=0)


def moments(optimizer, table):
    return [optimizer.state[table][name] for name in ("exp_avg", "exp_avg_sq")]


def test_the_size_of_the_table_decides(monkeypatch):
    def chosen(**values):
        model = Model()
        found = row_tables(model, TrainSettings.of(values))
        assert model.items.sparse == bool(found)
        return bool(found)

    assert not chosen()
    assert chosen(item_updates="lazy-adam")
    monkeypatch.setattr(rows, "DENSE_UP_TO", ITEMS - 1)
    assert chosen()
    assert not chosen(item_updates="dense")
    assert not chosen(optimizer="sgd")
    assert not chosen(weight_decay=0.1)
    monkeypatch.setattr(Model, "reads_whole_table", True)
    assert not chosen()
    assert isinstance(build_optimizer(Model(), TrainSettings.of({"optimizer": "sgd"})), torch.optim.SGD)
    assert not isinstance(build_optimizer(Model(), TrainSettings.of({})), AdamWithRows)


def test_where_rows_cannot_be_the_reason_is_told(monkeypatch):
    monkeypatch.setattr(Model, "reads_whole_table", True)
    with pytest.raises(UsageError, match=r"item_updates=lazy-adam touches only .* this loss scores all of them.*item_loss=sampled"):
        row_tables(Model(), TrainSettings.of({"item_updates": "lazy-adam"}))
    with pytest.raises(UsageError, match="item_updates=lazy-adam belongs to optimizer=adam; with sgd leave it at auto"):
        TrainSettings.of({"item_updates": "lazy-adam", "optimizer": "sgd"})
    with pytest.raises(UsageError, match=r"weight_decay 0.01 would not reach them; set weight_decay to 0 or item_updates to dense"):
        TrainSettings.of({"item_updates": "rowwise-adagrad", "weight_decay": 0.01})


def test_a_frozen_table_is_no_table_to_update():
    model = Model()
    model.items.requires_grad_(False)
    assert row_tables(model, TrainSettings.of({"item_updates": "lazy-adam"})) == []


# Whole runs of the loop.


def training(objective="clue", target=None, **values):
    settings = PretrainSettings.of(
        {"dim": 8, "heads": 2, "blocks": 1, "max_len": 6, "batch_size": 8, "dropout": 0.3, "device": "cpu", "steps": 8, "lr": 0.01}
        | {"objective": objective, "item_updates": "lazy-adam", **values}
    )
    draw = np.random.default_rng(0)
    sequences = Sequences.from_lists([draw.integers(FIRST_ITEM, FIRST_ITEM + 60, draw.integers(1, 10)) for _ in range(23)])
    generator = torch.Generator().manual_seed(settings.seed)
    encoder = UserEncoder.new(settings.encoder(), Vocabulary.from_ids(list(range(60))), generator)
    return Training(
        OBJECTIVES[objective](encoder, settings, generator),
        BatchStream(lambda _: (sequences, None), 23, 8, 6, settings.seed, 2),
        settings,
        journal=Journal(),
        log_every=1,
        checkpoints=None if target is None else Checkpoints(target, settings.model_dump()),
        checkpoint_seconds=0.0,
    )


@pytest.mark.parametrize("values", [{}, {"item_updates": "rowwise-adagrad"}, {"clip_norm": 0.05, "schedule": "cosine"}])
@pytest.mark.parametrize(
    ("objective", "more"), [("clue", {}), ("next", {"item_loss": "sampled", "negatives": 9}), ("masked", {"item_loss": "bce"})]
)
def test_a_killed_run_goes_on_bit_equal(killed, same, tmp_path, objective, more, values):
    whole, torn = training(objective, **values, **more), training(objective, tmp_path, **values, **more)
    whole.run()

    def die(*_):
        if torn.progress.step == 5:
            raise killed

    torn.module.register_forward_pre_hook(die)
    with pytest.raises(killed):
        torn.run()
    resumed = training(objective, tmp_path, **values, **more)
    resumed.resume()
    assert resumed.progress.step == 5
    resumed.run()
    same(resumed, whole)
    assert isinstance(resumed.optimizer, AdamWithRows)


def test_the_first_logged_norm_and_a_clipped_one_are_those_of_the_dense_run():
    """Before the first update both runs are alike; Adam hardly minds the scale of a gradient, so the norm is read before its step."""
    runs = [training(item_updates=updates, steps=1) for updates in ("lazy-adam", "dense")]
    for run in runs:
        run.run()
    norms = [run.journal.rows[0]["gradient_norm"] for run in runs]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    clipped = training(clip_norm=0.01)
    found = []
    parameters = list(clipped.module.parameters())
    clipped.optimizer.register_step_pre_hook(lambda *_: found.append(float(torch.nn.utils.get_total_norm(gradients(parameters)))))
    clipped.run()
    assert found == pytest.approx([0.01] * 8, rel=1e-3)


def test_the_cosine_reaches_the_table():
    run = training(schedule="cosine", steps=8)
    run.run()
    table = next(group for group in run.optimizer.param_groups if group.get("rows"))
    assert table["lr"] == pytest.approx(0.01 * 0.5 * (1 + np.cos(np.pi * 7 / 8)))


def test_a_row_that_was_spoilt_once_is_known_though_no_later_step_meets_it():
    model = Model()
    optimizer = build_optimizer(model, TrainSettings.of({"item_updates": "lazy-adam"}))
    train(model, optimizer, batches(3, high=8))
    assert not optimizer.broken_rows()
    optimizer.zero_grad()
    model(torch.tensor([20, 21])).backward()
    gradients(model.parameters())
    model.items.weight.grad.values()[0, 0] = torch.nan
    optimizer.step()
    train(model, optimizer, batches(3, high=8))
    assert optimizer.broken_rows()
    assert torch.isnan(model.items.weight).nonzero().tolist() == [[20, 0]]


@pytest.mark.parametrize("updates", ["lazy-adam", "rowwise-adagrad"])
def test_a_gradient_that_is_no_number_stops_the_run_though_the_loss_is_one(updates):
    run = training(item_updates=updates)

    def spoil(*_):
        if run.progress.step == 3:
            run.module.encoder.embedding.items.weight.grad.values()[0, 0] = torch.nan

    run.optimizer.register_step_pre_hook(spoil)
    with pytest.raises(UsageError, match="step 4: the weights are no longer numbers"):
        run.run()
