"""The job `embed`: vectors for all users of a log, seen in training or not, written piece by piece."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from userclue.artifact import Artifact
from userclue.config import EmbedSettings
from userclue.data.inputs import Histories, open_histories
from userclue.data.store import Dataset
from userclue.encoder import UserEncoder
from userclue.encoding import ENCODE_CHUNK, Piece, bounds, encoding_workers, piece, worker_count
from userclue.errors import DataError, Interrupted
from userclue.files import PARQUET, lock, staged_file
from userclue.jobs.kept import Kept, folder_of
from userclue.native import describe
from userclue.train.interrupt import StopRequest, stop_on_signal
from userclue.train.loop import device_of
from userclue.version import VERSION


@dataclass
class Embedding:
    """What `embed` did: where the vectors are, how many users and dimensions, and how much of their histories was unknown.

    workers: processes that encoded, ready after start_seconds. kept: users whose vectors an interrupted run had left.
    """

    output: Path
    users: int
    dim: int
    workers: int = 1
    kept: int = 0
    unknown_items: int = 0
    seconds: float = 0.0
    start_seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)

    @property
    def users_per_second(self) -> float:
        """Encoding alone; reading the events and starting the workers apart."""
        return (self.users - self.kept) / max(self.seconds, 1e-9)


def embed(
    model: str | Path,
    source: Any,
    out: str | Path,
    *,
    overwrite: bool = False,
    device: str = "auto",
    workers: int | None = None,
    checkpoint_every: int | None = None,
    **columns: Any,
) -> Embedding:
    """Encode every user of `source` and write `out`: Parquet with `user_id` as in the log and `embedding`, a fixed-size list of float32.

    `source`: event files, a frame of events, or a dataset; `columns` names the columns of a log, as in `prepare`. Users need not
    have been in training. The file's metadata holds the model's hash.

    `workers`: processes that share the users out on a CPU, each on one thread; as many as PyTorch has threads if not given, and as pay.
    The vectors are the same to the bit whatever their number. `checkpoint_every`: keep what is done whenever so many users have come
    together; the same call then goes on where a killed run was, and its file is the same to the byte.

    Raises ArtifactError, DataError, UsageError, and Interrupted when it or a worker is stopped by a signal.
    """
    EmbedSettings.of({"device": device, "workers": workers, "checkpoint_every": checkpoint_every})
    out = Path(out)
    artifact = Artifact.open(model)
    encoder = UserEncoder.from_artifact(artifact).to(device_of(device))
    with ExitStack() as stack:
        if checkpoint_every is not None or folder_of(out).is_dir():
            stack.enter_context(lock(out))
        aside = stack.enter_context(staged_file(out, overwrite))
        opened = stack.enter_context(open_histories(source, encoder.vocabulary, **columns))
        if opened.users is None or opened.dataset is None:
            raise DataError("lists of items name no users; embed needs events or a dataset (UserEncoder.encode takes lists)")
        kept = None
        if checkpoint_every is not None or folder_of(out).is_dir():
            kept = Kept(out, _fingerprint(artifact, opened.dataset, encoder.device), checkpoint_every, overwrite)
        n, done = len(opened.sequences), 0 if kept is None else kept.users
        count = worker_count(workers, n - done, encoder.device.type, torch.get_num_threads())
        result = Embedding(out, n, encoder.config.dim, count, done, warnings=[] if kept is None else kept.warnings)
        if count > 1:
            processes = stack.enter_context(encoding_workers(artifact.path, artifact.hash, opened, count))
            result.start_seconds = processes.start_seconds
            fresh = processes.pieces(n, done)
        else:
            stack.enter_context(_one_thread())
            fresh = (piece(encoder.vectors, opened, *one) for one in bounds(n, done))
        with stop_on_signal() as request:
            _write(aside, artifact, opened, _followed(fresh, kept, request, result), result)
    if kept is not None:
        kept.remove()
    return result


def _write(aside: Path, artifact: Artifact, opened: Histories, pieces: Iterator[Piece], result: Embedding) -> None:
    """The file, a row group a piece, and the counts."""
    assert opened.users is not None
    note = {"model": artifact.hash, "dim": result.dim, "userclue_version": VERSION}
    schema = pa.schema(
        [("user_id", opened.users.type), ("embedding", pa.list_(pa.float32(), result.dim))],
        metadata={b"userclue": json.dumps(note).encode()},
    )
    users = nothing_known = 0
    with pq.ParquetWriter(aside, schema, **PARQUET) as writer:
        for one in pieces:
            ids = opened.users.slice(users, len(one)).combine_chunks()
            column = pa.FixedSizeListArray.from_arrays(pa.array(one.vectors.ravel()), result.dim)
            writer.write_table(pa.Table.from_arrays([ids, column], schema=schema))
            users += len(one)
            result.unknown_items += one.unknown
            nothing_known += one.nothing_known
    if nothing_known:
        result.warnings.append(
            f"{nothing_known} of {users} users have only items that the model does not know: their vectors say nothing but the length of "
            "the history; pre-train again with newer data"
        )


def _followed(fresh: Iterator[Piece], kept: Kept | None, request: StopRequest, result: Embedding) -> Iterator[Piece]:
    """What is kept already, then the fresh pieces: timed, kept where asked for, and cut off by a signal."""
    if kept is not None:
        yield from kept.pieces()
    while True:
        begin = time.perf_counter()
        try:
            one = next(fresh, None)
        except Interrupted as error:
            raise Interrupted(f"{error}; {_left(kept)}") from None
        result.seconds += time.perf_counter() - begin
        if one is None:
            return
        if kept is not None:
            kept.add(one)
        if request.received is not None:
            raise Interrupted(f"stopped by {request.received}; {_left(kept)}")
        yield one


def _left(kept: Kept | None) -> str:
    return "nothing was written" if kept is None else f"the vectors of {kept.users} users are kept, the same command goes on from there"


def _fingerprint(artifact: Artifact, dataset: Path, device: torch.device) -> dict[str, Any]:
    """What the bits of the vectors depend on."""
    data, model = Dataset.open(dataset).manifest["files"], artifact.manifest["files"]
    return {
        "model": [model[name]["sha256"] for name in ("model.safetensors", "config.json", "vocabulary.parquet")],
        "data": [data[name]["sha256"] for name in ("items.npy", "offsets.npy", "users.parquet", "vocabulary.parquet")],
        "machine": [describe(), device.type, torch.__version__, VERSION],
        "piece": ENCODE_CHUNK,
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    """As a worker has it: how many threads multiply may show in the last bit of a product."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
