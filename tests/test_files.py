"""Whole or not at all: staged folders and files, locks, and the hashes that catch a flipped bit."""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys

import pytest

from userclue.errors import ArtifactError, UsageError
from userclue.files import (
    MANIFEST,
    file_hashes,
    lock,
    read_manifest,
    refuse_existing,
    sha256,
    staged_file,
    staged_folder,
    verify_files,
    write_bytes,
    write_json,
)


def ours(folder, content=b"old"):
    """A whole folder of ours."""
    folder.mkdir(parents=True)
    (folder / "data.bin").write_bytes(content)
    write_json(folder / MANIFEST, {"kind": "thing", "files": file_hashes(folder)})
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fill(aside):
    (aside / "sub").mkdir()
    (aside / "data.bin").write_bytes(b"new")
    (aside / "sub" / "more").write_bytes(b"deep")


def test_staged_folder_appears_whole(tmp_path):
    target = tmp_path / "a" / "b" / "out"
    with staged_folder(target) as aside:
        fill(aside)
        assert not target.exists()
    assert contents(tmp_path) == {"a/b/out/data.bin": b"new", "a/b/out/sub/more": b"deep"}


@pytest.mark.parametrize("before", ["nothing", "ours"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_leaves_what_was_there_and_nothing_else(tmp_path, before, error):
    target = tmp_path / "out"
    if before == "ours":
        ours(target)
    seen = contents(tmp_path)

    def fail():
        with staged_folder(target, overwrite=True) as aside:
            fill(aside)
            raise error

    with pytest.raises(error):
        fail()
    assert contents(tmp_path) == seen
    assert target.exists() == (before == "ours")


def test_existing_is_refused_without_overwrite_before_anything_is_written(tmp_path):
    target = ours(tmp_path / "out")
    with pytest.raises(UsageError, match=r"out: already exists; choose another output or add --overwrite"), staged_folder(target):
        pytest.fail("must not begin")
    assert sorted(os.listdir(tmp_path)) == ["out"]


@pytest.mark.parametrize("exchange", [True, False])
def test_overwrite_replaces_the_whole_folder(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr("userclue.files._exchange", lambda first, second: False)
    target = ours(tmp_path / "out")
    (target / "stale").write_bytes(b"stale")
    with staged_folder(target, overwrite=True) as aside:
        fill(aside)
    assert contents(tmp_path) == {"out/data.bin": b"new", "out/sub/more": b"deep"}
    assert os.listdir(tmp_path) == ["out"]


def test_an_empty_folder_and_an_interrupted_run_are_ours(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "run" / "checkpoint" / "step-000000003").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint" / ".step-000000004.partial").mkdir()
    for name in ("empty", "run"):
        with staged_folder(tmp_path / name, overwrite=True) as aside:
            fill(aside)
        assert contents(tmp_path / name) == {"data.bin": b"new", "sub/more": b"deep"}


FOREIGN = {
    "a photograph": {"photo.jpg": b"x"},
    "somebody else's manifest": {MANIFEST: b'{"name": "my extension", "manifest_version": 3}', "background.js": b"x"},
    "a manifest that is no JSON": {MANIFEST: b"{", "notes.txt": b"x"},
    "a manifest that is a list": {MANIFEST: b"[]"},
    "a folder of somebody else's checkpoints": {"checkpoint/model.pt": b"x"},
    "checkpoints of ours among other things": {"checkpoint/step-000000001/state.json": b"x", "thesis.tex": b"x"},
    "a file named checkpoint": {"checkpoint": b"x"},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_that_is_not_ours_is_never_deleted(tmp_path, name):
    target = tmp_path / "out"
    for path, content in FOREIGN[name].items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(content)
    seen = contents(tmp_path)
    with (
        pytest.raises(UsageError, match=r"out: is a folder that userclue did not write, so --overwrite will not delete it"),
        staged_folder(target, overwrite=True),
    ):
        pytest.fail("must not begin")
    with pytest.raises(UsageError, match="did not write"):
        refuse_existing(target, overwrite=True)
    assert contents(tmp_path) == seen


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    target = tmp_path / "events.csv"
    target.write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"events.csv: is a file; give the name of a folder"), staged_folder(target, overwrite=True):
        pytest.fail("must not begin")
    assert contents(tmp_path) == {"events.csv": b"precious"}


def test_a_second_writer_is_refused_at_once(tmp_path):
    target = tmp_path / "out"
    with staged_folder(target) as first:
        fill(first)
        with pytest.raises(UsageError, match=r"out: another userclue process is writing here"), staged_folder(target):
            pytest.fail("must not begin")
        with staged_folder(tmp_path / "other") as second:
            fill(second)
    assert sorted(os.listdir(tmp_path)) == ["other", "out"]
    assert len(contents(target)) == 2


HOLD = """
import sys, time
from pathlib import Path
from userclue.files import staged_folder
with staged_folder(Path(sys.argv[1])) as aside:
    (aside / "data.bin").write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_another_process_is_refused_and_its_leftovers_are_cleared_when_it_is_killed(tmp_path):
    target = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(target)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"ready\n"
        try:
            with pytest.raises(UsageError, match="another userclue process is writing here"), lock(target):
                pytest.fail("must not begin")
        finally:
            other.send_signal(signal.SIGKILL)
    assert not target.exists()
    assert any(name.endswith(".partial") for name in os.listdir(tmp_path))
    with staged_folder(target) as aside:
        fill(aside)
    assert os.listdir(tmp_path) == ["out"]


def test_what_a_kill_between_the_renames_left_is_put_back(tmp_path):
    """Only where two names cannot be exchanged in one step; then the next writer finds the old folder again."""
    ours(tmp_path / ".out.0123abcd.old")
    with pytest.raises(ValueError, match="on purpose"), staged_folder(tmp_path / "out", overwrite=True):
        raise ValueError("on purpose")
    assert sorted(contents(tmp_path)) == ["out/data.bin", "out/manifest.json"]


def test_neighbours_of_a_like_name_are_not_leftovers(tmp_path):
    with staged_folder(tmp_path / "model.v2") as neighbour:
        fill(neighbour)
        for name in ("model", "*", "[m]odel"):
            with staged_folder(tmp_path / name) as aside:
                fill(aside)
        assert len(contents(neighbour)) == 2
    assert sorted(os.listdir(tmp_path)) == ["*", "[m]odel", "model", "model.v2"]


def test_staged_file_is_whole_or_absent(tmp_path):
    target = tmp_path / "sub" / "out.bin"
    with staged_file(target) as aside:
        aside.write_bytes(b"one")
        assert not target.exists()
    assert target.read_bytes() == b"one"
    with pytest.raises(UsageError, match=r"out.bin: already exists"), staged_file(target):
        pytest.fail("must not begin")

    def fail():
        with staged_file(target, overwrite=True) as aside:
            aside.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert contents(tmp_path) == {"sub/out.bin": b"one"}
    with staged_file(target, overwrite=True) as aside:
        aside.write_bytes(b"two")
    assert contents(tmp_path) == {"sub/out.bin": b"two"}
    with pytest.raises(UsageError, match="is a folder; give the name of a file"), staged_file(tmp_path, overwrite=True):
        pytest.fail("must not begin")


def stage(target):
    with staged_folder(target, overwrite=True) as aside:
        (aside / "data.bin").write_bytes(bytes(100_000))


@pytest.mark.parametrize("write", [stage, lambda target: write_bytes(target / "data.bin", bytes(100_000))], ids=["folder", "file"])
def test_no_room_leaves_the_older_content(tmp_path, write):
    target = ours(tmp_path / "out")
    seen = contents(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # Python ignores the signal, so that writing fails as on a full disk
    try:
        with pytest.raises(OSError, match="File too large"):
            write(target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == seen


def test_json_is_readable_exact_and_refuses_nan(tmp_path):
    path = tmp_path / "one.json"
    write_json(path, {"z": 1, "a": [0.1, None, "é"]})
    assert path.read_text(encoding="utf-8") == '{\n  "z": 1,\n  "a": [\n    0.1,\n    null,\n    "é"\n  ]\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8"))["z"] == 1
    write_bytes(path, b"other")
    assert os.listdir(tmp_path) == ["one.json"]


def test_hashes_are_sha256(tmp_path):
    content = os.urandom(300_000)
    (tmp_path / "data.bin").write_bytes(content)
    assert sha256(tmp_path / "data.bin") == hashlib.sha256(content).hexdigest()
    (tmp_path / MANIFEST).write_text("{}")
    (tmp_path / "sub").mkdir()
    assert file_hashes(tmp_path) == {"data.bin": {"bytes": 300_000, "sha256": hashlib.sha256(content).hexdigest()}}


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_bit, "data.bin: its SHA-256 differs from the manifest's"),
        (lambda path: path.write_bytes(b"ol"), "data.bin: has 2 bytes, its manifest says 3"),
        (lambda path: path.unlink(), "data.bin is missing; the folder is damaged, make it again"),
        (lambda path: (path.unlink(), path.mkdir()), "data.bin is missing"),
    ],
)
def test_damage_is_found(tmp_path, damage, message):
    folder = ours(tmp_path / "out")
    manifest = read_manifest(folder, "thing", "remedy")
    verify_files(folder, manifest, hashes=True)
    damage(folder / "data.bin")
    with pytest.raises(ArtifactError, match=message):
        verify_files(folder, manifest, hashes=True)


def test_without_hashes_presence_and_size_are_still_checked(tmp_path):
    folder = ours(tmp_path / "out")
    flip_a_bit(folder / "data.bin")
    manifest = read_manifest(folder, "thing", "remedy")
    verify_files(folder, manifest, hashes=False)
    (folder / "data.bin").write_bytes(b"longer")
    with pytest.raises(ArtifactError, match="has 6 bytes"):
        verify_files(folder, manifest, hashes=False)


@pytest.mark.parametrize("name", ["../secret", "sub/../../secret", "/etc/hostname", ".", "..", "", "sub/x"])
def test_a_manifest_cannot_lead_out_of_its_folder(tmp_path, name):
    folder = ours(tmp_path / "out")
    (tmp_path / "secret").write_bytes(b"old")
    entry = {"bytes": 3, "sha256": sha256(tmp_path / "secret")}
    with pytest.raises(ArtifactError, match="is missing; the folder is damaged"):
        verify_files(folder, {"files": {name: entry}}, hashes=True)


@pytest.mark.parametrize("entry", [None, 3, [], {}, {"bytes": 3}, {"sha256": "0"}])
def test_a_manifest_without_sizes_or_hashes_is_damaged(tmp_path, entry):
    folder = ours(tmp_path / "out")
    with pytest.raises(ArtifactError, match=r"manifest.json gives no size and SHA-256 of data.bin"):
        verify_files(folder, {"files": {"data.bin": entry}}, hashes=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"manifest.json cannot be read \(.*\); remedy"),
        (b"\xff\xfe", r"manifest.json cannot be read"),
        (b"[]", "is a userclue folder of another kind, not a thing or other; remedy"),
        (b'{"kind": "dataset"}', "is a userclue dataset, not a thing or other; remedy"),
        (b'{"kind": "thing"}', r"manifest.json lists no files; remedy"),
        (b'{"kind": "thing", "files": []}', r"manifest.json lists no files; remedy"),
    ],
)
def test_manifest_that_is_not_the_wanted(tmp_path, content, message):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        read_manifest(tmp_path, ("thing", "other"), "remedy")


def test_folder_without_manifest(tmp_path):
    with pytest.raises(ArtifactError, match=r"none: no such folder; remedy"):
        read_manifest(tmp_path / "none", "thing", "remedy")
    with pytest.raises(ArtifactError, match=r"is not a userclue thing \(it has no manifest.json\); remedy"):
        read_manifest(tmp_path, "thing", "remedy")
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(ArtifactError, match=r"holds an unfinished training run; finish it with `userclue pretrain … --resume`"):
        read_manifest(tmp_path, "thing", "remedy")
