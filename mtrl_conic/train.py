"""The training command: `python -m mtrl_conic.train env=mt10 combiner=conicgrad`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mtrl_conic.runs.command import answer
from mtrl_conic.settings.paths import choices
from mtrl_conic.system import console

USAGE = """\
usage: python -m mtrl_conic.train [--config-dir DIR] [key=value ...]
       python -m mtrl_conic.train resume=RUN_DIR [key=value ...]
       python -m mtrl_conic.train --cfg [--config-dir DIR] [key=value ...]
       python -m mtrl_conic.train --multirun key=value,value ... [hydra/launcher=NAME] [hydra.sweep.dir=DIR]

Trains one multi-task SAC agent per seed and writes records, TensorBoard files and checkpoints into a run folder.

choices
  env={envs}
  combiner={combiners}
  experiment={experiments}
  agent={agents}

settings (default)
  seeds=[0,1,...] ([0])          one agent per seed, all in one process
  steps_per_task=N (2000000)     environment steps per task
  env.task=NAME                  the task of env=mt1, which needs it
  env.tasks=[NAME,...]           some tasks of another env; for env=gym ids such as [Pendulum-v1] (docs/environments.md)
  env.num_envs_per_task=N (1)    env.workers=N (as many as cores)
  combiner.NAME=VALUE            a setting of the method, such as combiner.c=0.5
  critic.combiner=NAME           another method for one network, with critic.combiner.NAME=VALUE; so for actor, and for
                                 temperature with agent.temperatures=combined
  network=NAME                   of the agent, with agent.network.NAME=VALUE, such as agent.network.layer_norm=true
  agent.NAME=VALUE               such as agent.gradient_scope=shared|all
  eval.every=N (10000)           eval.episodes=N (5)  eval.final_episodes=N (50)
  eval.parallel=N (10)           episodes of a task that are played at the same time, at most
  eval.terminate_on_success=true (false; true in experiment=fast)  end them with their success: the same rates sooner
  device=auto|cpu|cuda (auto)    run_dir=PATH (a fresh folder under runs/)
  threads=N                      of the updates on the CPU (by the size of their work, at most the cores)
  max_wall_seconds=N             stop with a checkpoint so long after the command was started
  matmul_precision=highest|high|medium (highest; high is TF32 on a GPU)
  logger=wandb (null)            Weights & Biases beside TensorBoard and the records
  variant=NAME (null)            what the report calls the run
All settings with their meaning: configs/train.yaml and the folders beside it.

resume=RUN_DIR uses the stored settings; steps_per_task, device, threads, cuda_graphs, env.workers, eval.*,
max_wall_seconds and logger may be given anew. resume=auto run_dir=RUN_DIR with the whole command starts the run, or
goes on with it. Paths are taken as the shell passes them, with ~ for the home folder.
resume=RUN_DIR resume_from=STEP goes back to an earlier checkpoint, say of before a seed stopped learning; what came
later is removed.
resume=RUN_DIR replay=partial goes on without transitions that are lost with a damaged file, where nothing else is left.
--cfg prints all settings, composed and checked, as yaml, and stops: nothing is written. --no-summary leaves out the
table and the commands that a complete run ends with.
--config-dir adds a folder of your own, so that DIR/combiner/mine.yaml becomes combiner=mine, and so for env, agent,
network and experiment. --multirun (-m) does one
run for each combination of values and, started again with the same hydra.sweep.dir, what is missing: docs/sweeps.md.

exit status: 0 done or out of max_wall_seconds, 2 bad input, 129, 130 or 143 interrupted (with a checkpoint), 1 other
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    started = time.perf_counter()  # before torch is imported, which may take seconds

    def work(given: list[str]) -> int:
        from mtrl_conic.video.recording import drawing_elsewhere

        with drawing_elsewhere():  # training draws nothing
            from mtrl_conic.training.command import run, split

            return run(split(given), started)

    return answer(arguments, _usage, work)


class _Command(ModuleType):
    """This module, which the package hands out as a function too: one name cannot stand for two objects."""

    def __call__(self, arguments: Sequence[str] = (), **settings: Any) -> Path:
        from mtrl_conic.training.program import train

        return train(arguments, **settings)


sys.modules[__name__].__class__ = _Command


def _usage() -> str:
    groups = ("env", "combiner", "experiment", "agent")
    return USAGE.format(**{f"{group}s": "|".join(choices(group)) for group in groups})


if __name__ == "__main__":
    sys.exit(console.run(main))
