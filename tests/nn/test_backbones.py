"""Every backbone keeps the contract; an unknown name is refused with the known ones."""

import pytest
import torch

from userclue.config import EncoderConfig
from userclue.errors import UsageError
from userclue.nn.backbones import BACKBONES, build_backbone
from userclue.nn.layout import Layout


@pytest.mark.parametrize("name", BACKBONES)
def test_contract(name, histories, packed):
    backbone = build_backbone(EncoderConfig.of({"backbone": name, "dim": 8, "heads": 2, "blocks": 2, "dropout": 0.5, "max_len": 9}))
    generator = torch.Generator().manual_seed(0)
    backbone.reset(generator)
    batch = packed(histories(3, 1, 6))
    layout = Layout.of(batch)
    x = torch.randn(len(batch.tokens), 8, generator=generator)
    states = backbone.states(x, layout)
    assert states.shape == x.shape
    torch.testing.assert_close(backbone(x, layout), states[layout.last], atol=1e-5, rtol=0)
    noisy = [backbone(x, layout, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])


def test_unknown_backbone_names_the_known_ones():
    with pytest.raises(UsageError, match="unknown backbone lstm; known: transformer"):
        build_backbone(EncoderConfig.of({"backbone": "lstm"}))
