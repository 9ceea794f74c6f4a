"""The GRU against torch.nn.GRU with the same weights, history by history and unpadded."""

import pytest
import torch
from torch import nn

from userclue.nn.layout import Layout

LENGTHS = (3, 9, 1, 14, 5)


def stack_of_torch(backbone):
    """One torch.nn.GRU of all layers."""
    dim, layers = backbone.dim, len(backbone.layers)
    reference = nn.GRU(dim, dim, num_layers=layers, batch_first=True)
    own = [layer.state_dict() for layer in backbone.layers]
    reference.load_state_dict({f"{name[:-1]}{number}": weight for number, state in enumerate(own) for name, weight in state.items()})
    return reference.double()


@pytest.mark.parametrize("blocks", [1, 3])
def test_states_and_gradients_are_those_of_torch(encoder, histories, packed, blocks):
    made = encoder(backbone="gru", blocks=blocks).double()
    batch = packed(histories(*LENGTHS))
    layout = Layout.of(batch)
    reference = stack_of_torch(made.backbone)
    x = torch.randn(len(batch.tokens), 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    weights = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    ours = made.backbone.states(x, layout)
    theirs = torch.cat([reference(one[None])[0][0] for one in x.split(layout.lengths.tolist())])  # each from a hidden state of zero
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    torch.testing.assert_close(made.backbone(x, layout), theirs[layout.last], atol=1e-12, rtol=0)
    gradients = [torch.autograd.grad((states * weights).sum(), x)[0] for states in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)


def test_dropout_acts_between_layers_only(encoder, histories, packed, monkeypatch):
    seen = []

    def record(x, p, generator):
        seen.append((tuple(x.shape), p))
        return x

    monkeypatch.setattr("userclue.nn.gru.dropout", record)
    encoder(backbone="gru", blocks=3, dropout=0.3).states(packed(histories(2, 4)), torch.Generator().manual_seed(0))
    assert seen == [((2, 5, 16), 0.3)] * 2
