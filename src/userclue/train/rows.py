"""Updates of the item table row by row: a step touches the rows of the items it met, and no other.

With a dense gradient a step costs as much as the catalogue is large: Adam reads and writes seven times the table. Here the gradient
is handed out as the touched rows (`nn.Embedding.sparse`), and the optimiser changes those rows and their state alone.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from userclue.config import TrainSettings
from userclue.errors import UsageError

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
    return [table.weight for table in tables] if by_row else []


class AdamWithRows(torch.optim.Adam):
    """Fused Adam, and for groups with `rows` an update of the rows that have a gradient.

    `lazy-adam` (as torch.optim.SparseAdam): Adam on the touched rows, with the step count of the whole run; the moments of the others
    do not decay and the others do not move. `rowwise-adagrad`: one accumulator a row, the mean of its squared gradients, and
    row −= lr · gradient / (√accumulator + ε).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; sparse gradients must be coalesced."""
        assert closure is None
        groups = [group for group in self.param_groups if group.get("rows")]
        tables = [(group, parameter, parameter.grad) for group in groups for parameter in group["params"]]
        for _, parameter, _ in tables:
            parameter.grad = None  # Adam passes over what has none
        inspect.unwrap(torch.optim.Adam.step)(self)  # without the wrapper that would call the hooks of this step once more
        for group, parameter, gradient in tables:
            parameter.grad = gradient
            if gradient is not None:
                self._update(parameter, gradient, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        start, move = UPDATES[group["rows"]]
        state = self.state[parameter]
        if not state:
            state.update(start(parameter), step=torch.zeros(()), poison=parameter.new_zeros(()))
        state["step"] += 1
        rows, values = gradient.indices()[0], gradient.values()
        for part, value in zip(rows.split(_part(rows)), values.split(_part(rows)), strict=True):
            moved = move(parameter.index_select(0, part), part, value, state, group)
            parameter.index_copy_(0, part, moved)
            state["poison"] += moved.sum() * 0.0  # NaN once anything that was written was no finite number

    def row_parameters(self) -> list[Tensor]:
        """The tables that are updated by row."""
        return [parameter for group in self.param_groups if group.get("rows") for parameter in group["params"]]

    def broken_rows(self) -> bool:
        """Whether a row was ever given what is no finite number, told without reading the tables."""
        return any(bool(self.state[table]["poison"].isnan()) for table in self.row_parameters() if self.state[table])


def _part(rows: Tensor) -> int:
    """Rows updated at a time: few enough to stay in the cache of a core between the passes over them; on a GPU all."""
    return 512 if rows.device.type == "cpu" else max(len(rows), 1)


def _moments(table: Tensor) -> dict[str, Tensor]:
    return {"exp_avg": torch.zeros_like(table), "exp_avg_sq": torch.zeros_like(table)}


def _lazy_adam(old: Tensor, rows: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
    (beta1, beta2), step = group["betas"], float(state["step"])
    mean = state["exp_avg"].index_select(0, rows).lerp_(gradient, 1 - beta1)
    square = state["exp_avg_sq"].index_select(0, rows).mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    state["exp_avg"].index_copy_(0, rows, mean)
    state["exp_avg_sq"].index_copy_(0, rows, square)
    scale = square.sqrt_().div_((1 - beta2**step) ** 0.5).add_(group["eps"])
    return old.addcdiv_(mean, scale, value=-group["lr"] / (1 - beta1**step))


def _accumulator(table: Tensor) -> dict[str, Tensor]:
    return {"sum": table.new_zeros(len(table))}


def _rowwise_adagrad(old: Tensor, rows: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
    total = state["sum"].index_select(0, rows) + gradient.square().mean(1)
    state["sum"].index_copy_(0, rows, total)
    return old.addcdiv_(gradient, total.sqrt_().add_(ADAGRAD_EPS)[:, None], value=-group["lr"])


Start = Callable[[Tensor], dict[str, Tensor]]
Move = Callable[[Tensor, Tensor, Tensor, dict[str, Tensor], dict[str, Any]], Tensor]
UPDATES: dict[str, tuple[Start, Move]] = {"lazy-adam": (_moments, _lazy_adam), "rowwise-adagrad": (_accumulator, _rowwise_adagrad)}


def gradients(module: nn.Module) -> list[Tensor]:
    """The gradients of `module`, dense; of a table updated by row the touched rows, each once (which coalesces it in place)."""
    found = []
    for parameter in module.parameters():
        if parameter.grad is not None and parameter.grad.is_sparse:
            rows = parameter.grad._indices()[0]
            # The compiled embedding hands out each row once, in order, but autograd forgets that it does.
            in_order = bool((rows[1:] > rows[:-1]).all())
            parameter.grad = parameter.grad._coalesced_(True) if in_order else parameter.grad.coalesce()
            found.append(parameter.grad.values())
        elif parameter.grad is not None:
            found.append(parameter.grad)
    return found
