"""Projector and predictor: the layers the papers name, and their starting weights."""

import pytest
import torch
from torch import nn

from userclue.nn.heads import BatchNorm, predictor, projector, reset_linear_layers


def kinds(head: nn.Sequential) -> list[type[nn.Module]]:
    return [type(layer) for layer in head]


HIDDEN = [nn.Linear, BatchNorm, nn.ReLU]


def test_projector_has_three_layers_with_batch_norm_after_each():
    head = projector([8] * 4)
    assert kinds(head) == [*HIDDEN, *HIDDEN, nn.Linear, BatchNorm]
    assert all(tuple(layer.weight.shape) == (8, 8) and layer.bias is None for layer in head if isinstance(layer, nn.Linear))
    assert [layer.affine for layer in head if isinstance(layer, BatchNorm)] == [True, True, False]


def test_projector_without_the_last_batch_norm():
    assert kinds(projector([8] * 4, norm_output=False)) == [*HIDDEN, *HIDDEN, nn.Linear]


def test_widths_of_a_projector():
    head = projector([8, 16, 4], norm_output=False)
    assert kinds(head) == [*HIDDEN, nn.Linear]
    assert [tuple(layer.weight.shape) for layer in head if isinstance(layer, nn.Linear)] == [(16, 8), (4, 16)]


def test_projection_is_centred_and_of_unit_variance():
    z = projector([8] * 4).double()(torch.randn(200, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(8, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(z.var(dim=0, unbiased=False), torch.ones(8, dtype=torch.float64), atol=1e-2, rtol=0)


def test_predictor_is_a_bottleneck_without_norm_at_its_output():
    head = predictor(8, 2)
    assert kinds(head) == [*HIDDEN, nn.Linear]
    assert (head[0].out_features, head[0].bias, head[3].out_features, head[3].bias.shape) == (2, None, 8, (8,))


@pytest.mark.parametrize("seed", [0, 7])
def test_linear_layers_start_uniform_from_the_generator(seed):
    heads = [nn.Sequential(predictor(64, 16), projector([64] * 4)) for _ in range(2)]
    for global_seed, head in enumerate(heads):
        torch.manual_seed(global_seed)
        reset_linear_layers(head, torch.Generator().manual_seed(seed))
    for name, weight in heads[0].state_dict().items():
        assert torch.equal(weight, heads[1].state_dict()[name]), name
    for layer in heads[0].modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            assert 0.9 * bound < layer.weight.abs().max() <= bound
            assert abs(float(layer.weight.detach().var()) / (bound**2 / 3) - 1) < 0.2
            assert layer.bias is None or layer.bias.abs().max() <= bound


def test_batch_norm_computes_in_float32_inside_bfloat16() -> None:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    ours, theirs = BatchNorm(8), nn.BatchNorm1d(8)
    assert torch.equal(ours(x), theirs(x))
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(x.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, theirs(x.bfloat16().float()))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    assert BatchNorm(8).double()(x.double()).dtype == torch.float64
