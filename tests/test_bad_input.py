"""Bad input through the real command line: exit status 2, one to three lines, no folder made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TOY, environment, run_command, train_here

pytestmark = pytest.mark.xdist_group("bad_input")  # one worker, as the answers of all cases are computed once

# The process start costs seconds, so one interpreter checks all cases; `test_the_command_itself` starts the real one.
CASES = {
    "unknown combiner": (["combiner=foo"], ["combiner=foo", "conicgrad", "pcgrad"]),
    "unknown env": (["env=mt11"], ["env=mt11", "mt10"]),
    "unknown experiment": (["experiment=big"], ["experiment=big", "smoke"]),
    "c zero": (["combiner=conicgrad", "combiner.c=0"], ["c", "0"]),
    "c above one": (["combiner=conicgrad", "combiner.c=1.5"], ["1.5"]),
    "c nan": (["combiner=conicgrad", "combiner.c=nan"], ["nan"]),
    "c text": (["combiner=conicgrad", "combiner.c=wide"], ["wide"]),
    "c negative": (["combiner=cagrad", "combiner.c=-1"], ["-1"]),
    "gamma negative": (["combiner=conicgrad", "combiner.gamma=-0.1"], ["gamma", "-0.1"]),
    "setting of another combiner": (["combiner=ls", "combiner.c=0.5"], ["combiner.c"]),
    "negative steps": (["steps_per_task=-5"], ["steps_per_task=-5", "at least 1"]),
    "zero steps": (["steps_per_task=0"], ["steps_per_task=0"]),
    "steps as text": (["steps_per_task=many"], ["steps_per_task", "many"]),
    "fractional steps": (["steps_per_task=10.5"], ["steps_per_task", "10.5"]),
    "no seeds": (["seeds=[]"], ["seeds"]),
    "repeated seeds": (["seeds=[1,2,1]"], ["seeds", "[1, 2, 1]"]),
    "negative seed": (["seeds=[0,-1]"], ["seeds", "-1"]),
    "seeds no list": (["seeds=3"], ["seeds", "3"]),
    "unknown task": (["env=mt1", "env.task=reach-v9"], ["reach-v9", "reach-v3"]),
    "unknown reward version": (["env=mt10", "env.reward_version=v7"], ["v7", "v1, v2"]),
    "more workers than envs": (["env.workers=4"], ["env.workers=4", "3"]),
    "negative workers": (["env.workers=-1"], ["env.workers=-1"]),
    "no envs": (["env.num_envs_per_task=0"], ["env.num_envs_per_task=0"]),
    "misspelt key": (["agent.tua=0.1"], ["agent.tua", "agent.tau"]),
    "misspelt top key": (["step_per_task=100"], ["step_per_task", "steps_per_task"]),
    "added key": (["+agent.speed=3"], ["agent.speed", "MultiTaskSAC has no", "discount"]),
    "misspelt key of the network": (["agent.network.layernorm=true"], ["agent.network.layer_norm?"]),
    "unknown network": (["network=deep"], ["network=deep", "multi_head"]),
    "network as number": (["network=3"], ["network", "multi_head"]),
    "combiner of a network that is not there": (["value.combiner=ls"], ["value.combiner", "critic.combiner, actor."]),
    "unknown combiner of a network": (["critic.combiner=foo"], ["combiner=foo", "conicgrad"]),
    "setting of no combiner of a network": (["critic.combiner.c=0.4"], ["critic.combiner.c", "critic.combiner=..."]),
    "unknown setting of a network's combiner": (
        ["critic.combiner=cagrad", "critic.combiner.cc=1"],
        ["critic.combiner.cc", "c, inner_iterations"],
    ),
    "value of a network's combiner": (
        ["critic.combiner=cagrad", "critic.combiner.c=-1"],
        ["critic.combiner.c must be", "-1"],
    ),
    "old key in a file of ones own": (["--config-dir", "mine", "+own=old"], ["warmup_steps", "agent.warmup_steps"]),
    "old key of the agent in a file of ones own": (
        ["--config-dir", "mine", "agent=old"],
        ["agent.hidden_sizes", "it is agent.network.hidden_sizes now"],
    ),
    "agent without a network to choose": (["--config-dir", "mine", "agent=bare", "network=multi_head"], ["network"]),
    "old key that the agent does not have": (
        ["--config-dir", "mine", "agent=bare", "warmup_steps=3"],
        ["agent.warmup_steps", "agent=bare has no"],
    ),
    "no agent at all": (["agent._target_=mtrl_conic.combiners.ls.LS"], ["agent"]),
    "unknown clipping": (["agent.clip=head"], ["agent.clip", "network, task", "head"]),
    "wrong type": (["agent.layer_norm=perhaps"], ["agent.network.layer_norm", "perhaps"]),
    "no key=value": (["conicgrad"], ["conicgrad", "key=value"]),
    "sweep syntax": (["combiner=ls,pcgrad"], ["combiner=ls,pcgrad"]),
    "unknown option": (["--seeds", "3"], ["--seeds"]),
    "missing config folder": (["--config-dir", "nowhere"], ["nowhere"]),
    "unknown device": (["device=tpu"], ["device=tpu", "cuda"]),
    "cuda without a GPU": (["device=cuda:77"], ["device=cuda:77"]),
    "discount above one": (["agent.discount=1.1"], ["agent.discount", "(0, 1]", "1.1"]),
    "no hidden layer": (["agent.hidden_sizes=[]"], ["agent.network.hidden_sizes", "[]"]),
    "unknown scope": (["agent.gradient_scope=heads"], ["agent.gradient_scope", "heads", "shared, all"]),
    "replay smaller than a step": (
        ["capacity_per_task=1", "env.num_envs_per_task=2"],
        ["agent.capacity_per_task", "at least the 2", "not 1"],
    ),
    "no wall time": (["max_wall_seconds=0"], ["max_wall_seconds=0"]),
    "zero evaluations": (["eval.every=0"], ["eval.every=0"]),
    "zero batch": (["batch_size_per_task=0"], ["agent.batch_size_per_task", "at least 1", "not 0"]),
    "infinite learning rate": (["agent.learning_rate=inf"], ["agent.learning_rate"]),
    "run folder is a file": (["run_dir=occupied/file"], ["occupied/file"]),
    "run folder not empty": (["run_dir=occupied"], ["occupied", "resume"]),
    "run folder cannot be made": (["run_dir=/proc/run"], ["/proc/run"]),
    "resume without a run": (["resume=nowhere"], ["nowhere"]),
    "no experiment": (["experiment=null"], ["experiment=null", "smoke", "leave it out"]),
    "an experiment that is not there": (["experiment=[smoke,nope]"], ["experiment=nope", "smoke"]),
    "no combiner": (["combiner=null"], ["combiner=null", "conicgrad"]),
    "combiner as number": (["combiner=1"], ["combiner=1", "conicgrad"]),
    "two combiners": (["combiner=[ls,pcgrad]"], ["combiner=[ls,pcgrad]", "conicgrad"]),
    "combiner deleted": (["~combiner"], ["combiner"]),
    "env as number": (["env=1"], ["env=1", "mt10"]),
    "no env": (["env=null"], ["env=null", "mt10"]),
    "no agent": (["agent=null"], ["agent=null", "mtmhsac"]),
    "agent deleted": (["~agent"], ["agent"]),
    "no name": (["=3"], ["=3", "key=value"]),
    "seeds in a list": (["seeds=[[0]]"], ["seeds=[[0]]", "[0,1,2]"]),
    "seeds as a mapping": (["seeds=[{a:1}]"], ["seeds", "[0,1,2]"]),
    "seeds without brackets": (["seeds=0,1,2"], ["seeds=0,1,2", "seeds=[0,1,2]"]),
    "one seed without brackets": (["seeds=3"], ["seeds=[3]"]),
    "seeds as a range": (["seeds=range(5)"], ["seeds=range(5)", "[0,1,2]"]),
    "null among the seeds": (["seeds=[null]"], ["seeds", "[0,1,2]"]),
    "seeds that refer to themselves": (["seeds=${seeds}"], ["seeds=${seeds}", "Recursive"]),
    "seed too large": ([f"seeds=[{2**64}]"], [str(2**64), str(2**64 - 1)]),
    "seed of thousands of digits": (["seeds=[" + "9" * 5000 + "]"], ["seeds"]),
    "sizes without brackets": (["agent.hidden_sizes=64"], ["agent.network.hidden_sizes", "such as [400, 400], not 64"]),
    "sizes in a list": (["agent.hidden_sizes=[[64]]"], ["agent.network.hidden_sizes", "[[64]]"]),
    "networks beyond memory": (["agent.hidden_sizes=[1000000000]"], ["agent.network", "[1000000000]", "GiB"]),
    "replay beyond memory": (["capacity_per_task=1e14"], ["capacity_per_task", "GiB"]),
    "batch beyond memory": (["batch_size_per_task=1e14"], ["batch_size_per_task", "GiB"]),
    "environments beyond memory": (
        ["env.num_envs_per_task=1e9", "capacity_per_task=1e9"],
        ["env.num_envs_per_task", "GiB"],
    ),
    "steps beyond counting": (["steps_per_task=1e300"], ["steps_per_task", "at most"]),
    "too many threads": (["threads=1000000000"], ["threads=1000000000", "1024"]),
    "timeout beyond the clock": (["env.timeout=1e30"], ["env.timeout", "1000000"]),
    "goal seed too large": (["env=mt10", "env.goal_seed=4294967296"], ["env.goal_seed", "4294967296", "4294967295"]),
    "entropy nan": (["agent.target_entropy=nan"], ["agent.target_entropy", "number", "nan"]),
    "entropy inf": (["agent.target_entropy=inf"], ["agent.target_entropy", "inf"]),
    "null where a value is needed": (["eval.every=null"], ["eval.every=null"]),
    "section as a list": (["eval=[1]"], ["eval=[1]"]),
    "section with other settings": (["eval={a:1}"], ["eval", "every, episodes, final_episodes"]),
    "environment variable as a setting": (["run_dir=${HOME}/x"], ["run_dir=${HOME}/x", "${oc.env:NAME}"]),
    "environment variable that is not set": (["steps_per_task=${oc.env:NOT_SET}"], ["steps_per_task", "NOT_SET"]),
    "run folder without a name": (["run_dir="], ["run_dir=", "empty"]),
    "run folder of too long a name": (["run_dir=" + "x" * 5000], ["run_dir", "too long"]),
    "resume without a name": (["resume="], ["resume=", "empty"]),
    "resume of too long a name": (["resume=" + "x" * 5000], ["resume"]),
    "config folder without a name": (["--config-dir"], ["--config-dir", "empty"]),
    "setting of another env": (["env=mt10", "env.task=push-v3"], ["env.task", "env=mt10 has no", "env.tasks?"]),
    "misspelt setting of the combiner": (["combiner.cc=1"], ["combiner.cc", "combiner.c?", "weights_lr"]),
    "setting that the combiner does not have": (
        ["combiner=cagrad", "combiner.zzz=1"],
        ["combiner.zzz", "combiner=cagrad", "c, inner_iterations"],
    ),
    "mt1 without its task": (["env=mt1"], ["mt1", "env.task", "reach-v3"]),
    "mt1 with a misspelt task": (["env=mt1", "env.task=pushv3"], ["env.task", "'pushv3'", "push-v3"]),
    "misspelt task of a subset": (["env=mt10", "env.tasks=[rech-v3]"], ["env.tasks", "mt10", "'rech-v3'", "reach-v3"]),
    "task of another benchmark": (["env=mt10", "env.tasks=[hammer-v3]"], ["env.tasks", "mt10", "'hammer-v3'"]),
    "repeated task": (["env=toy", "env.tasks=[direct,direct]"], ["env.tasks", "different", "direct"]),
    "no task": (["env=toy", "env.tasks=[]"], ["env.tasks", "[]"]),
    "one task without brackets": (["env=toy", "env.tasks=direct"], ["env.tasks", "[direct]"]),
    "fast that is no flag": (["env=mt10", "env.fast=3"], ["env.fast", "true or false", "3"]),
    "workers as text": (["env=toy", "env.workers=many"], ["env.workers=many"]),
    "gymnasium without ids": (["env=gym"], ["env.tasks", "Pendulum-v1"]),
    "gymnasium id that is not there": (["env=gym", "env.tasks=[Pendullum-v1]"], ["env.tasks", "Pendullum", "Pendulum"]),
    "discrete actions": (["env=gym", "env.tasks=[CartPole-v1]"], ["env.tasks", "CartPole-v1", "Discrete(2)"]),
    "observations of two sizes": (
        ["env=gym", "env.tasks=[Pendulum-v1,MountainCarContinuous-v0]"],
        ["env.tasks", "2 of MountainCarContinuous-v0", "3 of Pendulum-v1"],
    ),
    "argument that an id does not take": (
        ["env=gym", "env.tasks=[Pendulum-v1]", "env.kwargs={q: 5}"],
        ["Pendulum-v1", "unexpected keyword argument 'q'"],
    ),
    "arguments of a task that there is not": (
        ["env=gym", "env.tasks=[Pendulum-v1]", "env.task_kwargs={Pendulum: {g: 5}}"],
        ["env.task_kwargs", "Pendulum-v1", "'Pendulum'"],
    ),
    "two kinds of success": (
        ["env=gym", "env.tasks=[Pendulum-v1]", "env.success_key=won", "env.success_return=1"],
        ["env.success_key", "success_return"],
    ),
    "success as text": (
        ["env=gym", "env.tasks=[Pendulum-v1]", "env.success_return=high"],
        ["env.success_return", "a number", "'high'"],
    ),
    "success of some tasks": (
        ["env=gym", "env.tasks={a: Pendulum-v1, b: Pendulum-v1}", "env.success_return={a: 1}"],
        ["env.success_return", "each of a, b"],
    ),
    "episodes without steps": (["env=gym", "env.tasks=[Pendulum-v1]", "env.horizon=0"], ["env.horizon", "1", "0"]),
    "own environments without a class": (["env=own"], ["env._target_", "mine.Mine"]),
    "own environments that are not there": (["env=own", "env._target_=gone.Mine"], ["gone.Mine", "no module gone"]),
    "environments that are none": (
        ["env=own", "env._target_=mtrl_conic.combiners.mgda.MGDA"],
        [
            "env._target_=mtrl_conic.combiners.mgda.MGDA",
            "must be derived from mtrl_conic.envs.environments.Environments",
        ],
    ),
    "argument that the environments do not take": (["env=toy", "+env.speed=3"], ["env.speed", "no such setting"]),
    "Hydra's own folder": (["hydra.run.dir=x"], ["hydra.run.dir=x", "run_dir=..."]),
    "sweep folder without --multirun": (["hydra.sweep.dir=x"], ["hydra.sweep.dir", "--multirun"]),
    "launcher without --multirun": (["hydra/launcher=joblib"], ["hydra/launcher=joblib", "--multirun"]),
    "class that is not in its module": (["combiner._target_=mtrl_conic.combiners.ls.LSS"], ["ls has no LSS", "LS?"]),
    "module that is not there": (["combiner._target_=gone.Typo"], ["gone.Typo", "no module gone"]),
    "no class": (["combiner._target_=3"], ["combiner._target_=3"]),
    "Hydra's flag misused": (["+combiner._recursive_=3"], ["combiner", "bool"]),
    "choices, which are for the record": (["+choices.env=mt10"], ["choices"]),
    "yaml with bad indentation": (["--config-dir", "mine", "combiner=indented"], ["indented.yaml, line 3"]),
    "yaml with a duplicate key": (["--config-dir", "mine", "combiner=twice"], ["twice.yaml, line 3", "duplicate"]),
    "yaml not in UTF-8": (["--config-dir", "mine", "combiner=latin"], ["latin.yaml", "UTF-8"]),
    "yaml that refers to nothing": (["--config-dir", "mine", "combiner=lost"], ["combiner.c=${nowhere}", "nowhere"]),
    "yaml with a misspelt class": (["--config-dir", "mine", "combiner=typo"], ["ls has no LSS"]),
    "choice of too long a name": (["combiner=" + "x" * 5000], ["combiner="]),
    "value that Hydra cannot read": (["combiner.c=(("], ["combiner.c=((", "quotes"]),
    "damaged settings of a run": (["resume=damaged"], ["resume=damaged", "config.yaml"]),
    "settings of a run that refer to nothing": (["resume=lost"], ["resume=lost: config.yaml", "run.nowhere"]),
}

FILES = {
    "mine/combiner/indented.yaml": "_target_: mtrl_conic.combiners.ls.LS\na: 1\n  b: 2\n",
    "mine/combiner/twice.yaml": "_target_: mtrl_conic.combiners.ls.LS\na: 1\na: 2\n",
    "mine/combiner/latin.yaml": "_target_: mtrl_conic.combiners.ls.LS # für\n",
    "mine/combiner/lost.yaml": "_target_: mtrl_conic.combiners.conicgrad.ConicGrad\nc: ${nowhere}\n",
    "mine/own/old.yaml": "# @package _global_\nwarmup_steps: 5\n",
    "mine/agent/old.yaml": "defaults: [mtmhsac, _self_]\nhidden_sizes: [5]\n",
    "mine/agent/bare.yaml": "_target_: mtrl_conic.agents.protocol.Agent\n",
    "mine/combiner/typo.yaml": "_target_: mtrl_conic.combiners.ls.LSS\n",
    "damaged/config.yaml": "env:\n  - [\n",
    "lost/config.yaml": "env: ${run.nowhere}\n",
    "occupied/file": "mine",
}

RUNNER = """
import sys, json, io, contextlib, traceback
from pathlib import Path
import mtrl_conic.training.session
from mtrl_conic.train import main

def accepted(*_):
    raise RuntimeError("the training would start")

mtrl_conic.training.session.Trainer = accepted
cases = json.load(sys.stdin)
before = set(Path().rglob("*"))
for name, arguments in cases.items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except Exception:
            status = 1
            traceback.print_exc()
    after = set(Path().rglob("*"))
    print(json.dumps([name, status, out.getvalue(), err.getvalue(), sorted(map(str, after - before))]))
    before = after
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad_input")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="latin-1")
    return folder


@pytest.fixture(scope="module")
def answers(folder):
    import json

    cases = {name: _arguments(arguments) for name, (arguments, _) in CASES.items()}
    process = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(cases),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return {line[0]: line[1:] for line in map(json.loads, process.stdout.splitlines())}


def _arguments(arguments: list[str]) -> list[str]:
    if any(argument.startswith(("resume=", "env=", "=")) for argument in arguments):
        return arguments
    return ["env=toy", *arguments]


def check(status: int, out: str, err: str, words: list[str]) -> None:
    assert status == 2, err
    assert 1 <= len(err.strip().splitlines()) <= 3, err
    assert "Traceback" not in err
    for word in words:
        assert word in err, err
    assert out == ""


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, answers):
    *answer, written = answers[name]
    check(*answer, CASES[name][1])
    assert written == []


@pytest.mark.parametrize("name", ["c above one", "misspelt key", "no combiner"])
def test_the_command_itself(name, tmp_path):
    process = run_command(*_arguments(CASES[name][0]), cwd=tmp_path)
    check(process.returncode, process.stdout, process.stderr, CASES[name][1])
    assert list(tmp_path.iterdir()) == []


def test_cuda_without_a_gpu(tmp_path):
    import torch

    if torch.cuda.is_available():
        return
    process = run_command("env=toy", "device=cuda", cwd=tmp_path)
    check(process.returncode, process.stdout, process.stderr, ["device=cuda", "cpu"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    process = run_command(*TOY, "combiner=ls", "steps_per_task=200", f"run_dir={run}", cwd=run.parent)
    assert process.returncode == 0, process.stderr
    return run


def copy_of(run: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(run, tmp_path / "run"))


def refuse(run: Path, *arguments: str, words: list[str]) -> None:
    before = sorted(run.rglob("*"))
    process = run_command(f"resume={run}", *arguments, cwd=run.parent)
    assert process.returncode == 2, process.stderr
    assert 1 <= len(process.stderr.strip().splitlines()) <= 3
    for word in words:
        assert word in process.stderr, process.stderr
    assert sorted(run.rglob("*")) == before


def test_resume_refuses_other_settings_by_name(finished):
    refuse(finished, "batch_size_per_task=9", words=["batch_size_per_task", "8"])


def test_resume_refuses_another_combiner(finished):
    refuse(finished, "combiner=pcgrad", words=["combiner", "pcgrad"])


@pytest.mark.parametrize(
    ("mode", "words"),
    [("nonsense", ["logger=wandb", "WANDB_MODE=nonsense", "offline"]), ("", ["logger=wandb"])],
)
def test_settings_of_wandb(mode, words, tmp_path):
    pytest.importorskip("wandb")
    process = subprocess.run(
        [sys.executable, "-m", "mtrl_conic.train", "env=toy", "logger=wandb"],
        cwd=tmp_path,
        env=environment() | {"WANDB_MODE": mode, "WANDB_API_KEY": "", "HOME": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    check(process.returncode, process.stdout, process.stderr, words)


def test_resume_refuses_a_misspelt_key(finished):
    refuse(finished, "step_per_task=300", words=["step_per_task"])


OTHER_COMMANDS = {
    "evaluate: no run": ("evaluate", ["run="], ["run=", "empty"]),
    "evaluate: episodes beyond counting": ("evaluate", ["run=RUN", "episodes=1e300"], ["episodes=1e300", "at most"]),
    "evaluate: seed of thousands of digits": ("evaluate", ["run=RUN", "seeds=" + "9" * 5000], ["seeds="]),
    "evaluate: output of too long a name": ("evaluate", ["run=RUN", "out=" + "x" * 5000], ["out=", "too long"]),
    "evaluate: device of thousands of digits": ("evaluate", ["run=RUN", "device=cuda:" + "9" * 5000], ["device="]),
    "report: output of too long a name": ("report.__main__", ["runs=RUN", "out=" + "x" * 5000], ["out=", "too long"]),
    "report: runs of too long a name": ("report.__main__", ["runs=" + "x" * 5000, "out=new"], ["runs="]),
    "report: no output": ("report.__main__", ["runs=RUN", "out="], ["out=", "empty"]),
    "toy: a value that refers to nothing": (
        "toy.__main__",
        ["steps=1", "out=new", "conicgrad.c=${x}"],
        ["conicgrad.c=${x}", "not found"],
    ),
    "toy: steps of thousands of digits": ("toy.__main__", ["out=new", "steps=" + "9" * 5000], ["steps"]),
    "toy: a record that is a folder": ("toy.__main__", ["steps=1", "out=new", "json=."], ["json=.", "folder"]),
    "benchmark: mt1, which needs a task": ("benchmark.__main__", ["env=mt1"], ["env=mt1", "mt10"]),
    "benchmark: seeds of thousands of digits": ("benchmark.__main__", ["seeds=" + "9" * 5000], ["seeds"]),
    "benchmark: a record that is a folder": ("benchmark.__main__", ["json=."], ["json=.", "folder"]),
    "benchmark: a record that cannot be written": ("benchmark.__main__", ["json=/proc/x"], ["/proc/x"]),
    "benchmark: a record of too long a name": ("benchmark.__main__", ["json=" + "x" * 5000], ["too long"]),
}


@pytest.mark.parametrize("name", OTHER_COMMANDS)
def test_other_commands(name, finished, tmp_path, monkeypatch, capsys):
    import importlib
    import signal

    module, arguments, words = OTHER_COMMANDS[name]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(tmp_path)
    before = set(finished.rglob("*"))
    try:
        status = importlib.import_module(f"mtrl_conic.{module}").main(
            [a.replace("RUN", str(finished)) for a in arguments]
        )
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    answer = capsys.readouterr()
    check(status, answer.out, answer.err, words)
    assert not list(tmp_path.iterdir())
    assert set(finished.rglob("*")) == before


def test_the_largest_seed_trains_and_acts(tmp_path):
    import numpy as np

    from mtrl_conic.evaluate import main as evaluate
    from mtrl_conic.policies.policy import load_policy

    seed = 2**64 - 1
    run = train_here(*TOY, "combiner=rlw", f"seeds=[{seed}]", "steps_per_task=100", f"run_dir={tmp_path / 'run'}")
    policy = load_policy(run, seed=seed)
    assert policy(np.zeros(6), 0, deterministic=False).shape == (2,)
    assert evaluate([f"run={run}", "episodes=1"]) == 0


def test_missing_checkpoint(finished, tmp_path):
    run = copy_of(finished, tmp_path)
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    process = run_command(f"resume={run}", cwd=tmp_path)
    assert process.returncode == 2
    assert "no usable checkpoint" in process.stderr


def test_damaged_checkpoints(finished, tmp_path):
    run = copy_of(finished, tmp_path)
    for path in (run / "checkpoints").glob("step_*.pt"):
        path.write_bytes(b"not a checkpoint")
    process = run_command(f"resume={run}", cwd=tmp_path)
    assert process.returncode == 2
    assert "damaged" in process.stderr
    assert len(process.stderr.strip().splitlines()) <= 3


def test_damaged_config(finished, tmp_path):
    run = copy_of(finished, tmp_path)
    (run / "config.yaml").write_text("env: [unclosed")
    refuse(run, words=["config.yaml"])


def test_run_folder_in_use(finished, tmp_path):
    from mtrl_conic.runs.lock import lock

    run = copy_of(finished, tmp_path)
    descriptor = lock(run)
    try:
        refuse(run, words=["in use"])
    finally:
        os.close(descriptor)


def test_read_only_folder(tmp_path):
    folder = tmp_path / "sealed"
    folder.mkdir(mode=0o555)
    process = run_command("env=toy", f"run_dir={folder}/run", cwd=tmp_path, timeout=60) if os.getuid() else None
    if process is not None:  # root may write everywhere; /proc above stands for it
        check(process.returncode, process.stdout, process.stderr, ["sealed"])
