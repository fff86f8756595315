"""Environments with scripted episodes and faults, in a module that worker processes can import."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from mtrl_conic.envs.base import EnvStep

# Time for something to happen, not a claim about how fast it does.
PATIENCE = 60.0


@dataclass(frozen=True)
class ScriptSpec:
    """Task "long" runs to the horizon; "short" terminates at step 3, "last" at the horizon itself.

    Success holds at step 2 only. The observation is (goal, step), the reward the step's number plus the
    action.

    Args:
        fault: what goes wrong: "", "raise" or "exit" or "hang" or "wait" or "print" in `step`, "make", "reset", "get",
            "set", "close" or "size".
        at: the task and the step where it does.
        file: "wait" goes on when this file exists.
    """

    fault: str = ""
    at: tuple[str, int] = ("short", 2)
    file: str = ""
    tasks: tuple[str, ...] = ("long", "short", "last")
    horizon: int = 5

    observation_size: ClassVar[int] = 2
    action_size: ClassVar[int] = 1
    num_goals: ClassVar[int] = 4

    def make(self, task: int) -> "ScriptEnv":
        faulty = self.fault if self.tasks[task] == self.at[0] else ""
        if faulty == "make":
            raise FileNotFoundError("no model file")
        return ScriptEnv(self, self.tasks[task], faulty)


class ScriptEnv:
    def __init__(self, spec: ScriptSpec, task: str, fault: str) -> None:
        self.spec = spec
        self.horizon = spec.horizon
        self.observation_size = spec.observation_size + (fault == "size")
        self.action_size = spec.action_size
        self.num_goals = spec.num_goals
        self.end = {"long": None, "short": 3, "last": spec.horizon}[task]
        self.fault = fault
        self.state = (0, 0)

    def reset(self, goal):
        self._fail("reset")
        self.state = (goal, 0)
        return np.array(self.state, float)

    def step(self, action):
        goal, count = self.state
        self.state = (goal, count + 1)
        if count + 1 == self.spec.at[1]:
            self._fail_in_step()
        return EnvStep(np.array(self.state, float), count + 1 + float(action[0]), count + 1 == self.end, count + 1 == 2)

    def get_state(self):
        self._fail("get")
        return {"state": self.state}

    def set_state(self, state):
        self._fail("set")
        self.state = state["state"]

    def close(self):
        self._fail("close")

    def _fail(self, where):
        if self.fault == where:
            raise RuntimeError(f"cannot {where}")

    def _fail_in_step(self):
        if self.fault == "raise":
            raise ZeroDivisionError("the arm\nfell off")
        if self.fault == "exit":
            os._exit(7)
        if self.fault == "print":
            print("the arm moves", flush=True)
        while self.fault == "hang" or (self.fault == "wait" and not Path(self.spec.file).exists()):
            time.sleep(0.01)


def run_script(path, source, **options):
    """Start a script that sees the same packages as this process."""
    path.write_text(source)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    arguments = [sys.executable, str(path)]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True, **options)
