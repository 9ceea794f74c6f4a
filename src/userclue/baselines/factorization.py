"""Factorisation machines with deep parts, a history as a bag of features: NFM, DeepFM. `nn.bags` says what they compute."""

from typing import Any, ClassVar

from userclue.baselines.trained import TrainedBaseline


class NFM(TrainedBaseline):
    """Neural factorization machine (He & Chua 2017): one hidden layer (section 4.4: more do not help), dropout 0.5 (section 4.3)."""

    system = "nfm"
    tasks = ("profiling", "cold-start", "sequential")
    shape: ClassVar[dict[str, Any]] = {"backbone": "nfm", "blocks": 1, "dropout": 0.5}
    training: ClassVar[dict[str, Any]] = {"positions": "last", "head": "linear", "item_loss": "full"}
    smallest_batch = 2  # for batch norm


class DeepFM(TrainedBaseline):
    """DeepFM (Guo et al. 2017, section 3.1.4): three hidden layers of 400, ReLU, dropout 0.5."""

    system = "deepfm"
    tasks = ("profiling", "cold-start", "sequential")
    shape: ClassVar[dict[str, Any]] = {"backbone": "deepfm", "blocks": 3, "dropout": 0.5}
    training: ClassVar[dict[str, Any]] = {"positions": "last", "head": "linear", "item_loss": "full"}
