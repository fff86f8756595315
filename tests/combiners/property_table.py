"""Measures what each combiner does on fixed Jacobians, for the two tables of docs/combiner_comparison.md.

`python tests/combiners/property_table.py` writes them into the page; test_property_table.py compares the two.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from hard_matrices import METHODS, hard_jacobians, make
from torch import Tensor

PAGE = Path(__file__).parents[2] / "docs" / "combiner_comparison.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

KINDS = ("random", "aligned", "conflicting", "duplicated", "opposite", "badly scaled")
PLAIN = KINDS[:3]  # of full rank and one scale: a difference between two directions has one cause
SIZES = (2, 3, 10)
DRAWS, PLAIN_DRAWS = 20, 5
LEARNING = 100  # updates until a method that remembers is looked at
SETTINGS = {"dwa": {"window": 1}}  # the default window is longer than a measurement
SAME = 1e-3  # largest relative difference of two directions that count as equal; solvers are good to 1e-4
HARM = 1e-6  # a task is harmed where cos(g_i, d) is below minus this
ZERO = 1e-5  # directions and mean gradients shorter than this share of the gradients count as 0

Value = float | str


@functools.cache
def jacobians(num_tasks: int, kinds: Sequence[str] = KINDS, draws: int = DRAWS) -> Tensor:
    """[N, K, P] in float64, without those whose mean gradient is 0."""
    rows = [hard_jacobians(num_tasks, seed=seed) for seed in range(draws)]
    jacobian = torch.stack([row[kind] for kind in kinds if kind in rows[0] for row in rows]).double()
    norms = jacobian.norm(dim=-1).amax(-1)
    return jacobian[jacobian.mean(1).norm(dim=-1) > ZERO * norms]


def plain() -> list[Tensor]:
    return [jacobians(num_tasks, PLAIN, PLAIN_DRAWS) for num_tasks in SIZES]


def started(name: str, jacobian: Tensor, first_seed: int = 0):
    """The combiner with a seed for each Jacobian."""
    return make(name, range(first_seed, first_seed + len(jacobian)), jacobian.shape[1], **SETTINGS.get(name, {}))


def update(combiner, number: int, jacobian: Tensor, scale: Tensor | float = 1.0, offset: float = 0.0) -> Tensor:
    """One update with the losses of this number; the step changes each by a factor of its own, whatever its scale."""
    generator = torch.Generator().manual_seed(number)
    losses, change = torch.rand(2, *jacobian.shape[:2], generator=generator, dtype=torch.float64) + 0.5
    losses = losses * scale + offset
    found = combiner.combine(jacobian, losses)
    if combiner.looks_back:
        combiner.look_back(losses * change)
    return found


def direction(name: str, jacobian: Tensor, scale: Tensor | float = 1.0, first_seed: int = 0) -> Tensor:
    """The direction [N, P], after learning where the method learns; `scale` [K] multiplies losses and gradients."""
    combiner = started(name, jacobian, first_seed)
    scale = torch.as_tensor(scale, dtype=torch.float64).expand(jacobian.shape[1])
    for number in range(LEARNING if remembers(name) else 1):
        found = update(combiner, number, jacobian * scale.unsqueeze(-1), scale)
    return found


@functools.cache
def remembers(name: str) -> bool:
    """Whether earlier gradients or losses, which may be negative, change this update's direction."""
    jacobian = jacobians(3, PLAIN, PLAIN_DRAWS)
    results = []
    for history, offset in ((jacobian, 0.0), (jacobian.flip(0), -2.0)):
        combiner = started(name, jacobian)
        for number in range(5):
            update(combiner, number, history, offset=offset)
        results.append(update(combiner, 5, jacobian))
    return difference(*results) > SAME


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest distance of two directions, relative to the second."""
    return ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()


def units(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def has_conflict(jacobian: Tensor) -> Tensor:
    return (jacobian @ jacobian.mT < 0).flatten(1).any(-1)


def measured_numbers(name: str) -> dict[str, float]:
    shares, cosines, lengths = {}, [], []
    for num_tasks in SIZES:
        jacobian = jacobians(num_tasks)
        found, mean = direction(name, jacobian), jacobian.mean(1)
        worst = torch.cosine_similarity(jacobian, found.unsqueeze(1), dim=-1, eps=1e-300).amin(-1)
        shares[f"unharmed, K = {num_tasks}"] = (worst >= -HARM)[has_conflict(jacobian)].double().mean().item()
        moving = found.norm(dim=-1) > ZERO * jacobian.norm(dim=-1).amin(-1)
        cosines.append(torch.cosine_similarity(found, mean, dim=-1, eps=1e-300)[moving])
        lengths.append(found.norm(dim=-1) / mean.norm(dim=-1))
    quantiles = torch.cat(lengths).quantile(torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)).tolist()
    names = ("‖d‖/‖g_0‖, 5 %", "median", "95 %")
    return shares | {"least cos(d, g_0)": torch.cat(cosines).min().item()} | dict(zip(names, quantiles, strict=True))


def is_mean_without_conflict(name: str) -> float:
    kept = [jacobian[~has_conflict(jacobian)] for jacobian in map(jacobians, SIZES)]
    return max(difference(direction(name, jacobian), jacobian.mean(1)) for jacobian in kept if len(jacobian))


def one_loss_scaled(name: str) -> float:
    """How far the direction turns where the first loss is 1000 times as large."""
    turns = []
    for jacobian in plain():
        scale = torch.ones(jacobian.shape[1])
        scale[0] = 1000
        turns.append(difference(units(direction(name, jacobian, scale)), units(direction(name, jacobian))))
    return max(turns)


def all_losses_scaled(name: str) -> float:
    return max(difference(direction(name, j, 1000.0) / 1000, direction(name, j)) for j in plain())


def other_seeds(name: str) -> float:
    return max(difference(direction(name, j, first_seed=1000), direction(name, j)) for j in plain())


def of_one_task(name: str) -> str:
    jacobian = jacobians(1, ("random",), PLAIN_DRAWS)
    found, gradient = direction(name, jacobian), jacobian[:, 0]
    if difference(found, gradient) <= SAME:
        return "g_1"
    return "a multiple of g_1" if difference(units(found), units(gradient)) <= SAME else "another"


FLAGS: dict[str, Callable[[str], bool]] = {
    "g_0 without conflict": lambda name: is_mean_without_conflict(name) <= SAME,
    "ignores the scale of one loss": lambda name: one_loss_scaled(name) <= SAME,
    "grows with all losses": lambda name: all_losses_scaled(name) <= SAME,
    "draws numbers": lambda name: other_seeds(name) > SAME,
    "remembers": remembers,
    "builds J": lambda name: make(name).needs_jacobian(),
}


def measured_flags(name: str) -> dict[str, str]:
    flags = {title: "yes" if holds(name) else "no" for title, holds in FLAGS.items()}
    return {"one task": of_one_task(name)} | flags


def measure() -> list[dict[str, dict[str, Value]]]:
    """The two tables: method to column to value."""
    return [{name: dict(kind(name)) for name in METHODS} for kind in (measured_numbers, measured_flags)]


def text(column: str, value: Value) -> str:
    if isinstance(value, str):
        return value
    if column.startswith("unharmed"):
        return f"{100 * value:.0f} %"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def render(tables: list[dict[str, dict[str, Value]]]) -> str:
    return "\n\n".join(_render_one(table) for table in tables)


def _render_one(table: dict[str, dict[str, Value]]) -> str:
    columns = list(next(iter(table.values())))
    rows = [[f"`{name}`", *(text(column, value) for column, value in row.items())] for name, row in table.items()]
    lines = [" | ".join(cells) for cells in (["`combiner=`", *columns], *rows)]
    return "\n".join([f"| {lines[0]} |", "|---" * (len(columns) + 1) + "|", *(f"| {line} |" for line in lines[1:])])


def with_tables(page: str, tables: list[dict[str, dict[str, Value]]]) -> str:
    """The page with these tables between its markers.

    Raises:
        ValueError: the page has no such markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"no section between {BEGIN} and {END}")
    return f"{before}{begin}\n\n{render(tables)}\n\n{end}{after}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    PAGE.write_text(with_tables(PAGE.read_text(), measure()))
