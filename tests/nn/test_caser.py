"""Caser against a loop in float64 over the whole zero-padded window, filter by filter and place by place."""

import pytest
import torch

from userclue.errors import UsageError
from userclue.nn.layout import Layout


def by_loop(backbone, x, window, heights):
    """One history [T, D] → [D]."""
    dim = x.shape[1]
    image = torch.cat([torch.zeros(window - len(x), dim, dtype=x.dtype), x])
    features = []
    for column in range(dim):
        for weight, bias in zip(backbone.vertical.weight, backbone.vertical.bias, strict=True):
            features.append(sum(weight[row] * image[row, column] for row in range(window)) + bias)
    for height, layer in zip(heights, backbone.horizontal, strict=True):
        for weight, bias in zip(layer.weight, layer.bias, strict=True):
            places = [(weight.T * image[top : top + height]).sum() + bias for top in range(window - height + 1)]
            features.append(max(place.clamp(min=0) for place in places))
    return (backbone.out.weight @ torch.stack(features) + backbone.out.bias).clamp(min=0)


@pytest.mark.parametrize(("max_len", "filter_heights", "heights"), [(9, 5, range(1, 6)), (9, 100, range(1, 11)), (2, 5, range(1, 4))])
@pytest.mark.parametrize("lengths", [(1,), (0, 3), (1, 2, 8, 9, 20), (9, 9), (3, 4)])
def test_vectors_are_those_of_the_loop(encoder, histories, packed, max_len, filter_heights, heights, lengths):
    made = encoder(backbone="caser", dim=4, max_len=max_len, filter_heights=filter_heights).double()
    with torch.no_grad():
        made.backbone.out.bias += 2.0  # so that the last ReLU lets something through
    batch = packed([history[:max_len] for history in histories(*lengths)])
    layout = Layout.of(batch)
    x = torch.randn(len(batch.tokens), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    theirs = torch.stack([by_loop(made.backbone, one, max_len + 1, heights) for one in x.split(layout.lengths.tolist())])
    torch.testing.assert_close(made.backbone(x, layout), theirs, atol=1e-12, rtol=0)
    assert (theirs > 0).any()


def test_states_of_all_tokens_are_refused_with_a_remedy(encoder, histories, packed):
    with pytest.raises(UsageError, match=r"caser reads one window, which ends in UR, .* choose backbone transformer, gru or nextitnet"):
        encoder(backbone="caser").states(packed(histories(3)))


def test_the_vertical_filters_have_one_weight_for_each_place_from_the_end(encoder, histories, packed):
    made = encoder(backbone="caser")
    history = histories(6)[0]
    batches = [packed([history]), packed([history, histories(9)[0]])]
    with torch.no_grad():
        made.backbone.vertical.weight[:, : 10 - 7] += 100.0  # places before the first token of seven
        before, after = (made(batch)[0] for batch in batches)
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)
