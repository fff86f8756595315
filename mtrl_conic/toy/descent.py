"""Descent on the toy problem with a combiner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl_conic.combiners.base import Combiner
from mtrl_conic.combiners.products import weighted_sum
from mtrl_conic.toy import problem

TOLERANCE = 0.02  # of the mean loss above its minimum; within it the minimum counts as reached
LEARNING_RATE = 1e-3
NEGLIGIBLE = 1e-6  # share of max ‖g_i‖ below which a direction has no meaning: on the Pareto front it is rounding


@dataclass
class Descent:
    """What a descent from S starts leaves behind; a record lies at each of T steps, the last at the end.

    Attributes:
        steps: [T], how many steps had been taken.
        points: [T, S, 2].
        excess: [T, S], the mean loss less its minimum.
        first_hit: [S], the first step at which the excess is below `TOLERANCE`, -1 where it never is; every
            step counts, whether recorded or not.
        smallest_cosine: [S], the least cos(d, g_0) of all steps but those where ‖d‖ or ‖g_0‖ is below
            `NEGLIGIBLE` times the larger ‖g_i‖.
    """

    steps: Tensor
    points: Tensor
    excess: Tensor
    first_hit: Tensor
    smallest_cosine: Tensor


def descend(
    combiner: Combiner,
    starts: Sequence[Sequence[float]] = problem.STARTS,
    scale: float = 0.1,
    num_steps: int = 50_000,
    every: int = 1,
) -> Descent:
    """Adam 1e-3 in float64 along the combiner's directions, one seed a start.

    The combiner is given the losses above `problem.LOWER_BOUNDS`, as some methods take their logarithms.

    Args:
        combiner: a new one; it is set up here.
        starts: S points.
        scale: of the first loss, 0.1 or 1.
        num_steps: how many steps to take.
        every: steps between records.
    """
    points = torch.tensor(starts, dtype=torch.float64)
    lower_bounds = torch.tensor(problem.LOWER_BOUNDS[scale], dtype=torch.float64)
    combiner.setup(range(len(points)), num_tasks=2)
    optimizer = torch.optim.Adam([points], LEARNING_RATE)
    recorder = _Recorder(len(points), problem.MINIMA[scale][1])
    for step in range(num_steps):
        losses, jacobian = problem.jacobian(points, scale)
        recorder.see(step, losses, points if step % every == 0 else None)
        points.grad = _direction(combiner, jacobian, losses - lower_bounds)
        recorder.see_direction(points.grad, jacobian)
        optimizer.step()
        if combiner.looks_back:
            combiner.look_back(problem.losses(points, scale) - lower_bounds)
    recorder.see(num_steps, problem.losses(points, scale), points)
    return recorder.result()


def _direction(combiner: Combiner, jacobian: Tensor, losses: Tensor) -> Tensor:
    if combiner.needs_jacobian():
        return combiner.combine(jacobian, losses)
    return weighted_sum(combiner.loss_weights(losses), jacobian)


class _Recorder:
    def __init__(self, num_starts: int, least: float) -> None:
        self.least = least
        self.records: list[tuple[int, Tensor, Tensor]] = []
        self.first_hit = torch.full((num_starts,), -1)
        self.smallest_cosine = torch.ones(num_starts, dtype=torch.float64)

    def see(self, step: int, losses: Tensor, points: Tensor | None) -> None:
        """Losses [S, 2] at the points [S, 2], which are kept if given."""
        excess = losses.mean(-1) - self.least
        self.first_hit[(self.first_hit < 0) & (excess < TOLERANCE)] = step
        if points is not None:
            self.records.append((step, points.clone(), excess))

    def see_direction(self, direction: Tensor, jacobian: Tensor) -> None:
        """Directions [S, 2] for the Jacobian [S, 2, 2]."""
        mean, floor = jacobian.mean(1), NEGLIGIBLE * jacobian.norm(dim=-1).amax(-1)
        counts = torch.minimum(direction.norm(dim=-1), mean.norm(dim=-1)) > floor
        cosine = torch.cosine_similarity(direction, mean, eps=1e-30).where(counts, 1.0)
        self.smallest_cosine = torch.minimum(self.smallest_cosine, cosine)

    def result(self) -> Descent:
        steps, points, excess = zip(*self.records, strict=True)
        tracks = (torch.tensor(steps), torch.stack(points), torch.stack(excess))
        return Descent(*tracks, self.first_hit, self.smallest_cosine)
