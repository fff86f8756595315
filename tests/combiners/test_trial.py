"""`train` tries a combiner before it makes a folder."""

import pytest
from conftest import run_command

CODE = """
from mtrl_conic.combiners import Combiner

class Flat(Combiner):
    def weights(self, gramian, losses):
        return losses.mean(-1)

class Fails(Combiner):
    def weights(self, gramian, losses):
        return losses / self.temperature
"""
CASES = {
    "Flat": "error: combiner: Flat.weights must return a floating tensor [S, K] = [2, 3], not [2]\n",
    "Fails": "error: combiner: Fails fails when tried: AttributeError: 'Fails' object has no attribute 'temperature'"
    " (mine.py, line 10)\n",
}


@pytest.mark.parametrize("name", CASES)
def test_a_combiner_that_cannot_work_is_refused_before_a_folder_is_made(name, tmp_path):
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "configs" / "combiner").mkdir(parents=True)
    (tmp_path / "configs" / "combiner" / "mine.yaml").write_text(f"_target_: mine.{name}\n")
    arguments = [
        "--config-dir",
        "configs",
        "combiner=mine",
        "env=toy",
        "seeds=[0,1]",
        "run_dir=run",
        "steps_per_task=5",
    ]
    process = run_command(*arguments, cwd=tmp_path)
    assert (process.returncode, process.stdout, process.stderr) == (2, "", CASES[name])
    assert not (tmp_path / "run").exists()
