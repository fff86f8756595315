"""Initial values of parameters; each seed draws from its own stream, alone and among others the same."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mtrl_conic.system.seedwise import by_seed
from mtrl_conic.system.streams import SeedStreams

Initial = Callable[[Tensor, SeedStreams], None]  # fills a view [S, *shape]


def constant(value: float) -> Initial:
    """All entries the same."""

    def fill(view: Tensor, _: SeedStreams) -> None:
        view.fill_(value)

    return fill


def uniform(bound: float) -> Initial:
    """Uniform in [-bound, bound)."""

    def fill(view: Tensor, streams: SeedStreams) -> None:
        values = streams.uniform_(torch.empty(view.shape, dtype=view.dtype, device=view.device))
        view.copy_((2 * values - 1) * bound)

    return fill


def normal(std: float) -> Initial:
    """Normal with mean 0."""

    def fill(view: Tensor, streams: SeedStreams) -> None:
        view.copy_(std * streams.normal_(torch.empty(view.shape, dtype=view.dtype, device=view.device)))

    return fill


def he_uniform(fan_in: int) -> Initial:
    """Uniform with a variance of 2/fan_in, for layers before a ReLU (He et al., arXiv 1502.01852)."""
    return uniform(math.sqrt(6 / fan_in))


def orthogonal(gain: float = 1.0) -> Initial:
    """The last two axes orthogonal (Saxe et al., arXiv 1312.6120), each matrix of its own, times `gain`."""

    def fill(view: Tensor, streams: SeedStreams) -> None:
        rows, columns = view.shape[-2:]
        shape = (*view.shape[:-2], max(rows, columns), min(rows, columns))
        normal = streams.normal_(torch.empty(shape, dtype=view.dtype, device=view.device))
        factor, triangle = by_seed(torch.linalg.qr, normal)
        # With the signs of the diagonal the distribution is uniform over orthogonal matrices (math-ph/0609050).
        factor = factor * triangle.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
        view.copy_(gain * (factor if rows >= columns else factor.mT))

    return fill
