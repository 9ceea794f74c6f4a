"""SASRec and GRU4Rec: what is read out, what each position predicts, and the two losses, against single predictions in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from userclue.baselines.registry import BASELINES
from userclue.data.batches import Batch, pack, without_ur
from userclue.data.store import Dataset, Sequences
from userclue.data.vocabulary import FIRST_ITEM, UNK, UR
from userclue.encoder import UserEncoder
from userclue.item_losses import other_rows
from userclue.nn.layout import Layout
from userclue.tasks.base import FittedModel, Training
from userclue.tasks.fitting import unfitted
from userclue.train.loop import seeded_generator

HISTORIES, TARGETS = [[4, 5, 6], [7], [8, UNK, 9, 4, 5]], np.array([7, UNK, 10])
everywhere = pytest.mark.parametrize("name", ["sasrec", "sasrec_bce", "gru4rec"])
reading_items = pytest.mark.parametrize("name", ["sasrec", "gru4rec", "caser"])


@pytest.fixture
def made(like: UserEncoder, rings: Dataset, task: Any, settings: Any) -> Any:
    def make(name: str) -> FittedModel:
        """The system as it starts, its weights in float64, the head's bias and dropout 0."""
        baseline = BASELINES[name](like, settings(dropout=0.0))
        generator = seeded_generator(torch.device("cpu"), 1)
        model = unfitted(task("sequential"), baseline.encoder(generator, None), name, baseline.settings, rings, generator)
        baseline.prepare(model)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if key != "head.bias":
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
        return model.double()

    return make


def packed(histories: Any, targets: Any = None) -> Batch:
    return pack(Sequences.from_lists([np.array(one) for one in histories]), np.arange(len(histories)), 8, targets)


def states_of(encoder: UserEncoder, history: list[int]) -> Tensor:
    """States of one history's items, from embedding and backbone directly: position 0 is the last item."""
    tokens, n = torch.tensor(history), len(history)
    x = encoder.embedding.items.weight[tokens] + encoder.embedding.positions.weight[torch.arange(n - 1, -1, -1)]
    states: Tensor = encoder.backbone.states(x, Layout(torch.tensor([0, n]), n, n))
    return states


def test_without_ur_each_sequence_ends_in_its_last_item() -> None:
    batch = without_ur(packed(HISTORIES))
    assert batch.tokens.tolist() == [item for history in HISTORIES for item in history]
    assert batch.offsets.tolist() == [0, 3, 4, 9]
    assert batch.longest == 5
    assert len(batch) == 3


@reading_items
def test_the_vector_is_the_state_at_the_last_item_and_ur_is_not_read(made: Any, name: str) -> None:
    encoder = made(name).encoder
    vectors = encoder(packed(HISTORIES))
    if name != "caser":
        torch.testing.assert_close(vectors, torch.stack([states_of(encoder, one)[-1] for one in HISTORIES]), atol=1e-10, rtol=0)
    with torch.no_grad():
        encoder.embedding.items.weight[UR] += 100
        encoder.embedding.positions.weight[8] += 100  # a window of eight has no ninth place
    torch.testing.assert_close(encoder(packed([*HISTORIES, range(4, 18)]))[:3], vectors, atol=1e-10, rtol=0)


@everywhere
def test_the_loss_is_the_mean_of_single_predictions(made: Any, name: str) -> None:
    """Each item after the first is predicted from the items before it, the target from all; unknown ones are left out."""
    model = made(name)
    assert model.facts["settings"]["positions"] == "all"
    training = Training(model, "scratch", UNK, "all", model.facts["settings"]["item_loss"])
    step = training(packed(HISTORIES, TARGETS), torch.Generator().manual_seed(5))
    states, wanted = [], []
    for history, target in zip(HISTORIES, TARGETS.tolist(), strict=True):
        states += list(states_of(model.encoder, history))
        wanted += [*history[1:], target]
    # The order in which one other item is drawn for each: first the targets, then the items inside.
    last = np.cumsum([len(one) for one in HISTORIES]) - 1
    order = [*last, *(place for place in range(len(wanted)) if place not in last)]
    order = [place for place in order if wanted[place] != UNK]
    table = model.encoder.embedding.items.weight
    if name == "sasrec_bce":
        targets = torch.tensor([wanted[place] for place in order])
        others = other_rows(targets - FIRST_ITEM, len(table) - FIRST_ITEM, torch.Generator().manual_seed(5)) + FIRST_ITEM
        losses = [
            binary_cross_entropy_with_logits(states[place] @ table[one], torch.tensor(1.0).double())
            + binary_cross_entropy_with_logits(states[place] @ table[other], torch.tensor(0.0).double())
            for place, one, other in zip(order, targets, others, strict=True)
        ]
    else:
        losses = [cross_entropy(table @ states[place], torch.tensor(wanted[place])) for place in order]
    torch.testing.assert_close(step.loss, torch.stack(losses).mean(), atol=1e-10, rtol=0)
    step.loss.backward()
    assert (model.head.bias.grad is None) == name.startswith("sasrec")


def test_one_other_item_with_a_bias_of_its_own(made: Any) -> None:
    model = made("gru4rec")
    with torch.no_grad():
        model.head.bias.normal_(generator=torch.Generator().manual_seed(0))
    step = Training(model, "scratch", UNK, "all", "bce")(packed([[4, 5]], np.array([6])), torch.Generator().manual_seed(5))
    states, targets = states_of(model.encoder, [4, 5]).flip(0), torch.tensor([6, 5])
    others = other_rows(targets - FIRST_ITEM, model.facts["outputs"] - FIRST_ITEM, torch.Generator().manual_seed(5)) + FIRST_ITEM
    logits = model.head(states)
    right, wrong = logits.gather(1, targets[:, None]), logits.gather(1, others[:, None])
    expected = binary_cross_entropy_with_logits(right, torch.ones_like(right)) + binary_cross_entropy_with_logits(
        wrong, torch.zeros_like(wrong)
    )
    torch.testing.assert_close(step.loss, expected, atol=1e-10, rtol=0)


def test_an_epoch_is_whole_histories_as_often_as_others_draw_prefixes(task: Any) -> None:
    given = task("sequential", prefixes=3)
    histories, targets = given.whole(np.random.default_rng(0))
    assert len(histories) == len(targets) == given.n_train == 3 * len(given.train)
    for place in range(len(given.train)):
        whole = given.train[place].tolist()
        for one in range(3 * place, 3 * place + 3):
            assert [*histories[one].tolist(), targets[one]] == whole


def test_sasrec_has_no_bias_and_is_as_the_paper_shapes_it(made: Any) -> None:
    model = made("sasrec")
    config = model.encoder.config
    assert (config.backbone, config.causal, config.blocks, config.heads, config.norm) == ("transformer", True, 2, 1, "pre")
    assert not model.head.bias.any()
    assert model.head.weight is model.encoder.embedding.items.weight
