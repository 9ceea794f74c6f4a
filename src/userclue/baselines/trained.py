"""What all trained baselines share: a recipe of encoder, loss and settings, fitted to a task as a model of ours is.

The contract of a trained baseline:
    Class(like, settings)              like: the encoder beside which it stands, for width and window; settings: of its training
    pretraining(task, dataset)         settings of the pre-training it starts from; None where there is none
    fit(task, dataset, start) -> FittedModel  with `scores`, `predict` or `recommend`, `save_pretrained`; start: what was pre-trained
"""

from typing import Any, ClassVar

import torch

from userclue.config import EncoderConfig, FinetuneSettings, PretrainSettings
from userclue.data.batches import Source
from userclue.data.store import Dataset
from userclue.encoder import UserEncoder
from userclue.errors import DataError
from userclue.tasks.base import FittedModel, Task
from userclue.tasks.fitting import INIT, fit_model, unfitted
from userclue.train.journal import UNWATCHED, Watch
from userclue.train.loop import seeded_generator


class TrainedBaseline:
    """A network that starts at random and learns from the training part of a task alone.

    Its width, window (`max_len`) and item numbering are those of the encoder beside which it stands; `shape` and `training` are what
    the system's own paper sets in EncoderConfig and FinetuneSettings. Dropout is the paper's unless the settings say.
    """

    system: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]]
    shape: ClassVar[dict[str, Any]] = {}
    training: ClassVar[dict[str, Any]] = {}
    smallest_batch: ClassVar[int] = 1

    def __init__(self, like: UserEncoder, settings: FinetuneSettings) -> None:
        self.like = like
        dropout = {} if settings.dropout is None else {"dropout": settings.dropout}
        self.config = EncoderConfig.of({**self.shaped_like(like.config), **dropout})
        self.settings = FinetuneSettings.of({**settings.model_dump(), "mode": "scratch", "with_scratch": False, **self.training})

    def shaped_like(self, config: EncoderConfig) -> dict[str, Any]:
        """The encoder's shape, beside an encoder of `config`."""
        return {"dim": config.dim, "max_len": config.max_len, **self.shape}

    def pretraining(self, task: Task, dataset: Dataset) -> PretrainSettings | None:
        """Settings of the pre-training on `dataset` that `fit` starts from, on what it may see for an honest test of `task`: none."""

    def fit(self, task: Task, dataset: Dataset, start: UserEncoder | None = None, watch: Watch = UNWATCHED) -> FittedModel:
        """Fit to the training part of `task`, stopping on its validation part. `start`: what `pretraining` made.

        Raises DataError when there are fewer instances than a batch needs, UsageError when the loss is no longer a number.
        """
        if task.n_train < self.smallest_batch:
            raise DataError(f"{dataset.path}: {task.n_train} training instance(s); {self.system} needs {self.smallest_batch}")
        generator = seeded_generator(torch.device("cpu"), self.settings.seed, INIT)
        model = unfitted(task, self.encoder(generator, start), self.system, self.settings, dataset, generator)
        self.prepare(model)
        fit_model(model, task, self.settings, watch, self.source(task), self.smallest_batch)
        return model

    def encoder(self, generator: torch.Generator, start: UserEncoder | None) -> UserEncoder:
        """The encoder before the first step of the fit: random, and from `start` where there is one."""
        encoder = UserEncoder.new(self.config, self.like.vocabulary, generator)
        encoder.facts = {key: value for key, value in self.like.facts.items() if key != "pretrain"}
        if start is not None:
            known = UserEncoder.new(self.config.model_copy(update={"adapters": False}), self.like.vocabulary, generator)
            known.start_from(start)  # by item id: the data may number its items otherwise
            encoder.load_state_dict({**encoder.state_dict(), **known.state_dict()})  # new patches keep their own start
            encoder.facts = dict(start.facts)
        return encoder

    def prepare(self, model: FittedModel) -> None:
        """What is to be done to the model before its first step: nothing."""

    def source(self, task: Task) -> Source:
        """Where an epoch's instances come from: the task."""
        return task.source
