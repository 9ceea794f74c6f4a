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
    """Shape of the encoder (paper IV-A): width D, number of blocks and heads, items kept, dropout probability."""

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
    schedule: Literal["constant", "cosine"] = Field("constant", description="course of the learning rate")
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of the forward pass")
    device: str = Field("auto", description="auto, cpu or cuda")
    seed: int = Field(0, ge=0, description="of everything random; same seed, same machine, same result")

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        given = [name for name in ("epochs", "steps", "minutes") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give only one of epochs, steps, minutes; got {' and '.join(given)}")
        return self


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
        None, description="each token sees only itself and what came before it; if not given, what the backbone is by default"
    )
    dilation: Literal["growing", "repeated"] = Field("growing", description="nextitnet: 1, 4, 16 … from block to block, or 1, 4 in turn")
    filter_heights: int = Field(5, ge=1, description="caser: horizontal filters over 1 … this many tokens")
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

    def encoder(self) -> EncoderConfig:
        """The part that shapes the encoder; UsageError when it does not fit together."""
        return EncoderConfig.of({name: getattr(self, name) for name in EncoderConfig.model_fields if name in type(self).model_fields})


class FinetuneSettings(TrainSettings):
    """Settings of `finetune` (paper IV-C, V-A: softmax cross-entropy on the UR state, Adam 1e-3, batch 64)."""

    mode: Literal["finetune", "probe", "adapter", "scratch"] = Field(
        "finetune", description="whole encoder, frozen encoder, frozen but for patches (PeterRec), or random start (CLUEZero)"
    )
    patience: int = Field(5, ge=1, description="epochs without a better validation log-loss before stopping")
    min_epochs: int = Field(3, ge=1, description="epochs before it may stop")
    train_fraction: float = Field(1.0, gt=0, le=1, description="share of the training users to learn from")
    head: Literal["linear", "tied"] = Field("linear", description="sequential: a head of its own, or the item embeddings")
    prefixes: int = Field(4, ge=1, description="sequential: training instances drawn from each user an epoch")
    with_scratch: bool = Field(False, description="fit the same network from a random start too, to see what pre-training is worth")
    dropout: float | None = Field(None, ge=0, lt=1, description="in fine-tuning; the model's own if not given")


PRETRAIN_PRESETS: dict[str, dict[str, Any]] = {"paper": {}}
FINETUNE_PRESETS: dict[str, dict[str, Any]] = {"paper": {}}


def preset_values(presets: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """The values of a preset; UsageError that lists the known ones."""
    if name not in presets:
        raise UsageError(f"unknown preset {name}; known: {', '.join(presets)}")
    return dict(presets[name])


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
