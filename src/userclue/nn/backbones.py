"""The backbones by name.

A backbone is made from an EncoderConfig and offers `reset(generator)`, `forward(x, layout, generator)` → [B, D], the states at the UR
tokens, and `states(x, layout, generator)` → [N, D], all of them; x is [N, D], and dropout acts only when a generator is given.
"""

from torch import nn

from userclue.config import EncoderConfig
from userclue.errors import UsageError
from userclue.nn.transformer import Transformer

BACKBONES: dict[str, type[nn.Module]] = {"transformer": Transformer}


def build_backbone(config: EncoderConfig) -> nn.Module:
    """The backbone `config` names; UsageError that lists the known ones otherwise."""
    if config.backbone not in BACKBONES:
        raise UsageError(f"unknown backbone {config.backbone}; known: {', '.join(BACKBONES)}")
    return BACKBONES[config.backbone](config)
