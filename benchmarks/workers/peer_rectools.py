"""RecTools: SASRec with full softmax, its vectors of users, `recommend`, and the construction of its Dataset."""

import logging
import time

import numpy as np
import pandas as pd

from benchmarks.workers.protocol import Config, Repetition, Row, counted_flops, pin, serve
from benchmarks.workers.scores import made_up_scores

K = 10


def _interactions(csv: str) -> pd.DataFrame:
    frame = pd.read_csv(csv).rename(columns={"timestamp": "datetime"})
    frame["datetime"] = pd.to_datetime(frame["datetime"], unit="s")
    frame["weight"] = 1
    return frame


def _split(csv: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All but each user's last event, and the last events. The log is grouped by user, oldest first."""
    frame = _interactions(csv)
    last = ~frame["user_id"].duplicated(keep="last")
    return frame[~last], frame[last]


def _fitted(config: Config, frame: pd.DataFrame, batch: int, batches: int):
    """SASRec of the size asked for, its data prepared and `batches` trained; the clock of its epochs hangs on its trainer."""
    import pytorch_lightning as pl
    import torch
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    pin(config["threads"])
    torch.manual_seed(0)

    class Clock(pl.Callback):
        """Times the batches alone."""

        began = ended = 0.0

        def on_train_epoch_start(self, *_: object) -> None:
            self.began = time.perf_counter()

        def on_train_epoch_end(self, *_: object) -> None:
            self.ended = time.perf_counter()

    def trainer() -> pl.Trainer:
        return pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            limit_train_batches=batches,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Clock()],
        )

    model = SASRecModel(
        n_blocks=config["blocks"],
        n_heads=config["heads"],
        n_factors=config["dim"],
        dropout_rate=config["dropout"],
        session_max_len=config["max_len"],
        batch_size=batch,
        loss="softmax",
        get_trainer_func=trainer,
        recommend_torch_device="cpu",
    )
    dataset = Dataset.construct(frame)
    model.fit_partial(dataset, 1, 1)
    clock = next(one for one in model.fit_trainer.callbacks if type(one).__name__ == "Clock")
    return model, dataset, clock


def pretrain(config: Config) -> tuple[Repetition, Row]:
    """Sequences of SASRec's own training, next item at every position, through `fit_partial` and Lightning's Trainer."""
    import torch

    batches = max(config["peer_users"] // config["batch"], 1)
    model, dataset, clock = _fitted(config, _interactions(config["csv"]), config["batch"], batches)

    def repetition() -> Row:
        model.fit_partial(dataset, 1, 1)
        return {"units": batches * config["batch"], "seconds": clock.ended - clock.began}

    batch = next(iter(model.data_preparator.get_dataloader_train()))
    lightning = model.lightning_model.train()
    logits = counted_flops(
        lambda: torch.nn.functional.cross_entropy(lightning.get_batch_logits(batch).flatten(0, 1), batch["y"].flatten()).backward()
    )
    lightning.zero_grad()
    return repetition, {"flops_per_unit": logits / len(batch["y"]), "items": dataset.item_id_map.size}


def embed(config: Config) -> tuple[Repetition, Row]:
    """Vectors of all users as `recommend` forms them (a private call: there is no public one), batch 256."""
    model, dataset, _ = _fitted(config, _interactions(config["csv"]), 64, 1)
    users = dataset.user_id_map.external_ids
    transformed = model.data_preparator.transform_dataset_u2i(dataset, users)
    loader = model.data_preparator.get_dataloader_recommend(transformed, 256)  # groups the log by user: preparation, not encoding

    def repetition() -> Row:
        vectors, _ = model.lightning_model._get_user_item_embeddings(loader, "cpu")
        return {"units": len(vectors)}

    repetition()
    return repetition, {}


def rank(config: Config) -> tuple[Repetition, Row]:
    """`recommend` ten items from all, those seen too, and three metrics over the last event of every user."""
    from rectools.metrics import MRR, Recall, calc_metrics

    train, test = _split(config["csv"])
    model, dataset, _ = _fitted(config, train, 64, 1)
    users = test["user_id"].to_numpy()
    known = test[test["item_id"].isin(train["item_id"].unique())]
    metrics = {"mrr@10": MRR(K), "recall@10": Recall(K)}

    def repetition() -> Row:
        table = model.recommend(users=users, dataset=dataset, k=K, filter_viewed=False)
        return {"units": len(users), "metrics": calc_metrics(metrics, table, known)}

    repetition()
    return repetition, {}


def agree(config: Config) -> tuple[Repetition, Row]:
    """Its ranker and metrics on the made-up scores."""
    from rectools.metrics import MRR, Recall, calc_metrics
    from rectools.models.rank import Distance, TorchRanker

    train, test = _split(config["csv"])
    items = np.unique(pd.concat([train, test])["item_id"])
    users, targets = test["user_id"].to_numpy(), test["item_id"].to_numpy()

    def repetition() -> Row:
        scores = made_up_scores(users, items, targets)
        eye = np.eye(len(items), dtype=np.float32)
        ranker = TorchRanker(distance=Distance.DOT, device="cpu", subjects_factors=scores, objects_factors=eye)
        rows, columns, _ = ranker.rank(np.arange(len(users)), k=K)
        table = pd.DataFrame({"user_id": users[np.asarray(rows)], "item_id": items[np.asarray(columns)]})
        table["rank"] = table.groupby("user_id", sort=False).cumcount() + 1
        metrics = calc_metrics({"mrr@10": MRR(K), "recall@10": Recall(K)}, table, test)
        return {"units": len(users), "metrics": {name: float(value) for name, value in metrics.items()}}

    return repetition, {}


def prepare_log(config: Config) -> tuple[Repetition, Row]:
    """`pandas.read_csv` and Dataset.construct: ids numbered, rows as they came."""
    from rectools.dataset import Dataset

    def repetition() -> Row:
        began = time.perf_counter()
        dataset = Dataset.construct(_interactions(config["csv"]))
        return {"units": len(dataset.interactions.df), "seconds": time.perf_counter() - began}

    return repetition, {}


def prepare_histories(config: Config) -> tuple[Repetition, Row]:
    """The same, and SASRec's data preparator up to histories by user in order of time, which is what ours and lifestream give."""
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    model = SASRecModel(session_max_len=config["max_len"], batch_size=config["batch"])

    def repetition() -> Row:
        began = time.perf_counter()
        dataset = Dataset.construct(_interactions(config["csv"]))
        model.data_preparator.process_dataset_train(dataset)
        model.data_preparator.get_dataloader_train()
        return {"units": len(dataset.interactions.df), "seconds": time.perf_counter() - began}

    return repetition, {}


if __name__ == "__main__":
    builders = {
        "pretrain": pretrain,
        "embed": embed,
        "rank": rank,
        "agree": agree,
        "prepare": prepare_log,
        "prepare-histories": prepare_histories,
    }
    serve(("rectools", "torch", "pandas", "numpy"), builders)
