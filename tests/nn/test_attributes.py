"""Item attributes in the embedding, against loops over items in float64; with the kernels and without; by row and dense."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from userclue.config import EncoderConfig, TrainSettings
from userclue.data.batches import pack
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, MASK, PAD, UNK, UR, Vocabulary
from userclue.encoder import UserEncoder
from userclue.errors import ArtifactError, DataError, UsageError
from userclue.nn.layout import Layout
from userclue.train.optim import build_optimizer
from userclue.train.rows import gradients

torch.set_num_threads(1)

NAMES = ("brand", "tags", "price", "text")
BRANDS = ["x", "y", None, "x", "z", "y", "x", None]
TAGS = [["p", "q"], [], ["q"], None, ["p", "q", "r"], ["r"], ["p"], None]
PRICES = [1.0, 3.0, None, 4.0, 10.0, None, 2.5, None]
TEXTS = [[1.0, 0.0, 2.0], None, [0.5, 1.0, 1.0], [3.0, 3.0, 1.0], None, [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], None]
SHAPE = {"dim": 16, "heads": 2, "blocks": 1, "max_len": 9, "dropout": 0.0}
HISTORIES = [[4, 5, 6, 4], [7], [8, 9, UNK, 10, 11], [4, MASK, 5]]


def vocabulary():
    columns = {"brand": BRANDS, "tags": TAGS, "price": PRICES, "text": TEXTS}
    table = Vocabulary.from_ids([f"i{number}" for number in range(len(BRANDS))]).table
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    return Vocabulary(table)


def made(mix="sum", names=NAMES, seed=0, **shape):
    config = EncoderConfig.of({**SHAPE, "attributes": list(names), "attribute_mix": mix, **shape})
    generator = torch.Generator().manual_seed(seed)
    encoder = UserEncoder.new(config, vocabulary(), generator)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return encoder


def batch(histories=HISTORIES):
    return pack(Sequences.from_lists([np.asarray(one) for one in histories]), np.arange(len(histories)), 9)


def written(encoder, index):
    """The embedding of one index, from the columns themselves; of `encoder` only its weights are used."""
    embedding, place = encoder.embedding, index - FIRST_ITEM
    out = ids = embedding.items.weight[index]
    if place < 0 or embedding.attributes is None:
        return out
    numbers = [torch.tensor([p for p in PRICES if p is not None], dtype=torch.float64)[:, None]]
    numbers.append(torch.tensor([t for t in TEXTS if t is not None], dtype=torch.float64))
    orders = {"brand": ["x", "y", "z"], "tags": ["p", "q", "r"]}
    for a, (name, part) in enumerate(zip(encoder.config.attributes, embedding.attributes.parts, strict=True)):
        if name in orders:
            value = {"brand": BRANDS, "tags": TAGS}[name][place]
            chosen = [] if value is None else [value] if isinstance(value, str) else value
            if not chosen:
                continue
            one = torch.stack([part.table.weight[orders[name].index(each)] for each in chosen]).mean(0)
        else:
            value, seen = ({"price": PRICES, "text": TEXTS}[name][place]), numbers[name == "text"]
            if value is None:
                continue
            x = (torch.tensor(value, dtype=torch.float64).reshape(-1) - seen.mean(0)) / seen.var(0, unbiased=False).mean().sqrt()
            one = part.map.weight @ x.to(ids.dtype) + part.map.bias
        if embedding.attributes.gates is not None:
            gate = embedding.attributes.gates[a]
            one = one * 2 * torch.sigmoid(gate.weight[0] @ torch.cat([ids, one]) + gate.bias[0])
        out = out + one
    return out


@pytest.mark.parametrize("mix", ["sum", "gate"])
@pytest.mark.parametrize("names", [NAMES, ("tags",), ("text", "brand")])
def test_an_items_embedding_is_its_ids_and_its_attributes(mix, names):
    encoder = made(mix, names).double()
    embedding = encoder.embedding
    everything = torch.stack([written(encoder, index) for index in range(len(encoder.vocabulary))])
    torch.testing.assert_close(embedding.table(), everything, rtol=1e-6, atol=1e-7)  # mean and scale are kept in float32
    asked = torch.tensor([9, 4, 4, UNK, 11, UR])
    torch.testing.assert_close(embedding.rows(asked), everything[asked], rtol=1e-6, atol=1e-7)
    for special in (PAD, MASK, UR, UNK):
        assert torch.equal(embedding.table()[special], embedding.items.weight[special])
    assert torch.equal(embedding.table()[11], embedding.items.weight[11])  # an item that has no attribute is its id
    assert embedding.rows(torch.zeros(0, dtype=torch.int64)).shape == (0, 16)
    tokens, layout = torch.tensor([4, 9, UR, 4]), Layout(torch.tensor([0, 3, 4]), 3, 4)
    expected = everything[tokens] + embedding.positions.weight[[2, 1, 0, 0]]
    torch.testing.assert_close(embedding(tokens, layout), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mix", ["sum", "gate"])
def test_kernels_and_torch_agree_with_float64_in_value_and_gradient(form, mix):
    single, double = made(mix), made(mix).double()
    results = []
    for encoder in (single, double):
        loss = encoder.states(batch()).square().sum() + (encoder(batch()) ** 3).sum()
        loss.backward()
        results.append((loss, {name: parameter.grad for name, parameter in encoder.named_parameters()}))
    (loss, found), (exact, true) = results
    assert float(loss.detach()) == pytest.approx(float(exact.detach()), rel=1e-4)
    for name, gradient in true.items():
        assert gradient.any() or "qkv" in name, name
        torch.testing.assert_close(found[name].double(), gradient, rtol=2e-3, atol=2e-3, msg=name)


def test_one_mask_falls_on_the_sum(form):
    """Where dropout keeps, it keeps the whole sum of id, attributes and position, and at the usual rate."""
    embedding = made().embedding
    tokens, layout = torch.full((4000,), 8), Layout(torch.arange(4001), 1, 4000)
    exact, dropped = embedding(tokens, layout), embedding(tokens, layout, 0.5, torch.Generator().manual_seed(0))
    kept = dropped != 0
    assert float(kept.float().mean()) == pytest.approx(0.5, abs=0.01)
    torch.testing.assert_close(dropped[kept], 2 * exact[kept])


def test_gates_start_at_the_sum():
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    tables = []
    for mix, generator in zip(("sum", "gate"), generators, strict=True):
        config = EncoderConfig.of({**SHAPE, "attributes": list(NAMES), "attribute_mix": mix})
        tables.append(UserEncoder.new(config, vocabulary(), generator).embedding.table())
    torch.testing.assert_close(*tables)
    assert float(tables[0].detach().std()) == pytest.approx(0.035, abs=0.01)  # about 0.02 for each part


@pytest.mark.parametrize("alone", [True, False])
def test_gradients_by_row_are_those_of_the_dense_tables(form, alone):
    def loss(encoder):
        if alone:
            return (encoder.embedding.rows(torch.tensor([4, 4, 5, 11])) ** 2).sum()
        return (encoder(batch([[4, 5, 4], [4, 11]])) ** 2).sum()

    dense, by_row = made(), made()
    optimizer = build_optimizer(by_row, TrainSettings.of({"item_updates": "lazy-adam"}))
    assert len(optimizer.row_parameters()) == 3  # ids, brands, tags
    for encoder in (dense, by_row):
        loss(encoder).backward()
    gradients(by_row.parameters())
    for (name, one), other in zip(dense.named_parameters(), by_row.parameters(), strict=True):
        if other.grad is not None and other.grad.is_sparse:
            assert len(other.grad.indices()[0]) < len(one)
            torch.testing.assert_close(other.grad.to_dense(), one.grad, msg=name)
        elif one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, msg=name)
    before = by_row.embedding.attributes.parts[0].table.weight.detach().clone()
    optimizer.step()
    moved = (by_row.embedding.attributes.parts[0].table.weight != before).any(1).tolist()
    assert moved == [True, True, False]


def test_round_trip_is_bit_equal(tmp_path):
    encoder = made("gate")
    artifact = encoder.save_pretrained(tmp_path / "model")
    loaded = UserEncoder.from_pretrained(tmp_path / "model")
    ask = [["i0", "i4"], ["i7"], ["unheard of", "i2"]]
    assert np.array_equal(loaded.encode(ask), encoder.encode(ask))
    assert loaded.config == encoder.config
    assert loaded.vocabulary.table.equals(encoder.vocabulary.table)
    names = {name for name in artifact.tensors() if "attributes" in name}
    assert {name.rsplit(".", 1)[1] for name in names} == {"weight", "bias", "mean", "scale"}  # the items' own values are in the vocabulary


def test_an_artifact_without_its_columns_is_refused(tmp_path):
    encoder = made()
    encoder.vocabulary = Vocabulary(encoder.vocabulary.table.drop_columns("tags"))
    encoder.save_pretrained(tmp_path / "model")
    with pytest.raises(ArtifactError, match=r'describes no encoder.*no item attribute "tags"'):
        UserEncoder.from_pretrained(tmp_path / "model")
    other = made()
    tags = pa.array([["p"], ["q"], ["r"], ["s"], ["t"], None, None, None])
    other.vocabulary = Vocabulary(other.vocabulary.table.drop_columns("tags").append_column("tags", tags))
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ArtifactError, match="the weights do not fit the configuration"):
        UserEncoder.from_pretrained(tmp_path / "other")


NEW = pa.table(
    {
        "item_id": ["n0", "n1", "n2", "n3", "n4", "i0"],
        "brand": ["x", "x", "z", "never met", None, "z"],
        "tags": [["p", "r"], ["r", "p"], None, ["nor this"], [], ["p"]],
        "price": [2.0, 2.0, 9.0, None, None, 5.0],
        "text": pa.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], None, None, None, [9.0, 9.0, 9.0]]),
    }
)


@pytest.mark.parametrize("mix", ["sum", "gate"])
def test_new_items_speak_through_their_attributes(tmp_path, mix):
    encoder = made(mix)
    grown = encoder.with_items(NEW)
    assert grown.vocabulary.n_items == encoder.vocabulary.n_items + 5
    known = [["i0", "i4", "i1"], ["i7", "i3"], ["unheard of"]]
    assert np.array_equal(grown.encode(known), encoder.encode(known))
    one, same, other, strange, silent, unknown = grown.encode([["i1", item] for item in ("n0", "n1", "n2", "n3", "n4", "unheard of")])
    np.testing.assert_allclose(one, same, atol=1e-6)
    assert np.abs(one - unknown).max() > 0.01
    assert np.abs(other - unknown).max() > 0.01
    assert np.abs(one - other).max() > 0.01
    np.testing.assert_allclose(strange, unknown, atol=1e-6)  # values nobody had in training say nothing
    np.testing.assert_allclose(silent, unknown, atol=1e-6)
    alone = [["i1", "n0"]]  # one history with one: how many rows a product has decides about its last digit
    np.testing.assert_array_equal(grown.encode([["i1", "unheard of"]]), encoder.encode(alone))
    grown.save_pretrained(tmp_path / "grown")
    loaded = UserEncoder.from_pretrained(tmp_path / "grown")
    assert np.array_equal(loaded.encode(alone), grown.encode(alone))
    assert loaded.with_items(NEW).vocabulary.n_items == loaded.vocabulary.n_items


def test_new_items_from_a_file(tmp_path):
    pa.parquet.write_table(NEW, tmp_path / "new.parquet")
    encoder = made()
    ask = [["i1", "n0"]]
    assert np.array_equal(encoder.with_items(tmp_path / "new.parquet").encode(ask), encoder.with_items(NEW).encode(ask))


def test_new_items_that_cannot_be_told_are_refused():
    with pytest.raises(UsageError, match=r"this encoder reads no item attributes.*pre-train it with attributes"):
        made(names=()).with_items(NEW)
    with pytest.raises(DataError, match="give every item one of the same length"):
        made().with_items(pa.table({"item_id": ["n1"], "text": [[1.0, 2.0]]}))


def test_training_goes_on_with_a_grown_vocabulary():
    """Values are matched by what they are, mean and scale stay those of the first training: old vectors do not move."""
    encoder = made("gate")
    order = [5, 3, 0, 1, 2, 4, 6, 7]
    table = encoder.vocabulary.table.take(order)
    table = table.set_column(1, "index", pa.array(np.arange(FIRST_ITEM, FIRST_ITEM + 8, dtype=np.int32)))
    more = Vocabulary(table).grown(["n0"]).table
    more = more.set_column(more.column_names.index("price"), "price", pa.array([*more["price"].to_pylist()[:-1], 1000.0]))
    begun = UserEncoder.new(encoder.config, Vocabulary(more), torch.Generator().manual_seed(9))
    begun.start_from(encoder)
    ask = [["i0", "i4", "i1"], ["i7", "i3"], ["i5", "i2", "i6"]]
    np.testing.assert_allclose(begun.encode(ask), encoder.encode(ask), atol=1e-6)


def test_only_the_same_attributes_can_be_started_from():
    with pytest.raises(
        UsageError, match="cannot start from that model: its attributes is brand,tags, here it is none; set attributes to bra"
    ):
        made(names=()).start_from(made(names=("brand", "tags")))
    with pytest.raises(UsageError, match="its attribute_mix is gate, here it is sum"):
        made().start_from(made("gate"))


def test_other_kinds_of_the_same_name_cannot_be_started_from():
    def with_text(column):
        table = Vocabulary.from_ids(["a", "b"]).table.append_column("text", pa.array(column))
        config = EncoderConfig.of({**SHAPE, "attributes": ["text"]})
        return UserEncoder.new(config, Vocabulary(table), torch.Generator())

    vectors = with_text([[1.0, 2.0], None])
    with pytest.raises(UsageError, match="its content vectors have 3 numbers, here they have 2"):
        vectors.start_from(with_text([[1.0, 2.0, 3.0], None]))
    with pytest.raises(UsageError, match="an attribute is a category in one and a number in the other"):
        vectors.start_from(with_text(["x", "y"]))


def test_the_direction_of_content_vectors_survives_the_scaling():
    part = made(names=("text",)).double().embedding.attributes.parts[0]
    seen = ((part.values - part.mean) / part.scale)[part.present[:, 0] > 0]
    assert float(seen.mean(0).abs().max()) < 1e-6
    assert float(seen.var(0, unbiased=False).mean()) == pytest.approx(1, abs=1e-6)
    alike = UserEncoder.new(
        EncoderConfig.of({**SHAPE, "attributes": ["x"]}),
        Vocabulary(Vocabulary.from_ids([1, 2]).table.append_column("x", pa.array([3.0, 3.0]))),
        torch.Generator(),
    )
    assert torch.isfinite(alike.embedding.table()).all()
