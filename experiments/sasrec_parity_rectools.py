"""RecTools' side of sasrec_parity.py; runs in the environment that the benchmarks make for it, and prints one JSON line a measurement.

Given one JSON argument: `csv` (user, item, place; a user's rows in order, the last two held out), `seed`, `seconds` (when to measure, of
training), `threads`, `dim`, `blocks`, `heads`, `dropout`, `max_len`, `batch`, `lr`.
"""

import json
import logging
import sys
import time
import warnings
from typing import Any

import pandas as pd

PARTS = {"valid": 2, "test": 1}  # which event from the end is the target


def interactions(frame: pd.DataFrame) -> pd.DataFrame:
    """As RecTools names its columns; a user's events in the order of their places."""
    return pd.DataFrame(
        {
            "user_id": frame["user"],
            "item_id": frame["item"],
            "datetime": pd.Timestamp("2000-01-01") + pd.to_timedelta(frame["place"], unit="s"),
            "weight": 1,
        }
    )


def ranks(model: Any, frame: pd.DataFrame, part: str, filter_seen: bool) -> list[float]:
    """Rank of each user's target among all items RecTools knows, users in rising order; an item it has never met is ranked last."""
    from rectools.dataset import Dataset

    from_end = frame.groupby("user").cumcount(ascending=False)
    target = frame[from_end == PARTS[part] - 1].set_index("user")["item"].sort_index()
    inputs = Dataset.construct(interactions(frame[from_end >= PARTS[part]]))
    everything = int(frame["item"].nunique())
    found = model.recommend(users=target.index.to_numpy(), dataset=inputs, k=everything, filter_viewed=filter_seen)
    found = found[found["item_id"].to_numpy() == target.loc[found["user_id"]].to_numpy()]
    return [float(rank) for rank in found.set_index("user_id")["rank"].reindex(target.index).fillna(everything)]


def main() -> None:
    warnings.simplefilter("ignore")
    import pytorch_lightning as pl
    import torch
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    config = json.loads(sys.argv[1])
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(config["threads"])
    pl.seed_everything(config["seed"])

    class Clock(pl.Callback):
        """Processor seconds of the batches alone."""

        began = total = 0.0
        steps = 0

        def on_train_epoch_start(self, trainer: pl.Trainer, *_: object) -> None:
            self.began = time.process_time()

        def on_train_epoch_end(self, trainer: pl.Trainer, *_: object) -> None:
            self.total += time.process_time() - self.began
            self.steps = trainer.global_step

    def trainer() -> pl.Trainer:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        return pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[Clock()], **quiet)

    model = SASRecModel(
        n_blocks=config["blocks"],
        n_heads=config["heads"],
        n_factors=config["dim"],
        dropout_rate=config["dropout"],
        session_max_len=config["max_len"],
        batch_size=config["batch"],
        lr=config["lr"],
        loss="softmax",
        get_trainer_func=trainer,
        recommend_torch_device="cpu",
    )
    frame = pd.read_csv(config["csv"])
    train = Dataset.construct(interactions(frame[frame.groupby("user").cumcount(ascending=False) >= 2]))
    epochs = 0
    for wanted in config["seconds"]:
        while True:
            model.fit_partial(train, 1, 1)
            epochs += 1
            clock = next(one for one in model.fit_trainer.callbacks if type(one).__name__ == "Clock")
            if clock.total >= wanted:
                break
        for part in PARTS:
            views = {"all": ranks(model, frame, part, False), "unseen": ranks(model, frame, part, True)}
            row = {"seconds": clock.total, "epochs": epochs, "steps": clock.steps, "part": part, **views}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
