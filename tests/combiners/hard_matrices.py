"""Jacobians that break combiners, and helpers to run every method of configs/combiner on them."""

from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

CONFIGS = Path(__file__).parents[2] / "configs" / "combiner"
METHODS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
TASKS = (1, 2, 3, 10, 50)
SCALES = (1e-8, 1e-4, 1.0, 1e4, 1e8)


def make(name, seeds=(0,), num_tasks=3, device="cpu", **settings):
    """The combiner of configs/combiner/<name>.yaml, ready for use."""
    combiner = instantiate(OmegaConf.load(CONFIGS / f"{name}.yaml"), **settings)
    combiner.setup(seeds, num_tasks, device)
    return combiner


def hard_jacobians(num_tasks, size=23, seed=0):
    """Name to Jacobian [K, P] in float32, entries of the order of 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    signs = torch.where(torch.arange(num_tasks) % 2 == 0, 1.0, -1.0).unsqueeze(1)
    result = {
        "random": normal(num_tasks, size),
        "aligned": normal(1, size) + 0.3 * normal(num_tasks, size),
        "conflicting": signs * normal(1, size) + 0.5 * normal(num_tasks, size),
        "nearly parallel": normal(1, size) + 1e-5 * normal(num_tasks, size),
        "parallel, unequal, reversed": normal(1, size) * (2 + normal(num_tasks, 1)),
        "rank-deficient": normal(num_tasks, max(num_tasks // 3, 1)) @ normal(max(num_tasks // 3, 1), size),
        "badly scaled": normal(num_tasks, size) * 10 ** (8 * torch.rand(num_tasks, 1, generator=generator) - 4),
        "orthogonal": torch.eye(num_tasks, size),
        "all zero": torch.zeros(num_tasks, size),
        "stationary": _centred(normal(num_tasks, size)),
    }
    if num_tasks > 1:
        result["opposite"] = _with_last(normal(num_tasks, size), lambda j: -j[0])
        result["duplicated"] = _with_last(normal(num_tasks, size), lambda j: j[0])
        result["zero row"] = _with_last(normal(num_tasks, size), lambda j: torch.zeros_like(j[0]))
        for gap in (1e-2, 1e-3, 1e-4, 1e-6):
            result[f"cancelling to {gap:g}"] = _centred(normal(num_tasks, size)) + gap * normal(1, size)
    return result


def _centred(jacobian):
    return jacobian - jacobian.mean(0)


def _with_last(jacobian, last):
    jacobian[-1] = last(jacobian)
    return jacobian


def oracle_jacobians(num_tasks, draws=10):
    """Jacobians [250, K, P] in float64 to compare with oracles: five kinds in five scales."""
    generator = torch.Generator().manual_seed(num_tasks)
    size, rank = 2 * num_tasks + 3, max(num_tasks // 2, 1)
    blocks = []
    for scale in (1e-6, 1e-3, 1.0, 1e3, 1e6):
        random = torch.randn(5, draws, num_tasks, size, generator=generator, dtype=torch.float64)
        random[1] = random[1, :, :, :rank] @ random[1, :, :rank]  # rank-deficient
        random[2, :, -1] = random[2, :, 0]  # duplicated
        random[3, :, -1] = -random[3, :, 0]  # opposite
        random[4, :, -1] = 0
        blocks.append(scale * random.flatten(0, 1))
    return torch.cat(blocks)


def cone_jacobians(num_tasks, draws=50):
    """Jacobians [250, K, P] in float64 with gradients that have a descent direction in common, in five scales.

    A fifth each: independent; in a space of K/2 + 1 dimensions; the last equal to the first; of very unequal norms;
    nearly without a common direction.
    """
    generator = torch.Generator().manual_seed(100 + num_tasks)
    size, rank = 2 * num_tasks + 3, max(num_tasks // 2, 1)
    random = torch.randn(5, draws, num_tasks, size, generator=generator, dtype=torch.float64)
    random[1] = random[1, :, :, :rank] @ random[1, :, :rank]
    random[..., -1] = 0
    random = random / random.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    common = 0.1 + torch.rand(5, draws, num_tasks, generator=generator, dtype=torch.float64)
    common[4] *= 0.1
    random[..., -1] = common
    random[2, :, -1] = random[2, :, 0]
    spread = torch.randn(draws, num_tasks, 1, generator=generator, dtype=torch.float64)
    random[3] *= 10**spread
    scales = torch.tensor([1e-6, 1e-3, 1.0, 1e3, 1e6], dtype=torch.float64).repeat(draws // 5)
    return (random * scales[:, None, None]).flatten(0, 1)
