"""`MultiTaskBackward` holds the Jacobian once."""

import pytest
import torch
from supervised import NUM_TASKS, Example, Rows
from torch.utils._python_dispatch import TorchDispatchMode

from mtrl_conic.combiners import LS, CAGrad, ConicGrad, PCGrad


class Allocations(TorchDispatchMode):
    """The sizes in bytes of the storages that operations make."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        held = {
            tensor.untyped_storage().data_ptr() for tensor in (*args, *(kwargs or {}).values()) if _is_tensor(tensor)
        }
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if _is_tensor(tensor) and tensor.untyped_storage().data_ptr() not in held:
                self.sizes.append(tensor.untyped_storage().nbytes())
        return result


def _is_tensor(value):
    return isinstance(value, torch.Tensor)


class Careless(ConicGrad):
    """Copies the Jacobian."""

    def direction(self, jacobian, losses, out=None):
        return super().direction(jacobian.clone(), losses, out)


def largest_allocation(combiner, micro_batches=1):
    """The largest storage made in an update after the first, over the size of the Jacobian."""
    example = Example(width=512, dtype=torch.float32)  # 266k shared parameters: several of the Gramian's pieces
    backward = example.backward(combiner)
    backward.accumulate(example.losses())
    backward(example.losses())
    losses = [example.losses() for _ in range(micro_batches)]
    with Allocations() as allocations:
        for some in losses[1:]:
            backward.accumulate(some)
        backward(losses[0])
    size = sum(parameter.numel() for parameter in example.trunk.parameters())
    return max(allocations.sizes) / (NUM_TASKS * size * 4)


@pytest.mark.parametrize("make", [ConicGrad, CAGrad, PCGrad, LS])
def test_no_second_copy_of_the_jacobian(make):
    assert largest_allocation(make()) < 0.6


@pytest.mark.parametrize("make", [ConicGrad, PCGrad, LS])
def test_micro_batches_need_no_second_copy_either(make):
    assert largest_allocation(make(), micro_batches=3) < 0.6


def test_a_second_copy_would_be_seen():
    assert largest_allocation(Careless()) >= 1


def test_the_jacobian_is_allocated_once():
    example, combiner = Example(), Rows()
    backward = example.backward(combiner)
    pointers = set()
    for _ in range(3):
        backward(example.losses())
        pointers.add(combiner.pointer)
    assert len(pointers) == 1
