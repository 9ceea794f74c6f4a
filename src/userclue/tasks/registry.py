"""The tasks by name: a new one is its file, a line here and a numeric test."""

from pathlib import Path

from userclue.artifact import Artifact
from userclue.errors import ArtifactError
from userclue.tasks.cold_start import ColdStart, ColdStartModel
from userclue.tasks.profiling import Profiling, ProfilingModel
from userclue.tasks.sequential import Sequential, SequentialModel

TASKS = {"profiling": Profiling, "cold-start": ColdStart, "sequential": Sequential}
MODELS: dict[str, type[ProfilingModel] | type[ColdStartModel] | type[SequentialModel]] = {
    "profiling": ProfilingModel,
    "cold-start": ColdStartModel,
    "sequential": SequentialModel,
}


def load_fitted(path: str | Path) -> ProfilingModel | ColdStartModel | SequentialModel:
    """Load a fitted model of whatever task; ArtifactError when the folder is damaged or of an unknown task."""
    artifact = Artifact.open(path, ("fitted",))
    task = artifact.task.get("task")
    if task not in MODELS:
        raise ArtifactError(f"{path}: was fitted to {task}, which this userclue does not know; known: {', '.join(MODELS)}")
    return MODELS[task].from_artifact(artifact)
