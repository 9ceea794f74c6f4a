"""Heads of pre-training: projector and predictor (paper IV-A-1c, IV-A-2), and the linear heads of transfer."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from userclue.nn.fused_head import HeadLayer, fits_head, fused_comparison, fused_head


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation in float32 whatever the precision around it: moments of a batch need more than bfloat16's 8 bits."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, D] → [B, D]."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float() if x.dtype == torch.bfloat16 else x)


class Head(nn.Sequential):
    """FC layers, with BN and ReLU behind some of them, over several views at once; every BN sees each view on its own, in order."""

    def forward(self, x: Tensor, views: int = 1) -> Tensor:
        """[views · B, D], the views one after another → [views · B, W]."""
        layers = self.layers()
        if layers is not None and fits_head(layers, x, views):
            return fused_head(layers, x, views)
        return torch.cat([self._plain(view) for view in x.chunk(views)])

    def _plain(self, x: Tensor) -> Tensor:
        for module in self:
            x = module(x)
        return x

    def layers(self) -> list[HeadLayer] | None:
        """The modules by layer; None where one of them is not of those that the kernel knows."""
        layers: list[HeadLayer] = []
        for module in self:
            if type(module) is nn.Linear:
                layers.append(HeadLayer(module, None, False))
            elif type(module) is BatchNorm:
                layers[-1] = layers[-1]._replace(norm=module)
            elif type(module) is nn.ReLU:
                layers[-1] = layers[-1]._replace(relu=True)
            else:
                return None
        return layers


def compared(projector: Head, predictor: Head, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """CLUE's loss of the encodings of two views, [2B, D], and their projections [2B, W], in one pass; None where no kernel takes them.

    It is the mean negative cosine of each prediction with the other view's projection, which no gradient reaches (eq. 4 to 7).
    """
    first, second = projector.layers(), predictor.layers()
    if first is None or second is None or not fits_head([*first, *second], x, 2):
        return None
    return fused_comparison([*first, *second], x, 2, len(first))


def projector(widths: Sequence[int], norm_output: bool = True) -> Head:
    """FC layers from widths[0] to widths[-1], BN and ReLU between them.

    CLUE's has four equal widths, IV-A-1c: "3 fully connected (FC) layers, equipped with batch normalization (BN) operation for each
    layer". The last BN has no affine part and no layer a bias, as in SimSiam, whose head this is. Without the last BN
    (`norm_output=False`) a collapse shows as a falling std: the BN would stretch whatever difference is left to unit variance.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise(widths[:-1]):
        layers += [nn.Linear(before, after, bias=False), BatchNorm(after), nn.ReLU(inplace=True)]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=False))
    if norm_output:
        layers.append(BatchNorm(widths[-1], affine=False))
    return Head(*layers)


def predictor(dim: int, hidden: int) -> Head:
    """IV-A-2: "a 2 FC layer equipped with BN operation"; a bottleneck D → hidden → D, BN inside, none at the output (SimSiam)."""
    return Head(
        nn.Linear(dim, hidden, bias=False),
        BatchNorm(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, dim),
    )


def reset_linear_layers(module: nn.Module, generator: torch.Generator) -> None:
    """PyTorch's own default for linear layers, U(±1/√fan_in) for weight and bias, drawn from `generator`."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            if layer.bias is not None:
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


def linear_head(dim: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer D → K, its weights drawn from `generator`."""
    head = nn.Linear(dim, outputs)
    reset_linear_layers(head, generator)
    return head


def reset_blocks(module: nn.Module, generator: torch.Generator) -> None:
    """Xavier-uniform matrices drawn from `generator`, zero biases, unit norms: how the blocks of a backbone start."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm):
            layer.reset_parameters()
