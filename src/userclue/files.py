"""Whole files and folders or none: write aside, fsync, rename; and the hashes that prove a file unchanged."""

import ctypes
import fcntl
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from userclue.errors import ArtifactError, UsageError

MANIFEST = "manifest.json"
# How datasets, artifacts and results write Parquet. Ids, numbers and vectors hardly repeat: a dictionary of them costs time and room.
PARQUET: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True, "use_dictionary": False}


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step: a reader sees the old file or the new one."""
    with staged_file(path, overwrite=True) as aside:
        aside.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole, indented, keys in the order given; NaN is refused."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


@contextmanager
def parents_made(target: Path) -> Iterator[None]:
    """Make the folders above `target`; when the block fails, those made here go again, if nothing came into them."""
    missing = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()
        raise


@contextmanager
def lock(target: Path) -> Iterator[None]:
    """Hold the right to write `target`; a second writer gets a UsageError at once, not a mixed folder."""
    path = target.parent / f".{target.name}.lock"
    with parents_made(target), path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before may have removed the file between our open and our lock: then this lock guards nothing.
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise BlockingIOError
        except BlockingIOError:
            raise UsageError(f"{target}: another userclue process is writing here; wait for it or choose another output") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def refuse_existing(target: Path, overwrite: bool) -> None:
    """Raise UsageError when `target` exists and may not be replaced; only files and folders of ours are ever replaced."""
    if not target.exists() and not target.is_symlink():
        return
    if not overwrite:
        raise UsageError(f"{target}: already exists; choose another output or add --overwrite")
    if target.is_dir() and any(target.iterdir()) and not _is_ours(target):
        raise UsageError(f"{target}: is a folder that userclue did not write, so --overwrite will not delete it; choose another output")


def _is_ours(folder: Path) -> bool:
    """By its manifest (others write a manifest.json too), or as an interrupted run, which holds checkpoints and nothing else."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        checkpoint = folder / "checkpoint"
        return list(folder.iterdir()) == [checkpoint] and checkpoint.is_dir() and all("step-" in one.name for one in checkpoint.iterdir())
    except (ValueError, OSError):
        return False
    return isinstance(manifest, dict) and isinstance(manifest.get("kind"), str) and isinstance(manifest.get("files"), dict)


def replace_folder(aside: Path, target: Path) -> None:
    """Put the finished folder `aside` at `target`, taking away what stood there."""
    for path in sorted(aside.rglob("*")):
        fsync(path)
    fsync(aside)
    if not target.exists():
        os.rename(aside, target)
    elif not _exchange(aside, target):
        old = aside.with_name(aside.name.replace(".partial", ".old"))
        os.rename(target, old)
        os.rename(aside, target)
        os.rename(old, aside)
    fsync(target.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step, so that a reader never finds neither; False where the system cannot (only Linux can)."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0)


def _recover(target: Path) -> None:
    """Undo what a killed process left: put an old folder back that was moved away and not replaced, remove what was half-written."""
    # The eight digits of staged_folder; a star would also meet what is being written for `model.v2` beside `model`.
    aside = f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}"
    for old in target.parent.glob(f"{aside}.old"):
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, target)
    for leftover in target.parent.glob(f"{aside}.partial"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def staged_folder(target: Path, overwrite: bool = False, locked: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `target`; on success it becomes `target`, on any error it is removed.

    Raises UsageError when `target` exists without `overwrite`, or another process writes it (`locked`: the caller holds the lock).
    What a killed process left aside is removed by the next writer of the same target.
    """
    refuse_existing(target, overwrite)
    if target.is_file():
        raise UsageError(f"{target}: is a file; give the name of a folder")
    with nullcontext() if locked else lock(target):
        _recover(target)
        aside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.partial"
        aside.mkdir()
        try:
            yield aside
            replace_folder(aside, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def staged_file(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a path beside `target` to write to; on success the file becomes `target`, on any error it is removed."""
    if target.is_dir():
        raise UsageError(f"{target}: is a folder; give the name of a file")
    if target.exists() and not overwrite:
        raise UsageError(f"{target}: already exists; choose another output or add --overwrite")
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    with parents_made(target):
        try:
            yield aside
            fsync(aside)
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
    fsync(target.parent)


def file_hashes(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file directly in `folder`, the manifest apart."""
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != MANIFEST
    }


def read_manifest(folder: Path, kind: str | tuple[str, ...], remedy: str) -> dict[str, Any]:
    """The manifest of a folder of ours; ArtifactError when there is none, it is torn, or it is of another kind."""
    kinds = (kind,) if isinstance(kind, str) else kind
    wanted = " or ".join(kinds)
    manifest: Any
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not folder.exists():
            raise ArtifactError(f"{folder}: no such folder; {remedy}") from None
        if (folder / "checkpoint").exists():
            raise ArtifactError(f"{folder}: holds an unfinished training run; finish it with `userclue pretrain … --resume`") from None
        raise ArtifactError(f"{folder}: is not a userclue {wanted} (it has no {MANIFEST}); {remedy}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise ArtifactError(f"{folder}: {MANIFEST} cannot be read ({error}); {remedy}") from None
    found = manifest.get("kind") if isinstance(manifest, dict) else None
    if found not in kinds:
        article = "an" if wanted[0] in "aeiou" else "a"
        raise ArtifactError(f"{folder}: is a userclue {found or 'folder of another kind'}, not {article} {wanted}; {remedy}")
    if not isinstance(manifest.get("files"), dict):
        raise ArtifactError(f"{folder}: {MANIFEST} lists no files; {remedy}")
    content: dict[str, Any] = manifest
    return content


def verify_files(folder: Path, manifest: dict[str, Any], hashes: bool) -> None:
    """Check every file the manifest names: presence and size always, SHA-256 if `hashes`. Raises ArtifactError."""
    for name, expected in manifest["files"].items():
        path = folder / name
        if not isinstance(expected, dict) or not {"bytes", "sha256"} <= expected.keys():
            raise ArtifactError(f"{folder}: {MANIFEST} gives no size and SHA-256 of {name}; the folder is damaged, make it again")
        if Path(name).name != name or not path.is_file():
            raise ArtifactError(f"{folder}: {name} is missing; the folder is damaged, make it again")
        if path.stat().st_size != expected["bytes"]:
            raise ArtifactError(
                f"{path}: has {path.stat().st_size} bytes, its manifest says {expected['bytes']}; the file is damaged, make it again"
            )
        if hashes and sha256(path) != expected["sha256"]:
            raise ArtifactError(f"{path}: its SHA-256 differs from the manifest's; the file was changed or is damaged, make it again")
