"""The problem: two losses over the plane and their gradients.

As in the public code of FAMO (arXiv 2306.03792) and NashMTL (arXiv 2202.01017): two losses over the plane, each a
steep valley for x2 > 0 and a bowl for x2 < 0, with strongly conflicting gradients. The first loss is scaled by
0.1 there, and by 1 in CAGrad (arXiv 2110.14048).
"""

from __future__ import annotations

import torch
from torch import Tensor

STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))

# scale of the first loss: (the point where the mean loss is least, that mean loss)
MINIMA = {0.1: ((-5.7273, -8.4094), -10.1037), 1.0: ((0.0, -8.3551), -15.0916)}

# scale of the first loss: what both losses stay above by at least 0.1, for methods that need positive losses
# (FAMO's toy script sets these as its least losses)
LOWER_BOUNDS = {0.1: (-2.1, -21.0), 1.0: (-21.0, -21.0)}

_FLOOR = 5e-6  # under the logarithms


def losses(points: Tensor, scale: float | Tensor = 0.1) -> Tensor:
    """Both losses at each point.

    Args:
        points: [..., 2].
        scale: of the first loss; a tensor must broadcast to [...].

    Returns:
        [..., 2].
    """
    x1, x2 = points.unbind(-1)
    first_valley = ((0.5 * (-x1 - 7) - torch.tanh(-x2)).abs().clamp(min=_FLOOR)).log() + 6
    second_valley = ((0.5 * (-x1 + 3) + torch.tanh(-x2) + 2).abs().clamp(min=_FLOOR)).log() + 6
    depth = 0.1 * (-x2 - 8).square()
    first_bowl = ((-x1 + 7).square() + depth) / 10 - 20
    second_bowl = ((-x1 - 7).square() + depth) / 10 - 20
    # clamp passes the gradient at equality: at x2 = 0 both switches are 0, and nothing would move otherwise
    above, below = torch.tanh(0.5 * x2).clamp(min=0), torch.tanh(-0.5 * x2).clamp(min=0)
    first = scale * (above * first_valley + below * first_bowl)
    return torch.stack((first, above * second_valley + below * second_bowl), -1)


def jacobian(points: Tensor, scale: float | Tensor = 0.1) -> tuple[Tensor, Tensor]:
    """The losses and their gradients at each point.

    Args:
        points: [S, 2].
        scale: of the first loss; a number or [S].

    Returns:
        losses [S, 2], detached, and the Jacobian [S, 2, 2].
    """
    with torch.enable_grad():
        # one copy of the points for each task, so that one backward pass keeps the tasks apart
        copies = points.detach().expand(2, *points.shape).clone().requires_grad_()
        own = losses(copies, scale).diagonal(dim1=0, dim2=2)
        (gradients,) = torch.autograd.grad(own.sum(), copies)
    return own.detach(), gradients.transpose(0, 1)
