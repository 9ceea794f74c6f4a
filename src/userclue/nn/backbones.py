"""The backbones by name.

A backbone is made from an EncoderConfig and offers `reset(generator)`, `forward(x, layout, generator)` → [B, D], the states at the UR
tokens, and `states(x, layout, generator)` → [N, D], all of them; x is [N, D], and dropout acts only when a generator is given.
Its class says `causal`: True or False where it can be nothing else, None where the configuration may choose; `causal_by_default`: what
it is unless the configuration says; and `adaptable`: whether it has places for the patches of transfer by adapters.
"""

from userclue.config import EncoderConfig
from userclue.errors import UsageError
from userclue.nn.bags import DeepFm, Nfm
from userclue.nn.caser import Caser
from userclue.nn.gru import Gru
from userclue.nn.nextitnet import NextItNet
from userclue.nn.transformer import Transformer

Backbone = Transformer | Gru | NextItNet | Caser | Nfm | DeepFm
BACKBONES: dict[str, type[Backbone]] = {"transformer": Transformer, "gru": Gru, "nextitnet": NextItNet, "caser": Caser}
# Of baselines alone: they see no order, have no states of tokens, and no objective pre-trains them. They read a BagEmbedding.
BAGS: dict[str, type[Backbone]] = {"nfm": Nfm, "deepfm": DeepFm}
WAYS = {True: "causal", False: "bidirectional"}


def settled(config: EncoderConfig) -> EncoderConfig:
    """`config` with `causal` filled in from its backbone; UsageError when the backbone is unknown or cannot be what is asked of it."""
    known = BACKBONES | BAGS
    if config.backbone not in known:
        raise UsageError(f"unknown backbone {config.backbone}; known: {', '.join(BACKBONES)}")
    kind = known[config.backbone]
    if config.adapters and not kind.adaptable:
        fitting = [name for name, other in BACKBONES.items() if other.adaptable]
        raise UsageError(f"backbone {config.backbone} has no place for adapters; they fit {' and '.join(fitting)}")
    if config.causal is None:
        return config.model_copy(update={"causal": kind.causal_by_default})
    if kind.causal not in (None, config.causal):
        fitting = [name for name, other in BACKBONES.items() if other.causal in (None, config.causal)]
        raise UsageError(
            f"backbone {config.backbone} is {WAYS[not config.causal]} and cannot be made {WAYS[config.causal]}; "
            f"leave causal out, or choose backbone {' or '.join(fitting)}"
        )
    return config


def build_backbone(config: EncoderConfig) -> Backbone:
    """The backbone that `config` names, its weights not yet drawn; UsageError as `settled` raises it."""
    config = settled(config)
    return (BACKBONES | BAGS)[config.backbone](config)
