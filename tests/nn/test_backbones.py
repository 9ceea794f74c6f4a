"""Every backbone keeps the contract, in every direction it can be built for; what it cannot be is refused with the remedy."""

import pytest
import torch

from userclue.config import EncoderConfig, PretrainSettings
from userclue.errors import UsageError
from userclue.nn.backbones import BACKBONES, build_backbone, settled
from userclue.nn.layout import Layout

LENGTHS = (3, 1, 9, 6)
WAYS = [(name, way) for name, kind in BACKBONES.items() for way in ((False, True) if kind.causal is None else (kind.causal,))]
WITH_STATES = [(name, way) for name, way in WAYS if name != "caser"]  # tests/nn/test_caser.py holds its refusal

every_way = pytest.mark.parametrize(("name", "causal"), WAYS)
with_states = pytest.mark.parametrize(("name", "causal"), WITH_STATES)


@with_states
def test_user_vectors_are_the_states_at_ur(encoder, histories, packed, name, causal):
    made, batch = encoder(backbone=name, causal=causal), packed(histories(*LENGTHS))
    states = made.states(batch)
    assert states.shape == (len(batch.tokens), 16)
    torch.testing.assert_close(made(batch), states[batch.offsets[1:] - 1], atol=1e-5, rtol=0)


@every_way
def test_dropout_acts_with_a_generator_and_by_it_alone(encoder, histories, packed, name, causal):
    backbone = encoder(backbone=name, causal=causal, dropout=0.5).backbone
    layout = Layout.of(packed(histories(*LENGTHS)))
    x = torch.randn(layout.tokens, 16, generator=torch.Generator().manual_seed(0))
    still, again, first, second, other = (
        backbone(x, layout, seed and torch.Generator().manual_seed(seed)) for seed in (None, None, 1, 1, 2)
    )
    assert torch.equal(still, again)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert not torch.equal(first, still)


@every_way
def test_a_vector_does_not_depend_on_its_batch(encoder, histories, packed, name, causal):
    """Histories with no item, one, some, as many as the encoder reads, and more."""
    made, given = encoder(backbone=name, causal=causal), histories(0, 1, 5, 9, 14, 8)
    together = made(packed(given))
    alone = torch.cat([made(packed([history])) for history in given])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together, made(packed(given[::-1])).flip(0), atol=1e-5, rtol=0)
    assert torch.isfinite(together).all()
    distances = torch.cdist(together, together) + torch.eye(len(given))
    assert distances.min() > 1e-3


@with_states
def test_states_do_not_depend_on_their_batch(encoder, histories, packed, name, causal):
    made, given = encoder(backbone=name, causal=causal), histories(*LENGTHS)
    torch.testing.assert_close(made.states(packed(given)), torch.cat([made.states(packed([h])) for h in given]), atol=1e-5, rtol=0)


@with_states
def test_the_future_is_seen_by_a_bidirectional_backbone_only(encoder, histories, packed, name, causal):
    """One row is changed: no state of another history may change, and of its own those before it only if bidirectional."""
    made, batch = encoder(backbone=name, causal=causal), packed(histories(*LENGTHS))
    layout = Layout.of(batch)
    x = torch.randn(layout.tokens, 16, generator=torch.Generator().manual_seed(0))
    row = int(layout.offsets[2]) + 5  # the sixth token of ten of the third history
    changed = x.clone()
    changed[row] += 1.0
    moved = (made.backbone.states(x, layout) - made.backbone.states(changed, layout)).abs().amax(dim=1)
    own = torch.zeros(layout.tokens, dtype=torch.bool)
    own[layout.offsets[2] : layout.offsets[3]] = True
    assert moved[~own].max() == 0
    assert moved[row] > 0
    before = moved[own][:5]
    assert (before.max() == 0) == causal


@every_way
def test_every_weight_is_used_and_drawn_from_the_generator(encoder, histories, packed, name, causal):
    first, second, other = (encoder(backbone=name, causal=causal, seed=seed) for seed in (0, 7, 8))
    for made, seed in ((first, 4), (second, 4), (other, 5)):
        torch.manual_seed(seed + id(made) % 1000)
        made.reset(torch.Generator().manual_seed(seed))
    for key, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[key]), key
    assert not torch.equal(first(packed(histories(4))), other(packed(histories(4))))
    first(packed(histories(*LENGTHS))).pow(2).sum().backward()
    for key, parameter in first.backbone.named_parameters():
        assert float(parameter.grad.abs().sum()) > 0, key


def test_what_is_not_said_is_filled_in():
    found = {name: settled(EncoderConfig.of({"backbone": name})).causal for name in BACKBONES}
    assert found == {"transformer": False, "gru": True, "nextitnet": True, "caser": True}
    for name, way in WAYS:
        assert settled(EncoderConfig.of({"backbone": name, "causal": way})).causal is way


@pytest.mark.parametrize("name", [name for name, kind in BACKBONES.items() if kind.causal])
def test_a_contradiction_is_refused_with_the_remedy(name):
    message = f"backbone {name} is causal and cannot be made bidirectional; leave causal out, or choose backbone transformer or nextitnet"
    with pytest.raises(UsageError, match=message):
        settled(PretrainSettings.of({"backbone": name, "causal": False}).encoder())


def test_unknown_backbone_names_the_known_ones():
    with pytest.raises(UsageError, match="unknown backbone lstm; known: transformer, gru, nextitnet, caser"):
        build_backbone(EncoderConfig.of({"backbone": "lstm"}))


def test_only_a_transformer_shares_its_width_among_heads():
    for name in BACKBONES.keys() - {"transformer"}:
        assert build_backbone(EncoderConfig.of({"backbone": name, "dim": 10})) is not None
    with pytest.raises(UsageError, match="dim 10 cannot be shared equally by 4 heads"):
        EncoderConfig.of({"dim": 10})
