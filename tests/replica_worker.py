"""One replica of `test_backward_replicas`: python replica_worker.py <rank> <world> <folder>; writes <rank>.pt there."""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from hydra.utils import instantiate
from omegaconf import OmegaConf
from supervised import NUM_TASKS, Example
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mtrl_conic import MultiTaskBackward
from mtrl_conic.combiners import FAMO, LS, ConicGrad, NashMTL

METHODS = {
    path.stem: path for path in sorted((Path(__file__).resolve().parent.parent / "configs" / "combiner").glob("*.yaml"))
}
KEPT = "nashmtl that keeps its weights"
NAMES = [*METHODS, KEPT]
STEPS, ROWS = 4, 36  # rows of the whole batch


def make(name):
    return NashMTL(update_every=2) if name == KEPT else instantiate(OmegaConf.load(METHODS[name]))


def flat(example):
    return torch.cat([parameter.detach().flatten() for parameter in example.parameters])


def train(name, parts=1, rank=0, world=1, **settings):
    """The parameters after a few steps; the whole batch is in world · parts parts, of which a replica sees `parts`."""
    example = Example(rows=ROWS)
    trunk = DistributedDataParallel(example.trunk) if world > 1 else example.trunk
    losses = lambda part: example.losses(part=rank * parts + part, parts=world * parts, trunk=trunk)  # noqa: E731
    backward = example.backward(make(name), seed=5, **settings)
    optimizer = torch.optim.SGD(example.parameters, lr=0.1)
    for _ in range(STEPS):
        for part in range(parts - 1):
            backward.accumulate(losses(part))
        backward(losses(parts - 1))
        optimizer.step()
        if backward.looks_back:
            backward.after_step(sum(losses(part).detach() for part in range(parts)) / parts)
    return flat(example)


def one_bad_loss(rank, world, combiner):
    """The second step has a NaN loss in the last replica, the third one after its step."""
    example = Example(rows=ROWS)
    backward = example.backward(combiner)
    optimizer = torch.optim.SGD(example.parameters, lr=0.1)
    found = []
    for step in range(5):
        losses = example.losses(part=rank, parts=world)
        backward(losses * float("nan") if (step, rank) == (1, world - 1) else losses)
        optimizer.step()
        losses = example.losses(part=rank, parts=world)
        backward.after_step(losses * float("nan") if (step, rank) == (2, world - 1) else losses)
        found += [flat(example), backward.finite.clone(), *combiner.state_dict().values()]
    return found


def starts_unlike(rank, **settings):
    """What is said of replicas of which one is another; nothing where that is not seen."""
    example = Example(seed=settings.pop("model", 0))
    backward = example.backward(settings.pop("combiner", LS()), **settings)
    try:
        backward(example.losses())
    except ValueError as error:
        return str(error)
    return ""


def loaded_unlike(rank):
    example = Example()
    backward = example.backward(ConicGrad())
    backward(example.losses())
    state = backward.state_dict()
    state["logits"] += rank
    backward.load_state_dict(state)
    try:
        backward(example.losses())
    except ValueError as error:
        return str(error)
    return ""


def drifts_apart(rank):
    """What is said of replicas that one has left, when asked."""
    example = Example()
    backward = example.backward(LS())
    backward(example.losses())
    backward.check_replicas()
    with torch.no_grad():
        example.trunk[0].bias[0] += 1e-12 * rank
    try:
        backward.check_replicas()
    except ValueError as error:
        return str(error)
    return ""


def count_collectives(rank, world):
    """The sizes of the collectives of a second update, by combiner and number of micro-batches."""
    sizes, all_reduce = {}, dist.all_reduce
    for name in ("conicgrad", "ls", "famo"):
        for parts in (1, 2):
            example = Example(rows=ROWS)
            backward = example.backward(make(name))
            backward(example.losses())
            counted = []
            dist.all_reduce = lambda tensor, *rest, counted=counted, **settings: (
                counted.append(tensor.numel()),
                all_reduce(tensor, *rest, **settings),
            )
            for part in range(parts - 1):
                backward.accumulate(example.losses(part=part, parts=parts))
            backward(example.losses(part=parts - 1, parts=parts))
            if backward.looks_back:
                backward.after_step(example.losses())
            dist.all_reduce = all_reduce
            sizes[name, parts] = counted
    return sizes


def half_precision(rank, world):
    """Parameters in bfloat16, losses in float32: what the combiner sees of them."""
    example, combiner = Example(rows=ROWS, dtype=torch.bfloat16), ConicGrad()
    backward = example.backward(combiner)
    seen = []
    direction = combiner.direction
    combiner.direction = lambda jacobian, losses, out: (seen.append(losses), direction(jacobian, losses, out))[1]
    losses = example.losses(part=rank, parts=world).float()
    backward(losses)
    return seen[0], losses.detach(), torch.cat([parameter.grad.flatten() for parameter in example.parameters])


def batch_norm(rank, world):
    """A model with buffers, wrapped as a whole: parameters, and the buffers as the next forward pass finds them."""
    torch.manual_seed(rank)  # the wrapper takes the parameters of the first replica
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, NUM_TASKS)).double()
    wrapped = DistributedDataParallel(model)
    backward = MultiTaskBackward(ConicGrad(), model.parameters(), num_tasks=NUM_TASKS)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    draws = torch.Generator().manual_seed(rank)
    seen = []
    model[1].register_forward_pre_hook(lambda module, inputs: seen.append(module.running_mean.clone()))
    for _ in range(3):
        outputs = wrapped(torch.randn(8, 5, generator=draws, dtype=torch.float64))
        backward(outputs.square().mean(0))
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()], seen


def by_groups(rank, world):
    """A group of the first two replicas, one of each alone, and none at all."""
    pair, alone = dist.new_group([0, 1]), [dist.new_group([member]) for member in range(world)]
    found = {
        "off": train("conicgrad", rank=rank, world=world, process_group=False),
        "alone": train("conicgrad", rank=rank, world=world, process_group=alone[rank]),
    }
    if rank < 2:
        found["pair"] = train("conicgrad", rank=rank, world=world, process_group=pair)
    else:
        try:
            train("conicgrad", rank=rank, world=world, process_group=pair)
        except ValueError as error:
            found["pair"] = str(error)
    return found


def main(rank, world, folder):
    torch.set_num_threads(1)
    early = Example(rows=ROWS).backward(ConicGrad())  # made before there is a group
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    found = {name: (train(name, 1, rank, world), train(name, 2, rank, world)) for name in NAMES}
    early(Example(rows=ROWS).losses(part=rank, parts=world))
    found["one bad loss"] = [one_bad_loss(rank, world, combiner) for combiner in (FAMO(), LS(), ConicGrad())]
    found["unlike"] = {
        "seed": starts_unlike(rank, seed=rank),
        "parameters": starts_unlike(rank, model=rank),
        "combiner": starts_unlike(rank, combiner=ConicGrad(c=0.5 + 0.1 * rank)),
        "another combiner": starts_unlike(rank, combiner=ConicGrad() if rank else LS()),
        "loaded": loaded_unlike(rank),
        "drifting": drifts_apart(rank),
        "": starts_unlike(rank),
    }
    found["collectives"] = count_collectives(rank, world)
    found["half precision"] = half_precision(rank, world)
    found["batch norm"] = batch_norm(rank, world)
    found["groups"] = by_groups(rank, world)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
