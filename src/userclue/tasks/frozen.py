"""What fine-tuning has to beat: a linear model on the bag of items and the vectors of the pre-trained encoder as they are.

It is convex and fitted in seconds. Few labels teach it more than they teach a network of a hundred times its parameters.
"""

import copy

import numpy as np
import torch
from torch import Tensor

from userclue.tasks.base import FittedModel
from userclue.tasks.profiling import Profiling
from userclue.tasks.wide import Classifier


class Frozen:
    """The encoder as it was when this was made, and the linear model on it. losses: log-loss of each validation user, float64 [n]."""

    def __init__(self, model: FittedModel, task: Profiling, classifier: Classifier) -> None:
        self.encoder: dict[str, Tensor] = copy.deepcopy(model.encoder.state_dict())
        vectors, valid_vectors = (model.encoder.vectors(part.inputs).astype(np.float64) for part in (task.train, task.valid))
        self.wide, weights, self.losses = classifier.fit_with(task.train, task.valid, vectors, valid_vectors)
        self.head = {"weight": torch.from_numpy(weights).float(), "bias": torch.zeros(len(weights))}

    def install(self, model: FittedModel) -> None:
        """Make `model` this one."""
        model.encoder.load_state_dict(self.encoder)
        model.head.load_state_dict(self.head)
        model.wide = self.wide
        model.facts["trained_parameters"] = sum(tensor.numel() for tensor in self.head.values())
