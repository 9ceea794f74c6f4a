"""Numbers and names as every part of the page writes them."""

import json
import math
import re
from typing import Any

from userclue.report.runs import Json, Run

METRICS = {
    "accuracy": "Accuracy", "macro_f1": "Macro F1", "auroc": "AUROC", "log_loss": "Log loss",
    "mrr": "MRR", "recall": "Recall", "ndcg": "NDCG",
}  # fmt: skip
SYSTEMS = {
    "clue_zero": "Same encoder from scratch", "majority": "Majority class", "popularity": "Popularity", "markov": "First-order Markov",
    "item_knn": "Item kNN", "user_knn": "User kNN", "item_knn_window": "Same-window item kNN",
    "peterrec": "PeterRec", "peterrec_adapter": "PeterRec, adapters", "s3rec": "S3-Rec", "nfm": "NFM", "deepfm": "DeepFM", "caser": "Caser",
    "sasrec": "SASRec, cross-entropy", "sasrec_bce": "SASRec, original loss", "gru4rec": "GRU4Rec",
    "bag_of_items": "Bag of items + history length", "bag_of_items_window": "Same-window bag of items",
}  # fmt: skip
OBJECTIVES = {
    "clue": "CLUE", "byol": "BYOL", "infonce": "InfoNCE", "vicreg": "VICReg", "barlow": "Barlow Twins", "s3rec": "S3-Rec",
    "masked": "Masked items", "next": "Next item", "hybrid": "Hybrid",
}  # fmt: skip
MODES = {"finetune": "fine-tuned", "probe": "frozen, linear probe", "adapter": "with adapters"}


def number(value: Any, decimals: int, signed: bool = False) -> str:
    """A score with fixed decimals and a true minus sign; a dash when there is none."""
    if value is None or not math.isfinite(value):
        return "—"
    text = f"{value:+.{decimals}f}" if signed else f"{value:.{decimals}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def count(value: Any) -> str:
    """A whole number with thousands separated."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if isinstance(value, float) else "—"


def interval(score: Json, decimals: int, signed: bool = False) -> str:
    """The 95 % interval in brackets; empty when there is none."""
    low, high = score.get("low"), score.get("high")
    return "" if low is None or high is None else f"[{number(low, decimals, signed)}, {number(high, decimals, signed)}]"


def metric_name(name: str) -> str:
    """A metric as tables call it: mrr@10 is MRR@10."""
    base, at, k = name.partition("@")
    return METRICS.get(base, base) + at + k


def system_name(name: str) -> str:
    """A baseline as tables call it."""
    plain = name.replace("_", " ").strip()
    return SYSTEMS.get(name, plain[:1].upper() + plain[1:])


def our_name(run: Run, task: Json) -> str:
    """Our model as tables call it: what it was pre-trained by and how it was fitted."""
    mode = task.get("mode", "")
    objective = run.pretrain.get("objective", "")
    known = OBJECTIVES.get(objective, objective) or "Encoder"
    if mode == "scratch":
        return "Encoder from scratch"
    return f"{known} ({MODES.get(mode, mode)})" if mode else known


def readable(sentence: str, run: Run, task: Json) -> str:
    """A sentence of a verdict with systems and metrics called as the tables call them."""
    names = {name: system_name(name) for name in task.get("baselines") or {}}
    names |= {name: metric_name(name) for name in task["metrics"] if "@" in name or name in ("auroc", "macro_f1")}
    names |= {str(task["system"]): our_name(run, task)} if task.get("system") else {}
    sentence = re.sub(r"(?<![\w.-])-(?=\d)", "−", sentence)
    if not names:
        return sentence
    longest_first = sorted(names, key=len, reverse=True)
    pattern = rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])"
    return re.sub(pattern, lambda hit: names[hit[0]], sentence)


def heading(task: Json) -> str:
    """The task in a few words."""
    label = task.get("label")
    if task["task"] == "sequential":
        return "Next item"
    kind = {"profiling": "Profile", "cold-start": "Cold start"}.get(task["task"], task["task"])
    return f"{kind}: {label}" if label else str(kind)


def duration(seconds: Any) -> str:
    """Seconds in the unit that fits."""
    if not isinstance(seconds, int | float):
        return "—"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def setting(value: Any) -> str:
    """A setting as a cell shows it."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
