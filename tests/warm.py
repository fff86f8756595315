"""Commands as real processes without the seconds in which a fresh interpreter imports torch.

A helper process imports once what every command imports, and forks for each of them. The fork becomes a child of the
tests' process, with streams, folder, environment, signals and exit status of its own, and runs its module as
`python -m` does. Where the subject is the start itself, such as the import or a variable that is read there,
`subprocess` starts a fresh interpreter.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import os
import pickle
import runpy
import socket
import subprocess
import sys
import threading
import time
from typing import Any

# What a process reads once, when it starts.
_READ_AT_START = ("PYTHON", "OMP_", "MKL_", "OPENBLAS_", "TORCH", "CUDA", "LD_")
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl


def environment() -> dict[str, str]:
    """Of the commands: one thread, as tests may run beside each other."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


class Popen(subprocess.Popen):
    """`subprocess.Popen` of `[sys.executable, "-m", module, ...]`."""

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *more):
        streams, new_session = more[3:9], more[-2]
        assert args[:2] == [sys.executable, "-m"], args
        assert (executable, preexec_fn, pass_fds) == (None, None, ()), "these need a fresh interpreter"
        given = dict(os.environ if env is None else env)
        assert _at_start(given) == _at_start(environment()), "read at the start of a process: use subprocess"
        fds = [theirs if theirs >= 0 else ours for ours, theirs in enumerate((streams[0], streams[3], streams[5]))]
        self.pid = _helper(os.getpid()).start((args[2:], os.path.abspath(cwd or "."), given, new_session), fds)
        self._child_created = True
        self._close_pipe_fds(*streams)


def run(arguments: list[str], timeout: float = 120, **options: Any) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` with the text of both streams; one that takes too long is killed."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()} | options
    with Popen(arguments, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def _at_start(variables: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name.startswith(_READ_AT_START)}


class _Helper:
    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=environment() | {"OMP_WAIT_POLICY": "passive"},  # as the commands say themselves
                start_new_session=True,  # signals to the tests' group are not for it
            )

    def start(self, request: tuple[Any, ...], fds: list[int]) -> int:
        """The process id of a command, which is a child of this process."""
        adopt = ctypes.CDLL(None).prctl
        adopt(_SUBREAPER, 1, 0, 0, 0)  # orphans, such as the command when the helper answers
        try:
            data = pickle.dumps(request)
            socket.send_fds(self._socket, [len(data).to_bytes(8, "big")], fds)
            self._socket.sendall(data)
            pid = int.from_bytes(self._socket.recv(8), "big")
        finally:
            adopt(_SUBREAPER, 0, 0, 0, 0)
        assert pid, "the command did not start"
        return pid


@functools.cache
def _helper(_owner: int) -> _Helper:
    return _Helper()


def _serve(requests: socket.socket) -> tuple[Any, ...] | None:
    """Fork for each request: returns what to run in a fork, None in the helper when nobody asks any more."""
    while True:
        size, fds, _, _ = socket.recv_fds(requests, 8, 3)
        if not size:
            return None
        wanted, data = int.from_bytes(size, "big"), b""
        while len(data) < wanted:
            data += requests.recv(wanted - len(data))
        answer, told = os.pipe()
        between = os.fork()
        if not between:
            between = os.getpid()
            if os.fork():
                os._exit(0)
            while os.getppid() == between:  # until it is the child of who has asked
                time.sleep(1e-3)
            words, folder, variables, new_session = pickle.loads(data)
            if new_session:
                os.setsid()
            os.write(told, os.getpid().to_bytes(8, "big"))
            for ours, given in enumerate(fds):
                os.dup2(given, ours)
            os.closerange(3, 4096)
            return words, folder, variables
        os.waitpid(between, 0)
        os.close(told)
        requests.sendall(os.read(answer, 8) or bytes(8))
        for descriptor in (*fds, answer):
            os.close(descriptor)


def _preload() -> None:
    """Import what the commands import, in the same way: as a process that is on its way to one of them."""
    sys.argv, sys.orig_argv = ["-m"], [sys.executable, "-m", "mtrl_conic.train"]
    from mtrl_conic.video.recording import drawing_elsewhere

    with drawing_elsewhere():
        import mtrl_conic.policies.evaluate_run
        import mtrl_conic.training.command
        import mtrl_conic.training.session  # noqa: F401
    gc.collect()
    gc.freeze()  # the forks' collections leave these pages alone
    assert len(os.listdir("/proc/self/task")) == 1, "a fork has none of the other threads"


def _become(words: list[str], folder: str, variables: dict[str, str]) -> None:
    """Run a module with its arguments in this process, as `python -m` does."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.path[0] = folder
    sys.argv, sys.orig_argv = words, [sys.executable, "-m", *words]
    sys.modules.pop(words[0], None)  # it is run, not imported
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        # As a child of multiprocessing ends: to take torch apart costs more than most of the commands.
        threading._shutdown()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(end.code & 0xFF)


if __name__ == "__main__":
    served = socket.socket(fileno=int(sys.argv[1]))
    _preload()
    if (wanted := _serve(served)) is not None:
        _become(*wanted)
