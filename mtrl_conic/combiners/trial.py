"""A combiner tried before work starts, so that what is wrong with it is said at once and in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtrl_conic.combiners.base import Combiner
from mtrl_conic.combiners.products import gramian
from mtrl_conic.system.foreign import FAILURES
from mtrl_conic.system.trial import TrialError, check_tensor, explained, failure


def try_out(
    combiner: Combiner,
    seeds: Sequence[int],
    num_tasks: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Set a combiner up and have it make two small updates, which uses it up.

    Random gradients and losses of 1 take the place of a network's. The default generators of torch are left alone.

    Raises:
        TrialError: it raises something, or gives what does not fit S seeds and K tasks.
        ValueError, ImportError: its `setup` does not take these seeds and tasks.
    """
    device = torch.device(device)
    name = type(combiner).__name__
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        with explained(name):  # a ValueError says itself what the combiner does not take
            combiner.setup(seeds, num_tasks, device)
        draws = torch.Generator().manual_seed(0)
        jacobian = torch.randn(len(seeds), num_tasks, num_tasks + 2, generator=draws).to(device, dtype)
        try:
            for _ in range(2):  # some remember from one to the next, or do without the Jacobian in one
                _update(combiner, jacobian, jacobian.new_ones(jacobian.shape[:2]))
        except TrialError:
            raise
        except FAILURES as error:
            raise failure(name, error) from error


def _update(combiner: Combiner, jacobian: Tensor, losses: Tensor) -> None:
    """One update as a training loop makes it, with a look at all that it gives."""
    memory = combiner.snapshot()
    if combiner.needs_jacobian():
        _check_direction(combiner, jacobian, losses)
    else:
        _check(combiner, "weights", combiner.loss_weights(losses), "[S, K]", losses.shape)
    if combiner.looks_back:
        combiner.after_step(losses)
    _check_held(combiner, *losses.shape)
    combiner.restore(memory, torch.zeros(len(losses), dtype=torch.bool, device=losses.device))
    combiner.state_dict()


def _check_direction(combiner: Combiner, jacobian: Tensor, losses: Tensor) -> None:
    if type(combiner).direction is Combiner.direction:
        _check(combiner, "weights", combiner.weights(gramian(jacobian), losses), "[S, K]", losses.shape)
    out = jacobian[:, 0].clone()
    direction = combiner.direction(jacobian, losses, out=out)
    _check(combiner, "direction", direction, "[S, P]", out.shape)
    if not torch.equal(direction, out):
        raise TrialError(f"{type(combiner).__name__}.direction must write what it returns into `out` as well")


def _check(combiner: Combiner, method: str, given: Any, axes: str, shape: torch.Size) -> None:
    check_tensor(f"{type(combiner).__name__}.{method}", given, axes, shape)


def _check_held(combiner: Combiner, num_seeds: int, num_tasks: int) -> None:
    """The tensors in `state` and `diagnostics`."""
    name = type(combiner).__name__
    for key, value in combiner.state.items():
        if not isinstance(value, Tensor) or value.shape[:1] != (num_seeds,):
            raise TrialError(
                f"{name}.state[{key!r}] must be a tensor [S, ...] = [{num_seeds}, ...], not {_kind(value)}"
            )
    for key, value in combiner.diagnostics.items():
        if not isinstance(value, Tensor) or value.shape not in ((num_seeds,), (num_seeds, num_tasks)):
            wanted = f"[S] = [{num_seeds}] or [S, K] = {[num_seeds, num_tasks]}"
            raise TrialError(f"{name}.diagnostics[{key!r}] must be a tensor {wanted}, not {_kind(value)}")


def _kind(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__
