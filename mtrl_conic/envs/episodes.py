"""The episodes of one environment, where it is stepped: goals, ends, sums."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.base import State, TaskEnv
from mtrl_conic.envs.held import held
from mtrl_conic.envs.returned import checked_observation, checked_state
from mtrl_conic.envs.shared import Place, VectorStep


class Episodes:
    """One environment with its goals, its time limit and the sums over the episode.

    Args:
        env: just made.
        place: of it in the vector.
        index: the place, flattened.
        seed: draws the goals.
        in_turn: the number of environments that take the goals in turn, or 0 where they are drawn.
        action_repeat: steps of the environment that an action is held for.
        terminate_on_success: an episode is broken off where it has succeeded.
    """

    def __init__(
        self,
        env: TaskEnv,
        place: Place,
        index: int,
        seed: int,
        in_turn: int,
        action_repeat: int = 1,
        terminate_on_success: bool = False,
    ) -> None:
        self.env = env
        self.place = place
        self.index = index
        self._shape = (env.observation_size,)
        self._flags = (*place, slice(-2, None))  # of the transition
        self._in_turn = in_turn
        self._action_repeat = action_repeat
        self._terminate_on_success = terminate_on_success
        self._left: int | None = None  # episodes; None: without end
        # Keyed by the place among tasks and environments, not by that among seeds: a seed draws the same
        # goals alone and among others.
        self._generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=place[1:]))
        self._start(-1)

    def reset(self, out: VectorStep, episodes: int | None = None) -> None:
        """Start the first episode of `episodes` of its task and seed, of which it plays those that it takes in turn."""
        self._left = None if episodes is None else max(-(-(episodes - self.place[2]) // self._in_turn), 0)
        self._last = out.observation[self.place] = self._next_episode(first=True)

    def step(self, action: NDArray[np.float32], out: VectorStep) -> None:
        """Hold the action, no longer than the episode lasts, and start the next episode where this one ends.

        The reward is the sum of those of the environment's steps, the observation the last one's. After its last
        episode the environment rests.
        """
        if self._left == 0:
            self._rest(out)
            return
        place, reward = self.place, 0.0
        left = max(self.env.horizon - self._step, 1)  # 0 only in a checkpoint of longer episodes
        for step in held(self.env, action[place], min(self._action_repeat, left)):
            self._step += 1
            reward += step.reward
            self._return += step.reward
            self._success |= step.success
        observation, terminated = step.observation, step.terminated
        enough = self._step >= self.env.horizon or (self._terminate_on_success and self._success)
        truncated = (step.truncated or enough) and not terminated
        out.next_observation[place] = observation
        out.reward[place] = reward
        out.terminated[place] = terminated
        out.truncated[place] = truncated
        out.transition[self._flags] = terminated, truncated
        out.success[place] = self._success
        out.episode_return[place] = self._return
        if terminated or truncated:
            if self._left is not None:
                self._left -= 1
            observation = self._next_episode() if self._left != 0 else observation
        self._last = out.observation[place] = observation

    def _rest(self, out: VectorStep) -> None:
        """Nothing happens, and is not simulated."""
        place = self.place
        out.observation[place] = out.next_observation[place] = self._last
        for field in (out.reward, out.terminated, out.truncated, out.success, out.episode_return):
            field[place] = 0
        out.transition[self._flags] = 0

    def get_state(self, observation: NDArray[np.float32]) -> State:
        """All that the future depends on; `observation` [O] is what to act on next."""
        return {
            "env": checked_state(self.env.get_state()),
            "generator": self._generator.bit_generator.state,
            "goal": self._goal,
            "step": self._step,
            "return": self._return,
            "success": self._success,
            "observation": observation.copy(),
        }

    def set_state(self, state: State, out: VectorStep) -> None:
        """Continue from a state of `get_state`; where the environment had none to store its episode starts anew."""
        self._generator.bit_generator.state = state["generator"]
        self._left = None
        if state["env"] is None:
            self._goal = state["goal"]
            out.observation[self.place] = self._next_episode()
            return
        self.env.set_state(state["env"])
        self._start(state["goal"], state["step"], state["return"], state["success"])
        out.observation[self.place] = state["observation"]

    def _next_episode(self, first: bool = False) -> NDArray[Any]:
        if self._in_turn:
            goal = (self.place[2] if first else self._goal + self._in_turn) % self.env.num_goals
        else:
            goal = int(self._generator.integers(self.env.num_goals))
        self._start(goal)
        return checked_observation(self.env.reset(goal), self._shape)

    def _start(self, goal: int, step: int = 0, episode_return: float = 0.0, success: bool = False) -> None:
        self._goal = goal
        self._step = step
        self._return = episode_return
        self._success = success
