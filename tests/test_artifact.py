"""The artifact folder: what is damaged, foreign, newer, absurd or dangerous is refused with one line, and nothing in it is run."""

import json
import os
import pickle
import resource
import shutil
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from userclue.artifact import Artifact, environment
from userclue.config import EncoderConfig
from userclue.data.vocabulary import Vocabulary
from userclue.encoder import UserEncoder
from userclue.errors import ArtifactError
from userclue.files import MANIFEST, file_hashes, write_json

torch.set_num_threads(1)

HISTORIES = [["a", "b"], ["c"]]


def new(ids=("a", "b", "c"), seed=0, dim=8):
    config = EncoderConfig.of({"dim": dim, "heads": 2, "blocks": 1, "max_len": 6})
    return UserEncoder.new(config, Vocabulary.from_ids(list(ids)), torch.Generator().manual_seed(seed))


@pytest.fixture
def model(tmp_path):
    encoder = new()
    encoder.rows = [{"step": 1, "loss": -0.25}]
    encoder.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def sign(folder, **changes):
    """Make the manifest fit the files again, as one would who wants a changed artifact to pass."""
    manifest = json.loads((folder / MANIFEST).read_text()) | {"files": file_hashes(folder)} | changes
    write_json(folder / MANIFEST, manifest)


def change_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    write_json(folder / "config.json", config)
    sign(folder)


def test_weights_lie_where_pytorch_would_have_them(model, monkeypatch):
    def astray(path):
        return {name: torch.cat([one.new_zeros(1), one.flatten()])[1:].view(one.shape) for name, one in load_file(path).items()}

    monkeypatch.setattr("userclue.artifact.load_file", astray)
    loaded = UserEncoder.from_pretrained(model)
    assert {one.data_ptr() % 64 for one in loaded.parameters()} == {0}


@pytest.mark.parametrize("items", [40, 2000], ids=["fewer items than events", "more"])
def test_a_vector_does_not_depend_on_the_users_beside_it(items):
    encoder = new([f"i{n}" for n in range(items)], dim=64)
    chosen = np.random.default_rng(0)
    histories = [[f"i{n}" for n in chosen.integers(0, 40, length)] for length in chosen.integers(1, 7, 301)]
    together = encoder.encode(histories)
    assert np.array_equal(encoder.encode(histories[::-1])[::-1], together)
    assert np.array_equal(encoder.encode(histories[1:100]), together[1:100])
    assert np.array_equal(encoder.encode(histories[:2]), together[:2])


def refused(folder, message):
    with pytest.raises(ArtifactError, match=message) as caught:
        UserEncoder.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_the_folder_holds_what_it_promises(model):
    names = {"config.json", "model.safetensors", "vocabulary.parquet", "manifest.json", "metrics.jsonl", "README.md"}
    assert {path.name for path in model.iterdir()} == names
    artifact = Artifact.open(model)
    assert (artifact.manifest["kind"], artifact.manifest["format_version"], artifact.config["format_version"]) == ("model", 1, 1)
    assert artifact.manifest["files"].keys() == names - {"manifest.json"}
    assert artifact.rows == [{"step": 1, "loss": -0.25}]
    assert "uc.UserEncoder.from_pretrained" in (model / "README.md").read_text()
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in model.iterdir())  # not for their owner alone
    assert environment().keys() == {"userclue", "python", "torch", "platform", "threads", "kernels"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocabulary.parquet", "metrics.jsonl", "README.md"])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.999])
def test_a_flipped_bit_is_refused(model, name, place):
    path = model / name
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    refused(model, rf"{name}: its SHA-256 differs from the manifest's; the file was changed or is damaged, make it again")


def test_a_flipped_bit_of_the_manifest_is_refused_or_means_nothing(model):
    """It may fall into the date; then the model is the same. It never ends in anything but an ArtifactError."""
    content = (model / MANIFEST).read_bytes()
    expected = new().encode(HISTORIES)
    refusals = 0
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 7)
        (model / MANIFEST).write_bytes(damaged)
        try:
            assert np.array_equal(UserEncoder.from_pretrained(model).encode(HISTORIES), expected)
        except ArtifactError:
            refusals += 1
    assert refusals > 0.7 * len(content) / 3


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocabulary.parquet", "metrics.jsonl"])
def test_cut_missing_or_unlisted_files_are_refused(model, name):
    path, content = model / name, (model / name).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(model, rf"{name}: has {len(content) // 2} bytes, its manifest says {len(content)}")
    path.unlink()
    refused(model, rf"{name} is missing; the folder is damaged")
    path.write_bytes(content)
    manifest = json.loads((model / MANIFEST).read_text())
    del manifest["files"][name]
    write_json(model / MANIFEST, manifest)
    refused(model, rf"the manifest does not list {name}; the artifact is damaged, make it again")


@pytest.mark.parametrize("version", [2, 0, None, "1"])
def test_another_format_is_refused_with_what_to_use(model, version):
    change_config(model, lambda config: config.update(format_version=version))
    refused(model, rf"artifact format {version}, this userclue reads 1; use userclue \S+ or train it again")


def test_vocabulary_and_weights_of_different_models_are_refused(model, tmp_path):
    new(ids="abcd").save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "vocabulary.parquet", model)
    sign(model)
    refused(model, "the weights number 7 items, the vocabulary 8; they are of different models, make the artifact again")


def test_weights_of_another_shape_are_refused(model, tmp_path):
    new(dim=16).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", model)
    sign(model)
    refused(model, r"the weights do not fit the configuration")


@pytest.mark.parametrize("change", ["drop", "add"])
def test_missing_or_foreign_tensors_are_refused(model, change):
    tensors = load_file(model / "model.safetensors")
    if change == "drop":
        del tensors["backbone.norm.weight"]
    else:
        tensors["backbone.more"] = torch.zeros(2)
    save_file(tensors, model / "model.safetensors")
    sign(model)
    refused(model, r"the weights do not fit the configuration \(.*backbone\.(norm\.weight|more)")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("write", [lambda content, path: path.write_bytes(pickle.dumps(content)), torch.save], ids=["pickle", "torch"])
def test_a_pickled_model_is_refused_without_unpickling(model, tmp_path, write):
    marker = tmp_path / "run"
    write(Evil(marker), model / "model.safetensors")
    sign(model)
    refused(model, r"model.safetensors: cannot be read \(.*\); the artifact is damaged, make it again")
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker))).close()  # noqa: S301 - it would have been run
    assert marker.exists()


@pytest.mark.parametrize(
    "header", [b"\xff" * 7 + b"\x7f", (10**12).to_bytes(8, "little"), (2**20).to_bytes(8, "little")], ids=["2^63", "10^12", "past the end"]
)
def test_absurd_header_sizes_are_refused_before_allocation(model, header):
    (model / "model.safetensors").write_bytes(header + b"{}")
    sign(model)
    refused(model, r"model.safetensors: cannot be read")


def test_a_header_that_promises_more_than_the_file_holds_is_refused(model):
    header = json.dumps({"embedding.items.weight": {"dtype": "F32", "shape": [10**9, 10**6], "data_offsets": [0, 4 * 10**15]}}).encode()
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    sign(model)
    refused(model, r"model.safetensors: cannot be read")


@pytest.mark.parametrize(("name", "value"), [("dim", 10**9), ("blocks", 10**9), ("max_len", 10**9), ("dim", 65_536), ("blocks", 256)])
def test_absurd_configurations_are_refused_at_once(model, name, value):
    change_config(model, lambda config: config["encoder"].update({name: value}))
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(model, r"describes no encoder of this userclue|the weights do not fit the configuration")
    assert time.process_time() - begin < 5  # a hang would be minutes; this is no measurement
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.pop("encoder"),
        lambda config: config.update(encoder=3),
        lambda config: config["encoder"].update(backbone="lstm"),
        lambda config: config["encoder"].update(heads=3),
        lambda config: config["encoder"].update(wings=2),
    ],
)
def test_a_configuration_of_no_encoder_is_refused(model, change):
    change_config(model, change)
    refused(model, r"config.json: describes no encoder of this userclue \(.*\)")


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b"3"])
def test_a_configuration_that_is_no_json_object_is_refused(model, content):
    (model / "config.json").write_bytes(content)
    sign(model)
    refused(model, r"config.json: (cannot be read|is no JSON object)")


def test_a_broken_vocabulary_is_refused(model):
    (model / "vocabulary.parquet").write_bytes(b"PAR1 no vocabulary PAR1")
    sign(model)
    refused(model, r"vocabulary.parquet: cannot be read")
    table = Vocabulary.from_ids(["a", "b", "c"]).table
    pq.write_table(table.take([0, 2, 1]), model / "vocabulary.parquet")
    sign(model)
    refused(model, r"vocabulary.parquet: indices are not 4, 5, ... in order")


def test_other_folders_are_refused_with_what_they_are(model, tmp_path):
    refused(tmp_path / "none", "no such folder; give a folder that `userclue pretrain`")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"is not a userclue model or fitted \(it has no manifest.json\)")
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    refused(tmp_path / "run", "holds an unfinished training run; finish it with `userclue pretrain … --resume`")
    sign(model, kind="dataset")
    refused(model, "is a userclue dataset, not a model or fitted")


def test_no_room_leaves_the_older_artifact(model):
    before = new().encode(HISTORIES)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, hard))  # Python ignores the signal, so that writing fails as on a full disk
    try:
        # An OSError is what the command line tells in one line.
        with pytest.raises(OSError, match=r"\[Errno 27\] File too large: '.*model\.safetensors'"):
            new(dim=256).save_pretrained(model, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(model.parent) == ["model"]
    assert np.array_equal(UserEncoder.from_pretrained(model).encode(HISTORIES), before)
