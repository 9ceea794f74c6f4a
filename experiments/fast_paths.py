"""Do the fast paths learn as the plain ones do? The same training with and without them, over seeds; one JSON line a run.

python experiments/fast_paths.py kernels DATASET --out kernels.jsonl          # CLUE's learning curve, compiled and PyTorch alone
python experiments/fast_paths.py gradients DATASET --out gradients.jsonl      # CLUE's gradients over many masks, after --steps
python experiments/fast_paths.py rows DATASET --out rows.jsonl                # item table updated whole, and by row: next item
python experiments/fast_paths.py summary kernels.jsonl gradients.jsonl rows.jsonl
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor

from userclue.data.batches import Batch, pack
from userclue.data.store import Dataset
from userclue.jobs.finetune import finetune
from userclue.jobs.pretrain import pretrain, pretrain_settings, visible
from userclue.objectives.base import Objective
from userclue.objectives.registry import OBJECTIVES

LEFT_PLATEAU = -0.5  # CLUE's loss stays near 0 for some hundred to some thousand steps, and then falls to −0.9 within a few epochs
DRAWS, DIRECTIONS = 500, 32


def kernels(data: Dataset, seed: int, form: str, steps: int) -> dict[str, Any]:
    os.environ["USERCLUE_KERNELS"] = form
    encoder = pretrain(data, steps=steps, seed=seed, log_every=25)
    left = next((row["step"] for row in encoder.rows if row["loss"] < LEFT_PLATEAU), None)
    last = encoder.rows[-1]
    return {"left_plateau": left, "loss": last["loss"], "effective_rank": last["effective_rank"], "std_sqrt_d": last["std_sqrt_d"]}


def gradients(data: Dataset, seed: int, forms: str, steps: int) -> dict[str, Any]:
    """How far apart two forms' gradients are, in standard errors: means and variances over DRAWS masks each, of one batch at one point.

    Of each parameter's gradient the products with DIRECTIONS random directions are compared. Where both forms draw from the same
    distribution, root mean squares of z are 1 but for chance. Gradients that are zero but for rounding (before a batch norm) are left out.
    """
    os.environ["USERCLUE_KERNELS"] = "on"  # both pairs are compared at the same point
    settings = pretrain_settings(seed=seed, steps=steps)
    generator = torch.Generator().manual_seed(seed)
    clue = OBJECTIVES["clue"](pretrain(data, steps=steps, seed=seed), settings, generator).train()
    batch = pack(visible(data, settings), np.arange(settings.batch_size), settings.max_len)
    directions = [torch.randn(DIRECTIONS, one.numel(), generator=generator) for one in clue.parameters()]
    one, other = (drawn(clue, batch, directions, form, i * DRAWS) for i, form in enumerate(forms.split()))
    spread, others = one.var(dim=0), other.var(dim=0)
    fourth = ((one - one.mean(dim=0)) ** 4).mean(dim=0) + ((other - other.mean(dim=0)) ** 4).mean(dim=0)
    learned = others > others.max() * 1e-12
    of_mean = ((one.mean(dim=0) - other.mean(dim=0)) / ((spread + others) / DRAWS).sqrt())[learned]
    of_spread = ((spread - others) / ((fourth - spread**2 - others**2) / DRAWS).sqrt())[learned]
    largest = {f"largest_z_of_{name}": float(z.abs().max()) for name, z in (("mean", of_mean), ("variance", of_spread))}
    rms = {f"rms_z_of_{name}": float(z.square().mean().sqrt()) for name, z in (("mean", of_mean), ("variance", of_spread))}
    return {"statistics": int(learned.sum()), **rms, **largest}


def drawn(clue: Objective, batch: Batch, directions: list[Tensor], form: str, first: int) -> Tensor:
    """Gradients along the directions of all parameters, float64 [DRAWS, parameters * DIRECTIONS]; seeds of the masks from `first`."""
    os.environ["USERCLUE_KERNELS"] = form
    found = []
    for seed in range(first, first + DRAWS):
        clue.zero_grad()
        clue(batch, torch.Generator().manual_seed(seed)).loss.backward()
        grads = [one.grad for one in clue.parameters()]
        found.append(torch.cat([way @ grad.flatten() for way, grad in zip(directions, grads, strict=True) if grad is not None]))
    return torch.stack(found).double()


def rows(data: Dataset, seed: int, form: str, steps: int) -> dict[str, Any]:
    # An item table larger than a batch by far, and a head of its own: each step then touches few of the table's rows.
    start = pretrain(data, steps=1, seed=seed)
    model = finetune(
        start, data, task="sequential", mode="scratch", item_updates=form, steps=steps, dropout=0.2, seed=seed, baselines=False
    )
    return {name: one["value"] for name, one in model.facts["metrics"].items()}


FORMS = {
    "kernels": (kernels, ("on", "off")),
    # The second pair is the control: PyTorch's masks beside others of PyTorch's.
    "gradients": (gradients, ("on off", "off off")),
    "rows": (rows, ("dense", "lazy-adam", "rowwise-adagrad")),
}


def summary(paths: list[Path]) -> None:
    found = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    for key in dict.fromkeys((row["what"], row["data"], row["form"]) for row in found):
        mine = [row for row in found if (row["what"], row["data"], row["form"]) == key]
        said = []
        for name in mine[0]["result"]:
            values = [row["result"][name] for row in mine]
            numbers = [value for value in values if value is not None]
            spread = f" ± {stdev(numbers):.4f}" if len(numbers) > 1 else ""
            said.append(f"{name} {mean(numbers):.4f}{spread} of {len(numbers)}" if numbers else f"{name} never")
        print(*key, f"({len(mine)} seeds):", "; ".join(said))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*FORMS, "summary"])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=3000)
    chosen = parser.parse_args()
    if chosen.what == "summary":
        summary(chosen.paths)
        return
    if chosen.out is None:
        parser.error("--out FILE: where the rows go")
    run, forms = FORMS[chosen.what]
    data = Dataset.open(chosen.paths[0])
    with chosen.out.open("a", encoding="utf-8") as file:
        for seed in range(chosen.first, chosen.first + chosen.seeds):
            for form in forms:
                began = time.perf_counter()
                result = run(data, seed, form, chosen.steps)
                row = {
                    "what": chosen.what,
                    "data": chosen.paths[0].name,
                    "form": form,
                    "seed": seed,
                    "steps": chosen.steps,
                    "result": result,
                }
                file.write(json.dumps({**row, "seconds": round(time.perf_counter() - began, 1)}) + "\n")
                file.flush()
                print(json.dumps(row), file=sys.stderr)


if __name__ == "__main__":
    main()
