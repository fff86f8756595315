"""Values of Python's given to `mtrl_conic.train` by keyword arrive as they are."""

from __future__ import annotations

import random

import pytest

import mtrl_conic
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.settings.overrides import as_hydra_has_them, parse
from mtrl_conic.training.program import _argument

WORDS = [
    "Pendulum-v1",
    "a, b",
    "it's",
    'say "x"',
    "",
    "3",
    "true",
    "null",
    "x: y",
    "[z]",
    "{q}",
    "back\\slash",
    "a b",
    "ü",
]
KEYS = ["light", "a b", "Pendulum-v1", "x:y", "a,b", "ns/Env-v0", "f(x)", "k[0]"]


def drawn(draws, depth=2):
    leaves = [None, True, False, 7, -2, 0.25, 1e-9, *WORDS]
    kind = draws.randrange(4) if depth else 0
    if kind == 1:
        return [drawn(draws, depth - 1) for _ in range(draws.randrange(4))]
    if kind >= 2:
        return {key: drawn(draws, depth - 1) for key in draws.sample(KEYS, draws.randrange(4))}
    return draws.choice(leaves)


@pytest.mark.parametrize("seed", range(60))
def test_mappings_and_lists_arrive_as_they_are(seed):
    value = {"value": drawn(random.Random(seed), 3)}
    (parsed,) = parse(as_hydra_has_them([_argument("env.kwargs", value)]))
    assert parsed.value() == value


@pytest.mark.parametrize("text", ["it's", "a, b", "two words", "Pendulum-v1"])
def test_text_arrives_as_it_is(text):
    (parsed,) = parse(as_hydra_has_them([_argument("env.success_key", text)]))
    assert parsed.value() == text


def test_names_for_tasks_by_keyword():
    settings = {"env.tasks": {"light one": "Pendulum-v1"}, "env.success_return": {"other": 1}}
    with pytest.raises(ConfigError, match=r"success_return.*each of light one"):
        mtrl_conic.train(env="gym", **settings)


def test_what_is_no_argument_and_no_run():
    with pytest.raises(ConfigError, match="3: must be text"):
        mtrl_conic.train([3])
    with pytest.raises(ConfigError, match="cannot be a name"):
        mtrl_conic.train(env="gym", **{"env.tasks": {"it's": "Pendulum-v1"}})
    pytest.importorskip("pandas")
    with pytest.raises(ConfigError, match="at least one"):
        mtrl_conic.load_runs([])
