"""Losses of two views against the library lightly, value and gradient, in float64 and at the working precision."""

import importlib
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from userclue.losses import negative_cosine
from userclue.view_losses import barlow_twins, info_nce, vicreg


@pytest.fixture(scope="module", autouse=True)
def lightly() -> Iterator[None]:
    """Make lightly's single files importable without its packages, which import torchvision.

    No torchvision fits every build of torch that we allow, so scripts/setup takes lightly without it. What the files of the four losses
    import of it at their top they do not call: a module without content but that name stands in.
    """
    try:
        root = Path(str(distribution("lightly").locate_file("lightly")))
    except PackageNotFoundError:
        pytest.fail("lightly is not installed; scripts/setup dev does it, or: pip install --no-deps lightly")
    stand_ins = {"torchvision": ModuleType("torchvision"), "torchvision.ops": ModuleType("torchvision.ops")}
    stand_ins["torchvision.ops"].StochasticDepth = None  # type: ignore[attr-defined]
    for name in ("lightly", "lightly.loss", "lightly.models", "lightly.models.modules", "lightly.utils"):
        stand_ins[name] = ModuleType(name)
        stand_ins[name].__path__ = [str(root.joinpath(*name.split(".")[1:]))]
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_ins.items():
            patch.setitem(sys.modules, name, module)
        yield


def theirs(module: str, name: str, **values: float) -> nn.Module:
    made: nn.Module = getattr(importlib.import_module(f"lightly.loss.{module}"), name)(**values)
    return made


def views(seed: int, users: int = 24, width: int = 7) -> tuple[Tensor, Tensor]:
    """Two related clouds whose columns have a mean, correlate, and spread on both sides of 1."""
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(users, width, dtype=torch.float64, generator=draw) @ torch.randn(width, width, dtype=torch.float64, generator=draw)
    first = mixed * torch.linspace(0.05, 1, width, dtype=torch.float64) + torch.linspace(-1, 1, width, dtype=torch.float64)
    return first, first + 0.5 * torch.randn(users, width, dtype=torch.float64, generator=draw)


CASES = {
    "vicreg": lambda: (vicreg, theirs("vicreg_loss", "VICRegLoss")),
    "vicreg, other weights": lambda: (
        lambda z1, z2: vicreg(z1, z2, invariance=3.0, variance=10.0, covariance=2.0),
        theirs("vicreg_loss", "VICRegLoss", lambda_param=3.0, mu_param=10.0, nu_param=2.0),
    ),
    "barlow": lambda: (barlow_twins, theirs("barlow_twins_loss", "BarlowTwinsLoss")),
    "barlow, other weight": lambda: (
        lambda z1, z2: barlow_twins(z1, z2, redundancy=0.3),
        theirs("barlow_twins_loss", "BarlowTwinsLoss", lambda_param=0.3),
    ),
    "infonce": lambda: (lambda z1, z2: info_nce(z1, z2, 0.5), theirs("ntx_ent_loss", "NTXentLoss", temperature=0.5)),
    "infonce, colder": lambda: (lambda z1, z2: info_nce(z1, z2, 0.05), theirs("ntx_ent_loss", "NTXentLoss", temperature=0.05)),
    "byol": lambda: (negative_cosine, theirs("negative_cosine_similarity", "NegativeCosineSimilarity")),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_value_and_gradient(name: str, seed: int, dtype: torch.dtype, tolerance: float) -> None:
    ours, oracle = CASES[name]()  # type: ignore[no-untyped-call]
    found = []
    for loss in (ours, oracle):
        z1, z2 = (z.to(dtype).requires_grad_() for z in views(seed))
        value = loss(z1, z2)
        value.backward()
        found.append((value.detach(), z1.grad, z2.grad))
    (value, *gradients), (expected, *expected_gradients) = found
    assert expected.abs() > 1e-3
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        largest = float(expected_gradient.abs().max())
        assert largest > 1e-4
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=10 * tolerance * largest)
