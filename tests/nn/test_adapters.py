"""Patches: their formula, their start at the identity, their places, and what of a network is trained with them."""

import pytest
import torch
from scipy.special import erf
from torch import nn

from userclue.config import EncoderConfig
from userclue.errors import UsageError
from userclue.nn.adapters import Patch, adapted_parameters, close_patches
from userclue.nn.backbones import BACKBONES, build_backbone

ADAPTABLE = [name for name, kind in BACKBONES.items() if kind.adaptable]
LENGTHS = (3, 9, 1, 5)


def test_a_patch_is_a_bottleneck_beside_the_identity():
    generator = torch.Generator().manual_seed(0)
    patch = Patch(8).double()
    x = torch.randn(5, 8, dtype=torch.float64, generator=generator)
    hidden = (x @ patch.down.weight.T + patch.down.bias).detach().numpy()
    assert hidden.shape == (5, 2)
    hidden = 0.5 * hidden * (1 + erf(hidden / 2**0.5))
    expected = x.numpy() + hidden @ patch.up.weight.detach().numpy().T + patch.up.bias.detach().numpy()
    torch.testing.assert_close(patch(x).detach(), torch.from_numpy(expected), atol=1e-12, rtol=0)
    close_patches(patch)
    assert torch.equal(patch(x), x)


@pytest.mark.parametrize("name", ADAPTABLE)
def test_a_fresh_patched_network_is_the_original(encoder, histories, packed, name):
    plain, patched = encoder(backbone=name), encoder(backbone=name, adapters=True)
    patched.reset(torch.Generator().manual_seed(5))
    patched.load_state_dict({**patched.state_dict(), **plain.state_dict()})
    batch = packed(histories(*LENGTHS))
    # To the last bits only: with patches the transformer takes its PyTorch path, without them its compiled one.
    torch.testing.assert_close(patched(batch), plain(batch), atol=1e-5, rtol=0)
    torch.testing.assert_close(patched.states(batch), plain.states(batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ADAPTABLE)
def test_each_patch_stands_where_it_should(encoder, histories, packed, name):
    """A patch that adds a constant is the same as that constant in the bias of the layer before it."""
    before = {"attention": "out", "feed_forward": "ff2", "conv1": "conv1.taps", "conv2": "conv2.taps"}
    batch = packed(histories(*LENGTHS))
    patched, plain = encoder(backbone=name, adapters=True).double(), encoder(backbone=name).double()
    weights = patched.state_dict()
    plain.load_state_dict({key: weights[key] for key in plain.state_dict()})
    generator = torch.Generator().manual_seed(1)
    close_patches(patched)
    with torch.no_grad():
        for mine, other in zip(patched.backbone.blocks, plain.backbone.blocks, strict=True):
            for place, patch in mine.adapter.items():
                patch.up.bias.normal_(generator=generator)
                other.get_submodule(before[place]).bias += patch.up.bias
    torch.testing.assert_close(patched(batch), plain(batch), atol=1e-12, rtol=0)
    torch.testing.assert_close(patched.states(batch), plain.states(batch), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ADAPTABLE)
def test_patches_and_second_norms_are_what_is_trained(encoder, name):
    backbone = encoder(backbone=name, adapters=True).backbone
    names = {id(parameter): key for key, parameter in backbone.named_parameters()}
    found = {names[id(parameter)] for parameter in adapted_parameters(backbone)}
    assert found == {key for key in names.values() if ".adapter." in key or ".norm2." in key}
    assert len(found) == 2 * (2 * 4 + 2)  # two blocks, two patches of two layers each, one norm
    assert list(adapted_parameters(encoder(backbone=name).backbone)) == []


@pytest.mark.parametrize("name", ADAPTABLE)
def test_every_patch_learns(encoder, histories, packed, name):
    made = encoder(backbone=name, adapters=True)
    made(packed(histories(*LENGTHS))).pow(2).sum().backward()
    patches = [module for module in made.modules() if isinstance(module, Patch)]
    assert len(patches) == 4
    assert all(float(parameter.grad.abs().sum()) > 0 for patch in patches for parameter in patch.parameters())


@pytest.mark.parametrize("name", sorted(BACKBONES.keys() - set(ADAPTABLE)))
def test_a_backbone_without_places_refuses_adapters(name):
    with pytest.raises(UsageError, match=f"backbone {name} has no place for adapters; they fit transformer and nextitnet"):
        build_backbone(EncoderConfig.of({"backbone": name, "adapters": True}))


def test_no_patch_without_adapters():
    assert not [m for name in BACKBONES for m in build_backbone(EncoderConfig.of({"backbone": name})).modules() if isinstance(m, Patch)]
    assert isinstance(build_backbone(EncoderConfig.of({"adapters": True})).blocks[0].adapter, nn.ModuleDict)
