"""UserEncoder: the same bits after a round trip, the same vector in any batch, weights by id in continued training."""

import os

import numpy as np
import pyarrow as pa
import pytest
import torch

from userclue import encoder as encoder_module
from userclue.artifact import Artifact
from userclue.config import EncoderConfig
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, Vocabulary
from userclue.encoder import UserEncoder
from userclue.errors import UsageError
from userclue.files import sha256

torch.set_num_threads(1)

ITEMS = [f"item {number}" for number in range(40)]
SHAPE = {"dim": 8, "heads": 2, "blocks": 2, "max_len": 10}


def new(ids=ITEMS, seed=0, **shape):
    encoder = UserEncoder.new(EncoderConfig.of({**SHAPE, **shape}), Vocabulary.from_ids(ids), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        encoder.embedding.items.weight[FIRST_ITEM:].normal_(generator=torch.Generator().manual_seed(seed))
    return encoder


def histories(n=30, seed=0, ids=ITEMS):
    draw = np.random.default_rng(seed)
    return [[ids[i] for i in draw.integers(0, len(ids), draw.integers(1, 25))] for _ in range(n)]


def same_weights(first, second):
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_save_load_encode_is_bit_equal(tmp_path, norm):
    encoder = new(norm=norm)
    encoder.facts = {"pretrain": {"lr": 0.1}, "data": {"users": 3}, "environment": {"torch": "x"}, "seconds": 1.5}
    encoder.rows = [{"step": 1, "loss": -0.5}, {"step": 2, "loss": None}]
    artifact = encoder.save_pretrained(tmp_path / "model")
    loaded = UserEncoder.from_pretrained(str(tmp_path / "model"))
    same_weights(encoder, loaded)
    assert np.array_equal(encoder.encode(histories()), loaded.encode(histories()))
    assert (loaded.config, loaded.facts, loaded.rows) == (encoder.config, encoder.facts, encoder.rows)
    assert loaded.vocabulary.table.equals(encoder.vocabulary.table)
    assert artifact.hash == sha256(tmp_path / "model" / "model.safetensors")
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    loaded.save_pretrained(tmp_path / "again")
    assert Artifact.open(tmp_path / "again").hash == artifact.hash


def test_only_the_encoder_is_in_the_artifact(tmp_path):
    tensors = new().save_pretrained(tmp_path / "model").tensors()
    assert {name.split(".")[0] for name in tensors} == {"embedding", "backbone"}


def test_learning_on_does_not_touch_the_file(tmp_path):
    artifact = new().save_pretrained(tmp_path / "model")
    loaded = UserEncoder.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1)
    same_weights(UserEncoder.from_pretrained(tmp_path / "model"), new())
    assert Artifact.open(tmp_path / "model").hash == artifact.hash


def test_existing_is_refused_or_replaced(tmp_path):
    new().save_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match="already exists"):
        new(seed=1).save_pretrained(tmp_path / "model")
    same_weights(UserEncoder.from_pretrained(tmp_path / "model"), new())
    new(seed=1).save_pretrained(tmp_path / "model", overwrite=True)
    same_weights(UserEncoder.from_pretrained(tmp_path / "model"), new(seed=1))
    assert os.listdir(tmp_path) == ["model"]


def test_a_vector_does_not_depend_on_its_batch_nor_on_its_place(monkeypatch):
    monkeypatch.setattr(encoder_module, "_ENCODE_TOKENS", {"cpu": 500})
    encoder, many = new(), histories(250)
    assert len(list(encoder.batches(Sequences.from_lists([[FIRST_ITEM] * 9] * 250)))) == 5
    vectors = encoder.encode(many)
    assert vectors.shape == (len(many), 8)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(encoder.encode(many[::-1])[::-1], vectors, atol=1e-5, rtol=0)
    alone = np.concatenate([encoder.encode([one]) for one in many[::9]])
    np.testing.assert_allclose(alone, vectors[::9], atol=1e-5, rtol=0)
    assert np.abs(vectors - vectors[0]).max(axis=1)[1:].min() > 1e-3


def test_chunks_change_nothing(monkeypatch):
    encoder, many = new(), histories(50)
    whole = encoder.encode(many)
    monkeypatch.setattr("userclue.encoding.ENCODE_CHUNK", 7)
    np.testing.assert_allclose(encoder.encode(many), whole, atol=1e-5, rtol=0)


def test_encoding_is_exact_in_training_mode_too_and_leaves_no_trace():
    encoder = new(dropout=0.9)
    state = torch.random.get_rng_state()
    first = encoder.train().encode(histories())
    assert np.array_equal(first, encoder.eval().encode(histories()))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_vectors_of_nobody():
    assert new().vectors(Sequences.from_lists([])).shape == (0, 8)


def test_ids_that_look_like_paths_are_only_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = ["../../etc/passwd", "/", "..", "a/b", "C:\\x", "*", "", "manifest.json", "=1+1", "e\u0301", "\u00e9", "7"]
    encoder = new(ids)
    encoder.save_pretrained(tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"]
    loaded = UserEncoder.from_pretrained(tmp_path / "model")
    assert loaded.vocabulary.ids(np.arange(FIRST_ITEM, FIRST_ITEM + len(ids))).to_pylist() == ids
    vectors = loaded.encode([[one] for one in ids])
    assert np.array_equal(vectors, encoder.encode([[one] for one in ids]))
    assert len(np.unique(vectors.round(4), axis=0)) == len(ids)  # NFC and NFD are two items


def test_seven_and_text_seven_are_one_item():
    numbers, words = new(list(range(40))), new([str(number) for number in range(40)])
    ask = [[7, 8], [39]]
    texts = [[str(one) for one in row] for row in ask]
    expected = numbers.encode(ask)
    for encoder in (numbers, words):
        for given in (ask, texts):
            assert np.array_equal(encoder.encode(given), expected)
    assert not np.array_equal(words.encode([["07"]]), words.encode([["7"]]))


def test_start_from_copies_item_rows_by_id_and_leaves_new_items():
    old, begun, fresh = new(ITEMS, seed=1), new(["new", *ITEMS[5:][::-1], "newer"], seed=2), new(["new", *ITEMS[5:][::-1], "newer"], seed=2)
    begun.start_from(old)
    shared = histories(ids=ITEMS[5:])
    np.testing.assert_allclose(begun.encode(shared), old.encode(shared), atol=1e-6, rtol=0)
    rows = begun.embedding.items.weight.detach()
    for item in ("new", "newer"):
        index = int(begun.vocabulary.indices([item])[0])
        assert torch.equal(rows[index], fresh.embedding.items.weight[index].detach())
    with torch.no_grad():
        rows += 1
    same_weights(old, new(ITEMS, seed=1))  # nothing is shared


def test_start_from_knows_ids_of_another_type():
    old, begun = new(list(range(20)), seed=1), new([str(number) for number in range(19, -1, -1)], seed=2)
    begun.start_from(old)
    np.testing.assert_allclose(begun.encode([["3", "4"]]), old.encode([[3, 4]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "value"), [("dim", 16), ("blocks", 1), ("heads", 4), ("max_len", 11), ("norm", "post")])
def test_start_from_another_shape_is_refused(name, value):
    with pytest.raises(UsageError, match=rf"cannot start from that model: its {name} is {SHAPE.get(name, 'pre')}, here it is {value}; set"):
        new(**{name: value}).start_from(new())


def test_dropout_may_differ_from_the_model_started_from():
    begun = new(dropout=0.1, seed=3)
    begun.start_from(new(dropout=0.5))
    same_weights(begun, new())


def test_same_seed_same_weights_whatever_the_global_seed():
    made = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        made.append(UserEncoder.new(EncoderConfig.of(SHAPE), Vocabulary.from_ids(ITEMS), torch.Generator().manual_seed(5)))
    same_weights(*made)


def test_a_blank_encoder_takes_no_memory():
    blank = UserEncoder.blank(EncoderConfig.of({"dim": 65_536, "blocks": 256}), Vocabulary.from_ids(pa.array(ITEMS)))
    assert all(parameter.is_meta for parameter in blank.parameters())
