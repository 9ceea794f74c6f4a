"""The trained baselines by name: a new one is its file, a line here and a numeric test."""

from userclue.baselines.factorization import NFM, DeepFM
from userclue.baselines.sequential import Caser, GRU4Rec, SASRec, SASRecBCE
from userclue.baselines.trained import TrainedBaseline
from userclue.baselines.transferred import CLUEZero, PeterRec, PeterRecAdapter, S3Rec
from userclue.errors import UsageError

BASELINES: dict[str, type[TrainedBaseline]] = {
    kind.system: kind for kind in (CLUEZero, PeterRec, PeterRecAdapter, S3Rec, NFM, DeepFM, SASRec, SASRecBCE, GRU4Rec, Caser)
}
PLAIN, ALL, NONE = "plain", "all", "none"


def chosen_baselines(names: str | bool, task: str) -> tuple[bool, list[str]]:
    """(whether the plain ones are wanted, which trained ones) of `plain`, `all`, `none` or names joined by commas; True is plain.

    Raises UsageError for an unknown name, or one that does not serve `task`.
    """
    words = [PLAIN if names else NONE] if isinstance(names, bool) else [word.strip() for word in names.split(",")]
    fitting = [name for name, kind in BASELINES.items() if task in kind.tasks]
    for word in words:
        if word not in BASELINES and word not in (PLAIN, ALL, NONE):
            raise UsageError(f"unknown baseline {word}; known: {', '.join((PLAIN, ALL, NONE, *fitting))}")
        if word in BASELINES and word not in fitting:
            raise UsageError(f"baseline {word} does not serve {task}; those that do: {', '.join((PLAIN, *fitting))}")
    if len(words) > 1 and (ALL in words or NONE in words):
        raise UsageError(f"baselines {','.join(words)}: all and none stand alone")
    return PLAIN in words or ALL in words, fitting if ALL in words else [name for name in fitting if name in words]
