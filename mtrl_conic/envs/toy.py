"""A tiny multi-task environment: points in the plane that must reach a goal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.base import Camera, EnvStep, State
from mtrl_conic.envs.environments import Environments, chosen_tasks

_STEP = 0.1  # the farthest an axis moves in a step
SUCCESS_RADIUS = 0.12  # of success

# Sign of the motion that a positive action causes, and the velocity that survives a step. The first two
# tasks want opposite actions in the same place.
_DYNAMICS = {"direct": (1.0, 0.0), "mirrored": (-1.0, 0.0), "damped": (1.0, 0.5)}


class Toy(Environments):
    """The tasks of a `ToySpec`.

    Args:
        tasks: some of "direct", "mirrored" and "damped", by default all.
    """

    def __init__(self, tasks: Sequence[str] | None = None) -> None:
        self._spec = ToySpec(chosen_tasks(tasks, tuple(_DYNAMICS), "the toy's"))
        self.tasks = self._spec.tasks
        self.observation_size, self.action_size = ToySpec.observation_size, ToySpec.action_size
        self.horizon, self.num_goals = self._spec.horizon, self._spec.num_goals

    def setup(self) -> ToySpec:
        """What the vector builds the environments from."""
        return self._spec

    def title(self, name: str) -> str:
        """A heading for reports and evaluations."""
        return "Toy environment" if name == "toy" else f"{name}, toy environment"

    def drawn_by_mujoco(self) -> bool:
        """They draw themselves."""
        return False


@dataclass(frozen=True)
class ToySpec:
    """Reach a goal in the square [-1, 1]² from its centre; tasks differ in how actions move the point.

    The observation is position, velocity and goal (6 numbers), the action a push along both axes. The reward
    is 2.5 at rest and grows with the way made towards the goal in this step, from 0 to 5: it tells good actions
    from bad ones at once, so that 2,000 steps suffice to learn. Success is a distance below 0.12.

    Args:
        tasks: any of "direct", "mirrored" (pushes act the other way round) and "damped" (with inertia).
        horizon: steps of an episode.
        num_goals: number of goals, the same for all tasks.
        goal_seed: draws the goals.
        terminating: tasks whose episodes terminate with success.
    """

    tasks: tuple[str, ...] = ("direct", "mirrored", "damped")
    horizon: int = 50
    num_goals: int = 10
    goal_seed: int = 0
    terminating: tuple[str, ...] = ()

    observation_size: ClassVar[int] = 6
    action_size: ClassVar[int] = 2

    def __post_init__(self) -> None:
        unknown = sorted({*self.tasks, *self.terminating} - _DYNAMICS.keys())
        if unknown:
            raise ValueError(f"toy task {unknown[0]!r} is unknown; the tasks are {', '.join(_DYNAMICS)}")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"toy tasks must be distinct and at least one, not {self.tasks}")
        for name in ("horizon", "num_goals"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def make(self, task: int) -> ToyEnv:
        """Build the environment of task number `task`."""
        return ToyEnv(self, self.tasks[task])


class ToyEnv:
    """One task of a `ToySpec`."""

    def __init__(self, spec: ToySpec, task: str) -> None:
        self.observation_size = spec.observation_size
        self.action_size = spec.action_size
        self.horizon = spec.horizon
        self.num_goals = spec.num_goals
        self._sign, self._inertia = _DYNAMICS[task]
        self._terminates = task in spec.terminating
        self._goals = _goals(spec)
        self.reset(0)

    def reset(self, goal: int) -> NDArray[np.float64]:
        """Put the point into the centre, at rest."""
        self._goal = self._goals[goal]
        self._position = (0.0, 0.0)
        self._velocity = (0.0, 0.0)
        return self._observation()

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Push the point; the walls stop it."""
        force_x, force_y = action.tolist()
        before = self._distance()
        x, velocity_x = self._move(self._position[0], self._velocity[0], force_x)
        y, velocity_y = self._move(self._position[1], self._velocity[1], force_y)
        self._position, self._velocity = (x, y), (velocity_x, velocity_y)
        distance = self._distance()
        reward = 2.5 * (1.0 + (before - distance) / (math.sqrt(2.0) * _STEP))
        success = distance < SUCCESS_RADIUS
        return EnvStep(self._observation(), reward, success and self._terminates, success)

    def get_state(self) -> State:
        """Position, velocity and goal, all as tuples of floats."""
        return {"position": self._position, "velocity": self._velocity, "goal": self._goal}

    def set_state(self, state: State) -> None:
        """Continue from a state of `get_state`."""
        self._position = tuple(state["position"])
        self._velocity = tuple(state["velocity"])
        self._goal = tuple(state["goal"])

    def close(self) -> None:
        """Nothing to release."""

    def camera(self, size: int) -> Camera:
        """What draws the point, in pictures of `size` × `size` pixels."""
        from mtrl_conic.envs.cameras import ToyCamera

        return ToyCamera(size, SUCCESS_RADIUS)

    def _move(self, position: float, velocity: float, force: float) -> tuple[float, float]:
        force = self._sign * min(max(force, -1.0), 1.0)
        velocity = self._inertia * velocity + (1.0 - self._inertia) * _STEP * force
        moved = min(max(position + velocity, -1.0), 1.0)
        return moved, moved - position

    def _distance(self) -> float:
        return math.hypot(self._position[0] - self._goal[0], self._position[1] - self._goal[1])

    def _observation(self) -> NDArray[np.float64]:
        return np.array((*self._position, *self._velocity, *self._goal))


def _goals(spec: ToySpec) -> list[tuple[float, float]]:
    generator = np.random.default_rng(spec.goal_seed)
    angles = generator.uniform(-math.pi, math.pi, spec.num_goals)
    distances = generator.uniform(0.6, 0.9, spec.num_goals)
    return [(d * math.cos(a), d * math.sin(a)) for d, a in zip(distances.tolist(), angles.tolist(), strict=True)]
