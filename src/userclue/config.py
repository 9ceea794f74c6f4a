"""Settings of the jobs: one flat, checked class each, filled from a preset, a TOML file and single options."""

import datetime
import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from userclue.errors import UsageError


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused with the nearest known one named."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Check `values` and build the settings; UsageError with key, value and remedy on the first that is wrong."""
        for key in values:
            if key not in cls.model_fields and isinstance(values[key], Mapping):
                raise UsageError(f"unknown section [{key}]; write settings at the top level, without sections")
            if key not in cls.model_fields:
                near = difflib.get_close_matches(key, cls.model_fields, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known settings: {', '.join(sorted(cls.model_fields))}"
                raise UsageError(f"unknown setting {key}; {hint}")
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            given = f" (given: {first['input']!r})" if name else ""
            raise UsageError(f"{name}{': ' if name else ''}{first['msg'].removeprefix('Value error, ')}{given}") from None


class EncoderConfig(Settings):
    """Shape of the encoder (paper IV-A): width D, number of blocks and heads, items kept, dropout probability.

    readout: the user's vector is the state at UR (the paper's), or at the last item, and UR is not read at all (SASRec's).
    """

    backbone: str = "transformer"
    dim: int = Field(64, ge=1, le=65_536)
    blocks: int = Field(2, ge=1, le=256)
    heads: int = Field(4, ge=1)
    max_len: int = Field(50, ge=1, le=100_000)
    dropout: float = Field(0.5, ge=0, lt=1)
    norm: Literal["pre", "post"] = "pre"
    causal: bool | None = None
    dilation: Literal["growing", "repeated"] = "growing"
    filter_heights: int = Field(5, ge=1)
    adapters: bool = False
    attributes: tuple[str, ...] = ()
    attribute_mix: Literal["sum", "gate"] = "sum"
    attribute_separator: str = "|"
    readout: Literal["ur", "item"] = "ur"

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.backbone == "transformer" and self.dim % self.heads:
            raise ValueError(f"dim {self.dim} cannot be shared equally by {self.heads} heads; choose a multiple of heads")
        return self


class TrainSettings(Settings):
    """What every training run needs, whatever the model. One of epochs, steps, minutes ends it."""

    batch_size: int = Field(64, ge=2, description="users in a batch")
    epochs: int | None = Field(None, ge=1, description="passes over the users")
    steps: int | None = Field(None, ge=1, description="or: batches")
    minutes: float | None = Field(None, gt=0, description="or: minutes of training (then not the same result twice)")
    lr: float = Field(1e-3, gt=0, description="learning rate")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="the paper names both; its experiments use Adam")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    item_updates: Literal["auto", "dense", "lazy-adam", "rowwise-adagrad"] = Field(
        "auto", description="rows of the item table that a step updates: all, or those it met; auto decides by the size of the table"
    )
    schedule: Literal["constant", "cosine"] = Field("constant", description="course of the learning rate")
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm")
    precision: Literal["float32", "tf32", "bfloat16"] = Field("float32", description="of the matrix products; tf32 is for a GPU")
    device: str = Field("auto", description="auto, cpu or cuda")
    seed: int = Field(0, ge=0, description="of everything random; same seed, same machine, same result")

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        given = [name for name in ("epochs", "steps", "minutes") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give only one of epochs, steps, minutes; got {' and '.join(given)}")
        return self

    @model_validator(mode="after")
    def _rows_need_plain_adam(self) -> Self:
        if self.item_updates in ("lazy-adam", "rowwise-adagrad"):
            if self.optimizer != "adam":
                raise ValueError(f"item_updates={self.item_updates} belongs to optimizer=adam; with {self.optimizer} leave it at auto")
            if self.weight_decay:
                raise ValueError(
                    f"item_updates={self.item_updates} leaves most rows of the item table alone, so weight_decay {self.weight_decay:g} "
                    "would not reach them; set weight_decay to 0 or item_updates to dense"
                )
        return self


# What an objective must have of its encoder: `next` may not see what it is to predict, `masked` and `s3rec` read both sides.
CAUSAL_NEEDS = {"next": True, "masked": False, "s3rec": False}
DEFAULT_HYBRID = {"clue": 1.0, "next": 0.5}


class PretrainSettings(TrainSettings):
    """Settings of `pretrain`; the defaults are the paper's (IV-A, V-A): d=64, 2 blocks, 4 heads, dropout 0.5, batch 64, Adam 1e-3."""

    objective: str = Field("clue", description="what is minimised")
    backbone: str = Field("transformer", description="network from items to states: transformer, gru, nextitnet or caser")
    view: str = Field(
        "dropout", description="how a user's two views differ: dropout, mask, crop, crop-keep, permute, window, or several joined by +"
    )
    view_share: float | None = Field(
        None, ge=0, le=1, description="share of the items a view masks, drops (crop-keep: keeps) or permutes; each view's own if not given"
    )
    max_len: int = Field(50, ge=1, le=100_000, description="most recent items read of a history")
    dim: int = Field(64, ge=1, le=65_536, description="width of the vectors")
    blocks: int = Field(2, ge=1, le=256, description="layers of the backbone")
    heads: int = Field(4, ge=1, description="attention heads")
    dropout: float = Field(0.5, ge=0, lt=1, description="probability; it also makes the views differ")
    norm: Literal["pre", "post"] = Field("pre", description="LayerNorm before (as SASRec) or after each sub-layer")
    causal: bool | None = Field(
        None,
        description="each token sees only itself and what came before it; if not given, as objective and backbone need",
    )
    dilation: Literal["growing", "repeated"] = Field("growing", description="nextitnet: 1, 4, 16 … from block to block, or 1, 4 in turn")
    filter_heights: int = Field(5, ge=1, description="caser: horizontal filters over 1 … this many tokens")
    attributes: str | list[str] | None = Field(
        None, description="item attributes that are part of an item's embedding: columns of `prepare --items`, joined by commas"
    )
    attribute_mix: Literal["sum", "gate"] = Field("sum", description="they are added, or each item weighs how much of each it lets in")
    attribute_separator: str = Field("|", description="between the values of an attribute that is text; none if empty")
    predictor_dim: int | None = Field(None, ge=1, description="width inside the predictor; if not given dim / 4 for clue, 2 dim for byol")
    projector_dim: int | None = Field(None, ge=1, description="width of the projector's layers; the objective's own if not given")
    projector_norm: Literal["all", "hidden"] | None = Field(
        None, description="batch norm after every layer of the projector (clue), or not after the last (the others)"
    )
    stop_gradient: bool = Field(True, description="of clue; off only for the ablation of Figure 6: it collapses")
    predictor: bool = Field(True, description="of clue; off only for the ablation of Figure 6: it collapses")
    target_momentum: float = Field(0.996, ge=0, le=1, description="of byol's target at the start; it rises to 1 by a cosine")
    temperature: float = Field(0.1, gt=0, description="of infonce")
    invariance_weight: float = Field(25.0, ge=0, description="of vicreg: the views' distance")
    variance_weight: float = Field(25.0, ge=0, description="of vicreg: columns that spread less than 1")
    covariance_weight: float = Field(1.0, ge=0, description="of vicreg: covariance of columns")
    redundancy_weight: float = Field(5e-3, ge=0, description="of barlow: correlation of different columns")
    objectives: str | dict[str, float] | None = Field(None, description="hybrid: objectives and weights (clue:1,next:0.5 if not given)")
    item_loss: Literal["auto", "full", "sampled", "bce"] = Field(
        "auto", description="next, masked: softmax over all items, over a sample, or one other item (SASRec's own); auto decides by size"
    )
    full_softmax_items: int = Field(20_000, ge=1, description="next, masked: most items for which item_loss=auto takes all of them")
    negatives: int = Field(1024, ge=1, description="next, masked: items drawn a batch for item_loss=sampled")
    negative_power: float = Field(0.75, ge=0, le=1, description="next, masked: they are drawn by their count to this power")
    item_start: Literal["random", "factors"] = Field(
        "random", description="item embeddings before the first step: noise, or factors of which items stand near each other"
    )
    tied: bool = Field(True, description="next, masked: items are scored by their embeddings, or by a table of their own")
    mask_share: float | None = Field(
        None, gt=0, le=1, description="share of the items that are predicted; if not given 0.3 for masked, 0.2 for s3rec"
    )
    predicted_attributes: str | list[str] | None = Field(
        None, description="s3rec: item attributes that are predicted, joined by commas; those of attributes if not given"
    )
    aap_weight: float = Field(0.2, ge=0, description="s3rec: an item's attributes from the item")
    mip_weight: float = Field(1.0, ge=0, description="s3rec: masked items from the history")
    map_weight: float = Field(1.0, ge=0, description="s3rec: attributes of masked items from the history")
    sp_weight: float = Field(0.5, ge=0, description="s3rec: a segment from the rest of the history")
    hold_out: int = Field(2, ge=0, description="last events of each user kept from pre-training, so that leave-one-out stays honest")
    until: str | None = Field(None, description="pre-train on events before this time only (ISO or epoch)")
    log_every: int = Field(50, ge=1, description="steps between logged rows")
    checkpoint_seconds: float = Field(60.0, ge=0, description="seconds between checkpoints")
    on_collapse: Literal["warn", "stop"] = Field("warn", description="what to do when all vectors become one")

    @field_validator("until", mode="before")
    @classmethod
    def _date_or_number_as_text(cls, value: Any) -> Any:
        """TOML reads 2024-01-31 as a date and 1706659200 as a number."""
        if isinstance(value, datetime.date):
            return value.isoformat()
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("attributes", "predicted_attributes", mode="after")
    @classmethod
    def _names_from_text(cls, value: Any) -> Any:
        """`brand,price` as a list."""
        names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
        if names and (len(set(names)) < len(names) or "" in names):
            raise ValueError("write the names of columns, each once, as brand,price")
        return names

    @field_validator("objectives", mode="before")
    @classmethod
    def _weights_from_text(cls, value: Any) -> Any:
        """`clue:1,next:0.5` as a table."""
        if not isinstance(value, str):
            return value
        pairs = [part.partition(":") for part in value.split(",")]
        try:
            weights = {name.strip(): float(weight) for name, _, weight in pairs}
        except ValueError:
            raise ValueError("write objectives and weights as clue:1,next:0.5") from None
        if len(weights) < len(pairs):
            raise ValueError("an objective is named twice")
        return weights

    @model_validator(mode="after")
    def _objective_fits(self) -> Self:
        if self.objectives is not None and self.objective != "hybrid":
            raise ValueError(f"objectives belongs to objective=hybrid, not to {self.objective}; give only one of them")
        parts = self.parts()
        if "hybrid" in parts:
            raise ValueError("a hybrid cannot be part of a hybrid")
        if not parts or not all(weight > 0 for weight in parts.values()):
            raise ValueError("objectives must name one or more, with weights above 0")
        needs = {CAUSAL_NEEDS[name]: name for name in parts if name in CAUSAL_NEEDS}
        if len(needs) > 1:
            raise ValueError(f"{needs[True]} needs a causal encoder and {needs[False]} one that reads both ways; leave one of them out")
        if self.causal is not None and needs and self.causal not in needs:
            ((need, name),) = needs.items()
            raise ValueError(f"{name} needs causal={str(need).lower()}; leave causal out")
        return self

    def parts(self) -> dict[str, float]:
        """The objectives that are minimised, and their weights in the sum."""
        if self.objective != "hybrid":
            return {self.objective: 1.0}
        return dict(self.objectives) if isinstance(self.objectives, dict) else dict(DEFAULT_HYBRID)

    def encoder(self) -> EncoderConfig:
        """The part that shapes the encoder; UsageError when it does not fit together."""
        values = {name: getattr(self, name) for name in EncoderConfig.model_fields if name in type(self).model_fields}
        values["attributes"] = self.attributes or ()
        if self.causal is None:
            values["causal"] = next((CAUSAL_NEEDS[name] for name in self.parts() if name in CAUSAL_NEEDS), None)
        return EncoderConfig.of(values)


class FinetuneSettings(TrainSettings):
    """Settings of `finetune` (paper IV-C, V-A: softmax cross-entropy on the UR state, Adam 1e-3, batch 64)."""

    mode: Literal["finetune", "probe", "adapter", "scratch"] = Field(
        "finetune", description="whole encoder, frozen encoder, frozen but for patches (PeterRec), or random start (CLUEZero)"
    )
    stop_on: Literal["loss", "metric"] = Field(
        "loss", description="what the epochs are judged by on the validation part: log-loss, or the task's first metric (MRR@10, accuracy)"
    )
    patience: int = Field(5, ge=1, description="epochs without a better validation before stopping")
    min_epochs: int = Field(3, ge=1, description="epochs before it may stop")
    train_fraction: float = Field(1.0, gt=0, le=1, description="share of the training users to learn from")
    head: Literal["linear", "tied", "copied"] = Field(
        "linear", description="sequential: a head of its own, the item embeddings, or a head of its own that starts as a copy of them"
    )
    prefixes: int = Field(4, ge=1, description="sequential: training instances drawn from each user an epoch")
    positions: Literal["last", "all"] = Field(
        "last", description="sequential: learn from the item after the history, or from every item in it too (causal encoders)"
    )
    item_loss: Literal["full", "bce"] = Field(
        "full", description="sequential: softmax over all items, or (with positions=all) against one other item (SASRec's own)"
    )
    wide: Literal["none", "bag", "transitions"] = Field(
        "none",
        description="beside the user's vector: a linear term on the bag of the whole history (profiling, cold-start), or which item "
        "followed the last one how often and whether people come back to items (sequential)",
    )
    readout: Literal["ur", "item"] | None = Field(
        None, description="read the user's vector at UR or at the last item; the model's own if not given"
    )
    max_targets: int = Field(3, ge=1, description="cold-start: targets of a user that become instances (paper V-A-1: g)")
    before_target: bool = Field(True, description="cold-start: where both logs have times, read only events before the target")
    with_scratch: bool = Field(False, description="fit the same network from a random start too, to see what pre-training is worth")
    dropout: float | None = Field(
        None, ge=0, lt=1, description="in fine-tuning; the model's own (trained baselines: their papers') if not given"
    )
    causal: bool | None = Field(
        None, description="read a model pre-trained in both directions from the past alone, as S3-Rec does; the model's own if not given"
    )

    @model_validator(mode="after")
    def _one_other_item_needs_all_positions(self) -> Self:
        if self.item_loss == "bce" and self.positions != "all":
            raise ValueError("item_loss=bce learns from every position of the history; add positions=all")
        return self


class EmbedSettings(Settings):
    """How `embed` does its work; none of it shows in the vectors, but for a GPU's rounding."""

    device: str = Field("auto", description="auto, cpu or cuda")
    workers: int | None = Field(None, ge=1, description="processes that share the users out on a CPU; as many as threads and as pay")
    checkpoint_every: int | None = Field(
        None, ge=1, description="users after which what is done is kept, so that the same command goes on after a kill"
    )


def read_toml(path: Path) -> dict[str, Any]:
    """Settings from a TOML file; UsageError when it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such configuration file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path}: cannot be read as TOML: {error}") from None


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """`key=value` pairs, the value read as TOML (0.2, true, "text") and as plain text when it is not."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, found, text = assignment.partition("=")
        if not found or not key:
            raise UsageError(f"--set {assignment}: write it as key=value")
        try:
            values[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key] = text
    return values
