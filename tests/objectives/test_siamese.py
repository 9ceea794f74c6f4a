"""CLUE against Algorithm 1 of the paper, written down line by line, with values, gradients and batch-norm statistics."""

import copy

import pytest
import torch

from userclue.data.batches import pack
from userclue.data.store import Sequences
from userclue.views import dropout

ABLATIONS = pytest.mark.parametrize(("stop_gradient", "predictor"), [(True, True), (False, True), (True, False), (False, False)])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def use_views(clue, *batches):
    """Let the two views be these batches, one after the other."""
    waiting = list(batches)
    clue.view = lambda batch, generator: waiting.pop(0)


def distance(p, z):
    """D(p, z) of eq. 4."""
    return -((p / p.norm(dim=1, keepdim=True)) * (z / z.norm(dim=1, keepdim=True))).sum(dim=1).mean()


def algorithm_1(clue, x1, x2, stop_gradient, predictor):
    f, h = clue.projector, clue.predictor if predictor else lambda z: z
    r1, r2 = clue.encoder(x1), clue.encoder(x2)
    z1, z2 = f(r1), f(r2)
    p1, p2 = h(z1), h(z2)
    if stop_gradient:
        return distance(p1, z2.detach()) / 2 + distance(p2, z1.detach()) / 2
    return distance(p1, z2) / 2 + distance(p2, z1) / 2


def gradients(module, loss):
    module.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


def close(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=1e-10, rtol=1e-8, msg=name)


@ABLATIONS
@pytest.mark.parametrize("projector_norm", ["all", "hidden"])
def test_a_step_is_algorithm_1(clue, batch, stop_gradient, predictor, projector_norm):
    made = clue(stop_gradient=stop_gradient, predictor=predictor, projector_norm=projector_norm)
    written = copy.deepcopy(made)
    x1, x2 = batch(seed=1), batch(seed=2)
    use_views(made, x1, x2)
    ours = made(batch(), generator()).loss
    theirs = algorithm_1(written, x1, x2, stop_gradient, predictor)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    assert abs(float(ours.detach())) > 1e-3
    close(gradients(made, ours), gradients(written, theirs))
    close(dict(made.named_buffers()), dict(written.named_buffers()))  # batch norm counted each view on its own, in this order


def test_batch_norm_over_both_views_at_once_would_differ(clue, batch):
    made = clue()
    x1, x2 = batch(seed=1, high=10), batch(seed=2, low=10)
    use_views(made, x1, x2)
    ours = float(made(batch(), generator()).loss.detach())
    z1, z2 = made.projector(torch.cat([made.encoder(x1), made.encoder(x2)])).chunk(2)
    p1, p2 = made.predictor(torch.cat([z1, z2])).chunk(2)
    pooled = float(((distance(p1, z2) + distance(p2, z1)) / 2).detach())
    assert abs(ours - pooled) > 1e-3


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_no_gradient_flows_through_the_target(clue, batch, stop_gradient):
    """The targets come from a frozen copy of the network here: with the stop-gradient that changes no gradient, without it does."""
    made = clue(stop_gradient=stop_gradient)
    written, frozen = copy.deepcopy(made), copy.deepcopy(made).requires_grad_(False)
    x1, x2 = batch(seed=1), batch(seed=2)
    use_views(made, x1, x2)
    ours = gradients(made, made(batch(), generator()).loss)
    z1, z2 = (frozen.projector(frozen.encoder(x)) for x in (x1, x2))
    p1, p2 = (written.predictor(written.projector(written.encoder(x))) for x in (x1, x2))
    theirs = gradients(written, (distance(p1, z2) + distance(p2, z1)) / 2)
    if stop_gradient:
        close(ours, theirs)
    else:
        assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours if name.startswith("encoder.backbone")) > 1e-4


def test_views_may_be_exchanged(clue, batch):
    made = clue()
    x1, x2 = batch(seed=1), batch(seed=2)
    results = []
    for views in ((x1, x2), (x2, x1)):
        use_views(made, *views)
        loss = made(batch(), generator()).loss
        results.append((loss.detach(), gradients(made, loss)))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-12, rtol=0)
    close(results[0][1], results[1][1])


def test_dropout_view_is_the_same_sequence_and_the_masks_make_the_difference(clue, batch):
    given = batch()
    assert dropout(given, generator()) is given
    assert clue()(given, generator()).metrics()["alignment"] == pytest.approx(0, abs=1e-20)
    noisy = clue(dropout=0.5)
    first, again, other = (noisy(given, generator(seed)) for seed in (1, 1, 2))
    assert first.metrics()["alignment"] > 0.1
    assert torch.equal(first.loss, again.loss)
    assert not torch.equal(first.loss, other.loss)


def test_identical_users_and_views_without_predictor_agree_perfectly(clue, batch):
    made = clue(predictor=False)
    assert float(made(batch(), generator()).loss.detach()) == pytest.approx(-1, abs=1e-9)


def test_metrics_are_of_the_projections(clue, batch):
    made, written = clue(), clue()
    x1, x2 = batch(seed=1), batch(seed=2)
    use_views(made, x1, x2)
    metrics = made(batch(), generator()).metrics()
    assert metrics.keys() == {"std_sqrt_d", "projection_rank", "alignment", "uniformity"}
    z1, z2 = (written.projector(written.encoder(x)).detach() for x in (x1, x2))
    a, b = (z / z.norm(dim=1, keepdim=True) for z in (z1, z2))
    assert metrics["std_sqrt_d"] == pytest.approx(float(a.std(dim=0, unbiased=False).mean()) * 8**0.5)
    assert metrics["alignment"] == pytest.approx(float(((a - b) ** 2).sum(dim=1).mean()))


def test_predictor_keeps_its_rate_and_is_a_quarter_wide_by_default(clue):
    made = clue(predictor_dim=None)
    assert made.predictor[0].out_features == 2
    assert {id(p) for p in made.constant_rate} == {id(p) for p in made.predictor.parameters()}
    assert clue(predictor=False).constant_rate == []


def test_every_parameter_learns(clue, batch):
    made = clue(dropout=0.2)
    unread = {"encoder.embedding.items.weight", "encoder.embedding.positions.weight"}  # rows of items that do not occur stay
    for name, gradient in gradients(made, made(batch(), generator()).loss).items():
        assert float(gradient.abs().max()) > 0, name
        assert name in unread or torch.isfinite(gradient).all()


def test_a_batch_of_one_is_what_smallest_batch_forbids(clue):
    made = clue()
    one = pack(Sequences.from_lists([[4, 5]]), torch.arange(1).numpy(), 9)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        made(one, generator())
    assert made.smallest_batch == 2


def test_same_seed_same_heads(clue):
    first, second, other = clue(1), clue(1), clue(2)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name
    assert not torch.equal(first.projector[0].weight, other.projector[0].weight)
