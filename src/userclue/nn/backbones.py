"""The backbones by name. An outsider may pass "package.module:Class" instead."""

from torch import nn

from userclue.config import EncoderConfig
from userclue.errors import UsageError
from userclue.nn.transformer import Transformer

BACKBONES: dict[str, type[nn.Module]] = {"transformer": Transformer}


def build_backbone(config: EncoderConfig) -> nn.Module:
    """The backbone `config` names; UsageError that lists the known ones otherwise."""
    if config.backbone not in BACKBONES:
        raise UsageError(f"unknown backbone {config.backbone}; known: {', '.join(BACKBONES)}")
    return BACKBONES[config.backbone](config.dim, config.blocks, config.heads, config.dropout, config.norm)
