"""The artifact folder: write, verify, read, describe. It holds tensors, JSON and Parquet; nothing is pickled and loading runs no code.

config.json  model.safetensors  vocabulary.parquet  manifest.json  metrics.jsonl  README.md
a fitted model adds  task.json  head.safetensors  predictions.parquet
"""

import datetime
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from userclue.data.vocabulary import Vocabulary
from userclue.errors import ArtifactError
from userclue.files import MANIFEST, PARQUET, file_hashes, read_manifest, staged_folder, verify_files, write_json
from userclue.native import describe
from userclue.train.journal import Row, json_lines
from userclue.train.tensors import save_tensors
from userclue.version import VERSION

FORMAT_VERSION = 1
CACHE_LINE = 64  # bytes
KINDS = ("model", "fitted")
NEEDED = frozenset({"config.json", "model.safetensors", "vocabulary.parquet", "metrics.jsonl"})
REMEDY = {
    KINDS: "give a folder that `userclue pretrain` or `userclue finetune` wrote",
    ("fitted",): "give a fitted model, a folder that `userclue finetune` wrote",
}

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Artifact:
    """A verified artifact folder."""

    path: Path
    manifest: dict[str, Any]
    config: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path, kinds: tuple[str, ...] = KINDS) -> "Artifact":
        """Verify every file's SHA-256 and read the configuration; ArtifactError when anything is wrong or of another version."""
        path = Path(path)
        manifest = read_manifest(path, kinds, REMEDY[kinds])
        missing = NEEDED - manifest["files"].keys()
        if missing:
            raise ArtifactError(f"{path}: the manifest does not list {', '.join(sorted(missing))}; the artifact is damaged, make it again")
        verify_files(path, manifest, hashes=True)
        try:
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path / 'config.json'}: cannot be read ({error}); the artifact is damaged, make it again") from None
        if not isinstance(config, dict):
            raise ArtifactError(f"{path / 'config.json'}: is no JSON object; the artifact is damaged, make it again")
        version = config.get("format_version")
        if version != FORMAT_VERSION:
            raise ArtifactError(
                f"{path}: artifact format {version}, this userclue reads {FORMAT_VERSION}; "
                f"use userclue {manifest.get('userclue_version')} or train it again"
            )
        return cls(path, manifest, config)

    @property
    def hash(self) -> str:
        """SHA-256 of the weights: the name of this model in vectors and answers."""
        return str(self.manifest["files"]["model.safetensors"]["sha256"])

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Item ids of the model."""
        return Vocabulary.load(self.path / "vocabulary.parquet")

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of metrics.jsonl."""
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]

    @cached_property
    def task(self) -> dict[str, Any]:
        """task.json of a fitted model."""
        content: dict[str, Any] = json.loads((self.path / "task.json").read_text(encoding="utf-8"))
        return content

    def tensors(self, name: str = "model.safetensors") -> dict[str, Tensor]:
        """Tensors of one file; its header was checked against its size by safetensors before anything is allocated.

        They lie as PyTorch's own do, at whole cache lines, and not as the file happens to have them: the sums of a matrix product may
        be formed in another order where its factors lie elsewhere, and a model that was read would differ in its last digits.
        """
        try:
            found = load_file(self.path / name)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"{self.path / name}: cannot be read ({error}); the artifact is damaged, make it again") from None
        return {key: tensor if tensor.data_ptr() % CACHE_LINE == 0 else tensor.clone() for key, tensor in found.items()}

    def table(self, name: str) -> pa.Table:
        """A Parquet file of the folder, its page checksums verified."""
        return pq.read_table(self.path / name, page_checksum_verification=True)


def write_artifact(
    target: Path,
    kind: str,
    *,
    config: dict[str, Any],
    tensors: Mapping[str, Tensors],
    vocabulary: Vocabulary,
    rows: list[Row],
    card: str,
    documents: Mapping[str, Any] | None = None,
    tables: Mapping[str, pa.Table] | None = None,
    overwrite: bool = False,
    locked: bool = False,
) -> Artifact:
    """Write an artifact whole or not at all. `tensors`, `documents` (JSON) and `tables` map a file name to its content."""
    with staged_folder(target, overwrite, locked) as folder:
        config = {"format_version": FORMAT_VERSION, "kind": "encoder" if kind == "model" else kind, **config}
        for name, content in {"config.json": config, **(documents or {})}.items():
            write_json(folder / name, content)
        for name, group in tensors.items():
            save_tensors({key: tensor.detach().cpu().contiguous() for key, tensor in group.items()}, folder / name)
            (folder / name).chmod(0o644)  # safetensors leaves files that only their owner can read
        vocabulary.save(folder / "vocabulary.parquet")
        for name, table in (tables or {}).items():
            pq.write_table(table, folder / name, **PARQUET)
        (folder / "metrics.jsonl").write_bytes(json_lines(rows))
        (folder / "README.md").write_text(card, encoding="utf-8")
        manifest = {
            "kind": kind,
            "format_version": FORMAT_VERSION,
            "userclue_version": VERSION,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "files": file_hashes(folder),
        }
        write_json(folder / MANIFEST, manifest)
    return Artifact(target, manifest, config)


def environment() -> dict[str, Any]:
    """What a result depends on beside its settings."""
    return {
        "userclue": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "kernels": describe(),
    }
