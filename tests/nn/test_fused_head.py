"""The compiled heads against the PyTorch form in float64: values, gradients, running statistics; each view on its own."""

import copy

import pytest
import torch
from torch import Tensor, nn

from userclue.losses import negative_cosine
from userclue.native import describe, kernels
from userclue.nn.fused_head import fused_comparison
from userclue.nn.heads import BatchNorm, Head, predictor, projector

pytestmark = pytest.mark.skipif(kernels() is None, reason=describe())

HEADS = {
    "CLUE's projector": lambda: projector([64] * 4),
    "projector without the last norm": lambda: projector([32, 128, 48], norm_output=False),
    "predictor": lambda: predictor(64, 16),
    "norm without ReLU, ReLU without norm": lambda: Head(nn.Linear(16, 32, bias=False), BatchNorm(32), nn.Linear(32, 16), nn.ReLU()),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(kind: str) -> Head:
    head = HEADS[kind]()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(parameter.numel())) * 0.3 + 0.1)
    return head


def results(head: Head, x: Tensor, views: int) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    out = head(x, views)
    (out * torch.randn(out.shape, generator=seeded(9)).to(out.dtype)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
    return {"out": out.detach(), "x": x.grad, **gradients, **dict(head.named_buffers())}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize(("batch", "views"), [(5, 2), (7, 1), (64, 2), (201, 3)])
def test_values_gradients_and_statistics_are_those_of_the_float64_form(kind, batch, views):
    head = made(kind)
    # Views far apart, off centre: one norm over all of them, or statistics counted in another order, would show.
    x = torch.randn(views, batch, head[0].in_features, generator=seeded(1)) * torch.tensor([1.0, 3.0, 0.5])[:views, None, None]
    x = (x + torch.arange(views)[:, None, None]).flatten(0, 1)
    exact = results(copy.deepcopy(head).double(), x.double(), views)
    ours = results(head, x, views)
    assert ours.keys() == exact.keys()
    for name, value in exact.items():
        scale = float(value.abs().max()) + 1e-3
        assert float((ours[name] - value).abs().max()) / scale < 1e-5, name


@pytest.mark.parametrize("kind", ["CLUE's projector", "predictor"])
@pytest.mark.parametrize(("batch", "views"), [(5, 2), (64, 2), (7, 3)])
def test_comparison_is_the_loss_of_the_float64_form(kind, batch, views):
    """The projections of the next view as targets that no gradient reaches; without a predictor the results are targets themselves."""
    first, second = made("CLUE's projector"), made(kind) if kind == "predictor" else Head()
    x = torch.randn(views * batch, 64, generator=seeded(1))
    given = [x.requires_grad_(), *first.parameters(), *second.parameters()]
    one, two = copy.deepcopy(first).double(), copy.deepcopy(second).double()
    projections = one(x.double(), views)
    exact = negative_cosine(two(projections, views), projections.detach().roll(-batch, 0))
    expected = torch.autograd.grad(exact * 3, [x, *one.parameters(), *two.parameters()])
    layers = [*first.layers(), *second.layers()]
    loss, targets = fused_comparison(layers, x, views, len(first.layers()))
    assert not targets.requires_grad
    torch.testing.assert_close(targets.double(), projections.detach(), atol=1e-5, rtol=0)
    assert float(loss.detach()) == pytest.approx(float(exact.detach()), abs=1e-6)
    for mine, other in zip(torch.autograd.grad(loss * 3, given), expected, strict=True):
        assert float((mine - other).abs().max() / (other.abs().max() + 1e-3)) < 1e-4


def test_a_row_of_zeros_is_compared_as_torch_does():
    still = Head(nn.Linear(16, 16, bias=False))
    with torch.no_grad():
        still[0].weight.copy_(torch.eye(16))
    x = torch.randn(4, 16, generator=seeded(1))
    x[1] = 0.0
    x.requires_grad_()
    loss, _ = fused_comparison(still.layers(), x, 2, 1)
    exact = negative_cosine(x, x.detach().roll(2, 0))
    assert float(loss.detach()) == pytest.approx(float(exact.detach()), abs=1e-6)
    torch.testing.assert_close(torch.autograd.grad(loss, x), torch.autograd.grad(exact, x), rtol=1e-5, atol=1e-7)


def test_views_at_once_are_views_one_after_another_to_the_bit():
    together, apart = made("CLUE's projector"), made("CLUE's projector")
    x = torch.randn(128, 64, generator=seeded(1))
    assert torch.equal(together(x, 2), torch.cat([apart(x[:64]), apart(x[64:])]))
    for name, buffer in together.named_buffers():
        assert torch.equal(buffer, dict(apart.named_buffers())[name]), name


def test_threads_change_no_bit():
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(made("predictor"), torch.randn(256, 64, generator=seeded(1)), 2))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(other[name], value) for name, value in found[0].items())


def test_sums_over_many_rows_keep_their_digits():
    norm = Head(nn.Linear(16, 16, bias=False), BatchNorm(16, affine=False))
    x = torch.randn(50_000, 16, generator=seeded(1)) + 5
    ours, exact = results(copy.deepcopy(norm), x, 1), results(copy.deepcopy(norm).double(), x.double(), 1)
    torch.testing.assert_close(ours["out"].double(), exact["out"], atol=3e-5, rtol=0)
    torch.testing.assert_close(ours["1.running_var"].double(), exact["1.running_var"], atol=0, rtol=1e-5)


def test_what_the_kernel_does_not_take_goes_the_other_way(monkeypatch):
    """Odd widths, norms that no longer train, layers it does not know: the same as with the kernels off."""
    x = torch.randn(12, 32, generator=seeded(1))
    still = made("projector without the last norm")
    still.eval()
    for head in (predictor(32, 10), still, Head(nn.Linear(32, 16), nn.GELU())):
        ours = results(copy.deepcopy(head), x, 2)
        with monkeypatch.context() as patch:
            patch.setenv("USERCLUE_KERNELS", "off")
            other = results(copy.deepcopy(head), x, 2)
        assert all(torch.equal(ours[name], value) for name, value in other.items())


@pytest.mark.parametrize("views", [1, 2])
def test_one_row_a_view_is_refused_as_batch_norm_refuses_it(views):
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        made("predictor")(torch.zeros(views, 64), views)
