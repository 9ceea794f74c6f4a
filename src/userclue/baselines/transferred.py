"""Systems that are pre-trained otherwise, or not: CLUEZero and PeterRec (the paper's comparison, V-A-4, VI-A), and S3-Rec."""

from datetime import UTC, datetime, timedelta
from math import gcd
from typing import Any, ClassVar

from userclue.baselines.sequential import whole_histories
from userclue.baselines.trained import TrainedBaseline
from userclue.config import EncoderConfig, FinetuneSettings, PretrainSettings, TrainSettings
from userclue.data.attribute_codes import category_columns
from userclue.data.batches import Source
from userclue.data.store import Dataset
from userclue.data.times import parse_instant
from userclue.encoder import UserEncoder
from userclue.tasks.base import Task
from userclue.tasks.sequential import Sequential

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ATTRIBUTES = ("attributes", "attribute_mix", "attribute_separator")
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


class Pretrained(TrainedBaseline):
    """A system with a pre-training of its own, under the budget, rate and batch of that of the model beside it.

    It reads the same part of the histories or an earlier one. `objective` is what it minimises.
    """

    tasks = TASKS
    objective: ClassVar[str]

    def pretraining(self, task: Task, dataset: Dataset) -> PretrainSettings:
        """As the model beside it was pre-trained, but for objective and shape; nothing of what `task` validates and tests on is seen."""
        said: dict[str, Any] = self.like.facts.get("pretrain") or {
            name: getattr(self.settings, name) for name in ("epochs", "steps", "minutes", "batch_size", "lr", "seed")
        }
        known = {*TrainSettings.model_fields, "hold_out", "until"} - {"item_updates"}
        values = {name: value for name, value in said.items() if name in known}
        values |= {name: getattr(self.config, name) for name in ("dim", "max_len", "blocks", "heads", "norm")}
        values |= {"objective": self.objective, **self.own_pretraining(dataset)}
        if isinstance(task, Sequential) and task.split == "leave-one-out":
            values["hold_out"] = max(values.get("hold_out", 0), 2)
        if isinstance(task, Sequential) and task.split == "time":
            until = values.get("until")
            if until is None or parse_instant(until) > task.held_out_from:
                values["until"] = (EPOCH + timedelta(milliseconds=task.held_out_from)).isoformat()
        return PretrainSettings.of(values)

    def own_pretraining(self, dataset: Dataset) -> dict[str, Any]:
        """Settings of the pre-training beyond objective and shape: dropout as in that of the model beside it."""
        del dataset
        return {"dropout": self.like.config.dropout}


class PeterRec(Pretrained):
    """Masked-item pre-training of the same transformer, then the whole network is fitted (as the CLUE paper compares, V-A-1).

    It reads the item attributes that the model beside it reads.
    """

    system = "peterrec"
    objective = "masked"
    training: ClassVar[dict[str, Any]] = {"mode": "finetune", "positions": "last", "item_loss": "full"}

    def shaped_like(self, config: EncoderConfig) -> dict[str, Any]:
        """A transformer of its width, depth and window that reads both ways; of as many heads as divide the width."""
        shape = {name: getattr(config, name) for name in ("dim", "max_len", "blocks", "dropout", "norm", *ATTRIBUTES)}
        return {**shape, "backbone": "transformer", "causal": False, "heads": gcd(config.heads, config.dim), **self.shape}

    def own_pretraining(self, dataset: Dataset) -> dict[str, Any]:
        """Dropout and attributes of the model beside it."""
        read = {name: getattr(self.config, name) for name in ATTRIBUTES}
        return {**super().own_pretraining(dataset), **read, "attributes": list(self.config.attributes)}


class PeterRecAdapter(PeterRec):
    """The same pre-training, then patches, second LayerNorms and head alone (PeterRec's own transfer, Yuan et al. 2020, section 3.3)."""

    system = "peterrec_adapter"
    shape: ClassVar[dict[str, Any]] = {"adapters": True}
    training: ClassVar[dict[str, Any]] = {**PeterRec.training, "mode": "adapter"}


class S3Rec(Pretrained):
    """S3-Rec (Zhou et al. 2020): its four losses read both ways, then the same weights are fitted from the past alone (section 4).

    Two layers, two heads, dropout 0.5. Every category that the items have is predicted, none is part of an embedding; without any, two
    of the losses are left. For the next item it is fitted as SASRec is here: at every position, softmax over all items scored by their
    embeddings, where the paper sets one other item against the target.
    """

    system = "s3rec"
    objective = "s3rec"
    shape: ClassVar[dict[str, Any]] = {"backbone": "transformer", "causal": True, "blocks": 2, "dropout": 0.5}
    training: ClassVar[dict[str, Any]] = {
        "mode": "finetune",
        "positions": "all",
        "head": "tied",
        "item_loss": "full",
        "item_updates": "auto",
    }

    def shaped_like(self, config: EncoderConfig) -> dict[str, Any]:
        """The paper's, at the width and window beside it; one head where two do not divide the width."""
        return {**super().shaped_like(config), "heads": gcd(2, config.dim)}

    def own_pretraining(self, dataset: Dataset) -> dict[str, Any]:
        """The paper's dropout, and the columns of categories that `dataset` has."""
        separator = self.like.config.attribute_separator
        columns = category_columns(dataset.vocabulary, separator)
        return {"dropout": self.shape["dropout"], "attribute_separator": separator, "predicted_attributes": columns or None}

    def source(self, task: Task) -> Source:
        """For the next item whole histories, as SASRec; else the task's own instances."""
        return whole_histories(task) if isinstance(task, Sequential) else task.source
