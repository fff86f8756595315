"""Two combiners on the toy environment: trained, compared and watched, in about a minute.

    python docs/examples/compare.py

The runs go into runs/example; a second start finds them complete and goes straight to the table.
"""

from __future__ import annotations

from pathlib import Path

import mtrl_conic
from mtrl_conic.envs.toy import ToySpec

SETTINGS = {
    "env": "toy",
    "seeds": [0, 1],
    "steps_per_task": 2000,
    "warmup_steps": 200,
    "agent.learning_rate": 1e-3,
    "eval.every": 500,
}


def train(folder: Path, **settings: object) -> None:
    """A run per combiner, with other settings where they are given."""
    for combiner in ("ls", "conicgrad"):
        mtrl_conic.train(**SETTINGS | settings, combiner=combiner, run_dir=folder / combiner, resume="auto")


def compare(folder: Path) -> None:
    """Success after each evaluation by combiner, then at the end by task; means over seeds."""
    evaluations = mtrl_conic.load_runs(folder)
    success = {"values": "success", "columns": "combiner"}
    print(evaluations.pivot_table(index="step", **success).round(2), "\n")
    last = evaluations[evaluations.step == evaluations.step.max()]
    print(last.pivot_table(index="task", **success).round(2), "\n")


def watch(run: Path) -> None:
    """An episode of each task with the run's best policy, in a loop of one's own."""
    policy, spec = mtrl_conic.load_policy(run), ToySpec()
    for number, task in enumerate(spec.tasks):
        env, total = spec.make(number), 0.0
        observation = env.reset(goal=0)
        for _ in range(spec.horizon):
            step = env.step(policy(observation, task))
            observation, total = step.observation, total + step.reward
        print(f"{task:9} return {total:6.1f}, {'at' if step.success else 'not at'} the goal at the end")


if __name__ == "__main__":
    runs = Path("runs/example")
    train(runs)
    compare(runs)
    watch(runs / "conicgrad")
