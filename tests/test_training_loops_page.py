"""The code on the page about training loops."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import environment
from supervised import Example

from mtrl_conic.combiners import ConicGrad

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "training_loops.md").read_text()
SKIP, ACCUMULATE, PARALLEL = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SAVE = """
torch.save([losses, *model.parameters()], f"{dist.get_rank()}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow  # the same replicas without torchrun: test_backward_replicas.py
def test_the_script_under_torchrun(tmp_path):
    """It trains, and the replicas end alike."""
    assert "torchrun --standalone --nproc-per-node=2 parallel.py" in PAGE
    code, end, _ = PARALLEL.partition("dist.destroy_process_group()\n")
    assert end
    (tmp_path / "parallel.py").write_text(code + SAVE)
    process = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "parallel.py"],
        cwd=tmp_path,
        env=environment() | {"GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    (losses, *first), (_, *second) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(left, right) for left, right in zip(first, second, strict=True))
    assert sum(losses) < 10, losses  # at the start 50: the mean squares of the targets


def test_the_snippets():
    example = Example()
    backward, optimizer = example.backward(ConicGrad()), torch.optim.SGD(example.parameters, lr=0.1, momentum=0.9)
    names = {"backward": backward, "optimizer": optimizer}
    parts = {"losses_of": lambda part: example.losses(part=part, parts=4), "micro_batches": range(4)}
    before = example.parameters[0].detach().clone()
    exec(ACCUMULATE, names | parts)
    moved = example.parameters[0].detach().clone()
    assert not torch.equal(moved, before)
    exec(SKIP, names | {"losses": example.losses() * float("nan")})
    assert torch.equal(example.parameters[0], moved)
