"""The bridge to TorchJD: the same directions, streams and memory per seed, and one line for what cannot be used."""

import io
import sys

import pytest
import torch
from conftest import run_command
from hard_matrices import hard_jacobians
from torchjd import aggregation

from mtrl_conic.combiners import _torchjd_memory as memory
from mtrl_conic.combiners import torchjd as bridge
from mtrl_conic.combiners.torchjd import TorchJD
from mtrl_conic.runs.checkpoint import to_plain
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.errors import ConfigError

DETERMINISTIC = {
    "Mean": {},
    "Sum": {},
    "MGDA": {},
    "IMTLG": {},
    "AlignedMTL": {"scale_mode": "rmse"},
    "ConFIG": {"pref_vector": [1.0, 2.0, 3.0, 4.0]},
    "CAGrad": {"c": 0.4},
    "FairGrad": {"alpha": 1.0},
    "Krum": {"n_byzantine": 1, "n_selected": 2},
    "TrimmedMean": {"trim_number": 1},
    "Constant": {"weights": [1, 0, 2, 3]},
}
RANDOM = ("PCGrad", "GradDrop", "Random", "GradVac")
STATEFUL = ("GradVac", "ExcessMTL", "PCD")
LOSSES = torch.ones(2, 4)


def ready(name, settings=None, seeds=(3, 5), num_tasks=4):
    combiner = TorchJD(name, settings)
    combiner.setup(seeds, num_tasks)
    return combiner


def jacobians(num_seeds=2, updates=6):
    return torch.randn(updates, num_seeds, 4, 9, generator=torch.Generator().manual_seed(0))


def through_a_file(state):
    """As a checkpoint does it: only tensors, numbers, strings, lists and dicts."""
    file = io.BytesIO()
    torch.save(to_plain(state), file)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_direction_is_torchjds(name):
    settings = DETERMINISTIC[name]
    vectors = {
        key: torch.tensor(value, dtype=torch.float32) for key, value in settings.items() if isinstance(value, list)
    }
    aggregator = getattr(aggregation, name)(**settings | vectors)
    combiner = ready(name, settings)
    for jacobian in jacobians(updates=3):
        expected = torch.stack([aggregator(rows) for rows in jacobian])
        assert torch.equal(combiner.direction(jacobian, LOSSES), expected)


@pytest.mark.parametrize("name", STATEFUL)
def test_each_seed_has_a_memory_of_its_own(name):
    combiner, aggregators = ready(name), [getattr(aggregation, name)() for _ in range(2)]
    for jacobian in jacobians():
        direction = combiner.direction(jacobian, LOSSES)
        if name not in RANDOM:
            expected = torch.stack([one(rows) for one, rows in zip(aggregators, jacobian, strict=True)])
            assert torch.equal(direction, expected)


def test_every_aggregator_that_needs_nothing_more_is_known():
    known = bridge._aggregators()
    assert {*DETERMINISTIC, *RANDOM, *STATEFUL, "UPGrad", "NashMTL", "DualProj"} == set(known)
    assert all(issubclass(kind, aggregation.Aggregator) for kind in known.values())


@pytest.mark.parametrize("name", RANDOM)
def test_a_seed_draws_the_same_alone_and_among_others(name):
    seeds = range(10)
    together, alone = ready(name, seeds=seeds), ready(name, seeds=[3])
    conflicting = hard_jacobians(4)["conflicting"].expand(10, 4, -1).contiguous()
    apart = False
    for _ in range(4):
        before = torch.random.get_rng_state()
        directions = together.direction(conflicting, torch.ones(10, 4))
        assert torch.equal(torch.random.get_rng_state(), before), "the global generator is left alone"
        torch.rand(1)  # and what others draw from it does not matter
        assert torch.equal(alone.direction(conflicting[:1], torch.ones(1, 4))[0], directions[3])
        apart = apart or not torch.equal(directions[3], directions[4])
    assert apart


def test_random_aggregators_draw_from_the_seeds_stream():
    first, other = ready("Random", seeds=[3]), ready("Random", seeds=[3])
    jacobian = torch.eye(4).unsqueeze(0)
    one, two = first.direction(jacobian, LOSSES), first.direction(jacobian, LOSSES)
    assert not torch.equal(one, two)
    assert torch.equal(other.direction(jacobian, LOSSES), one)


def test_setup_and_errors_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    combiner = ready("PCGrad")
    with pytest.raises(RuntimeError, match="expand"):
        combiner.direction(torch.ones(2, 4, 9), LOSSES, torch.empty(2, 8))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", [*STATEFUL, *RANDOM, "Mean"])
def test_resume_is_bit_for_bit(name):
    settings = {"n_warmup_steps": 2} if name == "ExcessMTL" else None
    sequence = jacobians()
    for split in (0, 1, 3):
        first, second = ready(name, settings), ready(name, settings)
        for jacobian in sequence[:split]:
            first.direction(jacobian, LOSSES)
        saved = first.state_dict()
        expected = [first.direction(jacobian, LOSSES) for jacobian in sequence[split:]]
        second.direction(sequence[0], LOSSES)  # whatever it remembers is replaced
        second.load_state_dict(through_a_file(saved))
        found = [second.direction(jacobian, LOSSES) for jacobian in sequence[split:]]
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
        for _ in range(2):  # neither side writes into the other's tensors
            second.load_state_dict(saved)
            assert torch.equal(second.direction(sequence[split], LOSSES), expected[0])


def test_what_stateful_aggregators_remember_matters():
    """Else the test above would show nothing."""
    for name in STATEFUL:
        fresh, used = ready(name, seeds=[0]), ready(name, seeds=[0])
        used.direction(torch.randn(1, 4, 9), LOSSES)
        fresh_state, used_state = (combiner.state_dict()["memory"][0] for combiner in (fresh, used))
        assert repr(fresh_state) != repr(used_state)


class Odd(aggregation.Mean, bridge.importlib.import_module("torchjd").Stateful):
    """A stateful aggregator that comes to hold something no checkpoint can."""

    def __init__(self, sort="seen"):
        super().__init__()
        self.seen, self.sort, self.key = [], sort, (3, torch.float64, torch.device("cpu"), None)

    def reset(self):
        pass

    def forward(self, matrix):
        self.seen.append(matrix.shape[0] if self.sort == "seen" else {"a": object()})
        return super().forward(matrix)


@pytest.fixture
def odd(monkeypatch):
    monkeypatch.setattr(bridge, "_aggregators", lambda: {"Odd": Odd, "Mean": aggregation.Mean})


def test_lists_tuples_types_and_devices_are_saved(odd):
    first, second = ready("Odd"), ready("Odd")
    first.direction(jacobians()[0], LOSSES)
    second._aggregators[0].key = None
    second.load_state_dict(through_a_file(first.state_dict()))
    assert second._aggregators[0].seen == [4]
    assert second._aggregators[0].key == (3, torch.float64, torch.device("cpu"), None)


def test_resume_is_refused_where_the_memory_cannot_be_saved(odd):
    first = ready("Odd", {"sort": "object"})
    fresh = first.state_dict()
    first.direction(jacobians()[0], LOSSES)
    saved = through_a_file(first.state_dict())  # the checkpoint itself is written
    second = ready("Odd", {"sort": "object"})
    with pytest.raises(ValueError, match=r"^TorchJD's Odd cannot resume: its seen could not be saved$"):
        second.load_state_dict(saved)
    second.load_state_dict(fresh)


def test_foreign_states_are_refused():
    combiner = ready("GradVac")
    for state in ({}, ready("PCD").state_dict(), ready("GradVac", seeds=[3]).state_dict()):
        with pytest.raises(ValueError, match="another aggregator, or not of 2 seeds"):
            combiner.load_state_dict(state)
    with pytest.raises(ValueError, match="GradVac cannot move from cuda to cpu"):
        combiner.load_state_dict(combiner.state_dict() | {"device": "cuda"})
    saved = ready("PCGrad").state_dict()  # not stateful: a run on a GPU has a second stream
    ready("PCGrad").load_state_dict(saved | {"device": "cuda", "streams": saved["streams"] * 2})


def test_arrays_are_saved():
    class Array(torch.nn.Module):
        value = None

    module, other = Array(), Array()
    module.value = torch.arange(3.0).numpy()
    saved, unsaved = memory.save(module)
    memory.load(other, through_a_file(saved), torch.device("cpu"))
    assert unsaved == []
    assert other.value.tolist() == [0, 1, 2]
    assert other.value.dtype == module.value.dtype


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("Foo", None, ["'Foo'", "AlignedMTL, CAGrad", "UPGrad"]),
        ("Aggregator", None, ["'Aggregator'"]),
        ("MeanWeighting", None, ["'MeanWeighting'"]),
        (3, None, ["aggregator=3"]),
        ("CAGrad", None, ["CAGrad needs c"]),
        ("CAGrad", {"c": -0.4}, ["CAGrad", "-0.4"]),
        ("CAGrad", {"c": "wide"}, ["CAGrad", "wide"]),
        ("Mean", {"c": 0.5}, ["settings.c=0.5", "Mean takes none"]),
        ("GradVac", {"betta": 0.5}, ["settings.betta=0.5", "beta, eps"]),
        ("Mean", "c", ["settings='c'", "mapping"]),
        ("ConFIG", {"pref_vector": ["a"]}, ["pref_vector", "'a'"]),
    ],
)
def test_bad_settings_are_named(name, settings, words):
    with pytest.raises(ValueError, match=r"^(aggregator|settings)") as caught:
        TorchJD(name, settings)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("Constant", {"weights": [1, 2, 3]}), ("Krum", {"n_byzantine": 2}), ("ConFIG", {"pref_vector": [1, 2]})],
)
def test_settings_for_another_number_of_tasks_are_named(name, settings):
    combiner = TorchJD(name, settings)
    with pytest.raises(ValueError, match=rf"'{name}', settings={{.*}} with 4 tasks: ") as caught:
        combiner.setup([0], 4)
    assert "\n" not in str(caught.value)


def test_the_number_of_tasks_is_filled_in(monkeypatch):
    class Counting(aggregation.Mean):
        def __init__(self, n_tasks, other=1):
            super().__init__()
            self.n_tasks = n_tasks

    monkeypatch.setattr(bridge, "_aggregators", lambda: {"Counting": Counting})
    assert ready("Counting")._aggregators[0].n_tasks == 4
    assert ready("Counting", {"n_tasks": 7})._aggregators[0].n_tasks == 7


def test_missing_torchjd_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchjd"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ImportError, match=r'^combiner=torchjd needs TorchJD: pip install "mtrl_conic\[torchjd\]"$'):
        TorchJD("Mean")


def test_a_missing_package_of_an_aggregator_is_named(monkeypatch):
    monkeypatch.setattr("torchjd._mixins.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"^aggregator='NashMTL': .*\['numpy', 'cvxpy', 'ecos'\].*pip install"):
        TorchJD("NashMTL")


def test_the_command_explains(tmp_path):
    process = run_command("env=toy", "combiner=torchjd", "combiner.aggregator=Foo", cwd=tmp_path)
    assert process.returncode == 2, process.stderr
    assert 1 <= len(process.stderr.strip().splitlines()) <= 3
    assert all(word in process.stderr for word in ("'Foo'", "UPGrad")), process.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("aggregator", "settings", "words"),
    [
        ("Krum", "{n_byzantine: 9}", ["Krum", "n_byzantine", "9", "with 3 tasks"]),
        ("CAGrad", "{c: -1}", ["CAGrad", "-1"]),
        ("UPGrad", "null", ["'UPGrad'", "quadprog", "pip install"]),
    ],
)
def test_the_settings_are_checked_before_a_run(aggregator, settings, words, monkeypatch):
    monkeypatch.setattr("torchjd._mixins.find_spec", lambda name: None if name == "quadprog" else name)
    chosen = ["combiner=torchjd", f"combiner.aggregator={aggregator}", f"combiner.settings={settings}"]
    with pytest.raises(ConfigError, match=r"^combiner[.:] ?aggregator=") as caught:
        compose_config(["env=toy", *chosen])
    assert all(word in str(caught.value) for word in words), caught.value
