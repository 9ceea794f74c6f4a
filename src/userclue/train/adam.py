"""Adam over many small tensors: one call of PyTorch's fused kernel, and little around it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class FusedAdam(torch.optim.Adam):
    """`torch.optim.Adam(fused=True)` to the bit, state and all, without what it sorts and checks anew before each step."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step over the parameters that have a gradient; dense gradients alone."""
        assert closure is None
        for group in self.param_groups:
            fused_update(group, self.state)


def fused_update(group: dict[str, Any], state: dict[Tensor, Any]) -> None:
    """Adam on the parameters of one group of an optimiser."""
    met = [parameter for parameter in group["params"] if parameter.grad is not None]
    if not met:
        return
    for parameter in met:
        if not state[parameter]:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
    steps, means, squares = ([state[parameter][name] for parameter in met] for name in ("step", "exp_avg", "exp_avg_sq"))
    torch._foreach_add_(steps, 1.0)
    beta1, beta2 = group["betas"]
    torch._fused_adam_(
        met,
        [parameter.grad for parameter in met],
        means,
        squares,
        [],
        steps,
        lr=group["lr"],
        beta1=beta1,
        beta2=beta2,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )
