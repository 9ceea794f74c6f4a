"""The four losses of S3-Rec against loops over users and items in float64; which of them run, on what, and that they learn."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn.functional import cross_entropy

from userclue.config import PretrainSettings
from userclue.data.batches import BatchStream, pack
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, MASK, UNK, UR, Vocabulary
from userclue.encoder import UserEncoder
from userclue.errors import UsageError
from userclue.jobs.pretrain import pretrain_settings
from userclue.objectives.registry import OBJECTIVES
from userclue.train.journal import Journal
from userclue.train.loop import Training
from userclue.views import cut_segment

ITEMS = 20
TAGS = [[f"t{i % 3}", f"u{i % 4}"] if i % 5 else None for i in range(ITEMS)]
BRANDS = [f"b{i % 6}" if i != 7 else None for i in range(ITEMS)]
HISTORIES = ([4, 5, 6, 7, 11], [8], [9, UNK, 10, 11, 4], [12, 12], [5, 6, 7, 8, 9, 10, 11, 12])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def vocabulary():
    table = Vocabulary.from_ids(list(range(ITEMS))).table
    weights = pa.array([float(i) for i in range(ITEMS)])
    return Vocabulary(table.append_column("tags", pa.array(TAGS)).append_column("brand", pa.array(BRANDS)).append_column("weight", weights))


def objective(dtype=torch.float64, **values):
    shape = {"dim": 8, "heads": 2, "blocks": 2, "max_len": 9, "dropout": 0.0}
    settings = PretrainSettings.of({"objective": "s3rec", "predicted_attributes": "tags,brand", **shape, **values})
    encoder = UserEncoder.new(settings.encoder(), vocabulary(), generator())
    with torch.no_grad():
        encoder.embedding.items.weight.normal_(generator=generator(1))
    made = OBJECTIVES["s3rec"](encoder, settings, generator())
    if made.values is not None:
        with torch.no_grad():
            made.values.weight.normal_(generator=generator(2))
    return made.to(dtype)


def packed(*lists, max_len=9):
    return pack(Sequences.from_lists([np.asarray(one) for one in lists]), np.arange(len(lists)), max_len)


def values_of(item):
    """Values of an item by the columns themselves, numbered in the order in which the items bring them, tags before brands."""
    tags = list(dict.fromkeys(each for one in TAGS for each in one or []))
    brands = list(dict.fromkeys(one for one in BRANDS if one))
    place = item - FIRST_ITEM
    own = [tags.index(each) for each in TAGS[place] or []]
    return own + ([len(tags) + brands.index(BRANDS[place])] if BRANDS[place] else []), len(tags) + len(brands)


def info_nce_of_attributes(made, x, items):
    """For each item with values the mean over them; then over the items."""
    table, losses = made.values.weight, []
    for row, item in zip(x, items, strict=True):
        own, size = values_of(int(item))
        assert size == len(table)
        scores = (table @ row).exp()
        others = sum(scores[k] for k in range(size) if k not in own)
        if own:
            losses.append(torch.stack([-(scores[a] / (scores[a] + others)).log() for a in own]).mean())
    return torch.stack(losses).mean()


def test_the_loss_is_the_weighted_sum_of_four_formulas():
    made, batch = objective(), packed(*HISTORIES)
    step = made(batch, generator(5))
    draw = generator(5)
    chosen = made._choose(batch.tokens, draw)
    assert 2 < len(chosen) < 12
    tokens = batch.tokens.clone()
    tokens[chosen] = MASK
    pieces = [piece[:-1].tolist() for piece in tokens.split(batch.offsets.diff().tolist())]
    states = made.encoder.states(packed(*pieces))[chosen]
    scored = states @ made.maps["mip"].weight.T @ made.encoder.embedding.items.weight[FIRST_ITEM:].T
    mip = cross_entropy(scored, batch.tokens[chosen] - FIRST_ITEM)

    rest, segment, there = cut_segment(batch, draw)
    x, y = made.encoder(rest)[there] @ made.maps["sp"].weight.T, made.encoder(segment)[there]
    segments = [piece.tolist() for piece in segment.tokens.split(segment.offsets.diff().tolist())]
    segments = [one for one, has in zip(segments, there, strict=True) if has]
    losses = []
    for b, own in enumerate(segments):
        others = sum((x[b] @ y[c]).exp() for c in range(len(segments)) if c != b and segments[c] != own)
        positive = (x[b] @ y[b]).exp()
        losses.append(-(positive / (positive + others)).log())
    sp = torch.stack(losses).mean()

    items = batch.tokens[batch.tokens >= FIRST_ITEM]
    aap = info_nce_of_attributes(made, made.encoder.embedding.items.weight[items] @ made.maps["aap"].weight.T, items)
    map_ = info_nce_of_attributes(made, states @ made.maps["map"].weight.T, batch.tokens[chosen])
    theirs = 0.2 * aap + mip + map_ + 0.5 * sp
    torch.testing.assert_close(step.loss, theirs, rtol=1e-9, atol=0)
    metrics = step.metrics()
    for name, loss in {"aap": aap, "mip": mip, "map": map_, "sp": sp}.items():
        assert metrics[f"{name}_loss"] == pytest.approx(float(loss.detach()), rel=1e-9)
    assert 0 <= metrics["accuracy"] <= 1
    names = dict(made.named_parameters())
    ours = torch.autograd.grad(step.loss, list(names.values()), allow_unused=True)
    others = torch.autograd.grad(theirs, list(names.values()), allow_unused=True)
    for name, one, other in zip(names, ours, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10, msg=name)


def test_weights_are_settings():
    batch, draws = packed(*HISTORIES), 3
    whole = objective()(batch, generator(draws)).metrics()
    weights = {"aap": 0.7, "mip": 0.1, "map": 0.4, "sp": 3.0}
    made = objective(**{f"{name}_weight": weight for name, weight in weights.items()})
    expected = sum(weight * whole[f"{name}_loss"] for name, weight in weights.items())
    assert float(made(batch, generator(draws)).loss.detach()) == pytest.approx(expected, rel=1e-9)


def test_masking_is_by_mask_alone_and_at_its_share():
    made = objective()
    tokens = torch.randint(FIRST_ITEM, FIRST_ITEM + ITEMS, (100_000,), generator=generator(2))
    tokens[::10], tokens[1::10] = UR, UNK
    chosen = made._choose(tokens, generator(3))
    assert (tokens[chosen] >= FIRST_ITEM).all()
    assert len(chosen) / 80_000 == pytest.approx(0.2, abs=0.005)
    assert objective(mask_share=0.5).share == 0.5
    assert OBJECTIVES["masked"](made.encoder, PretrainSettings(), generator()).share == 0.3


def test_what_is_to_be_predicted_is_named_or_what_the_embedding_reads():
    assert objective().values.num_embeddings == 3 + 4 + 6
    assert objective(predicted_attributes=["brand"]).values.num_embeddings == 6
    assert objective(predicted_attributes=None, attributes="brand,weight").values.num_embeddings == 6
    with pytest.raises(UsageError, match='"weight" has numbers, not categories; it cannot be predicted'):
        objective(predicted_attributes="weight")
    with pytest.raises(UsageError, match='no item attribute "colour"; it has tags, brand, weight'):
        objective(predicted_attributes="colour")


@pytest.mark.parametrize("values", [{"predicted_attributes": None}, {"predicted_attributes": None, "attributes": "weight"}])
def test_without_attributes_only_mip_and_sp_run_and_it_is_said(values):
    made = objective(**values)
    assert made.weights == {"mip": 1.0, "sp": 0.5}
    assert "only MIP and SP are minimised; name columns" in made.warnings[0]
    step = made(packed(*HISTORIES), generator())
    metrics = step.metrics()
    assert metrics.keys() == {"mip_loss", "sp_loss", "accuracy"}
    assert float(step.loss.detach()) == pytest.approx(metrics["mip_loss"] + 0.5 * metrics["sp_loss"])
    assert objective().warnings == []


def test_aap_does_not_read_the_answer():
    """With the attribute in the embedding too, AAP still starts from the id alone."""
    made = objective(attributes="tags,brand", map_weight=0, mip_weight=0, sp_weight=0)
    made(packed(*HISTORIES), generator()).loss.backward()
    parts = made.encoder.embedding.attributes.parts
    assert all(part.table.weight.grad is None or not part.table.weight.grad.any() for part in parts)
    assert made.encoder.embedding.items.weight.grad.any()


def test_many_values_are_sampled():
    batch = packed(*HISTORIES)
    losses = []
    for seed in range(400):
        made = objective(negatives=9, item_loss="full")
        draw = generator(seed)
        states = made.encoder.states(batch)[:4]
        losses.append(float(made._attributes("map", states, batch.tokens[:4], None, draw).detach()))
    made = objective()
    exact = float(made._attributes("map", made.encoder.states(batch)[:4], batch.tokens[:4], None, generator()).detach())
    assert len(set(losses)) > 100
    assert np.mean(losses) == pytest.approx(exact, rel=0.1)


def test_another_window_of_the_same_person_is_no_negative():
    batch = packed([4, 5, 6, 7], [8, 9, 10, 11])
    made = objective()
    assert made(batch, generator()).metrics()["sp_loss"] > 0
    assert made(replace(batch, groups=torch.tensor([3, 3])), generator()).metrics()["sp_loss"] == 0


def test_users_of_one_event_alone_give_a_loss_and_gradients_that_are_numbers():
    made = objective(mask_share=1e-9)
    step = made(packed([4], [UNK]), generator())
    step.loss.backward()
    assert step.metrics()["sp_loss"] == step.metrics()["mip_loss"] == step.metrics()["map_loss"] == 0
    assert all(parameter.grad is None or torch.isfinite(parameter.grad).all() for parameter in made.parameters())


def test_it_reads_both_ways():
    assert not objective().encoder.config.causal
    with pytest.raises(UsageError, match="s3rec needs causal=false; leave causal out"):
        pretrain_settings(objective="s3rec", causal=True)
    with pytest.raises(UsageError, match="needs a causal encoder and s3rec one that reads both ways"):
        pretrain_settings(objective="hybrid", objectives="next:1,s3rec:1")


def test_bfloat16_leaves_the_loss_in_float32():
    made, batch = objective(torch.float32), packed(*HISTORIES)
    exact = made(batch, generator(2)).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = made(batch, generator(2)).loss
    assert rough.dtype == torch.float32
    assert float(rough.detach()) == pytest.approx(float(exact.detach()), rel=0.05)


def test_all_four_are_learned():
    """Rings of items: masked items and their attributes follow from their neighbours, segments from the rest."""
    draw = np.random.default_rng(0)
    sequences = Sequences.from_lists([(np.arange(8) + draw.integers(ITEMS)) % ITEMS + FIRST_ITEM for _ in range(64)])
    shape = {"dim": 16, "heads": 2, "blocks": 2, "max_len": 8, "dropout": 0.0, "lr": 0.01, "steps": 400, "batch_size": 32}
    settings = PretrainSettings.of({"objective": "s3rec", "predicted_attributes": "tags,brand", **shape})
    encoder = UserEncoder.new(settings.encoder(), vocabulary(), generator())
    stream = BatchStream(lambda _: (sequences, None), len(sequences), 32, 8, 0)
    run = Training(OBJECTIVES["s3rec"](encoder, settings, generator()), stream, settings, journal=Journal(), log_every=50)
    run.run()
    first, last = run.journal.rows[0], run.journal.rows[-1]
    for name in ("aap", "mip", "map", "sp"):
        assert last[f"{name}_loss"] < 0.6 * first[f"{name}_loss"], name
