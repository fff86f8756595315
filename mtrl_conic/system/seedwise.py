"""Work on tensors [S, ...] of which each seed gets the same bits alone and among others.

On the CPU a library rounds by how many matrices it is given at once, by where they lie in memory, and by whether there
is one result or several. What depends on that is therefore done there seed by seed, each with the call that it would
have alone. On a device it stays one call for all seeds, and so it is for a single seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

_SHARED = 1 << 15  # numbers from which threads of torch share a sum
_LINE = 64  # bytes: fresh memory of torch begins at multiples of it, and so does every seed's here


def matmul(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """Products [S, ..., m, n] of [S, ..., m, k] and [S, ..., k, n]; knows no gradients.

    Args:
        left, right: with the same batch axes.
        out: written if given; its batch axes lie as those of one product do.
    """
    return _product(_matmul, left, right, out)


def add_matmul(bias: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """As `matmul`, with rows [S, ..., n] added to each product; knows no gradients."""

    def product(left: Tensor, right: Tensor, out: Tensor | None, bias: Tensor = bias) -> Tensor:
        batches = (bias.unsqueeze(-2).flatten(0, -3), left.flatten(0, -3), right.flatten(0, -3))
        return _unbatched(torch.baddbmm(*batches), left) if out is None else torch.baddbmm(*batches, out=_batch(out))

    return _product(product, left, right, None, bias)


def by_seed(function: Callable[..., Any], *tensors: Tensor) -> Any:
    """What the function gives for tensors [S, ...]: a tensor with a leading S, or a tuple of them, contiguous.

    For what rounds otherwise where a vector register is not filled, such as `softplus` and powers, for sums of all of a
    seed's numbers, which several threads share only where there is one sum, and for factors of matrices.
    """
    if not _one_by_one(tensors[0]):
        return function(*tensors)
    found = [function(*(tensor[rows] for tensor in tensors)) for rows in _seeds(tensors[0])]
    return torch.cat(found) if isinstance(found[0], Tensor) else tuple(map(torch.cat, zip(*found, strict=True)))


def mean_of_rows(rows: Tensor) -> Tensor:
    """The mean of [S, ..., B] over its last axis."""
    if rows.numel() < _SHARED * len(rows):
        return rows.mean(-1)
    return by_seed(partial(torch.mean, dim=-1), rows)


def sum_over(tensor: Tensor, dim: int, out: Tensor | None = None) -> Tensor:
    """The sum of [S, ...] over an axis, written to `out` if given."""
    if out is None:
        return by_seed(partial(torch.sum, dim=dim), tensor)
    if not _one_by_one(tensor):
        return torch.sum(tensor, dim, out=out)
    for rows in _seeds(tensor):
        torch.sum(tensor[rows], dim, out=out[rows])
    return out


def zeros(shape: Sequence[int], device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """Zeros [S, ...], dense but for a gap between the seeds on the CPU, where each begins as fresh memory does."""
    seeds, *sizes = shape
    count = math.prod(sizes)
    pitch = _pitch(seeds, count, device, dtype)
    if pitch == count:
        return torch.zeros(*shape, device=device, dtype=dtype)
    return torch.zeros(seeds, pitch, dtype=dtype)[:, :count].unflatten(1, sizes)


def empty(shape: Sequence[int], device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """As `zeros`, of any numbers, and no view of another tensor: autograd forbids to change such results in place."""
    seeds, *sizes = shape
    strides = [math.prod(sizes[dim:]) for dim in range(len(shape))]
    strides[0] = _pitch(seeds, strides[0], device, dtype)
    return torch.empty_strided(tuple(shape), strides, device=device, dtype=dtype)


def copy(tensor: Tensor) -> Tensor:
    """A copy of [S, ...] that lies as `zeros` do."""
    return zeros(tensor.shape, tensor.device, tensor.dtype).copy_(tensor)


def aligned(tensor: Tensor) -> Tensor:
    """The tensor, contiguous, and beginning as fresh memory does: a piece of another may lie otherwise among seeds."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.device.type == "cpu" and tensor.data_ptr() % _LINE else tensor


def _pitch(seeds: int, count: int, device: torch.device | str, dtype: torch.dtype) -> int:
    """From one seed's numbers to the next one's."""
    apart = seeds > 1 and torch.device(device).type == "cpu"
    return _rounded(count, _LINE // dtype.itemsize) if apart else count


def _one_by_one(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.shape[0] > 1


def _seeds(tensor: Tensor) -> list[slice]:
    return [slice(seed, seed + 1) for seed in range(len(tensor))]


def _rounded(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def _product(
    function: Callable[..., Tensor], left: Tensor, right: Tensor, out: Tensor | None, *others: Tensor
) -> Tensor:
    if not _one_by_one(left):
        found = function(left, right, out, *others)
        return found if out is None else out
    if out is None:
        out = empty((*left.shape[:-1], right.shape[-1]), left.device, left.dtype)
    left, right, place = as_alone(left), as_alone(right), as_alone(out)
    for rows in _seeds(left):
        function(left[rows], right[rows], place[rows], *(other[rows] for other in others))
    return out if place is out else out.copy_(place)


def _matmul(left: Tensor, right: Tensor, out: Tensor | None) -> Tensor:
    batches = left.flatten(0, -3), right.flatten(0, -3)
    return _unbatched(torch.bmm(*batches), left) if out is None else torch.bmm(*batches, out=_batch(out))


def _unbatched(products: Tensor, left: Tensor) -> Tensor:
    return products if left.dim() == 3 else products.unflatten(0, left.shape[:-2])


def _batch(out: Tensor) -> Tensor:
    return out.view(math.prod(out.shape[:-2]), *out.shape[-2:])


def as_alone(tensor: Tensor) -> Tensor:
    """The tensor [S, ...], or a copy, in which each seed lies as it would alone: with the same strides and alignment.

    Axes that lie outside the seeds' have S times the stride that they would have alone.
    """
    if len(tensor) > 1 and tensor.stride(0) == 0:  # one for all seeds
        tensor = tensor.contiguous()
    seeds, *sizes = tensor.shape
    pitch, *strides = tensor.stride()
    unit = _LINE // tensor.element_size()
    alone = [stride // seeds if stride > pitch else stride for stride in strides]
    moved = [
        stride
        for size, stride, own in zip(sizes, strides, alone, strict=True)
        if size > 1 and stride != own and (stride % unit or own % unit)
    ]
    if (pitch % unit == 0 and not moved) or tensor.numel() == 0:
        return tensor
    core = tensor
    for dim, stride in enumerate(strides, 1):
        if stride == 0:
            core = core.narrow(dim, 0, 1)
    extent = 1 + sum((size - 1) * own for size, own in zip(core.shape[1:], alone, strict=True))
    start, pitch = tensor.data_ptr() % _LINE // tensor.element_size(), _rounded(extent, unit)
    memory = tensor.new_empty(start + seeds * pitch)
    return memory.as_strided(core.shape, (pitch, *alone), start).copy_(core).expand_as(tensor)
