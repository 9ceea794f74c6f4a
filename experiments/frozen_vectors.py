"""What the vectors of pre-trained encoders tell as they are: a logistic regression on them, accuracy over splits of the users.

    .venv/bin/userclue pretrain datasets/ml-1m -o models/infonce --preset best --objective infonce --dim 64 --steps 2400
    .venv/bin/python experiments/frozen_vectors.py datasets/ml-1m models/infonce --labels converted/ml-1m/gender.csv converted/ml-1m/age.csv

Vectors are standardised by the training users, C is fixed, so nothing is chosen. The splits are those of seeds 100 to 104, which no table
of results has. Prints a JSON line an encoder and label: accuracy, mean and by seed.
"""

import argparse
import json
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from userclue.config import FinetuneSettings
from userclue.data.store import Dataset
from userclue.encoder import UserEncoder
from userclue.jobs.finetune import build_task
from userclue.tasks.profiling import Profiling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="folder that `userclue prepare` wrote")
    parser.add_argument("encoders", nargs="+", help="folders that `userclue pretrain` wrote")
    parser.add_argument("--labels", nargs="+", required=True, help="CSV files of user_id and label")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102, 103, 104])
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = Dataset.open(options.dataset)
    for folder in options.encoders:
        encoder = UserEncoder.from_pretrained(folder)
        vectors = encoder.vectors(dataset.sequences())
        for labels in options.labels:
            found = []
            for seed in options.seeds:
                task = build_task("profiling", dataset, encoder, labels, None, FinetuneSettings.of({"seed": seed}))
                assert isinstance(task, Profiling)
                model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
                model.fit(vectors[task.train.users], task.train.targets)
                found.append(round(float(model.score(vectors[task.test.users], task.test.targets)), 4))
            told = {
                "encoder": Path(folder).name,
                "label": Path(labels).stem,
                "accuracy": round(sum(found) / len(found), 4),
                "by_seed": found,
            }
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
