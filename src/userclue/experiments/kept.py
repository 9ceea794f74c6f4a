"""What a reproduction keeps in its folder.

manifest.json      scale, budget, experiments and which cell stands where in each
data/NAME/         prepared sources                    encoders/KEY/      pre-trained models, each made once
cells/KEY.parquet  a finished cell, whole or not at all: a row an instance, and in the file's metadata the record as JSON
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from userclue.config import PretrainSettings
from userclue.encoder import UserEncoder
from userclue.errors import ArtifactError
from userclue.experiments.cells import Yield
from userclue.experiments.material import Material
from userclue.files import PARQUET, staged_file
from userclue.jobs.pretrain import run_pretraining
from userclue.train.journal import Watch

RECORD = b"userclue"


class Encoders:
    """Pre-trained encoders by data and settings; one that is not there yet is made, and goes on where an interrupted one stopped."""

    def __init__(self, folder: Path, watch: Watch) -> None:
        self.folder, self.watch = folder, watch

    def __call__(self, material: Material, settings: PretrainSettings) -> UserEncoder:
        """The encoder that `settings` make of the data."""
        told = json.dumps([material.fingerprint, settings.model_dump(exclude={"checkpoint_seconds"})], sort_keys=True)
        path = self.folder / hashlib.sha256(told.encode()).hexdigest()[:24]
        if path.exists() and not (path / "checkpoint").is_dir():
            return UserEncoder.from_pretrained(path)
        resume = (path / "checkpoint").is_dir()
        return run_pretraining(material.dataset, settings, path, resume=resume, watch=self.watch).encoder


def write_cell(path: Path, found: Yield) -> None:
    """Write a finished cell: aside, synced, renamed."""
    table = found.table.replace_schema_metadata({RECORD: json.dumps(found.record, allow_nan=False).encode()})
    with staged_file(path, overwrite=True) as aside:
        pq.write_table(table, aside, **PARQUET)


def read_cell(path: Path) -> Yield:
    """A finished cell; ArtifactError when its file is damaged."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        record: dict[str, Any] = json.loads(table.schema.metadata[RECORD])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(f"{path}: cannot be read ({reason}); delete it and call again, and it is made anew") from None
    return Yield(record, table)
