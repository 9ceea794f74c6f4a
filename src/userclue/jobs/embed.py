"""The job `embed`: vectors for all users of a log, seen in training or not, written piece by piece."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from userclue.artifact import Artifact
from userclue.data.inputs import open_histories
from userclue.encoder import ENCODE_CHUNK, UserEncoder
from userclue.errors import DataError
from userclue.files import staged_file
from userclue.train.loop import device_of
from userclue.version import VERSION


@dataclass(frozen=True)
class Embedding:
    """What `embed` did: where the vectors are, how many users and dimensions, and how much of their histories was unknown."""

    output: Path
    users: int
    dim: int
    unknown_items: int
    seconds: float
    warnings: list[str] = field(default_factory=list)

    @property
    def users_per_second(self) -> float:
        """Encoding alone, reading of the events apart."""
        return self.users / max(self.seconds, 1e-9)


def embed(model: str | Path, source: Any, out: str | Path, *, overwrite: bool = False, device: str = "auto", **columns: Any) -> Embedding:
    """Encode every user of `source` and write `out`: Parquet with `user_id` as in the log and `embedding`, a fixed-size list of float32.

    `source`: event files, a frame of events, or a dataset; `columns` names the columns of a log, as in `prepare`. Users need not
    have been in training. The file's metadata holds the model's hash. Raises ArtifactError, DataError, UsageError.
    """
    artifact = Artifact.open(model)
    encoder = UserEncoder.from_artifact(artifact).to(device_of(device))
    dim = encoder.config.dim
    out = Path(out)
    users = unknown = all_unknown = 0
    seconds = 0.0
    with staged_file(out, overwrite) as aside, open_histories(source, encoder.vocabulary, **columns) as opened:
        if opened.users is None:
            raise DataError("lists of items name no users; embed needs events or a dataset (UserEncoder.encode takes lists)")
        note = {"model": artifact.hash, "dim": dim, "userclue_version": VERSION}
        schema = pa.schema(
            [("user_id", opened.users.type), ("embedding", pa.list_(pa.float32(), dim))],
            metadata={b"userclue": json.dumps(note).encode()},
        )
        with pq.ParquetWriter(aside, schema, compression="zstd", write_page_checksum=True) as writer:
            for sequences, missing in opened.chunks(ENCODE_CHUNK):
                begin = time.perf_counter()
                vectors = encoder.vectors(sequences)
                seconds += time.perf_counter() - begin
                ids = opened.users.slice(users, len(sequences)).combine_chunks()
                column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim)
                writer.write_table(pa.Table.from_arrays([ids, column], schema=schema))
                users += len(sequences)
                unknown += int(missing.sum())
                all_unknown += int(np.sum(missing == sequences.lengths))
    warnings = []
    if all_unknown:
        warnings.append(
            f"{all_unknown} of {users} users have only items that the model does not know: their vectors say nothing but the length of "
            "the history; pre-train again with newer data"
        )
    return Embedding(out, users, dim, unknown, seconds, warnings)
