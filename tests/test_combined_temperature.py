"""One temperature that a combiner moves, as `agent.temperatures=combined` and experiment=mt10_fixed have it."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import TOY, records, train_here
from meta_device import OneDevice, update_and_act
from resuming import COMBINERS, assert_same_run, assert_same_state, run_here
from test_capture import Quiet, updates
from test_capture import make as recorded_agent
from test_logging import board
from test_sac_settings import A, K, O, S, batch_of, draws, made, steps_on_meta

from mtrl_conic.combiners import MGDA, CAGrad, PCGrad
from mtrl_conic.report.reading import read_run
from mtrl_conic.settings.compose import compose_config, resume_config
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.training.device_steps import device_steps

COMBINED = "agent.temperatures=combined"
RATE, EPSILON = 0.01, 1e-5


class AdamOfOneNumber:
    """Adam (arXiv 1412.6980, Algorithm 1) in plain numbers."""

    def __init__(self, value):
        self.value, self.mean, self.square, self.steps = value, 0.0, 0.0, 0

    def step(self, gradient):
        self.steps += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient**2
        mean, square = self.mean / (1 - 0.9**self.steps), self.square / (1 - 0.999**self.steps)
        self.value -= RATE * mean / (square**0.5 + EPSILON)


def gradients_of_each_task(log_temperature, log_prob, target_entropy):
    """K gradients by K passes of autograd over the tasks' losses, -α (mean log π + H)."""
    found = []
    for task in range(K):
        number = torch.tensor(log_temperature, dtype=torch.float64, requires_grad=True)
        loss = (number.exp() * (-log_prob[task] - target_entropy)).mean()
        found.append(torch.autograd.grad(loss, number)[0].item())
    return found


def shortest_in_the_hull(numbers):
    """MGDA's direction where the gradients are numbers: the one nearest to 0 that lies between them."""
    return min(max(min(numbers), 0.0), max(numbers))


def mean_of_projected(numbers):
    """PCGrad's: who disagrees with another one of the other sign is projected to 0, the others stay."""
    return sum(each for each in numbers if all(each * other >= 0 for other in numbers)) / len(numbers)


@pytest.mark.parametrize(
    ("combiner", "combined"),
    [("ls", lambda numbers: sum(numbers) / K), ("mgda", shortest_in_the_hull), ("pcgrad", mean_of_projected)],
)
@pytest.mark.parametrize(("reduction", "times"), [("mean", 1), ("sum", K)])
def test_the_temperature_follows_the_combined_gradient(combiner, combined, reduction, times):
    """In five steps, of which some have tasks that disagree; the seeds by themselves."""
    start = ["agent.initial_temperature=0.5", "agent.target_entropy=-0.7", f"agent.learning_rate={RATE}"]
    agent = made(COMBINED, f"combiner={combiner}", f"agent.loss_reduction={reduction}", *start)
    wanted, conflicts = [AdamOfOneNumber(torch.tensor(0.5, dtype=torch.float64).log().item()) for _ in range(S)], 0
    for step in range(5):
        log_prob = 0.7 + (2 if step % 2 else 0.5) * draws(step) + (3 if step > 2 else 0)
        agent.temperatures.update(log_prob, agent.health)
        for row, own in zip(log_prob, wanted, strict=True):
            numbers = gradients_of_each_task(own.value, row, -0.7)
            conflicts += min(numbers) < 0 < max(numbers)
            own.step(times * combined(numbers))
    expected = torch.tensor([own.value for own in wanted], dtype=torch.float64)
    torch.testing.assert_close(agent.temperatures.log, expected.unsqueeze(1).expand(S, K), rtol=1e-9, atol=1e-12)
    assert 2 <= conflicts < 5 * S


@pytest.mark.parametrize("combiner", COMBINERS)
def test_every_combiner_moves_it(combiner):
    agent = made(COMBINED, f"combiner={combiner}", "agent.gradient_scope=all", "agent.learning_rate=0.01")
    (learner,) = agent.temperatures.learners
    assert (learner.combiner.network, learner.params.shape) == ("temperature", (S, 1))
    for _ in range(4):
        metrics = agent.learn(batch_of())
        assert (metrics["loss/temperature"].shape, metrics["grad_norm/temperature"].shape) == ((S, K), (S,))
        assert all(torch.isfinite(value).all() for value in metrics.values())
    assert not agent.health.halted.any()
    assert (agent.temperatures.log[:, 0] != 0).all()
    assert torch.equal(metrics["temperature"], metrics["temperature"][:, :1].expand(S, K))


def test_other_kinds_have_no_combiner_for_it():
    for kind in ("task", "shared"):
        agent = made(f"agent.temperatures={kind}")
        assert (agent.networks, agent.temperatures.learners) == (("critic", "actor"), ())
        with pytest.raises(
            ConfigError, match=r"^temperature\.combiner: .* there are critic\.combiner, actor\.combiner$"
        ):
            compose_config(["env=toy", f"agent.temperatures={kind}", "temperature.combiner=mgda"])


def test_it_may_have_a_combiner_of_its_own():
    own = ["combiner=pcgrad", "temperature.combiner=cagrad", "temperature.combiner.c=0.3"]
    found = made(COMBINED, *own).combiners
    assert [type(each) for each in found] == [PCGrad, PCGrad, CAGrad]
    assert found[-1].c == 0.3
    beside_separate_networks = compose_config(
        ["env=toy", "agent=stl", COMBINED, "combiner=ls", "temperature.combiner=mgda"]
    )
    assert isinstance(beside_separate_networks.make_combiner("temperature"), MGDA)


def test_a_diverging_temperature_halts_its_seed():
    agent = made(COMBINED)
    log_prob = draws(0)
    log_prob[1, 2, 0] = torch.inf
    for _ in range(2):
        agent.temperatures.update(log_prob, agent.health)
        agent.health.count()
    assert agent.health.halted.tolist() == [0, 1]
    assert agent.health.halts("abc")[1] == ("temperature", "the loss of c", 2)
    assert torch.equal(agent.temperatures.log[1], torch.zeros(K, dtype=torch.float64))
    assert agent.temperatures.log[0, 0] != 0


def test_no_step_reads_or_moves_a_number(without_numbers):
    config = compose_config(["env=toy", COMBINED, "agent.normalise_rewards=true", "agent.network.hidden_sizes=[7]"])
    steps = steps_on_meta(config)
    with OneDevice():
        update_and_act(steps, torch.zeros(S, K, 1, O, device="meta"), A)


def test_a_recorded_update_equals_a_plain_one():
    """Those of NashMTL between two solves, which build no Jacobian for the temperature either, are recorded apart."""
    arguments = ("nashmtl", "cpu", "combiner.update_every=3", COMBINED)
    plain, agent = recorded_agent(*arguments), recorded_agent(*arguments)
    expected = updates(device_steps(plain), 12)
    graphs = []

    def make_graph():
        graphs.append(Quiet(agent.combiners))
        return graphs[-1]

    assert_same_state(updates(device_steps(agent, make_graph=make_graph), 12), expected)
    assert_same_state(agent.state_dict(), plain.state_dict())
    assert any(graph.replays for graph in graphs)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    arguments = [*TOY, COMBINED, "agent.normalise_rewards=true", "combiner=conicgrad", "seeds=[0,3]"]
    run = tmp_path_factory.mktemp("whole") / "run"
    train_here(*arguments, "steps_per_task=240", f"run_dir={run}")
    return run, arguments


def test_a_resumed_run_equals_an_uninterrupted_one(whole_run, tmp_path):
    whole, arguments = whole_run
    config = compose_config([*arguments, "steps_per_task=240", f"run_dir={tmp_path}/run"])
    run_here(config, stop=190)
    run_here(resume_config(f"{tmp_path}/run", []), resume=True)
    assert_same_run(whole, tmp_path / "run", 240)


def test_records_and_report_have_it(whole_run):
    run, _ = whole_run
    last = records(run, "metrics")[-1]
    for task in ("direct", "mirrored"):
        assert {f"loss/temperature/{task}", f"combiner/temperature/weight/{task}"} <= last.keys()
    assert {"grad_norm/temperature", "combiner/temperature/conflict"} <= last.keys()
    overview = board(run, "mean").Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert b"combiner/temperature/weight/direct" in overview
    assert read_run(run, []).traces[0].keys() >= {"temperature/weight", "temperature/cosine"}
    values = [last[f"temperature/{task}"] for task in ("direct", "mirrored")]
    assert values[0] == values[1]
    assert json.loads((run / "provenance.json").read_text())["pieces"][0]["parameters_per_seed"].keys() == {
        "critic",
        "actor",
    }
