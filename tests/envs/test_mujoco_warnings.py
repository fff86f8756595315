"""MuJoCo's warnings."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import warnings
import numpy as np
from mtrl_conic.envs.metaworld import MetaWorld
env = MetaWorld("mt1", task="reach-v3").setup().make(0)
env.reset(0)
env.env.data.qvel[:] = 1e9  # unstable
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    env.step(np.zeros(4, dtype=np.float32))
print([str(warning.message) for warning in caught if "MuJoCo" in str(warning.message)])
"""


def test_warnings_write_no_file(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "MuJoCo" in process.stdout, process.stdout
    assert list(tmp_path.iterdir()) == []
