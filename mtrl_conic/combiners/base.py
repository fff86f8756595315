"""What a gradient combiner is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from mtrl_conic.combiners.products import gramian, leaves_settings_alone, weighted_sum
from mtrl_conic.system.looks import may_look, seen_finite
from mtrl_conic.system.seedwise import matmul


class Combiner:
    """Turns the K per-task gradients of each of S seeds into one direction per seed.

    A method usually implements `weights` alone; others implement `direction`, and those that learn from the losses
    after the step `after_step`. Its hyperparameters are keyword arguments of the constructor, which raises
    `ValueError` naming the value and the range. `setup` is called once before use; what a method remembers from update
    to update are the tensors in `self.state`, each with a leading seed axis, made there.

    A training loop calls `combine`, `loss_weights` and `look_back`, which stay as they are. They hand to the method
    only numbers that are finite: where a seed's losses or gradients are not, it is given stand-ins, its direction
    becomes NaN, and what the method learned from them is undone. Random streams go on. Such a seed's parameters are to
    be left alone; where a loop leaves an update out for a reason of its own, `snapshot` and `restore` undo what the
    method learned.

    Attributes:
        requires: the dearest thing the method looks at. "losses": it weighs losses, no Jacobian is built;
            "gramian": inner products of gradients; "jacobian": the gradients themselves.
        looks_back: the method also wants to see the losses of the same batch after the step (`look_back`).
        capturable: an update can be recorded as a CUDA graph: it reads nothing back to the host.
        network: the name of the network whose gradients it combines, part of the names of its random streams.
        state: tensors [S, ...] that persist; updated in place, saved with a checkpoint.
        diagnostics: tensors [S] or [S, K] of the last update, for the log.
    """

    requires: ClassVar[Literal["losses", "gramian", "jacobian"]] = "gramian"
    looks_back: ClassVar[bool] = False
    capturable: ClassVar[bool] = True

    def __init__(self) -> None:
        self.network = ""
        self.state: dict[str, Tensor] = {}
        self.diagnostics: dict[str, Tensor] = {}

    def setup(self, seeds: Sequence[int], num_tasks: int, device: torch.device | str = "cpu") -> None:
        """Make the state of S seeds and K tasks.

        Args:
            seeds: the S seeds, for methods that draw random numbers (`mtrl_conic.system.streams.SeedStreams`).
            num_tasks: K.
            device: where the Gramians will be.
        """

    def needs_jacobian(self) -> bool:
        """Whether the next update is to build the Jacobian; if not, `weights` is called without a Gramian."""
        return self.requires != "losses"

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        """The weight of each task's gradient in the direction.

        Args:
            gramian: [S, K, K] in float64, or None where no Jacobian was built.
            losses: [S, K], detached, of this update.

        Returns:
            [S, K]; the direction is `weights · J`, the one to be subtracted from the parameters.
        """
        raise TypeError(f"{type(self).__name__} defines neither weights nor direction")

    def direction(self, jacobian: Tensor, losses: Tensor, out: Tensor | None = None) -> Tensor:
        """The direction of each seed; the default goes by way of the Gramian and `weights`.

        Args:
            jacobian: [S, K, P].
            losses: [S, K], detached.
            out: [S, P], written if given.

        Returns:
            [S, P].
        """
        return self._weighed(jacobian, losses, out, gramian(jacobian))

    def after_step(self, losses: Tensor) -> None:
        """Learn from the losses [S, K] of the same batch at the new parameters; called only if `looks_back`."""

    def _weighed(self, jacobian: Tensor, losses: Tensor, out: Tensor | None, products: Tensor) -> Tensor:
        """The default direction; the Gramian is finite only where the Jacobian is."""
        self._judge(finite_seeds(losses, products))
        finite = products
        if not self._known_usable:
            stand_in = torch.eye(products.shape[-1], dtype=products.dtype, device=products.device)
            finite = torch.where(self._usable[:, None, None], products, stand_in)
        with self._learning():
            weights = self.weights(finite, self._finite(losses))
        self.diagnostics.update(weight=weights, **conflict_statistics(products, weights))
        return self._marked(weighted_sum(weights, jacobian, out, products))

    @final
    def combine(
        self, jacobian: Tensor, losses: Tensor, out: Tensor | None = None, products: Tensor | None = None
    ) -> Tensor:
        """The direction [S, P] of this update: that of `direction`, NaN where a seed's numbers are not finite.

        Args:
            jacobian: [S, K, P]; a seed whose numbers, or squared norms in the type of the Jacobian, are not finite is
                overwritten with zeros where the method looks at gradients.
            losses: [S, K], detached.
            out: [S, P], written if given.
            products: what `early_gramian` gave for the same Jacobian, if it was asked.
        """
        if products is not None:
            return self._weighed(jacobian, losses, out, products)
        if _has_default_direction(self):
            return self.direction(jacobian, losses, out)
        norms = torch.linalg.vector_norm(jacobian, dim=-1, dtype=torch.promote_types(jacobian.dtype, torch.float32))
        usable = finite_seeds(losses) & torch.isfinite(norms).all(-1)
        self._judge(usable)
        if not self._known_usable:
            jacobian.masked_fill_(~usable[:, None, None], 0)
        with self._learning():
            direction = self.direction(jacobian, self._finite(losses), out)
        self._judge(usable)  # `direction` may have used the default
        self._marked(direction)
        return direction if out is None or direction is out else out.copy_(direction)

    @final
    def loss_weights(self, losses: Tensor) -> Tensor:
        """The weights [S, K] of losses [S, K] in an update without Jacobian; finite also where a loss is not."""
        self._judge(finite_seeds(losses))
        with self._learning():
            weights = self.weights(None, self._finite(losses))
        if self.requires == "losses":
            self.diagnostics["weight"] = weights
        return weights

    @final
    def look_back(self, losses: Tensor) -> None:
        """Show a method that `looks_back` the losses [S, K] of the same batch after the step of the last update."""
        self._judge(self._usable & finite_seeds(losses))
        with self._learning():
            self.after_step(self._finite(losses))

    def _judge(self, usable: Tensor) -> None:
        """Note which seeds are usable [S], and whether all are known to be; where looking would wait, none is."""
        self._usable, self._known_usable = usable, may_look(usable) and bool(usable.all())

    def _finite(self, losses: Tensor) -> Tensor:
        """The losses [S, K], all 1 where a seed is not usable."""
        if self._known_usable:
            return losses
        return torch.where(self._usable.unsqueeze(-1), losses, 1)

    def _marked(self, direction: Tensor) -> Tensor:
        """The direction [S, P], overwritten with NaN where a seed is not usable."""
        if self._known_usable:
            return direction
        return direction.masked_fill_(~self._usable.unsqueeze(-1), torch.nan)

    @contextmanager
    def _learning(self) -> Iterator[None]:
        """What the method learns inside is undone for the seeds that are not usable."""
        if self._known_usable:
            yield
            return
        usable, memory = self._usable, self.snapshot()
        yield
        self.restore(memory, ~usable)  # not those of a default direction that was called inside

    def snapshot(self) -> list[Any]:
        """What the method remembers, for `restore`."""
        return [tensor.clone() for tensor in self.state.values()]

    def restore(self, memory: Sequence[Any], seeds: Tensor) -> None:
        """Put the memory of `snapshot` back for the seeds [S] that are True: their update did not happen."""
        for tensor, old in zip(self.state.values(), memory, strict=True):
            tensor.copy_(torch.where(seeds.view(-1, *[1] * (tensor.dim() - 1)), old, tensor))

    def replayed(self) -> None:
        """Count an update whose device part was replayed: `weights` and `direction` did not run on the host."""

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state, which later updates leave alone."""
        return {name: tensor.clone() for name, tensor in self.state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of the same seeds and tasks, in place.

        Raises:
            ValueError: where a tensor is missing or of another shape.
        """
        for name, tensor in self.state.items():
            saved = state.get(name)
            if saved is None or saved.shape != tensor.shape:  # copy_ alone would broadcast one seed to all
                found = "nothing" if saved is None else f"shape {list(saved.shape)}"
                raise ValueError(f"{type(self).__name__}: {name} needs shape {list(tensor.shape)}, found {found}")
            tensor.copy_(saved)


class SolverCombiner(Combiner):
    """A combiner that solves an optimisation problem in each update, and counts the solves that fall short.

    Attributes:
        tolerance: the largest residual of a solve that counts as solved.
    """

    tolerance: ClassVar[float] = 1e-4

    def setup(self, seeds: Sequence[int], num_tasks: int, device: torch.device | str = "cpu") -> None:
        self.state = {"missed_solves": torch.zeros(len(seeds), dtype=torch.float64, device=device)}
        if torch.device(device).type == "cuda":
            torch.backends.cuda.preferred_linalg_library("cusolver")  # the other library waits for the device

    def note_residual(self, residual: Tensor) -> None:
        """Show the residual [S] of this update's solve and how many solves so far missed the tolerance."""
        missed = self.state["missed_solves"]
        missed += (~(residual <= self.tolerance)).to(missed)  # NaN is a miss
        self.diagnostics.update(residual=residual, missed_solves=missed.clone())


def early_gramian(combiner: Combiner, jacobian: Tensor) -> Tensor | None:
    """The Gramian [S, K, K] where `combine` begins with it, for its `products`: any thread may compute it."""
    wanted = _has_default_direction(combiner) and type(combiner).combine is Combiner.combine
    return gramian(jacobian) if wanted and leaves_settings_alone(jacobian) else None


def _has_default_direction(combiner: Combiner) -> bool:
    return getattr(combiner.direction, "__func__", None) is Combiner.direction


def finite_seeds(losses: Tensor, gramian: Tensor | None = None) -> Tensor:
    """Whether all of a seed's losses [S, K] and inner products [S, K, K] are numbers, [S]."""
    if seen_finite(losses) and (gramian is None or seen_finite(gramian)):
        return torch.ones(len(losses), dtype=torch.bool, device=losses.device)
    finite = torch.isfinite(losses).all(-1)
    return finite if gramian is None else finite & torch.isfinite(gramian).flatten(1).all(-1)


def conflict_statistics(gramian: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """How the direction lies to the mean gradient, and how many pairs of tasks disagree.

    Args:
        gramian: [S, K, K].
        weights: [S, K].

    Returns:
        cosine: [S], cos(d, g_0), 0 if either is 0; conflict: [S], the share of task pairs with a negative product.
    """
    num_tasks = gramian.shape[-1]
    row = weights.to(gramian).unsqueeze(1)
    products = matmul(row, gramian)  # of the direction and each gradient
    square = matmul(products, row.mT).flatten()
    norms = gramian.mean(-1).mean(-1).mul_(square).clamp_min_(0).sqrt_()
    cosine = torch.where(norms > 0, products.mean(-1).flatten() / norms, 0).clamp_(-1, 1)
    pairs = max(num_tasks * (num_tasks - 1), 1)
    return {"cosine": cosine, "conflict": (gramian < 0).sum((-2, -1)) / pairs}
