"""`python -m mtrl_conic.toy`: the descents, the pictures and the command."""

from __future__ import annotations

import json
import math

import pytest
import torch
from matplotlib.figure import Figure

from mtrl_conic.combiners import Combiner
from mtrl_conic.combiners.cagrad import CAGrad
from mtrl_conic.combiners.conicgrad import ConicGrad
from mtrl_conic.combiners.ls import LS
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.toy import methods
from mtrl_conic.toy import problem as toy
from mtrl_conic.toy.__main__ import main
from mtrl_conic.toy.descent import TOLERANCE, descend
from mtrl_conic.toy.geometry import GRADIENTS, _draw_feasible, settled_direction
from mtrl_conic.toy.table import rows

PICTURES = ["cone_and_ball.png", "toy_convergence.png", "toy_trajectories.png"]
NEAR = [(-5.6, -8.3), (-5.07, -8.4), (9.0, 9.0)]  # within the tolerance of the minimum, nearly so, and far from it


class Watcher(LS):
    """LS that writes down what it is shown."""

    looks_back = True

    def setup(self, seeds, num_tasks, device="cpu"):
        self.before, self.after = [], []

    def weights(self, gramian, losses):
        assert gramian is None
        self.before.append(losses.clone())
        return super().weights(gramian, losses)

    def after_step(self, losses):
        self.after.append(losses.clone())


class Lazy(Combiner):
    """The gradient of the first task at every other update, without a Jacobian; else the way back."""

    def setup(self, seeds, num_tasks, device="cpu"):
        self.updates = 0

    def needs_jacobian(self):
        self.updates += 1
        return self.updates % 2 == 0

    def weights(self, gramian, losses):
        assert (gramian is None) == (self.updates % 2 == 1)
        return torch.tensor([1.0, 0.0] if gramian is None else [-1.0, 0.0]).expand_as(losses)


def test_looking_back_sees_the_losses_after_each_step():
    watcher = Watcher()
    descent = descend(watcher, num_steps=20)
    before, after = torch.stack(watcher.before), torch.stack(watcher.after)
    torch.testing.assert_close(before[1:], after[:-1], rtol=0, atol=0)
    bounds = torch.tensor(toy.LOWER_BOUNDS[0.1], dtype=torch.float64)
    torch.testing.assert_close(after[-1], toy.losses(descent.points[-1]) - bounds)
    torch.testing.assert_close((before + bounds).mean(-1), descent.excess[:-1] + toy.MINIMA[0.1][1])
    plain = descend(LS(), num_steps=20)
    torch.testing.assert_close(descent.points, plain.points, rtol=0, atol=0)


def test_an_update_without_a_jacobian_goes_along_weights_times_jacobian():
    descent = descend(Lazy(), num_steps=2)
    _, jacobian = toy.jacobian(descent.points[0])
    moved = descent.points[1] - descent.points[0]
    torch.testing.assert_close(moved, -1e-3 * jacobian[:, 0].sign(), rtol=0, atol=1e-6)  # Adam's first step


def test_thinning_changes_the_records_only():
    fine, coarse = (descend(ConicGrad(c=0.5, gamma=0.001), NEAR, 0.1, 130, every) for every in (1, 50))
    assert coarse.steps.tolist() == [0, 50, 100, 130]
    assert fine.points.shape == (131, 3, 2)
    torch.testing.assert_close(coarse.points, fine.points[coarse.steps], rtol=0, atol=0)
    torch.testing.assert_close(coarse.excess, fine.excess[coarse.steps], rtol=0, atol=0)
    assert coarse.first_hit.tolist() == fine.first_hit.tolist()
    torch.testing.assert_close(coarse.smallest_cosine, fine.smallest_cosine, rtol=0, atol=0)


def test_first_hit_is_the_first_step_within_the_tolerance():
    starts = [(-5.7273, -8.4094), (-4.9, -8.4), (9.0, 9.0)]
    descent = descend(LS(), starts, 0.1, 300)
    hit = descent.excess < TOLERANCE
    assert hit[0, 0]
    assert hit[-1, 1] > hit[0, 1]
    assert descent.first_hit.tolist() == [0, hit[:, 1].int().argmax().item(), -1]
    records = rows(descent, starts, 0.1)
    assert [record["first_hit"] is None for record in records] == [False, False, True]
    assert records[0]["distance"] < 1e-3


@pytest.mark.parametrize(("length", "cosine"), [(1e-3, -1.0), (1e-9, 1.0)])
def test_a_direction_of_no_length_has_no_cosine(length, cosine):
    class Uphill(Combiner):
        def weights(self, gramian, losses):
            return torch.full_like(losses, -length)

    descent = descend(Uphill(), num_steps=3)
    torch.testing.assert_close(descent.smallest_cosine, torch.full((5,), cosine).double())


def test_not_finite_is_null():
    descent = descend(LS(), num_steps=1)
    descent.points[-1, 2] = math.nan
    descent.excess[-1, 2] = math.inf
    record = rows(descent, toy.STARTS, 0.1)[2]
    assert record["excess"] is None
    assert record["distance"] is None


@pytest.mark.parametrize("gradients", GRADIENTS.values(), ids=GRADIENTS)
class TestFeasibleSets:
    """What the picture of the cone and the ball shows."""

    def test_conicgrad_picks_the_best_of_its_cone(self, gradients):
        jacobian = torch.tensor(gradients, dtype=torch.float64)
        mean, picked = jacobian.mean(0), settled_direction(ConicGrad(c=0.5, gamma=0.001), gradients)
        angle = torch.linspace(-math.pi, math.pi, 100_001, dtype=torch.float64)
        candidates = torch.stack((angle.cos(), angle.sin()), -1) * mean.norm()
        inside = candidates @ mean >= 0.5 * mean.square().sum()
        assert picked @ mean >= (0.5 - 1e-9) * picked.norm() * mean.norm()
        torch.testing.assert_close(picked.norm(), mean.norm())
        best = (candidates[inside] @ jacobian.T).amin(-1).max()
        assert abs((jacobian @ picked).min() - best) < 2e-3 * best

    def test_cagrad_picks_the_best_of_its_ball(self, gradients):
        jacobian = torch.tensor(gradients, dtype=torch.float64)
        mean, picked = jacobian.mean(0), settled_direction(CAGrad(c=0.4), gradients) * (1 + 0.4**2)
        angle = torch.linspace(-math.pi, math.pi, 100_001, dtype=torch.float64)
        candidates = mean + torch.stack((angle.cos(), angle.sin()), -1) * 0.4 * mean.norm()
        assert (picked - mean).norm() <= (0.4 + 1e-6) * mean.norm()
        assert (jacobian @ picked).min() >= (candidates @ jacobian.T).amin(-1).max() - 1e-4

    def test_they_are_drawn_as_they_are(self, gradients, monkeypatch):
        drawn = []
        monkeypatch.setattr("matplotlib.axes.Axes.add_patch", lambda axis, patch: drawn.append(patch))
        mean = torch.tensor(gradients, dtype=torch.float64).mean(0)
        _draw_feasible(Figure().subplots(), mean, 0.5, 0.4)
        wedge, circle = drawn
        for angle in map(math.radians, (wedge.theta1, wedge.theta2)):
            edge = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
            assert abs(edge @ mean / mean.norm() - 0.5) < 1e-9
        assert circle.center == tuple(mean.tolist())
        assert abs(circle.radius - 0.4 * mean.norm()) < 1e-12

    def test_the_mean_gradient_harms_a_task(self, gradients):
        jacobian = torch.tensor(gradients, dtype=torch.float64)
        assert (jacobian @ jacobian.mean(0)).min() < 0


def test_command(tmp_path, capsys):
    arguments = [
        "combiners=ls,conicgrad",
        "steps=40",
        f"out={tmp_path / 'pictures'}",
        f"json={tmp_path / 'table.json'}",
    ]
    arguments += ["conicgrad.c=0.25", "conicgrad.gamma=1e-2"]
    assert main(arguments) == 0
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == PICTURES
    for path in (tmp_path / "pictures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "table.json").read_text())
    assert (found["scale"], found["steps"], list(found["methods"])) == (0.1, 40, ["ls", "conicgrad"])
    assert "versions" in found["provenance"]
    conicgrad = found["methods"]["conicgrad"]
    assert (conicgrad["settings"]["c"], conicgrad["settings"]["gamma"]) == (0.25, 0.01)
    descent = descend(ConicGrad(c=0.25, gamma=0.01), num_steps=40)
    assert conicgrad["starts"] == rows(descent, toy.STARTS, 0.1)
    check_table(capsys.readouterr().out, conicgrad["starts"])


def check_table(out: str, records: list[dict]) -> None:
    lines = out.splitlines()
    assert "scale 0.1, 40 steps" in lines[0]
    block = lines[next(i for i, line in enumerate(lines) if line.startswith("conicgrad c=0.25 gamma=0.01 ")) + 1 :]
    for line, record in zip(block, records, strict=False):
        assert len(line) == len(lines[1])
        assert line.split()[-4:] == ["never", *(f"{record[k]:.4f}" for k in ("excess", "distance", "smallest_cosine"))]


BAD = {
    "unknown combiner": (["combiners=ls,nope"], ["combiners=ls,nope", "conicgrad"]),
    "no combiner": (["combiners="], ["combiners=", "must be"]),
    "other scale": (["scale=0.2"], ["scale=0.2", "0.1"]),
    "scale is no number": (["scale=x"], ["scale=x"]),
    "negative steps": (["steps=-3"], ["steps=-3"]),
    "no steps": (["steps=0"], ["steps=0"]),
    "folder cannot be made": (["out=/proc/pictures"], ["out=/proc/pictures"]),
    "folder is a file": (["out=file"], ["out=file"]),
    "json is a folder": (["json=folder"], ["json=folder"]),
    "json cannot be written": (["json=/proc/table.json"], ["json=/proc"]),
    "override of another combiner": (["combiners=ls", "pcgrad.c=1"], ["pcgrad", "ls"]),
    "override without value": (["conicgrad.c"], ["conicgrad.c"]),
    "unknown hyperparameter": (["conicgrad.q=1"], ["conicgrad.q", "gamma"]),
    "hyperparameter out of range": (["conicgrad.c=2"], ["conicgrad.c ", "2"]),
    "value cannot be read": (["conicgrad.c={"], ["conicgrad.c={"]),
    "unknown option": (["step_size=1"], ["step_size", "steps"]),
    "option of another style": (["--steps=1"], ["--steps", "key=value"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    arguments, words = BAD[name]
    some = [] if arguments[0].startswith("combiners=") else ["combiners=ls,conicgrad"]
    assert main([*some, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert all(word in line for word in words), line


@pytest.mark.parametrize("name", methods.default_methods())
def test_every_method_can_be_made(name):
    methods.check(name)


def test_toy_settings_are_of_their_methods():
    for name, changes in methods.TOY_SETTINGS.items():
        _, settings = methods.make(name)
        assert settings | changes == settings


def test_overrides_keep_their_types():
    texts = ["a.x=1e-3", "a.y=[1,2]", "b.z=true", "b.s={c: 0.4}", "a.n=null"]
    found = methods.parse_overrides(texts, ["a", "b"])
    assert found == {"a": {"x": 1e-3, "y": [1, 2], "n": None}, "b": {"z": True, "s": {"c": 0.4}}}
    with pytest.raises(ConfigError, match=r"c\.x=1"):
        methods.parse_overrides(["c.x=1"], ["a", "b"])
