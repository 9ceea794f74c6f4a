"""pytorch-lifestream: CoLES with a transformer of the same size, its encoder over all users, and its preprocessor."""

import logging
import time
from functools import partial

import pandas as pd

from benchmarks.workers.protocol import Config, Repetition, Row, counted_flops, no_gradients, pin, serve

ENCODE_BATCH = 256
CATEGORIES_OF_ITS_OWN = 2  # index 0 is padding; frequency encoding numbers the items from 1, and keeps one for unknown items


def _records(csv: str) -> list[dict]:
    from ptls.preprocessing import PandasDataPreprocessor

    frame = pd.read_csv(csv)
    preprocessor = PandasDataPreprocessor(
        col_id="user_id", col_event_time="timestamp", event_time_transformation="none", cols_category=["item_id"], return_records=True
    )
    return preprocessor.fit_transform(frame)


def _encoder(config: Config, items: int):
    """Width, blocks, heads, dropout and feed-forward as ours; positions and padding mask on, the read-out at its CLS token."""
    from ptls.nn import TransformerSeqEncoder, TrxEncoder

    trx = TrxEncoder(embeddings={"item_id": {"in": items + CATEGORIES_OF_ITS_OWN, "out": config["dim"]}})
    return TransformerSeqEncoder(
        trx_encoder=trx,
        input_size=config["dim"],
        n_heads=config["heads"],
        dim_hidden=config["dim"],
        dropout=config["dropout"],
        n_layers=config["blocks"],
        is_reduce_sequence=True,
    )


def pretrain(config: Config) -> tuple[Repetition, Row]:
    """CoLES on two slices of `max_len` events of each user, its own default loss, through Lightning's Trainer, Adam."""
    import pytorch_lightning as pl
    import torch
    from ptls.frames.coles import ColesDataset, CoLESModule
    from ptls.frames.coles.split_strategy import SampleSlices
    from torch.utils.data import DataLoader

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    pin(config["threads"])
    torch.manual_seed(0)
    records = [{name: torch.as_tensor(record[name]) for name in ("event_time", "item_id")} for record in _records(config["csv"])]
    items = 1 + max(int(record["item_id"].max()) for record in records)
    splitter = SampleSlices(split_count=2, cnt_min=config["max_len"], cnt_max=config["max_len"])
    loader = DataLoader(
        ColesDataset(records, splitter), config["batch"], shuffle=True, drop_last=True, collate_fn=ColesDataset.collate_fn, num_workers=0
    )
    module = CoLESModule(
        seq_encoder=_encoder(config, items),
        optimizer_partial=partial(torch.optim.Adam, lr=1e-3),
        lr_scheduler_partial=partial(torch.optim.lr_scheduler.StepLR, step_size=1000, gamma=1.0),
    )

    class Clock(pl.Callback):
        """Times the batches alone, and stops after as many as the repetition has."""

        began = ended = 0.0

        def on_train_epoch_start(self, *_: object) -> None:
            self.began = time.perf_counter()

        def on_train_epoch_end(self, *_: object) -> None:
            self.ended = time.perf_counter()

    def train(batches: int) -> float:
        clock = Clock()
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            limit_train_batches=batches,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[clock],
        )
        trainer.fit(module, loader)
        return clock.ended - clock.began

    batches = max(config["peer_users"] // config["batch"], 1)
    train(config["warm_up"])
    x, y = next(iter(loader))
    module.log = lambda *_, **__: None  # outside a Trainer there is nothing to log to
    flops = counted_flops(lambda: module.training_step((x, y), 0).backward()) / config["batch"]
    del module.log
    return lambda: {"units": batches * config["batch"], "seconds": train(batches)}, {"flops_per_unit": flops, "items": items}


def embed(config: Config) -> tuple[Repetition, Row]:
    """All users through its inference loader and encoder, batch 256, the most recent `max_len` events."""
    import torch
    from ptls.data_load.datasets import inference_data_loader

    pin(config["threads"])
    torch.manual_seed(0)
    records = [{name: record[name] for name in ("event_time", "item_id")} for record in _records(config["csv"])]
    items = 1 + max(int(record["item_id"].max()) for record in records)
    encoder = _encoder(config, items).eval()

    def repetition() -> Row:
        with no_gradients():
            for batch in inference_data_loader(records, max_seq_len=config["max_len"], batch_size=ENCODE_BATCH):
                encoder(batch)
        return {"units": len(records)}

    repetition()
    return repetition, {}


def prepare_log(config: Config) -> tuple[Repetition, Row]:
    """`pandas.read_csv` and PandasDataPreprocessor: frequency codes, histories by user."""
    from ptls.preprocessing import PandasDataPreprocessor  # noqa: F401 -- imported before the clock starts

    def repetition() -> Row:
        began = time.perf_counter()
        records = _records(config["csv"])
        spent = time.perf_counter() - began
        return {"units": sum(len(record["item_id"]) for record in records), "seconds": spent}

    return repetition, {}


if __name__ == "__main__":
    serve(("pytorch-lifestream", "torch", "pandas", "numpy"), {"pretrain": pretrain, "embed": embed, "prepare": prepare_log})
