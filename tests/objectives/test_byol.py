"""BYOL against its Algorithm 1, written down line by line, and its target against the moving average's formula."""

import copy
import math

import pytest
import torch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def distance(p, z):
    """2 - 2 cos, equation 2 of the paper."""
    p, z = (x / x.norm(dim=1, keepdim=True) for x in (p, z))
    return ((p - z) ** 2).sum(dim=1).mean()


def moved(made):
    """The same with a target that differs from the online network, as in the middle of a run."""
    with torch.no_grad():
        for parameter in (*made.target_encoder.parameters(), *made.target_projector.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(3), dtype=parameter.dtype))
    return made


def test_a_step_is_algorithm_1(objective, batch):
    made = moved(objective("byol", view="mask", view_share=0.4))
    written = copy.deepcopy(made)
    step = made(batch(), generator(5))
    draw = generator(5)
    x1, x2 = written.view(batch(), draw), written.view(batch(), draw)
    z1, z2 = (written.projector(written.encoder(x)) for x in (x1, x2))
    p1, p2 = written.predictor(z1), written.predictor(z2)
    t1, t2 = (written.target_projector(written.target_encoder(x)).detach() for x in (x1, x2))
    theirs = distance(p1, t2) + distance(p2, t1)
    torch.testing.assert_close(4 + 4 * step.loss, theirs, atol=1e-12, rtol=0)  # the paper's is 2 + 2 times ours for each direction
    step.loss.backward()
    theirs.backward()
    for (name, ours), parameter in zip(made.named_parameters(), written.parameters(), strict=True):
        if name.startswith("target_"):
            assert ours.grad is None
        else:
            torch.testing.assert_close(4 * ours.grad, parameter.grad, atol=1e-10, rtol=1e-8, msg=name)
    assert torch.equal(made.target_projector[1].running_mean, written.target_projector[1].running_mean)


def test_the_target_starts_as_the_online_network_and_keeps_its_own_memory(objective, batch):
    made = objective("byol")
    pairs = [(made.encoder, made.target_encoder), (made.projector, made.target_projector)]
    for online, target in pairs:
        for (name, one), other in zip(online.state_dict().items(), target.state_dict().values(), strict=True):
            assert torch.equal(one, other), name
            assert one.data_ptr() != other.data_ptr(), name
    before = {name: tensor.clone() for name, tensor in made.target_encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.1)
    made(batch(), generator()).loss.backward()
    optimizer.step()
    assert not torch.equal(made.encoder.backbone.blocks[0].ff1.weight, before["backbone.blocks.0.ff1.weight"])
    for name, tensor in made.target_encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.5, 1.0])
def test_the_momentum_rises_to_one_by_a_cosine(objective, progress):
    made = moved(objective("byol", target_momentum=0.9))
    before = [p.clone() for p in (*made.target_encoder.parameters(), *made.target_projector.parameters())]
    made.follow(progress)
    tau = 1 - (1 - 0.9) * (math.cos(math.pi * progress) + 1) / 2
    online = (*made.encoder.parameters(), *made.projector.parameters())
    after = (*made.target_encoder.parameters(), *made.target_projector.parameters())
    for old, new, source in zip(before, after, online, strict=True):
        torch.testing.assert_close(new.detach(), tau * old + (1 - tau) * source.detach(), atol=1e-12, rtol=0)
    assert {0.0: 0.9, 0.5: 0.95, 1.0: 1.0}.get(progress, tau) == pytest.approx(tau)


def test_only_the_online_network_is_learned_and_saved(objective):
    made = objective("byol")
    learned = {name.split(".")[0] for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert learned == {"encoder", "projector", "predictor"}
    assert {name.split(".")[0] for name in made.state_dict()} == learned | {"target_encoder", "target_projector"}
    assert {name.split(".")[0] for name in made.encoder.state_dict()} == {"embedding", "backbone"}


def test_widths(objective):
    made = objective("byol")
    assert [layer.out_features for layer in (made.projector[0], made.projector[3])] == [16, 8]
    assert [layer.out_features for layer in (made.predictor[0], made.predictor[3])] == [16, 8]
    assert objective("byol", predictor_dim=3).predictor[0].out_features == 3
