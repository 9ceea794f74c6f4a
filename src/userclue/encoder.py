"""UserEncoder: embedding, backbone, and the read-out at the UR token."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from userclue.artifact import Artifact, write_artifact
from userclue.card import model_card
from userclue.config import EncoderConfig
from userclue.data.attributes import grown_with
from userclue.data.batches import Batch, sorted_batches, without_ur
from userclue.data.inputs import open_histories
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, UNK, Vocabulary
from userclue.encoding import bounds, encoding_workers, worker_count
from userclue.errors import ArtifactError, DataError, UsageError
from userclue.nn.attributes import ItemAttributes
from userclue.nn.backbones import BAGS, build_backbone, settled
from userclue.nn.bags import BagEmbedding
from userclue.nn.distinct import distinct
from userclue.nn.embedding import SequenceEmbedding
from userclue.nn.fused import fused_embedding
from userclue.nn.layout import Layout
from userclue.nn.transformer import Transformer
from userclue.train.journal import Row

SHAPE = ("backbone", "dim", "blocks", "heads", "norm", "max_len", "dilation", "filter_heights")
# Tokens of a batch. CPU: fewer, and the work between the kernels shows; more, and PyTorch alone leaves the cache. A GPU wants more.
_ENCODE_TOKENS = {"cpu": 1 << 14, "cuda": 1 << 17}
_WHOLE_TABLE = 1 << 24  # floats of the first block's products, at most, that are formed for all items beforehand


class UserEncoder(nn.Module):
    """From the items of a user's history to one vector, the state at the UR token that closes it (paper IV-A, IV-C-1)."""

    def __init__(self, config: EncoderConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config, self.vocabulary = settled(config), vocabulary
        self.embedding: SequenceEmbedding | BagEmbedding
        if config.backbone in BAGS:
            self.embedding = BagEmbedding(len(vocabulary), config.dim)
        else:
            attributes = ItemAttributes(config, vocabulary) if config.attributes else None
            self.embedding = SequenceEmbedding(len(vocabulary), config.max_len, config.dim, attributes)
        self.backbone = build_backbone(self.config)
        self.facts: dict[str, Any] = {}
        self.rows: list[Row] = []

    @classmethod
    def new(cls, config: EncoderConfig, vocabulary: Vocabulary, generator: torch.Generator) -> Self:
        """An encoder with random weights, every one of them drawn from `generator`."""
        encoder = cls._undrawn(config, vocabulary)
        encoder.reset(generator)
        return encoder

    @classmethod
    def _undrawn(cls, config: EncoderConfig, vocabulary: Vocabulary) -> Self:
        encoder = cls.blank(config, vocabulary)
        # Not to_empty, which would empty the items' attributes too.
        encoder._apply(lambda tensor: torch.empty_like(tensor, device="cpu") if tensor.is_meta else tensor)  # type: ignore[no-untyped-call]
        return encoder

    @classmethod
    def blank(cls, config: EncoderConfig, vocabulary: Vocabulary) -> Self:
        """An encoder whose weights have shapes but no memory yet, so that nothing absurd is ever allocated or drawn in vain."""
        with torch.device("meta"):
            return cls(config, vocabulary)

    def reset(self, generator: torch.Generator) -> None:
        """Draw all weights anew from `generator`."""
        self.embedding.reset(generator)
        self.backbone.reset(generator)

    def start_from(self, other: "UserEncoder") -> None:
        """Take over the weights of `other` (continued training): body whole, item vectors by id, new items as they are.

        Raises UsageError when the two differ in shape.
        """
        if other.config.adapters:
            raise UsageError("cannot start from that model: it holds adapters of a task; start from the model that was fitted with them")
        for name in (*SHAPE, "attributes", "attribute_mix", "attribute_separator"):
            mine, theirs = (getattr(encoder.config, name) for encoder in (self, other))
            if name == "attributes":
                mine, theirs = (",".join(names) or "none" for names in (mine, theirs))
            if mine != theirs:
                raise UsageError(f"cannot start from that model: its {name} is {theirs}, here it is {mine}; set {name} to {theirs}")
        own, given = self.embedding, other.embedding
        assert isinstance(own, SequenceEmbedding)  # a bag is never pre-trained
        assert isinstance(given, SequenceEmbedding)
        rows = other.vocabulary.indices(self.vocabulary.table["item_id"])
        known = np.flatnonzero(rows != UNK)
        with torch.no_grad():
            table, source = own.items.weight, given.items.weight
            table[:FIRST_ITEM] = source[:FIRST_ITEM]
            table[known + FIRST_ITEM] = source[rows[known].astype(np.int64)]
            own.positions.load_state_dict(given.positions.state_dict())
        if own.attributes is not None and given.attributes is not None:
            own.attributes.take(given.attributes)
        self.backbone.load_state_dict(other.backbone.state_dict())

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """User vectors [B, D]. With a generator, dropout acts and draws its masks from it; without, the encoding is exact."""
        x, layout = self._embed(batch, generator)
        out: Tensor = self.backbone(x, layout, generator)
        return out

    def states(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """States of all tokens, [N, D]; where the last item is read out, of all tokens but the UR of each sequence, [N - B, D]."""
        x, layout = self._embed(batch, generator)
        out: Tensor = self.backbone.states(x, layout, generator)
        return out

    def _embed(self, batch: Batch, generator: torch.Generator | None) -> tuple[Tensor, Layout]:
        if self.config.readout == "item":
            batch = without_ur(batch)
        layout = Layout.of(batch)
        if isinstance(self.embedding, BagEmbedding):
            x: Tensor = self.embedding(batch)
        else:
            x = self.embedding(batch.tokens, layout, self.config.dropout, generator)
        return x, layout

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def batches(self, sequences: Sequences, most: int | None = None) -> Iterator[Batch]:
        """Every sequence once, to encode without training, as many at a time as suit the device and at most so many."""
        tokens = _ENCODE_TOKENS.get(self.device.type, _ENCODE_TOKENS["cpu"])
        return sorted_batches(sequences, tokens, self.config.max_len, most)

    @torch.inference_mode()
    def vectors(self, sequences: Sequences) -> np.ndarray:
        """float32 [B, D] for sequences numbered by this encoder's vocabulary, in their order."""
        out = np.empty((len(sequences), self.config.dim), dtype=np.float32)
        encode = self._by_item(int(sequences.lengths.sum()))
        for batch in self.batches(sequences):
            out[batch.users.numpy()] = encode(batch.to(self.device)).float().cpu().numpy()
        return out

    def _by_item(self, events: int) -> Callable[[Batch], Tensor]:
        """As `forward`, with the first block's products formed once an item of a batch, or of all where they are fewer than `events`.

        The two give the same bits, so that a vector does not depend on what else is asked for.
        """
        embedding, backbone = self.embedding, self.backbone
        if not (isinstance(embedding, SequenceEmbedding) and isinstance(backbone, Transformer)):
            return self
        table, places = embedding.items.weight, embedding.positions.weight
        whole = embedding.attributes is None and len(table) <= events and 3 * table.numel() <= _WHOLE_TABLE
        of_all = backbone.first_products(table if whole else table[:0], places)
        if of_all is None:
            return self

        def encode(batch: Batch) -> Tensor:
            if self.config.readout == "item":
                batch = without_ur(batch)
            layout, items, rows, products = Layout.of(batch), table, batch.tokens, of_all
            if not whole:
                met, rows = distinct(rows, len(table))
                items = embedding.rows(met)
                of_met = backbone.first_products(items, places[:0])
                assert of_met is not None
                products = of_all._replace(items=of_met.items)
            x = fused_embedding(items, places, rows, layout, 0.0, None, sparse=False)
            out: Tensor = backbone(x, layout, first=(products, rows))
            return out

        return encode

    def encode(self, histories: Any, *, workers: int = 1, **columns: Any) -> np.ndarray:
        """float32 [n_users, D], one row a user.

        `histories`: a list of item-id lists (rows in that order), a frame or file of events, or a Dataset (rows in the order of
        its users: by id). Users need not have been in training; unknown items are read as UNK. `columns` names the columns of a
        frame, as in `prepare`. `workers`: processes that share the users out, each on one thread of the CPU; starting them takes
        seconds, so they pay from some 200,000 users on. Raises DataError for an empty history or unusable events.
        """
        with open_histories(histories, self.vocabulary, **columns) as opened, tempfile.TemporaryDirectory(prefix="userclue-") as folder:
            n = len(opened.sequences)
            out = np.empty((n, self.config.dim), dtype=np.float32)
            if worker_count(workers, n, self.device.type) == 1:
                for begin, end in bounds(n):
                    out[begin:end] = self.vectors(opened.part(begin, end)[0])
                return out
            model = self.save_pretrained(Path(folder) / "model")
            with encoding_workers(model.path, model.hash, opened, workers, None if opened.dataset else Path(folder)) as processes:
                for (begin, end), one in zip(bounds(n), processes.pieces(n), strict=True):
                    out[begin:end] = one.vectors
        return out

    def with_items(self, items: Any, item_col: str = "item_id") -> Self:
        """This encoder with the items of a table (file or frame) that it does not know, described by their attributes alone.

        The embedding of a new item's id is that of UNK, and an attribute's value that no known item has says nothing; all else is
        copied, and vectors of histories without new items stay as they are. Items that are known stay as they are. Raises UsageError
        when the encoder reads no attributes, DataError when the table cannot be used.
        """
        if not self.config.attributes:
            raise UsageError("this encoder reads no item attributes, so it cannot tell new items apart; pre-train it with attributes")
        grown = grown_with(self.vocabulary, items, item_col)
        encoder = self._undrawn(self.config, grown)
        own, source = encoder.embedding, self.embedding
        assert isinstance(own, SequenceEmbedding)
        assert isinstance(source, SequenceEmbedding)
        with torch.no_grad():
            own.items.weight[: len(self.vocabulary)] = source.items.weight
            own.items.weight[len(self.vocabulary) :] = source.items.weight[UNK]
        own.positions.load_state_dict(source.positions.state_dict())
        assert own.attributes is not None
        assert source.attributes is not None
        own.attributes.take(source.attributes, new=0.0)
        encoder.backbone.load_state_dict(self.backbone.state_dict())
        encoder.facts, encoder.rows = self.facts, self.rows
        return encoder.to(source.items.weight.device)

    def to_config(self) -> dict[str, Any]:
        """What config.json says of this encoder."""
        return {"encoder": self.config.model_dump(), **self.facts}

    def save_pretrained(self, path: str | Path, *, overwrite: bool = False, locked: bool = False) -> Artifact:
        """Write the artifact folder; UsageError when it exists and `overwrite` is not set."""
        return write_artifact(
            Path(path),
            "model",
            config=self.to_config(),
            tensors={"model.safetensors": self.state_dict()},
            vocabulary=self.vocabulary,
            rows=self.rows,
            card=model_card(self.to_config(), self.vocabulary.n_items, self.rows[-1] if self.rows else {}),
            overwrite=overwrite,
            locked=locked,
        )

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """Load the encoder of a pre-trained or fitted model; ArtifactError when the folder is damaged or its parts do not fit."""
        return cls.from_artifact(Artifact.open(path))

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """Build the encoder an opened artifact holds."""
        try:
            encoder = cls.blank(EncoderConfig.of(artifact.config["encoder"]), artifact.vocabulary)
        except (UsageError, DataError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{artifact.path / 'config.json'}: describes no encoder of this userclue ({error})") from None
        tensors = artifact.tensors()
        rows = tensors["embedding.items.weight"].shape[0] if "embedding.items.weight" in tensors else 0
        if rows != len(artifact.vocabulary):
            raise ArtifactError(
                f"{artifact.path}: the weights number {rows} items, the vocabulary {len(artifact.vocabulary)}; "
                "they are of different models, make the artifact again"
            )
        load_tensors(encoder, tensors, artifact.path)
        encoder.facts = {key: artifact.config[key] for key in ("pretrain", "data", "environment", "seconds") if key in artifact.config}
        encoder.rows = artifact.rows if artifact.manifest["kind"] == "model" else []
        return encoder


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors into `module`; ArtifactError when names or shapes do not fit."""
    try:
        module.load_state_dict(dict(tensors), assign=True)
    except RuntimeError as error:
        raise ArtifactError(f"{path}: the weights do not fit the configuration ({str(error).splitlines()[-1].strip()})") from None
