"""Commands that are forked are processes of their own, as fresh ones are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import warm

PROGRAM = """
import os, sys, time
print(sys.argv[1:], os.getcwd(), os.environ["OWN"], os.getppid(), os.getsid(0) == os.getpid(), __name__, flush=True)
print("said", file=sys.stderr, flush=True)
if sys.argv[1] == "waits":
    time.sleep(100)
if sys.argv[1] == "fails":
    raise ValueError("no")
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(params=[subprocess.Popen, warm.Popen], ids=["fresh", "forked"])
def start(request, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    variables = warm.environment() | {"OWN": "mine"}

    def start(word, **options):
        return request.param([sys.executable, "-m", "program", word], cwd=tmp_path, env=variables, **streams, **options)

    return start


@pytest.mark.parametrize("status", [0, 7])
def test_status_streams_folder_and_variables(status, start, tmp_path):
    process = start(str(status))
    out, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (status, "said\n")
    assert out == f"{[str(status)]} {tmp_path} mine {os.getpid()} False __main__\n"


def test_an_exception_is_shown(start):
    process = start("fails")
    assert process.communicate(timeout=100)[1].splitlines()[-1] == "ValueError: no"
    assert process.returncode == 1


def test_a_group_of_its_own_is_killed(start):
    process = start("waits", start_new_session=True)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=100)
    assert process.returncode == -signal.SIGTERM


def test_an_interrupt(start):
    process = start("waits")
    assert process.stdout.readline().endswith("False __main__\n")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=100)[1].splitlines()[-1] == "KeyboardInterrupt"
    assert process.returncode == -signal.SIGINT


def test_what_a_fork_cannot_have_is_refused():
    for options in ({"preexec_fn": os.getpid}, {"env": warm.environment() | {"OMP_NUM_THREADS": "3"}}):
        with pytest.raises(AssertionError, match=r"fresh interpreter|use subprocess"):
            warm.Popen([sys.executable, "-m", "mtrl_conic.train"], **options)
