"""A history as a bag of features, and what factorisation machines make of it: NFM and DeepFM. Order is not seen.

Both score class k by ⟨h_k, z⟩ + b_k, z the vector [B, D] that is made here and h the head. Where their papers add a linear part
Σ x_i w_i, z holds Σ x_i u_i with a vector u_i of each item, so that w_ik = ⟨h_k, u_i⟩: any weights for up to D classes, weights of rank
D for more (a table of items by items would be too large). Likewise the interactions of the factorisation machine, which
DeepFM sums over their D parts, are weighed by h_k: with one class and h = 1 it is the paper's sum.
"""

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, relu

from userclue.config import EncoderConfig
from userclue.data.batches import Batch
from userclue.data.vocabulary import FIRST_ITEM
from userclue.errors import UsageError
from userclue.nn.dropout import dropout
from userclue.nn.heads import reset_linear_layers
from userclue.nn.layout import Layout
from userclue.nn.tables import ItemTable

DEEP_WIDTH = 400  # of DeepFM's layers (Guo et al. 2017, section 3.1.4)


def bi_interaction(rows: Tensor, owner: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(Σ r, Σ_{i<j} r_i ⊙ r_j) over the rows of each bag, both [B, D]: the second as ½[(Σ r)² − Σ r²] (Rendle 2010; NFM eq. 4).

    rows [M, D], x_i v_i; owner int64 [M] in 0…size-1: whose row each is. A bag without rows has zeros.
    """
    total = rows.new_zeros(size, rows.shape[1]).index_add(0, owner, rows)
    squares = rows.new_zeros(size, rows.shape[1]).index_add(0, owner, rows.square())
    return total, 0.5 * (total.square() - squares)


class BagEmbedding(nn.Module):
    """Each event of the window that is a known item is one feature, x = 1/√n of n such events, so that every bag has length 1."""

    def __init__(self, vocabulary_size: int, dim: int) -> None:
        super().__init__()
        self.items = ItemTable(vocabulary_size, dim)  # v
        self.linear = ItemTable(vocabulary_size, dim)  # u

    def reset(self, generator: torch.Generator) -> None:
        """Draw both tables from N(0, 0.02²)."""
        for table in (self.items, self.linear):
            nn.init.normal_(table.weight, std=0.02, generator=generator)

    def rows(self, items: Tensor) -> Tensor:
        """Embeddings v of the items int64 [M], [M, D], as those of a sequence's items."""
        out: Tensor = self.items(items)
        return out

    def table(self) -> Tensor:
        """All of them, [V, D]."""
        return self.items.weight

    def forward(self, batch: Batch) -> Tensor:
        """[B, 3D]: Σ x u, Σ x v, and the interactions of the x v."""
        size, device = len(batch), batch.tokens.device
        owner = torch.repeat_interleave(torch.arange(size, device=device), batch.offsets.diff(), output_size=len(batch.tokens))
        known = torch.nonzero(batch.tokens >= FIRST_ITEM)[:, 0]
        tokens, owner = batch.tokens[known], owner[known]
        x = torch.bincount(owner, minlength=size).to(self.items.weight.dtype).rsqrt().index_select(0, owner)[:, None]
        linear = self.linear.weight.new_zeros(size, self.linear.embedding_dim).index_add(0, owner, self.linear(tokens) * x)
        return torch.cat([linear, *bi_interaction(self.items(tokens) * x, owner, size)], dim=1)


class _Bag(nn.Module):
    """What both share: no direction of reading, no places for patches, and dropout that acts only when a generator is given."""

    causal: ClassVar[bool | None] = False
    causal_by_default: ClassVar[bool] = False
    adaptable: ClassVar[bool] = False

    def __init__(self, config: EncoderConfig, first: int, hidden: int) -> None:
        super().__init__()
        self.p = config.dropout
        widths = [first, *[hidden] * config.blocks]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def reset(self, generator: torch.Generator) -> None:
        """PyTorch's own default for linear layers, drawn from `generator`."""
        reset_linear_layers(self, generator)

    def states(self, x: Tensor, layout: Layout, generator: torch.Generator | None = None) -> Tensor:
        """Not defined: UsageError."""
        del x, layout, generator
        raise UsageError("a bag of items has no state for each item; for a loss that predicts items choose another backbone")

    def deep(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """`blocks` layers with ReLU and dropout."""
        for layer in self.layers:
            x = dropout(relu(layer(x)), self.p, generator)
        return x


class Nfm(_Bag):
    """Bi-interaction → batch norm → dropout → `blocks` layers of width D, + linear part (He & Chua 2017, section 3.1, eq. 3–8)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config, config.dim, config.dim)
        self.norm = nn.BatchNorm1d(config.dim)

    def reset(self, generator: torch.Generator) -> None:
        """As any bag; the norm starts as the identity of mean 0 and variance 1."""
        super().reset(generator)
        self.norm.reset_parameters()

    def forward(self, x: Tensor, layout: Layout, generator: torch.Generator | None = None) -> Tensor:
        """[B, 3D] → [B, D]. With a generator the norm reads this batch, of two users or more; without, the training's running mean."""
        del layout
        linear, _, pairs = x.chunk(3, dim=1)
        norm, learning = self.norm, generator is not None
        pairs = batch_norm(pairs, norm.running_mean, norm.running_var, norm.weight, norm.bias, learning, 0.1, norm.eps)
        return self.deep(dropout(pairs, self.p, generator), generator) + linear


class DeepFm(_Bag):
    """Factorisation machine + `blocks` layers of width 400 over the same embeddings (Guo et al. 2017, section 2.1, eq. 1–4).

    The paper's deep part reads its fields side by side; here there is one field of many values, so it reads their sum.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config, config.dim, DEEP_WIDTH)
        self.out = nn.Linear(DEEP_WIDTH, config.dim)

    def forward(self, x: Tensor, layout: Layout, generator: torch.Generator | None = None) -> Tensor:
        """[B, 3D] → [B, D]."""
        del layout
        linear, total, pairs = x.chunk(3, dim=1)
        out: Tensor = linear + pairs + self.out(self.deep(total, generator))
        return out
