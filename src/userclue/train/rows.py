"""Updates of the item table row by row: a step touches the rows of the items it met, and no other.

With a dense gradient a step costs as much as the catalogue is large: Adam reads and writes seven times the table. Here the gradient
is handed out as the touched rows (`nn.Embedding.sparse`), and the optimiser changes those rows and their state alone.
"""

import ctypes
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from userclue.config import TrainSettings
from userclue.errors import UsageError
from userclue.native import ask_for_huge_pages, kernels
from userclue.train.adam import FusedAdam, fused_update

# A table of so many items costs a step a tenth at most when all its rows are touched: see docs/method.md.
DENSE_UP_TO = 30_000
ADAGRAD_EPS = 1e-10  # torch.optim.Adagrad's own


def row_tables(module: nn.Module, settings: TrainSettings) -> list[Tensor]:
    """The item tables of `module` that are to be updated by row, told to hand out their gradients so.

    Raises UsageError when the settings ask for it and the loss reads the whole table, so that every row is touched at each step.
    """
    found = [one for one in module.modules() if isinstance(one, nn.Embedding) and getattr(one, "of_items", False)]
    tables = [one for one in found if one.weight.requires_grad]
    whole, asked = bool(getattr(module, "reads_whole_table", False)), settings.item_updates
    if asked in ("lazy-adam", "rowwise-adagrad") and whole:
        raise UsageError(
            f"item_updates={asked} touches only the items of a batch, but this loss scores all of them from their embeddings; "
            "leave item_updates at auto, or use item_loss=sampled (pretrain), head=linear (finetune)"
        )
    large = max((one.num_embeddings for one in tables), default=0) > DENSE_UP_TO
    auto = asked == "auto" and large and not whole and settings.optimizer == "adam" and settings.weight_decay == 0
    by_row = auto or asked in ("lazy-adam", "rowwise-adagrad")
    for table in tables:
        table.sparse = by_row
        if by_row:
            table.weight.data = _in_huge_pages(table.weight.data).copy_(table.weight.data)
    return [table.weight for table in tables] if by_row else []


def _in_huge_pages(like: Tensor) -> Tensor:
    """An empty tensor as `like`, on a CPU in huge pages: rows are met at random, and the processor knows few small pages by heart."""
    made = torch.empty_like(like)
    if made.device.type == "cpu":
        ask_for_huge_pages(made.data_ptr(), made.nbytes)
    return made


class AdamWithRows(FusedAdam):
    """Fused Adam, and for groups with `rows` an update of the rows that have a gradient.

    `lazy-adam` (as torch.optim.SparseAdam): Adam on the touched rows, with the step count of the whole run; the moments of the others
    do not decay and the others do not move. `rowwise-adagrad`: one accumulator a row, the mean of its squared gradients, and
    row −= lr · gradient / (√accumulator + ε).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; sparse gradients must be coalesced."""
        assert closure is None
        for group in self.param_groups:
            if not group.get("rows"):
                fused_update(group, self.state)
                continue
            for parameter in group["params"]:
                if parameter.grad is not None:
                    UPDATES[group["rows"]](parameter, parameter.grad, self.state[parameter], group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As every optimiser's; what is as large as a table comes to lie in huge pages again."""
        super().load_state_dict(state_dict)
        for table in self.row_parameters():
            own = self.state[table]
            own.update({name: _in_huge_pages(one).copy_(one) for name, one in own.items() if one.shape == table.shape})

    def row_parameters(self) -> list[Tensor]:
        """The tables that are updated by row."""
        return [parameter for group in self.param_groups if group.get("rows") for parameter in group["params"]]

    def broken_rows(self) -> bool:
        """Whether a row was ever moved by what is no finite number, told without reading the tables."""
        return any(bool(self.state[table]["poison"].isnan()) for table in self.row_parameters() if self.state[table])


def _lazy_adam(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    if not state:
        moments = {name: _in_huge_pages(parameter).zero_() for name in ("exp_avg", "exp_avg_sq")}
        state.update(**moments, **_common(parameter))
    rows, values = gradient.indices()[0], gradient.values()
    state["step"] += 1
    (beta1, beta2), step = group["betas"], float(state["step"])
    rate, scale = group["lr"] / (1 - beta1**step), (1 - beta2**step) ** -0.5
    library = kernels() if parameter.device.type == "cpu" and parameter.dtype == torch.float32 else None
    if library is not None:
        job = _Update(*values.shape, torch.get_num_threads(), beta1, beta2, rate, scale, group["eps"])
        tensors = (rows.contiguous(), values.contiguous(), parameter, *(state[name] for name in ("exp_avg", "exp_avg_sq", "poison")))
        for name, tensor in zip(_TENSORS, tensors, strict=True):
            setattr(job, name, tensor.data_ptr())
        library.userclue_lazy_adam(ctypes.addressof(job))
        return
    state["poison"] += values.sum() * 0.0  # NaN once anything in a gradient was
    mean = state["exp_avg"].index_select(0, rows).lerp_(values, 1 - beta1)
    square = state["exp_avg_sq"].index_select(0, rows).mul_(beta2).addcmul_(values, values, value=1 - beta2)
    state["exp_avg"].index_copy_(0, rows, mean)
    state["exp_avg_sq"].index_copy_(0, rows, square)
    parameter.index_add_(0, rows, mean.div_(square.sqrt_().mul_(scale).add_(group["eps"])), alpha=-rate)


_TENSORS = ("rows", "gradient", "table", "mean", "square", "poison")


class _Update(ctypes.Structure):
    """The C struct Update of kernels/lazy_adam.c, field by field."""

    _fields_ = (
        ("U", ctypes.c_int64),
        ("D", ctypes.c_int64),
        ("threads", ctypes.c_int32),
        *((name, ctypes.c_float) for name in ("beta1", "beta2", "rate", "scale", "epsilon")),
        *((name, ctypes.c_void_p) for name in _TENSORS),
    )


def _rowwise_adagrad(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    if not state:
        state.update(sum=parameter.new_zeros(len(parameter)), **_common(parameter))
    rows, values = gradient.indices()[0], gradient.values()
    state["step"] += 1
    total = state["sum"].index_select(0, rows) + values.square().mean(1)
    state["sum"].index_copy_(0, rows, total)
    state["poison"] += values.sum() * 0.0
    parameter.index_add_(0, rows, values / (total.sqrt_().add_(ADAGRAD_EPS)[:, None]), alpha=-group["lr"])


def _common(parameter: Tensor) -> dict[str, Tensor]:
    return {"step": torch.zeros(()), "poison": parameter.new_zeros(())}


UPDATES: dict[str, Callable[[Tensor, Tensor, dict[str, Tensor], dict[str, Any]], None]] = {
    "lazy-adam": _lazy_adam,
    "rowwise-adagrad": _rowwise_adagrad,
}


def gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The gradients of `parameters`, dense; of a table updated by row the touched rows, each once (which coalesces it in place)."""
    found = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            rows = parameter.grad._indices()[0]
            # The compiled embedding hands out each row once, in order, but autograd forgets that it does.
            in_order = bool((rows[1:] > rows[:-1]).all())
            parameter.grad = parameter.grad._coalesced_(True) if in_order else parameter.grad.coalesce()
            found.append(parameter.grad.values())
        elif parameter.grad is not None:
            found.append(parameter.grad)
    return found
