"""Dilated convolutions on packed rows against torch.nn.Conv1d on single padded histories, in float64."""

import pytest
import torch
from torch import nn
from torch.nn.functional import layer_norm, pad

from userclue.config import EncoderConfig
from userclue.nn.layout import Layout
from userclue.nn.nextitnet import NextItNet, dilations

LENGTHS = (3, 9, 1, 14, 5)


def convolved(ours, x, dilation, causal):
    """torch.nn.Conv1d of kernel 3 on one history [T, C], zeros before it (causal) or on both sides."""
    width = x.shape[1]
    theirs = nn.Conv1d(width, width, 3, dilation=dilation).double()
    with torch.no_grad():
        theirs.weight.copy_(torch.stack(ours.taps.weight.split(width, dim=1), dim=2))
        theirs.bias.copy_(ours.taps.bias)
    sides = (2 * dilation, 0) if causal else (dilation, dilation)
    return theirs(pad(x.T[None], sides))[0].T


def by_torch(backbone, x, first, causal):
    for block, dilation in zip(backbone.blocks, first, strict=True):
        h = x
        for conv, norm, each in ((block.conv1, block.norm1, dilation), (block.conv2, block.norm2, 2 * dilation)):
            h = layer_norm(convolved(conv, h, each, causal), (h.shape[1],), norm.weight, norm.bias).relu()
        x = x + h
    return x


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("dilation", "blocks", "first"), [("growing", 2, [1, 4]), ("growing", 3, [1, 4, 1]), ("repeated", 3, [1, 4, 1])])
def test_states_are_those_of_conv1d(encoder, histories, packed, causal, dilation, blocks, first):
    made = encoder(backbone="nextitnet", blocks=blocks, dilation=dilation, causal=causal).double()
    batch = packed(histories(*LENGTHS))
    layout = Layout.of(batch)
    x = torch.randn(len(batch.tokens), 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    theirs = torch.cat([by_torch(made.backbone, one, first, causal) for one in x.split(layout.lengths.tolist())])
    torch.testing.assert_close(made.backbone.states(x, layout), theirs, atol=1e-11, rtol=0)
    torch.testing.assert_close(made.backbone(x, layout), theirs[layout.last], atol=1e-11, rtol=0)


@pytest.mark.parametrize(
    ("max_len", "dilation", "blocks", "expected"),
    [
        (50, "growing", 2, [1, 4]),
        (50, "growing", 5, [1, 4, 16, 1, 4]),
        (64, "growing", 5, [1, 4, 16, 64, 1]),
        (3, "growing", 2, [1, 1]),
        (50, "repeated", 5, [1, 4, 1, 4, 1]),
    ],
)
def test_dilations(max_len, dilation, blocks, expected):
    assert dilations(EncoderConfig.of({"max_len": max_len, "dilation": dilation, "blocks": blocks})) == expected


@pytest.mark.parametrize(("blocks", "reach"), [(1, 6), (2, 30)])
def test_ur_reads_as_far_back_as_the_dilations_say(blocks, reach):
    backbone = NextItNet(EncoderConfig.of({"dim": 8, "blocks": blocks, "max_len": 50, "causal": True})).double()
    generator = torch.Generator().manual_seed(0)
    backbone.reset(generator)
    x = torch.randn(51, 8, dtype=torch.float64, generator=generator, requires_grad=True)
    backbone(x, Layout(torch.tensor([0, 51]), 51, 51)).sum().backward()
    reached = x.grad.abs().amax(dim=1) > 0
    assert reached.tolist() == [False] * (50 - reach) + [True] * (reach + 1)
