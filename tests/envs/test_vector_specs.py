"""What a worker process must be able to import, and what it need not."""

import sys
from pathlib import Path

import pytest
from vector_specs import PATIENCE, ScriptSpec, run_script

from mtrl_conic.envs.vector import VectorEnv, WorkerError


def test_a_spec_of_the_main_script_is_refused(monkeypatch):
    monkeypatch.setattr(ScriptSpec, "__module__", "__main__")
    with pytest.raises(ValueError, match="ScriptSpec is defined in the main script"):
        VectorEnv(ScriptSpec(), [0], workers=1)


def test_a_spec_that_cannot_be_pickled_is_refused():
    with pytest.raises(ValueError, match="cannot be sent to workers"):
        VectorEnv(ScriptSpec(file=lambda: None), [0], workers=1)


def test_a_spec_that_workers_cannot_import_is_named(monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(Path(__file__).parent)])
    with pytest.raises(WorkerError, match=r"spec could not be loaded: .*vector_specs"):
        VectorEnv(ScriptSpec(), [0], workers=2)


def test_workers_do_without_torch(tmp_path):
    source = "import sys, mtrl_conic.envs.vector, mtrl_conic.envs.worker; print('torch' in sys.modules)"
    script = run_script(tmp_path / "script.py", source)
    assert script.communicate(timeout=PATIENCE)[0] == "False\n"
