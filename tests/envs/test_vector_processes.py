"""The worker processes of the vector: failures, signals, clean ends."""

import gc
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from vector_specs import PATIENCE, ScriptSpec, run_script

from mtrl_conic.envs.toy import ToySpec
from mtrl_conic.envs.vector import VectorEnv, WorkerError
from mtrl_conic.system.signals import STOPPING


def pids(vector):
    return [each.process.pid for each in vector._processes]


def alive(pid):
    """Whether a process runs; a zombie that nobody has waited for does not."""
    if not Path("/proc/self/stat").exists():
        return subprocess.run(["ps", "-p", str(pid)], stdout=subprocess.DEVNULL).returncode == 0
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def steps(vector, count):
    for _ in range(count):
        result = vector.step(np.zeros((*vector.shape, vector.spec.action_size), np.float32))
    return result


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("make", "build failed: FileNotFoundError: no model file"),
        ("size", "build failed: ValueError: observation_size is 3, but 2 in the spec"),
        ("reset", "reset failed: RuntimeError: cannot reset"),
        ("raise", "step failed: ZeroDivisionError: the arm"),
        ("get", "get_state failed: RuntimeError: cannot get"),
        ("set", "set_state failed: RuntimeError: cannot set"),
    ],
)
def test_an_exception_names_the_task_the_seed_and_the_error(workers, fault, message):
    def use():
        with VectorEnv(ScriptSpec(fault), [7], workers=workers) as vector:
            started.extend(pids(vector))
            vector.reset()
            steps(vector, 2)
            vector.set_state(vector.get_state())

    started = []
    with pytest.raises(WorkerError, match=rf"^task 'short' \(seed 7\): {message}") as caught:
        use()
    assert "Traceback" in caught.value.__notes__[0]
    assert not any(map(alive, started))


def test_the_environment_is_named_where_a_task_has_several():
    with pytest.raises(WorkerError, match=r"^task 'short' \(seed 7, environment 0\): build failed"):
        VectorEnv(ScriptSpec("make"), [7], num_envs_per_task=2, workers=2)


def test_a_killed_worker_is_named_and_the_others_end():
    vector = VectorEnv(ToySpec(), [4], workers=2)
    vector.reset()
    first, second = pids(vector)
    os.kill(second, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"^tasks 'mirrored' \(seed 4\): the worker was killed by SIGKILL"):
        steps(vector, 1)
    assert not alive(first)
    with pytest.raises(RuntimeError, match="closed"):
        vector.get_state()
    vector.close()


def test_a_worker_killed_between_send_and_receive_is_noticed():
    vector = VectorEnv(ScriptSpec("hang"), [0], workers=3)
    vector.reset()
    steps(vector, 1)
    vector.send(np.zeros((1, 3, 1, 1), np.float32))
    wait_until(lambda: vector._arrays.current[1] == 1)  # it hangs in the step
    os.kill(pids(vector)[1], signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"^task 'short' \(seed 0\): the worker was killed by SIGKILL"):
        vector.receive()


def test_a_worker_that_exits_is_named():
    with VectorEnv(ScriptSpec("exit"), [0, 1], workers=1) as vector:
        vector.reset()
        with pytest.raises(WorkerError, match=r"^task 'short' \(seed 0\): the worker exited with status 7"):
            steps(vector, 2)


def test_a_hanging_environment_is_named_after_the_timeout():
    with VectorEnv(ScriptSpec("hang"), [0], workers=2, timeout=0.5) as vector:
        started = pids(vector)
        vector.reset()
        with pytest.raises(WorkerError, match=r"^task 'short' \(seed 0\): no answer .* within 0.5 s"):
            steps(vector, 2)
        assert not any(map(alive, started))


SUSPENDED = """
import numpy as np
from vector_specs import ScriptSpec
from mtrl_conic.envs.vector import VectorEnv
with VectorEnv(ScriptSpec("wait", file="go"), [0], workers=1, timeout=1.0) as vector:
    vector.reset()
    print(vector._processes[0].process.pid, flush=True)
    for _ in range(2):
        vector.step(np.ones((1, 3, 1, 1), np.float32))
print("went on")
"""


def test_a_suspended_run_goes_on(tmp_path):
    """As a scheduler suspends a job and Docker a container: the processes are stopped for longer than the timeout."""
    with run_script(tmp_path / "script.py", SUSPENDED, cwd=tmp_path) as process:
        both = [process.pid, int(process.stdout.readline())]
        time.sleep(0.3)  # it waits for the second step
        for pid in both:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5)
        (tmp_path / "go").touch()
        for pid in both:  # the worker last: what waits for it finds no answer when it wakes
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.1)
        assert process.communicate(timeout=60)[0] == "went on\n"


def test_environments_step_between_send_and_receive(tmp_path):
    # The step ends only after the parent, busy with something else, has made the file.
    with VectorEnv(ScriptSpec("wait", file=str(tmp_path / "go")), [0], workers=2) as vector:
        vector.reset()
        last = steps(vector, 1)
        kept = [field.copy() for field in last]
        vector.send(np.ones((1, 3, 1, 1), np.float32))
        wait_until(lambda: vector._arrays.current[1] == 1)
        wait_until(lambda: vector._arrays.current[0] == -1)  # the other worker is through
        for field, copy in zip(last, kept, strict=True):
            np.testing.assert_array_equal(field, copy)  # the last results stay until the next receive
        (tmp_path / "go").touch()
        assert vector.receive().reward.ravel().tolist() == [3, 3, 3]


def test_an_interrupted_receive_may_be_called_again(tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with VectorEnv(ScriptSpec("wait", file=str(tmp_path / "go")), [0], workers=2) as vector:
            vector.reset()
            steps(vector, 1)
            vector.send(np.ones((1, 3, 1, 1), np.float32))
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(KeyboardInterrupt):
                vector.receive()
            (tmp_path / "go").touch()
            assert vector.receive().reward.ravel().tolist() == [3, 3, 3]
            assert len(vector.get_state()["envs"]) == 3
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_workers_compute_with_one_thread(monkeypatch):
    """Besides it there is the thread that looks after the parent."""
    for library in ("OMP", "OPENBLAS", "MKL"):
        monkeypatch.setenv(f"{library}_NUM_THREADS", "4")
    with VectorEnv(ToySpec(), [0], workers=1) as vector:
        vector.reset()
        steps(vector, 1)
        status = Path(f"/proc/{pids(vector)[0]}/status").read_text()
    assert "Threads:\t2\n" in status


def test_workers_leave_signals_to_their_parent():
    """Some send them to all processes of a job, and the parent wants the state for its checkpoint."""
    with VectorEnv(ToySpec(), [0], workers=2) as vector:
        vector.reset()
        for pid in pids(vector):
            for number in STOPPING:
                os.kill(pid, number)
        steps(vector, 5)
        vector.get_state()


NOBODY_READS = """
import os, sys
import numpy as np
from mtrl_conic.envs.vector import VectorEnv
from vector_specs import ScriptSpec

read, write = os.pipe()
os.dup2(write, 1)
os.close(write)
os.close(read)
with VectorEnv(ScriptSpec("print"), [0], workers=2) as vector:
    vector.reset()
    for _ in range(3):
        vector.step(np.zeros((1, 3, 1, 1), np.float32))
    print(len(vector.get_state()["envs"]), file=sys.stderr)
"""


def test_what_an_environment_prints_need_not_be_read(tmp_path):
    script = run_script(tmp_path / "script.py", NOBODY_READS, stderr=subprocess.PIPE)
    assert script.communicate(timeout=PATIENCE)[1] == "3\n"


def test_close_ends_idle_working_and_hanging_workers():
    vectors = [VectorEnv(ScriptSpec(fault), [0], workers=2) for fault in ("", "hang", "close")]
    started = [pid for vector in vectors for pid in pids(vector)]
    for vector in vectors:
        vector.reset()
        steps(vector, 1)
        vector.send(np.zeros((1, 3, 1, 1), np.float32))
        vector.close()
        vector.close()
    assert not any(map(alive, started))


def test_a_forgotten_vector_ends_its_workers():
    vector = VectorEnv(ToySpec(), [0], workers=2)
    started = pids(vector)
    del vector
    wait_until(lambda: not any(map(alive, started)))


def test_nothing_stays_open():
    def descriptors():
        return sorted(os.listdir("/proc/self/fd" if Path("/proc/self/fd").exists() else "/dev/fd"))

    gc.collect()  # what earlier tests left behind is not to be closed in between
    before = descriptors()
    for workers in (0, 2):
        with VectorEnv(ToySpec(), [0], workers=workers) as vector:
            vector.reset()
        del vector
    assert descriptors() == before


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_shared_memory_has_no_name():
    with VectorEnv(ToySpec(), [0], workers=1) as vector:
        maps = Path(f"/proc/{pids(vector)[0]}/maps").read_text().splitlines()
    shared = [line for line in maps if "mtrl_conic" in line and " rw-s " in line]
    assert len(shared) == 1
    assert shared[0].endswith("(deleted)")
    assert "/dev/shm" not in shared[0]


KILLED = """
import time, sys
import numpy as np
from mtrl_conic.envs.vector import VectorEnv
from vector_specs import ScriptSpec

print("main", flush=True)
vector = VectorEnv(ScriptSpec({fault!r}), [0], workers=2)
vector.reset()
vector.step(np.zeros((1, 3, 1, 1), np.float32))
vector.send(np.zeros((1, 3, 1, 1), np.float32))
print(*[each.process.pid for each in vector._processes], flush=True)
{then}
"""


@pytest.mark.parametrize("fault", ["", "hang"])
def test_workers_end_when_the_parent_is_killed(tmp_path, fault):
    script = run_script(tmp_path / "script.py", KILLED.format(fault=fault, then="time.sleep(1000)"))
    with script:
        assert script.stdout.readline() == "main\n"
        started = [int(pid) for pid in script.stdout.readline().split()]
        assert all(map(alive, started))
        script.kill()
        wait_until(lambda: not any(map(alive, started)))


@pytest.mark.parametrize("then", ["", "sys.exit(3)", "raise KeyError", "vector.receive(); vector.get_state()"])
def test_a_script_needs_no_main_guard_and_no_close(tmp_path, then):
    script = run_script(tmp_path / "script.py", KILLED.format(fault="", then=then), stderr=subprocess.PIPE)
    output, errors = script.communicate(timeout=PATIENCE)
    assert output.count("main") == 1  # the workers do not run the script
    assert not any(alive(int(pid)) for pid in output.splitlines()[1].split())
    assert script.returncode == {"sys.exit(3)": 3, "raise KeyError": 1}.get(then, 0), errors
    assert ("KeyError" in errors) == (then == "raise KeyError")


def test_signals_to_the_group_leave_the_state_within_reach(tmp_path):
    # As Ctrl-C and `timeout` send them.
    then = """
import os, signal
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: print("signal", flush=True))
    os.killpg(0, number)
vector.receive()
print(len(vector.get_state()["envs"]))
"""
    source = KILLED.format(fault="", then=then)
    script = run_script(tmp_path / "script.py", source, start_new_session=True)
    output = script.communicate(timeout=PATIENCE)[0]
    assert output.splitlines()[2:] == ["signal", "signal", "3"]
    assert script.returncode == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_call_other_than_receive_leaves_a_vector_that_only_closes(monkeypatch, workers):
    def interrupt(*_):
        raise KeyboardInterrupt

    with VectorEnv(ToySpec(), [0], workers=workers) as vector:
        vector.reset()
        monkeypatch.setattr(type(vector._workers[-1]), "request", interrupt)
        with pytest.raises(KeyboardInterrupt):
            vector.get_state()
        with pytest.raises(RuntimeError, match="can only be closed"):
            vector.get_state()


def test_an_interrupted_step_in_this_process_is_not_done_twice(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with VectorEnv(ToySpec(), [0], workers=0) as vector:
        vector.reset()
        monkeypatch.setattr("mtrl_conic.envs.toy.ToyEnv.step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            steps(vector, 1)
        with pytest.raises(WorkerError, match="a signal interrupted"):
            vector.receive()
