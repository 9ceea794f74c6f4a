"""Loss functions: pure, on tensors, each testable alone. Shapes: B users, D width, K classes."""

from torch import Tensor
from torch.nn.functional import normalize


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean negative cosine similarity of rows, [B, D] × [B, D] → scalar in [−1, 1] (CLUE eq. 4).

    The stop-gradient of eq. 6 is the caller's: pass `target.detach()`.
    """
    return -(normalize(prediction, dim=-1) * normalize(target, dim=-1)).sum(dim=-1).mean()
