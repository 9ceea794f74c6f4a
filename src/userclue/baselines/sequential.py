"""Sequential recommenders trained from nothing: SASRec, GRU4Rec, Caser. Each reads out the last item; UR is no part of them."""

from typing import Any, ClassVar

import numpy as np

from userclue.baselines.trained import TrainedBaseline
from userclue.data.batches import Source
from userclue.data.store import Sequences
from userclue.tasks.base import FittedModel, Task
from userclue.tasks.sequential import Sequential


def whole_histories(task: Sequential) -> Source:
    """Whole training histories, the last event the target: each step learns every position of each window once.

    A history comes as often in an epoch as other systems draw a prefix of it, so that an epoch has as many steps for all.
    """
    starts, ends = (np.repeat(bounds, task.prefixes) for bounds in (task.train.starts, task.train.ends - 1))
    histories = Sequences(task.train.items, starts, ends)
    return lambda _: (histories, np.asarray(histories.items[ends]))


class SASRec(TrainedBaseline):
    """Causal transformer; the state at each item predicts the next, softmax over all items (Kang & McAuley 2018, section III).

    Two blocks, one head, feed-forward width D, learned positions, final LayerNorm, items scored by their embeddings without a bias,
    dropout 0.2 (section IV-D: 0.2 on MovieLens-1M, 0.5 on sparser data). The loss is not the paper's: see SASRecBCE.
    """

    system = "sasrec"
    tasks = ("sequential",)
    shape: ClassVar[dict[str, Any]] = {
        "backbone": "transformer",
        "causal": True,
        "blocks": 2,
        "heads": 1,
        "dropout": 0.2,
        "readout": "item",
    }
    training: ClassVar[dict[str, Any]] = {"positions": "all", "head": "tied", "item_loss": "full", "item_updates": "auto"}

    def prepare(self, model: FittedModel) -> None:
        """Leave the bias of the head at zero: SASRec has none (eq. 6)."""
        model.head.get_parameter("bias").requires_grad_(False)

    def source(self, task: Task) -> Source:
        """Whole training histories."""
        assert isinstance(task, Sequential)
        return whole_histories(task)


class SASRecBCE(SASRec):
    """SASRec with its original loss: binary cross-entropy against one other item at each position (eq. 7)."""

    system = "sasrec_bce"
    training: ClassVar[dict[str, Any]] = {**SASRec.training, "item_loss": "bce"}


class GRU4Rec(SASRec):
    """One GRU layer from a hidden state of zero, next item at each position (Hidasi et al. 2016, section 3; 2018, section 3).

    Softmax cross-entropy over all items in place of a sample of them, scored by the embeddings of the input and a bias; dropout 0.2.
    """

    system = "gru4rec"
    shape: ClassVar[dict[str, Any]] = {"backbone": "gru", "blocks": 1, "dropout": 0.2, "readout": "item"}

    def prepare(self, model: FittedModel) -> None:
        """Nothing: its output has a bias."""


class Caser(TrainedBaseline):
    """Convolutions over the window that ends in the last item, a table of its own for the output (Tang & Wang 2018, section 3).

    Softmax cross-entropy over all items in place of binary cross-entropy against three; no user embedding, which shuts out new users.
    """

    system = "caser"
    tasks = ("sequential",)
    shape: ClassVar[dict[str, Any]] = {"backbone": "caser", "dropout": 0.5, "readout": "item"}
    training: ClassVar[dict[str, Any]] = {"positions": "last", "head": "linear", "item_loss": "full"}
