"""Helpers of the network tests: small encoders, packed batches, and PyTorch's own transformer as the oracle."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from userclue.config import EncoderConfig
from userclue.data.batches import Batch, pack
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, UR, Vocabulary
from userclue.encoder import UserEncoder
from userclue.native import describe, kernels

ITEMS = 30

torch.set_num_threads(1)


@pytest.fixture(params=["native", "torch"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test on the compiled kernels and on the PyTorch forms they must equal."""
    monkeypatch.setenv("USERCLUE_KERNELS", "off" if request.param == "torch" else "on")
    if request.param == "native" and kernels() is None:
        pytest.skip(describe())
    return str(request.param)


@pytest.fixture
def encoder() -> Callable[..., UserEncoder]:
    """An encoder whose every weight is random (biases and norms too, so that a forgotten one shows), dropout 0 unless said."""

    def make(seed: int = 0, **shape: object) -> UserEncoder:
        config = EncoderConfig.of({"dim": 16, "blocks": 2, "heads": 4, "max_len": 9, "dropout": 0.0, **shape})
        generator = torch.Generator().manual_seed(seed)
        made = UserEncoder.new(config, Vocabulary.from_ids(list(range(ITEMS))), generator)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
        return made

    return make


@pytest.fixture
def histories() -> Callable[..., list[np.ndarray]]:
    """Random item indices of the given lengths."""

    def make(*lengths: int, seed: int = 1) -> list[np.ndarray]:
        generator = np.random.default_rng(seed)
        return [generator.integers(FIRST_ITEM, FIRST_ITEM + ITEMS, length) for length in lengths]

    return make


@pytest.fixture
def packed() -> Callable[[Sequence[np.ndarray]], Batch]:
    """All of `histories` as one batch of at most 9 items each."""

    def make(histories: Sequence[np.ndarray]) -> Batch:
        return pack(Sequences.from_lists(histories), np.arange(len(histories)), 9)

    return make


@pytest.fixture
def oracle() -> Callable[[UserEncoder, Sequence[np.ndarray]], list[Tensor]]:
    """States of all tokens of each history by torch.nn.TransformerEncoder with the same weights, padded on the left as in the paper."""

    def states(encoder: UserEncoder, histories: Sequence[np.ndarray]) -> list[Tensor]:
        config = encoder.config
        tables = encoder.embedding
        rows = [[*history.tolist()[-config.max_len :], UR] for history in histories]
        longest = max(len(row) for row in rows)
        x = torch.full((len(rows), longest, config.dim), 7.0, dtype=tables.items.weight.dtype)  # rubbish in the padding must not matter
        padding = torch.ones(len(rows), longest, dtype=torch.bool)
        for b, row in enumerate(rows):
            for place, token in enumerate(row):
                column = longest - len(row) + place
                x[b, column] = tables.items.weight[token] + tables.positions.weight[len(row) - 1 - place]
                padding[b, column] = False
        reference = _reference(encoder).to(x.dtype)
        if not config.causal:
            out = reference(x, src_key_padding_mask=padding)
            return [out[b, longest - len(row) :] for b, row in enumerate(rows)]
        # Alone and unpadded: a padded row that may see nothing gives NaN there.
        later = torch.ones(longest, longest, dtype=torch.bool).triu(1)
        return [reference(x[b : b + 1, longest - len(row) :], mask=later[: len(row), : len(row)])[0] for b, row in enumerate(rows)]

    return states


def _reference(encoder: UserEncoder) -> nn.TransformerEncoder:
    config = encoder.config
    first = config.norm == "pre"
    layer = nn.TransformerEncoderLayer(
        config.dim, config.heads, dim_feedforward=config.dim, dropout=0.0, activation="relu", batch_first=True, norm_first=first
    )
    stack = nn.TransformerEncoder(layer, config.blocks, norm=nn.LayerNorm(config.dim) if first else None, enable_nested_tensor=False)
    ours = encoder.state_dict()
    names = {
        "self_attn.in_proj_weight": "qkv.weight",
        "self_attn.in_proj_bias": "qkv.bias",
        "self_attn.out_proj.weight": "out.weight",
        "self_attn.out_proj.bias": "out.bias",
        **{f"linear{i}.{kind}": f"ff{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")},
        **{f"norm{i}.{kind}": f"norm{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")},
    }
    state = {f"layers.{i}.{theirs}": ours[f"backbone.blocks.{i}.{name}"] for i in range(config.blocks) for theirs, name in names.items()}
    if first:
        state |= {f"norm.{kind}": ours[f"backbone.norm.{kind}"] for kind in ("weight", "bias")}
    stack.load_state_dict(state)
    return stack
