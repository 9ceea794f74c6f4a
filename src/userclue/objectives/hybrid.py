"""A weighted sum of objectives on one encoder, each with heads of its own."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from userclue.config import PretrainSettings
from userclue.data.batches import Batch, concatenate
from userclue.encoder import UserEncoder
from userclue.objectives.base import Objective
from userclue.train.step import Step
from userclue.views import UNCHANGED


class Hybrid(Objective):
    """Σ weight · loss over the objectives that the setting `objectives` names.

    One pass of the encoder serves all of them that read the batch as it stands: two dropout copies of it or two windows of each
    history, whose vectors are the pair of CLUE and its kin, and the first one's states what `next` reads. The others (views that
    change tokens, masked items) make their own.
    """

    def __init__(
        self,
        encoder: UserEncoder,
        settings: PretrainSettings,
        generator: torch.Generator,
        family: Mapping[str, Callable[[UserEncoder, PretrainSettings, torch.Generator], Objective]],
    ) -> None:
        super().__init__()
        self.encoder, self.weights = encoder, settings.parts()
        self.heads = nn.ModuleDict({name: family[name](encoder, settings, generator) for name in self.weights})
        for part in self._parts().values():
            # The encoder is a sub-module of the hybrid alone, or a checkpoint would hold it once more for each part.
            del part.encoder
            part.__dict__["encoder"] = encoder
        self.smallest_batch = max(part.smallest_batch for part in self._parts().values())
        pairs, readers = ([name for name, part in self._parts().items() if getattr(part, way) is not None] for way in ("pair", "read"))
        worth_it = UNCHANGED.issuperset(settings.view.split("+")) and pairs and len(pairs) + len(readers) > 1
        self.sharing = {*pairs, *readers} if worth_it else set()

    @property
    def constant_rate(self) -> list[nn.Parameter]:
        """Those of all parts."""
        return [parameter for part in self._parts().values() for parameter in part.constant_rate]

    @property
    def warnings(self) -> list[str]:
        """Those of all parts."""
        return [warning for part in self._parts().values() for warning in part.warnings]

    @property
    def reads_whole_table(self) -> bool:
        """Whether one of the parts does."""
        return any(part.reads_whole_table for part in self._parts().values())

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        """One step of every part on B users."""
        steps = self._shared(batch, generator) if self.sharing else {}
        steps |= {name: part(batch, generator) for name, part in self._parts().items() if name not in self.sharing}
        losses = {name: steps[name].loss for name in self.weights}
        total = torch.stack([weight * losses[name] for name, weight in self.weights.items()]).sum()

        def metrics() -> dict[str, float]:
            found: dict[str, float] = {f"{name}_loss": float(loss.detach()) for name, loss in losses.items()}
            for name in self.weights:
                for key, value in steps[name].metrics().items():
                    found[f"{name}_{key}" if key in found else key] = value
            return found

        return Step(total, metrics)

    def _shared(self, batch: Batch, generator: torch.Generator) -> dict[str, Step]:
        both = concatenate(batch, batch if batch.other is None else batch.other)
        states = self.encoder.states(both, generator)
        encodings = states.index_select(0, both.offsets[1:] - 1)
        steps = {}
        for name, part in self._parts().items():
            if name in self.sharing:
                if part.pair is not None:
                    steps[name] = part.pair(encodings, batch)
                elif part.read is not None:
                    steps[name] = part.read(states[: len(batch.tokens)], batch, generator)
        return steps

    def _parts(self) -> dict[str, Objective]:
        return {name: part for name, part in self.heads.items() if isinstance(part, Objective)}
