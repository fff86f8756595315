"""Networks and agents of a user's own are tried out before work starts: one line that says what is wrong."""

from __future__ import annotations

import time

import pytest
import torch

from mtrl_conic.agents.sac import MultiTaskSAC
from mtrl_conic.networks.initial import uniform
from mtrl_conic.networks.layers import linear, linear_parameters
from mtrl_conic.networks.protocol import Network
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.errors import ConfigError


class Net(Network):
    def __init__(self, mode="ok"):
        self.mode = mode

    def setup(self, name, input_size, output_size, num_tasks):
        self.layers = ("same", "same") if self.mode == "clash" else (f"{name}.l", f"{name}.h")
        if self.mode == "unset":
            return
        if self.mode == "raises":
            raise KeyError("foo")
        first, second = self.layers
        self.parameters = {
            **linear_parameters(first, input_size, 8, uniform(0.1)),
            **linear_parameters(second, 8, output_size, uniform(0.1)),
        }

    def __call__(self, params, x, recorder=None):
        if self.mode == "call":
            raise RuntimeError("boom")
        given = None if self.mode == "no gradient" else recorder
        y = linear(params, self.layers[1], linear(params, self.layers[0], x.flatten(1, 2), given).relu(), recorder)
        y = y.unflatten(1, x.shape[1:3])
        changed = {
            "shape": lambda: y[..., :1],
            "none": lambda: None,
            "float64": y.double,
            "detached": y.detach,
            "infinite": lambda: y * float("nan"),
            "random": lambda: y + torch.rand(()),
            "input": lambda: y.detach() if recorder is None else y,
        }
        return changed.get(self.mode, lambda: y)()


WRONG = {
    "unset": "Net.setup must set `parameters`",
    "raises": r"Net fails when tried: KeyError: 'foo' \(test_trials.py, line",
    "clash": "Net.parameters.*same.weight.*must begin with that of the network",
    "call": "Net fails when tried: RuntimeError: boom",
    "shape": r"Net.__call__ must return .*\[S, K, B, O\] = .*, not \[2, 3, 3, 1\]",
    "none": "not NoneType",
    "float64": "a tensor of torch.float32.* not one of torch.float64",
    "detached": "Net.__call__ returns what has no gradient",
    "no gradient": r"no gradient of actor.l.weight gets to the recorder",
    "infinite": "finite",
    "random": "the same for the same input",
    "input": "must give its input a gradient",
}


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "test_trials", sys.modules[__name__])


def composed(*arguments):
    return compose_config(["env=toy", "device=cpu", *arguments])


@pytest.mark.parametrize("agent", ["mtmhsac", "mtmhppo"])
@pytest.mark.parametrize("mode", WRONG)
def test_a_network_that_does_what_none_may(mode, agent):
    section = f"agent.network={{_target_: test_trials.Net, mode: {mode}}}"
    with pytest.raises(ConfigError, match=WRONG[mode]) as error:
        composed(f"agent={agent}", "~agent.network", f"+{section}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("agent", ["mtmhsac", "mtmhppo"])
def test_a_network_as_it_should_be(agent):
    state = torch.get_rng_state()
    composed(f"agent={agent}", "~agent.network", "+agent.network={_target_: test_trials.Net}")
    assert torch.equal(torch.get_rng_state(), state)


class Sac(MultiTaskSAC):
    def __init__(self, network, mode="ok", **settings):
        super().__init__(network, **settings)
        self.mode = mode

    def check(self, setting):
        if self.mode == "check":
            raise TypeError("chk")
        super().check(setting)

    def setup(self, setting):
        if self.mode == "setup":
            raise KeyError("zz")
        super().setup(setting)

    def explore(self, observation):
        return super().explore(observation)[..., : 1 if self.mode == "explore" else None]


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("check", "agent: Sac.check fails when tried: TypeError: chk"),
        ("setup", "agent: Sac.setup fails when tried: KeyError: 'zz'"),
        ("explore", r"agent: Sac.explore must return .*\[S, K, N, A\] = \[1, 3, 1, 2\], not \[1, 3, 1, 1\]"),
    ],
)
def test_an_agent_that_does_what_none_may(mode, words):
    with pytest.raises(ConfigError, match=words):
        composed("agent._target_=test_trials.Sac", f"+agent.mode={mode}")
    composed("agent._target_=test_trials.Sac")


def test_the_packages_own_networks_cost_nothing():
    config = composed()
    started = time.perf_counter()
    config.make_agent().needs(config.setting())
    assert time.perf_counter() - started < 0.2
