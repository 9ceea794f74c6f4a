"""What an item's attributes add to its embedding: categories by tables of their own, quantities and content vectors by a linear map."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from userclue.config import EncoderConfig
from userclue.data.attribute_codes import Categories, Measures, code_attribute
from userclue.data.lookup import Lookup
from userclue.data.vocabulary import Vocabulary
from userclue.errors import UsageError
from userclue.nn.tables import ItemTable


class CategoryEmbedding(nn.Module):
    """The mean of the embeddings of an item's values; zero where it has none. Its table counts as one of the item tables."""

    offsets: Tensor
    codes: Tensor

    def __init__(self, found: Categories, dim: int) -> None:
        super().__init__()
        self.values = found.values
        self.table = ItemTable(len(found.values), dim, _weight=torch.empty(len(found.values), dim))
        self.register_buffer("offsets", torch.from_numpy(found.offsets), persistent=False)
        self.register_buffer("codes", torch.from_numpy(found.codes), persistent=False)

    def reset(self, generator: torch.Generator) -> None:
        """Draw the table as that of the items is drawn."""
        nn.init.normal_(self.table.weight, std=0.02, generator=generator)

    def forward(self, items: Tensor) -> Tensor:
        """Indices int64 [M] → [M, D]."""
        codes, counts = values_of(items, self.offsets, self.codes)
        return embedding_bag(codes, self.table.weight, counts.cumsum(0) - counts, mode="mean", sparse=self.table.sparse)

    def take(self, other: nn.Module, new: float | None = None) -> None:
        """The weights of `other` for the values that both know; those it does not know become `new`, or stay as they are."""
        assert isinstance(other, CategoryEmbedding)
        place = Lookup(other.values, "values").positions(self.values)
        known = np.flatnonzero(place >= 0)
        with torch.no_grad():
            if new is not None:
                self.table.weight.fill_(new)
            self.table.weight[known] = other.table.weight[place[known]]


def values_of(items: Tensor, offsets: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Of `items` int64 [M] the values codes[offsets[i]:offsets[i+1]], one item after another, int64 [P], and how many each has, [M]."""
    starts = offsets[items]
    counts = offsets[items + 1] - starts
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    # Value v of item m stands at starts[m] + v, and comes at ends[m] − counts[m] + v.
    shift = torch.repeat_interleave(starts - ends + counts, counts, output_size=total)
    return codes[shift + torch.arange(total, device=items.device)], counts


class MeasureEmbedding(nn.Module):
    """W (x − mean) / scale + b of a quantity or content vector x; zero where an item has none.

    The mean is of each number and the scale one for all, the root of their mean variance over the items that training knew, so that
    a vector keeps its directions. Both are saved with the weights: items that come later change neither.
    """

    values: Tensor
    present: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, found: Measures, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(found.values.shape[1], dim)
        seen = found.values[found.present].astype(np.float64)
        spread = np.float32(np.sqrt(seen.var(axis=0).mean()))
        self.register_buffer("values", torch.from_numpy(found.values), persistent=False)
        self.register_buffer("present", torch.from_numpy(found.present[:, None].astype(np.float32)), persistent=False)
        self.register_buffer("mean", torch.from_numpy(seen.mean(axis=0).astype(np.float32)))
        self.register_buffer("scale", torch.from_numpy(np.asarray(spread if spread > 0 else 1, np.float32)))

    def reset(self, generator: torch.Generator) -> None:
        """Draw W so that an item's part is about as large as an item's embedding; b starts at zero."""
        nn.init.normal_(self.map.weight, std=0.02 * self.map.in_features**-0.5, generator=generator)
        nn.init.zeros_(self.map.bias)

    def forward(self, items: Tensor) -> Tensor:
        """Indices int64 [M] → [M, D]."""
        out: Tensor = self.map((self.values[items] - self.mean) / self.scale) * self.present[items]
        return out

    def take(self, other: nn.Module, new: float | None = None) -> None:
        """The weights, mean and scale of `other`; UsageError when its vectors are of another length."""
        del new
        assert isinstance(other, MeasureEmbedding)
        if self.map.in_features != other.map.in_features:
            raise UsageError(
                f"cannot start from that model: its content vectors have {other.map.in_features} numbers, here they have "
                f"{self.map.in_features}; prepare the data with vectors of the same kind"
            )
        self.load_state_dict(other.state_dict())


class ItemAttributes(nn.Module):
    """The parts of an item's attributes, in the order of `config.attributes`, added to its embedding.

    `sum`: e = e_id + Σ_a e_a. `gate`: e = e_id + Σ_a 2σ(⟨u_a, e_id⟩ + ⟨w_a, e_a⟩ + c_a) e_a, so that each item tells how much of each
    attribute it lets in; it starts at the sum. An attribute an item has not adds nothing in either.
    """

    def __init__(self, config: EncoderConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        for name in config.attributes:
            found = code_attribute(vocabulary, name, config.attribute_separator)
            kind = CategoryEmbedding if isinstance(found, Categories) else MeasureEmbedding
            self.parts.append(kind(found, config.dim))  # type: ignore[arg-type]
        self.gates = nn.ModuleList(nn.Linear(2 * config.dim, 1) for _ in self.parts) if config.attribute_mix == "gate" else None

    def reset(self, generator: torch.Generator) -> None:
        """Draw the weights of all parts; gates start open by half, which counts as one."""
        for part in self.parts:
            part.reset(generator)  # type: ignore[operator]
        for gate in self.gates or ():
            for parameter in gate.parameters():
                nn.init.zeros_(parameter)

    def forward(self, ids: Tensor, items: Tensor) -> Tensor:
        """Embeddings of the ids [M, D] of items int64 [M] → those of the items, [M, D]."""
        out = ids
        for place, part in enumerate(self.parts):
            one = part(items)
            if self.gates is not None:
                one = one * (2 * torch.sigmoid(self.gates[place](torch.cat([ids, one], dim=1))))
            out = out + one
        return out

    def take(self, other: "ItemAttributes", new: float | None = None) -> None:
        """The weights of `other`, which has the same attributes: categories by value, values it does not know as `take` of a part says.

        Raises UsageError where the two differ in kind.
        """
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            if type(mine) is not type(theirs):
                raise UsageError(
                    "cannot start from that model: an attribute is a category in one and a number in the other; "
                    "prepare the data with columns of the same types"
                )
            mine.take(theirs, new)  # type: ignore[operator]
        if self.gates is not None and other.gates is not None:
            self.gates.load_state_dict(other.gates.state_dict())
