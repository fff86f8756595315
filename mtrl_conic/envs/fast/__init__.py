"""The official Meta-World environments with the same arithmetic and far less Python around it.

A step of the shipped class spends four fifths of its time outside MuJoCo: looking bodies up by name, numpy on
three numbers, scipy on one matrix. Here the tasks' own reward functions run, but on quick helpers:

- `rewards.py`: the reward helpers and the numpy functions they need, on Python's scalars;
- `rebind.py`: a subclass of an official class whose functions see those helpers in place of the package's;
- `views.py`: named access to MuJoCo's data that looks each name up once;
- `sharing.py`: one MuJoCo model for the environments of a task;
- `env.py`: the step itself, and the `TaskEnv`.

Nothing in the package is patched, and nothing here is particular to one task.
"""

from mtrl_conic.envs.fast.env import FastTaskEnv

__all__ = ["FastTaskEnv"]
