"""Loss functions: pure, on tensors, each testable alone. Shapes: B users, D width, K classes."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean negative cosine similarity of rows, [B, D] × [B, D] → scalar in [−1, 1] (CLUE eq. 4).

    The stop-gradient of eq. 6 is the caller's: pass `target.detach()`.
    """
    if prediction.dtype == torch.bfloat16:  # whose 8 bits cannot tell a loss of −0.998 from one of −1
        prediction, target = prediction.float(), target.float()
    return -(normalize(prediction, dim=-1) * normalize(target, dim=-1)).sum(dim=-1).mean()
