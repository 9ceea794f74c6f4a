"""Systems that differ from the model in pre-training alone, as in the paper's comparison (V-A-4, VI-A): CLUEZero and PeterRec."""

from datetime import UTC, datetime, timedelta
from math import gcd
from typing import Any, ClassVar

from userclue.baselines.trained import TrainedBaseline
from userclue.config import EncoderConfig, FinetuneSettings, PretrainSettings, TrainSettings
from userclue.data.times import parse_instant
from userclue.encoder import UserEncoder
from userclue.tasks.base import Task
from userclue.tasks.sequential import Sequential

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TASKS = ("profiling", "cold-start", "sequential")


class CLUEZero(TrainedBaseline):
    """The model's own network, fitted as it is, from a random start (the paper's CLUEZero): what pre-training has to beat."""

    system = "clue_zero"
    tasks = TASKS

    def __init__(self, like: UserEncoder, settings: FinetuneSettings) -> None:
        super().__init__(like, settings)
        if settings.causal is not None:
            self.config = self.config.model_copy(update={"causal": settings.causal})

    def shaped_like(self, config: EncoderConfig) -> dict[str, Any]:
        """The same."""
        return config.model_dump()


class PeterRec(TrainedBaseline):
    """Masked-item pre-training of the same transformer, then the whole network is fitted (as the CLUE paper compares, V-A-1).

    Pre-trained with the budget, rate and batch of the model beside it, on the same part of the histories or an earlier one.
    """

    system = "peterrec"
    tasks = TASKS
    training: ClassVar[dict[str, Any]] = {"mode": "finetune", "positions": "last", "item_loss": "full"}

    def shaped_like(self, config: EncoderConfig) -> dict[str, Any]:
        """A transformer of its width, depth and window that reads both ways; of as many heads as divide the width."""
        shape = {name: getattr(config, name) for name in ("dim", "max_len", "blocks", "dropout", "norm")}
        return {**shape, "backbone": "transformer", "causal": False, "heads": gcd(config.heads, config.dim), **self.shape}

    def pretraining(self, task: Task) -> PretrainSettings:
        """As the model beside it was pre-trained, but for the objective; it sees nothing of what `task` validates and tests on."""
        said: dict[str, Any] = self.like.facts.get("pretrain") or {
            name: getattr(self.settings, name) for name in ("epochs", "steps", "minutes", "batch_size", "lr", "seed")
        }
        known = {*TrainSettings.model_fields, "hold_out", "until"} - {"item_updates"}
        values = {name: value for name, value in said.items() if name in known}
        values |= {name: getattr(self.config, name) for name in ("dim", "max_len", "blocks", "heads", "norm")}
        values |= {"dropout": self.like.config.dropout, "objective": "masked"}
        if isinstance(task, Sequential) and task.split == "leave-one-out":
            values["hold_out"] = max(values.get("hold_out", 0), 2)
        if isinstance(task, Sequential) and task.split == "time":
            until = values.get("until")
            if until is None or parse_instant(until) > task.held_out_from:
                values["until"] = (EPOCH + timedelta(milliseconds=task.held_out_from)).isoformat()
        return PretrainSettings.of(values)


class PeterRecAdapter(PeterRec):
    """The same pre-training, then patches, second LayerNorms and head alone (PeterRec's own transfer, Yuan et al. 2020, section 3.3)."""

    system = "peterrec_adapter"
    shape: ClassVar[dict[str, Any]] = {"adapters": True}
    training: ClassVar[dict[str, Any]] = {**PeterRec.training, "mode": "adapter"}
