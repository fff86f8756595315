"""The training loop: act, observe, update, evaluate, log, checkpoint; it knows no agent's insides."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from mtrl_conic.envs.evaluation import Interrupted, evaluate
from mtrl_conic.envs.vector import WorkerError, unstored_tasks
from mtrl_conic.runs.checkpoint import NEWEST, CheckpointError, Checkpoints, Start, to_numpy, to_plain, write_file
from mtrl_conic.runs.records import RunLogger
from mtrl_conic.settings.errors import first_line
from mtrl_conic.settings.parts import make_spec
from mtrl_conic.settings.schema import TrainConfig
from mtrl_conic.system.heap import keep_freed_memory, make_current
from mtrl_conic.training.device_steps import device_steps
from mtrl_conic.training.metrics import EpisodeStatistics, Stopwatch, to_values
from mtrl_conic.training.seed_watch import SeedWatch
from mtrl_conic.training.summary import episodes as in_words
from mtrl_conic.training.transfer import StepTransfer
from mtrl_conic.training.vectors import evaluation_vector, training_vector

# What a state of other settings may raise.
_UNFITTING = (LookupError, RuntimeError, TypeError, ValueError, AttributeError)


class AllHaltedError(RuntimeError):
    """No seed of the run learns any more."""


class Trainer:
    """Trains the agent of S seeds on K tasks in a run folder.

    Args:
        config: settings, already validated.
        run_dir: the run folder; it exists.
        resume: continue from its newest checkpoint, if it has any.
        start: which checkpoint to continue from.

    Raises:
        ConfigError: the environments cannot be set up.
        CheckpointError: `resume`, and no checkpoint can be read.
        AllHaltedError: `resume`, and no seed of the checkpoint learns any more.
        WorkerError: an environment could not be built.
    """

    def __init__(self, config: TrainConfig, run_dir: Path, resume: bool = False, start: Start = NEWEST) -> None:
        self.config, self.run_dir, self.device = config, run_dir, config.torch_device()
        make_current(self.device)
        keep_freed_memory()
        spec = make_spec(config.make_environments(), config.workers)
        self.agent = config.make_agent()
        self.agent.setup(config.setting())
        self.checkpoints = Checkpoints(run_dir / "checkpoints")
        self.step = self.evaluated = 0
        self.saved = -1
        self.best = -1.0
        self.wall_seconds = 0.0
        self.success = float("nan")
        self.metrics: dict[str, Tensor] = {}
        self._warned: set[str] = set()
        self.episodes = EpisodeStatistics(len(config.seeds), len(spec.tasks))
        self.watch = Stopwatch()
        resuming = resume and bool(self.checkpoints.steps())
        state = self._load(start) if resuming else None
        last = self.step if resuming else -1
        of_whom = (config.seeds, spec.tasks, self.agent.networks)
        self.logger = RunLogger(run_dir, *of_whom, last, self.evaluated, config.logger)
        self.seed_watch = SeedWatch(self.agent.health, config.seeds, spec.tasks, self.agent.steps_since)
        self._look_at_seeds()
        self.steps = device_steps(self.agent, config.cuda_graphs)
        self.envs = training_vector(config, spec)
        self.eval_envs = evaluation_vector(config, spec)
        self.transfer = StepTransfer(self.envs.shape, spec.observation_size, spec.action_size, self.device)
        self.observation = self._start_envs(state)
        if state is None:
            self._save()

    def run(self, should_stop: Callable[[], bool] = lambda: False, started: float | None = None) -> bool:
        """Train until `steps_per_task`, `max_wall_seconds` or `should_stop`; a checkpoint is always written.

        Args:
            should_stop: asked at every step.
            started: when `max_wall_seconds` began, in `time.perf_counter`; by default now.

        Returns:
            Whether the run is complete.

        Raises:
            AllHaltedError: no seed learns any more; the checkpoint holds the last finite state of each.
            WorkerError: an environment failed.
        """
        start, before = time.perf_counter(), self.wall_seconds
        limit = (start if started is None else started) + (self.config.max_wall_seconds or float("inf"))

        def stop() -> bool:
            return should_stop() or time.perf_counter() > limit

        bar = tqdm(total=self.config.steps_per_task, initial=self.step, unit="step", disable=None)
        bar.set_postfix(success=f"{self.success:.2f}", refresh=False)
        try:
            while True:
                self.wall_seconds = before + time.perf_counter() - start
                if self._evaluation_due():
                    self._evaluate(stop)
                    bar.set_postfix(success=f"{self.success:.2f}", refresh=False)
                if self.step >= self.config.steps_per_task:
                    return True
                if stop():
                    raise Interrupted
                self._step()
                bar.update(self.step - bar.n)
                if self._passed(self.config.metrics_every):
                    self._log()
        except (Interrupted, WorkerError) as reason:
            self._save(final=True)
            if isinstance(reason, WorkerError):
                raise
            return False
        finally:
            bar.close()

    def close(self) -> None:
        """End the workers and close the records."""
        self.envs.close()
        self.eval_envs.close()
        self.logger.close()

    def _step(self) -> None:
        """One step of every environment, with the agent's updates while they are busy, if it can, or else after."""
        if self.agent.overlaps:
            self._collect(self._update)
        else:
            self._collect()
            self._update()

    def _collect(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """One step of every environment by the agent, which observes it; `meanwhile` is called while they are busy."""
        observation = self.observation
        with self.watch("update"):  # on a GPU, waits for the update before
            action = self.steps.explore(observation)
            sent = self.transfer.action(action)
        with self.watch("env"):
            self.envs.send(sent)
        meanwhile()
        with self.watch("env"):
            result = self.envs.receive()
        transition, self.observation = self.transfer.step(observation, action, result)
        self.agent.observe(transition)
        self.episodes.add(result)
        self.step += self.config.vector.steps_per_decision

    def _update(self) -> None:
        with self.watch("update"):
            for _ in range(self.agent.updates_due()):
                self.metrics = self.steps.update()

    def _evaluate(self, stop: Callable[[], bool]) -> None:
        self._look_at_seeds()
        final = self.step >= self.config.steps_per_task
        episodes = self.config.eval.final_episodes if final else self.config.eval.episodes
        with self.watch("eval"):
            result = evaluate(self.steps.exploit, self.eval_envs, episodes, self.device, stop)
        self.evaluated, self.success = self.step, float(result.success_rate.mean())
        self.logger.evaluation(self.step, result, self.wall_seconds, self.seed_watch.since)
        tqdm.write(f"step {self.step}: success rate {self.success:.3f} over {in_words(episodes)} per task and seed")
        if self.success >= self.best:  # of equals the latest
            self.best = self.success
            policy = self.agent.policy_state(self.agent.state_dict())
            best = {"policy": policy, "step": self.step, "success_rate": self.success}
            write_file(self.checkpoints.folder / "best.pt", best)
        self._warn(self.eval_envs.remarks(), final)
        self._save()

    def _warn(self, remarks: list[str], again: bool) -> None:
        """What environments say is seen early and, where it still holds, beside the last results."""
        for line in remarks:
            if again or line not in self._warned:
                tqdm.write(f"warning: {line}", file=sys.stderr)
        self._warned.update(remarks)

    def _log(self) -> None:
        self._look_at_seeds()
        values = self.seed_watch.mask(to_values(self.metrics))
        for line in self.seed_watch.huge_losses(values):
            tqdm.write(f"warning: step {self.step}: {line}", file=sys.stderr)
        values |= self.episodes.take()
        values |= self.watch.take(self.step, len(self.config.seeds))
        self.logger.metrics(self.step, values)

    def _look_at_seeds(self) -> None:
        """Name the seeds that stopped learning since the last look, the only place that waits for the device."""
        new = self.seed_watch.look(self.step)
        if new:
            self.logger.halted(self.seed_watch.records())
        if self.seed_watch.all_halted:
            if self.saved < self.step:
                self._save()
            raise AllHaltedError("; ".join(map(str, self.seed_watch.halted.values())))
        for halted in new:
            tqdm.write(f"warning: {halted}; the other seeds go on", file=sys.stderr)

    def _save(self, final: bool = False) -> None:
        self.logger.flush()
        try:
            envs = to_plain(self.envs.get_state())
        except RuntimeError:  # a WorkerError, or the vector is closed since one
            if not final:
                raise
            envs = None  # a worker is gone and its episodes with it: they start anew
        state = {
            "agent": self.agent.state_dict(),
            "envs": envs,
            "evaluated": self.evaluated,
            "best": self.best,
            "success": self.success,
            "wall_seconds": self.wall_seconds,
            "episodes": self.episodes.state_dict(),
            "metrics": self.metrics,
        }
        healthy = not bool(self.agent.health.halted.any())
        self.checkpoints.save(self.step, state, self.agent.memory, healthy)
        self.saved = self.step

    def _load(self, start: Start) -> dict[str, Any]:
        state, messages = self.checkpoints.load(self.agent.memory, *start)
        for message in messages:
            tqdm.write(message)
        try:
            self.agent.load_state_dict(state["agent"])
        except ValueError as error:  # such as a combiner that cannot go on from what was saved
            raise CheckpointError(f"{self.run_dir}: {error}") from error
        except LookupError as error:
            what = f"its checkpoints are of another version of the agent ({error!r})"
            raise CheckpointError(f"{what}, and can perhaps be evaluated but not resumed") from error
        except (RuntimeError, TypeError, AttributeError) as error:  # of another shape or kind
            raise _unfitting(state, error) from error
        try:
            self.episodes.load_state_dict(to_numpy(state["episodes"]))
        except _UNFITTING as error:
            raise _unfitting(state, error) from error
        self.metrics = state.get("metrics", {})  # checkpoints of 0.1.0 have none
        self.step, self.evaluated = state["step"], state["evaluated"]
        self.best, self.success, self.wall_seconds = state["best"], state["success"], state["wall_seconds"]
        self.saved = self.step
        if not self.checkpoints.keep_best(self.step):
            self.best = -1.0
        return state

    def _start_envs(self, state: dict[str, Any] | None) -> Tensor:
        if state is None:
            observation = self.transfer.observation(self.envs.reset())
            if unstored := unstored_tasks(self.envs.get_state()):
                tqdm.write(
                    f"{', '.join(unstored)}: cannot be stored in mid-episode, so that episodes start anew on resume"
                )
            return observation
        if state["envs"] is None:
            tqdm.write("the checkpoint was written after a worker was lost: episodes start anew")
            return self.transfer.observation(self.envs.reset())
        if unstored := unstored_tasks(state["envs"]):
            tqdm.write(f"{', '.join(unstored)}: not stored in mid-episode, their episodes start anew")
        try:
            return self.transfer.observation(self.envs.set_state(to_numpy(state["envs"])))
        except WorkerError:
            raise
        except _UNFITTING as error:  # of other seeds or tasks
            self.close()
            raise _unfitting(state, error) from error

    def _evaluation_due(self) -> bool:
        every = self.config.eval.every
        passed = self.step // every > self.evaluated // every
        return passed or (self.step >= self.config.steps_per_task and self.evaluated < self.step)

    def _passed(self, every: int) -> bool:
        """Whether the last vector step reached a multiple of `every`."""
        return self.step // every > (self.step - self.config.vector.steps_per_decision) // every


def _unfitting(state: dict[str, Any], error: Exception) -> CheckpointError:
    what = f"step_{state['step']}.pt does not fit the settings in config.yaml"
    return CheckpointError(f"{what}: it is of another run, or they were edited ({first_line(error)})")
