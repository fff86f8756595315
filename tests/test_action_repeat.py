"""Runs whose actions are held: what they count, how they are evaluated, used and resumed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import TOY, records, train_here

import mtrl_conic
from mtrl_conic.envs.toy import ToySpec
from mtrl_conic.evaluate import main as evaluate
from mtrl_conic.runs.checkpoint import read_file
from mtrl_conic.runs.stage import check_length
from mtrl_conic.settings.compose import compose_config, resume_config
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.training.trainer import Trainer

HELD = [*TOY, "combiner=ls", "env.action_repeat=5"]
PPO = ["env=toy", "agent=mtmhppo", "agent.hidden_sizes=[16]", "agent.rollout_steps=4", "agent.minibatches=2"]
PPO += ["agent.epochs=2", "metrics_every=40", "eval.every=100", "eval.episodes=1", "eval.final_episodes=2"]
PPO += ["device=cpu", "threads=1", "combiner=ls", "env.action_repeat=5"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held") / "run"
    return train_here(*HELD, "seeds=[4,2]", "steps_per_task=200", f"run_dir={folder}")


def trained(folder, *arguments):
    """A trainer after its run, with the number of updates of each of its vector steps."""
    config = compose_config([*arguments, f"run_dir={folder}"])
    folder.mkdir()
    trainer = Trainer(config, folder)
    updates, due = [], trainer.agent.updates_due
    trainer.agent.updates_due = lambda: updates.append(due()) or updates[-1]
    try:
        assert trainer.run()
    finally:
        trainer.close()
    return trainer, updates


def test_steps_are_those_of_the_environment(run):
    assert [line["step"] for line in records(run)] == [100, 100, 200, 200]
    assert [line["step"] for line in records(run, "metrics") if line["seed"] == 4] == [40, 80, 120, 160, 200]
    state = read_file(run / "checkpoints" / "step_200.pt")
    assert {env["step"] for env in state["envs"]["envs"]} == {0}  # after four episodes of 50 steps
    assert all("episodes" in line for line in records(run))
    returns = [value for line in records(run, "metrics") for key, value in line.items() if key == "train/return/direct"]
    whole = train_here(*TOY, "combiner=ls", "steps_per_task=100", f"run_dir={run.parent / 'single'}")
    single = [
        value for line in records(whole, "metrics") for key, value in line.items() if key == "train/return/direct"
    ]
    assert 0.3 < np.nanmean(returns) / np.nanmean(single) < 3  # of 50 steps each, not of 10


def test_an_off_policy_agent_learns_once_a_decision(tmp_path):
    trainer, updates = trained(tmp_path / "run", *HELD, "steps_per_task=200", "env.num_envs_per_task=2")
    assert trainer.step == 200
    assert trainer.agent.memory.total == 40  # decisions of 5 steps in each of two environments
    # 60 steps of random actions; the sixth decision ends with them, and is observed after its updates.
    assert updates == [0] * 6 + [1] * 14
    assert trainer.agent.steps_since(3) == 30


def test_an_on_policy_agent_anneals_by_the_environments_steps(tmp_path):
    trainer, updates = trained(tmp_path / "run", *PPO, "steps_per_task=200", "env.num_envs_per_task=2")
    assert (trainer.step, trainer.agent.steps) == (200, 200)
    assert updates == [0, 0, 0, 4] * 5
    rate = trainer.agent.actor.optimizer._rate  # of the last rollout, which began at step 160
    assert float(rate) == pytest.approx(trainer.agent.learning_rate * (1 - 160 / 200))
    assert [trainer.agent.steps_since(updates) for updates in (1, 4, 5)] == [0, 0, 40]


def test_a_run_stops_at_the_first_decision_that_reaches_its_length(run, tmp_path):
    folder = train_here(*HELD, "steps_per_task=98", "env.num_envs_per_task=2", f"run_dir={tmp_path / 'run'}")
    assert records(folder)[-1]["step"] == 100
    config = resume_config(str(folder), ["steps_per_task=99"])
    check_length(config)  # it is at the step where that would end
    with pytest.raises(ConfigError, match="is at step 200"):
        check_length(resume_config(str(run), ["steps_per_task=190"]))


def test_an_evaluation_holds_actions_too_and_says_so(run, capsys):
    assert evaluate([f"run={run}", "checkpoint=last", "episodes=2"]) == 0
    assert "Toy environment, action repeat 5; 2 episodes" in capsys.readouterr().out
    result = json.loads((run / "evaluation_last_episodes_2.json").read_text())
    assert result["protocol"]["action_repeat"] == 5
    assert result["protocol"]["horizon"] == 50
    assert result["evaluations"] == records(run)[-2:]


def test_a_loop_of_ones_own_that_holds_actions_gets_the_same_returns(run):
    policy, spec = mtrl_conic.load_policy(run, checkpoint="last", seed=2), ToySpec()
    assert policy.action_repeat == 5
    line = records(run)[-1]
    for number, task in enumerate(spec.tasks):
        env, total = spec.make(number), 0.0
        for goal in range(2):
            observation = env.reset(goal)
            for _ in range(spec.horizon // policy.action_repeat):
                action = policy(observation, task)
                for _ in range(policy.action_repeat):
                    step = env.step(action)
                    observation, total = step.observation, total + step.reward
        assert total / 2 == pytest.approx(line["return"][task], rel=1e-4)


def test_a_table_of_all_runs_keeps_repeats_apart(run):
    train_here(*TOY, "combiner=ls", "steps_per_task=100", f"run_dir={run.parent / 'apart' / 'single'}")
    frame = mtrl_conic.load_runs([run, run.parent / "apart"])
    assert len(frame["method"].unique()) == 2
    assert any("action_repeat=5" in method for method in frame["method"])


def test_the_repeat_stays_that_of_the_run(run):
    with pytest.raises(ConfigError, match=r"^env\.action_repeat=2: cannot change on resume, the run has 5"):
        resume_config(str(run), ["env.action_repeat=2"])
    assert resume_config(str(run), ["env.action_repeat=5"]).vector.action_repeat == 5


def test_a_video_of_held_actions_shows_every_step(run, capsys):
    assert evaluate([f"run={run}", "episodes=1", "video=true", "video_format=gif", f"video_dir={run}/held"]) == 0
    from PIL import Image

    (path,) = (run / "held").glob("direct_*.gif")
    camera = ToySpec().make(0).camera(32)
    assert Image.open(path).n_frames == -(-50 // camera.every)
