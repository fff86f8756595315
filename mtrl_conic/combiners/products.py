"""The two products with a Jacobian: its Gramian, and a weighted sum of its rows.

Where gradients nearly cancel, a float32 Gramian loses the norm of their sum. Both products are therefore in float64,
except on the CPU where the gradients turn out to be far from cancelling: float32 takes half the time there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from mtrl_conic.system.matmul import by_mkl, by_onednn, cpu_is_exact
from mtrl_conic.system.seedwise import aligned, as_alone, by_seed, empty, matmul

# Columns of a matrix product in float64, and how many such products run as one batch: the products keep their
# operands in a core's cache, and the batch keeps all cores busy without a second copy of the Jacobian.
_PIECE, _PIECES = 4096, 16
# An accelerator wants few large products: entries of a batch of pieces there, half a gigabyte in float64.
_DEVICE_ENTRIES = 1 << 26
# The CPU's product in float64 works on twelve columns at a time; ten, padded with zeros, take two thirds of the time.
_TILE = 12

_LARGE = 1 << 14  # columns from which the time of a product shows
# Columns of a float32 product. Whatever the order of its additions, it is within 256 · 2^-24 of the product of the
# norms (Higham, Accuracy and Stability of Numerical Algorithms, 3.1), and so is the sum of many in float64. Where the
# roundings of different pieces do not conspire, the sum is within 1e-7.
_FAST_PIECE = 256
_FAST_ENTRIES = 1 << 22  # of the results of such products that are held at once
# oneDNN is slow where the rows of a piece lie far apart. With copied pieces it is faster than MKL, unless a Jacobian of
# many columns has few rows, which is from so many columns on, and up to so many rows.
_MANY_COLUMNS, _FEW_ROWS = 1 << 17, 16
_COPIED = 1 << 20  # numbers copied at once
# The square of a sum Σ w_i g_i is at least this share of Σ w_i² ‖g_i‖². It is then known to K · 256 · 2^-24 · 64 of
# itself, which is less than K · 1e-3.
_LEAST_EIGENVALUE = 1 / 64
# A float32 sum of K vectors that keeps this share of its terms' norms is known to (K + 2) · 2e-6 of itself.
_KEPT = 0.03
# Squared norms between which float32 products neither vanish nor overflow.
_SMALLEST, _LARGEST = 1e-26, 1e30


def gramian(jacobian: Tensor) -> Tensor:
    """Inner products of the per-task gradients.

    Args:
        jacobian: [S, K, P], any floating type.

    Returns:
        [S, K, K] in float64. Where float32 products were taken, the squared norm of any weighted sum of the gradients
        follows to K · 1e-3 of itself at worst, and to K · 1e-5 unless roundings conspire, as with constant gradients.
    """
    if not _may_be_fast(jacobian):
        return _exact_gramian(jacobian)
    products = _fast_gramian(jacobian)
    doubtful = _may_cancel(products)
    if bool(doubtful.any()):  # a seed's result does not depend on the others'
        products = torch.where(doubtful[:, None, None], _exact_gramian(jacobian), products)
    return products


def weighted_sum(weights: Tensor, jacobian: Tensor, out: Tensor | None = None, gramian: Tensor | None = None) -> Tensor:
    """The direction `weights · J`, accumulated in float64 and rounded once.

    Args:
        weights: [S, K].
        jacobian: [S, K, P].
        out: [S, P], written if given.
        gramian: [S, K, K]; where it shows that the terms do not cancel, float32 is enough.

    Returns:
        [S, P] in the type of the Jacobian.
    """
    if out is None:
        out = empty((jacobian.shape[0], jacobian.shape[2]), jacobian.device, jacobian.dtype)
    if gramian is None or not _may_be_fast(jacobian):
        return _exact_sum(weights, jacobian, out)
    cancelling = _cancels(weights, gramian)
    jacobian, place = as_alone(jacobian), as_alone(out)
    for seed, exact in enumerate(cancelling.tolist()):
        row = slice(seed, seed + 1)
        if exact:
            _exact_sum(weights[row], jacobian[row], place[row])
        else:
            with by_mkl():  # oneDNN takes longer for a single row
                torch.mm(aligned(weights[row].to(jacobian)), jacobian[seed], out=place[row])
    return out if place is out else out.copy_(place)


def _may_be_fast(jacobian: Tensor) -> bool:
    """Whether float32 products are quicker, and exact; on an accelerator a look at them would keep the host waiting."""
    large = jacobian.device.type == "cpu" and jacobian.dtype == torch.float32 and jacobian.shape[2] >= _LARGE
    return large and cpu_is_exact()


def leaves_settings_alone(jacobian: Tensor) -> bool:
    """Whether `gramian` does: other threads may multiply in the meantime."""
    return not _may_be_fast(jacobian) or not by_onednn() or _is_copied(jacobian)


def _is_copied(jacobian: Tensor) -> bool:
    """Whether the products of `_FAST_PIECE` columns are made from copies."""
    return by_onednn() and (jacobian.shape[1] > _FEW_ROWS or jacobian.shape[2] < _MANY_COLUMNS)


def _fast_gramian(jacobian: Tensor) -> Tensor:
    whole = jacobian.shape[2] // _FAST_PIECE * _FAST_PIECE
    rest = jacobian[..., whole:].double()
    products = matmul(rest, rest.mT)
    copied, num_tasks = _is_copied(jacobian), jacobian.shape[1]
    count = max(_COPIED // (num_tasks * _FAST_PIECE) if copied else _FAST_ENTRIES // num_tasks**2, 1)
    with nullcontext() if copied else by_mkl():
        for product, columns in zip(products, as_alone(jacobian[..., :whole]), strict=True):
            for pieces in columns.unflatten(1, (-1, _FAST_PIECE)).transpose(0, 1).split(count):
                some = pieces.contiguous() if copied else pieces
                product += torch.bmm(some, some.mT).sum(0, dtype=torch.float64)
    return products


def _may_cancel(products: Tensor) -> Tensor:
    """Whether some weighted sum of a seed's gradients is too short to be known from these products, [S]."""
    squares = products.diagonal(dim1=1, dim2=2)
    known = ((squares >= _SMALLEST) & (squares <= _LARGEST)).all(-1)
    norms = torch.where(known.unsqueeze(-1), squares, 1).sqrt()
    cosines = torch.where(known[:, None, None], products / (norms.unsqueeze(1) * norms.unsqueeze(2)), 0)
    return ~known | (by_seed(torch.linalg.eigvalsh, cosines)[:, 0] < _LEAST_EIGENVALUE)


def _cancels(weights: Tensor, products: Tensor) -> Tensor:
    """Whether a seed's weighted sum is short beside its terms, [S]."""
    weights = weights.to(products)
    square = matmul(matmul(weights.unsqueeze(1), products), weights.unsqueeze(2)).flatten()
    terms = (weights.abs() * products.diagonal(dim1=1, dim2=2).sqrt()).sum(-1)
    return ~((square >= _SMALLEST) & (square <= _LARGEST) & (square >= (_KEPT * terms).square()))


def _exact_gramian(jacobian: Tensor) -> Tensor:
    num_seeds, num_tasks, _ = jacobian.shape
    result = torch.zeros(num_seeds, num_tasks, num_tasks, dtype=torch.float64, device=jacobian.device)
    pads = jacobian.device.type == "cpu" and num_tasks < 2 * _TILE and num_tasks % _TILE >= 8
    for _, pieces in _double_pieces(jacobian, -(-num_tasks // _TILE) * _TILE if pads else num_tasks):
        result += matmul(pieces[:, :, :num_tasks], pieces.mT).sum(1)[..., :num_tasks]
    return result


def _exact_sum(weights: Tensor, jacobian: Tensor, out: Tensor) -> Tensor:
    row = aligned(weights.double())[:, None, None]
    for columns, pieces in _double_pieces(jacobian, jacobian.shape[1]):
        out[:, columns] = matmul(row.expand(-1, pieces.shape[1], -1, -1), pieces).flatten(1)
    return out


def _double_pieces(jacobian: Tensor, rows: int) -> Iterator[tuple[slice, Tensor]]:
    """Pieces [S, n, rows, c] of a Jacobian [S, K, P] in float64, zero below the K rows, with the columns they cover.

    A piece is valid until the next.
    """
    num_seeds, num_tasks, size = jacobian.shape
    most = _PIECES if jacobian.device.type == "cpu" else max(_DEVICE_ENTRIES // (num_seeds * num_tasks * _PIECE), 1)
    start, buffer = 0, None
    while start < size:
        piece = min(_PIECE, size - start)
        count = min(most, (size - start) // piece)
        columns = slice(start, start + count * piece)
        shape = (num_seeds, count, rows, piece)
        if buffer is None or buffer.shape != shape:
            buffer = empty(shape, jacobian.device, torch.float64)
            buffer[:, :, num_tasks:] = 0
        buffer[:, :, :num_tasks].copy_(jacobian[..., columns].unflatten(2, (count, piece)).transpose(1, 2))
        yield columns, buffer
        start = columns.stop
