"""Patches for transfer with few trained parameters (PeterRec, Yuan et al. 2020, section 3.3: "model patch", serial insertion)."""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.functional import gelu

from userclue.config import EncoderConfig


class Patch(nn.Module):
    """x + up(GELU(down(x))), D → D/4 → D. With `up` at zero (`close_patches`) it changes nothing, so a patched network starts as it was."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = max(dim // 4, 1)
        self.down = nn.Linear(dim, hidden)
        self.up = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[N, D] → [N, D]."""
        out: Tensor = x + self.up(gelu(self.down(x)))
        return out


def patches(config: EncoderConfig, *places: str) -> nn.ModuleDict | None:
    """A patch for each place of a block, where the configuration asks for adapters."""
    return nn.ModuleDict({place: Patch(config.dim) for place in places}) if config.adapters else None


def close_patches(module: nn.Module) -> None:
    """Set the last layer of every patch to zero."""
    for patch in module.modules():
        if isinstance(patch, Patch):
            nn.init.zeros_(patch.up.weight)
            nn.init.zeros_(patch.up.bias)


def adapted_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """What transfer by adapters trains of a network: the patches, and the second LayerNorm of each patched block (as PeterRec does)."""
    for block in module.modules():
        patched = getattr(block, "adapter", None)
        if isinstance(patched, nn.ModuleDict):
            yield from patched.parameters()
            yield from block.get_submodule("norm2").parameters()
