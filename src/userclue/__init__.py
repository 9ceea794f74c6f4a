"""userclue: user representations that transfer, from behaviour logs.

    import userclue as uc

    data = uc.prepare("events.parquet", "data/shop")
    encoder = uc.pretrain(data, "models/shop", seed=0)
    vectors = encoder.encode([["bread", "milk"], ["beer"]])

Importing the package loads no torch; each name is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from userclue.data.audit import audit
    from userclue.data.prepare import prepare
    from userclue.data.sources import load_builtin
    from userclue.data.store import Dataset
    from userclue.encoder import UserEncoder
    from userclue.jobs.embed import embed
    from userclue.jobs.embedder import UserEmbedder
    from userclue.jobs.finetune import evaluate, finetune
    from userclue.jobs.pretrain import pretrain
    from userclue.report.page import build_report
    from userclue.tasks.registry import load_fitted

__all__ = [
    "Dataset",
    "UserEmbedder",
    "UserEncoder",
    "audit",
    "build_report",
    "embed",
    "evaluate",
    "finetune",
    "load_builtin",
    "load_fitted",
    "prepare",
    "pretrain",
]

_HOMES = {
    "Dataset": "data.store",
    "UserEmbedder": "jobs.embedder",
    "UserEncoder": "encoder",
    "audit": "data.audit",
    "build_report": "report.page",
    "embed": "jobs.embed",
    "evaluate": "jobs.finetune",
    "finetune": "jobs.finetune",
    "load_builtin": "data.sources",
    "load_fitted": "tasks.registry",
    "prepare": "data.prepare",
    "pretrain": "jobs.pretrain",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from userclue.version import VERSION

        return VERSION
    if name not in _HOMES:
        raise AttributeError(f"module 'userclue' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"userclue.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
