"""A process that encodes the users it is told to, for `embed --workers` and `UserEncoder.encode(…, workers=…)`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from userclue.artifact import Artifact
from userclue.data.inputs import Histories, of_dataset
from userclue.data.store import Dataset, Sequences
from userclue.data.vocabulary import Vocabulary
from userclue.encoder import UserEncoder
from userclue.encoding import answer_of, piece
from userclue.errors import ArtifactError
from userclue.workers import Answer, serve


def begin(task: dict[str, Any]) -> Callable[[dict[str, Any]], Answer]:
    """Open model and histories; ArtifactError when the model is not the one that was meant."""
    torch.set_num_threads(1)
    artifact = Artifact.open(task["model"])
    if artifact.hash != task["hash"]:
        raise ArtifactError(f"{artifact.path}: was replaced by another model in the meantime; run again")
    encoder = UserEncoder.from_artifact(artifact)
    histories = _histories(task, encoder.vocabulary)
    return lambda request: answer_of(piece(encoder.vectors, histories, request["begin"], request["end"]))


def _histories(task: dict[str, Any], vocabulary: Vocabulary) -> Histories:
    if "dataset" in task:
        return of_dataset(Dataset.open(task["dataset"]), vocabulary)
    items, offsets = (np.load(Path(task["histories"]) / f"{name}.npy", mmap_mode="r") for name in ("items", "offsets"))
    return Histories(Sequences.from_offsets(items, offsets), None)


if __name__ == "__main__":
    serve(begin)
