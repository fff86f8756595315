"""What the pictures are made of: pieces of time, shares of weight, colours."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from synthetic import COMBINERS, make_run

from mtrl_conic.report.curves import curves
from mtrl_conic.report.diagnostics import binned, shares
from mtrl_conic.report.grouping import sections
from mtrl_conic.report.reading import read_run
from mtrl_conic.report.statistics import seed_bands
from mtrl_conic.report.style import DARK, DASHES, LIGHT, Colours, short_number


def test_pieces_hold_the_means_of_their_updates():
    steps = np.arange(1, 101) * 10
    traces = [(steps, steps * 1.0), (steps, steps * 2.0)]
    middles, values = binned(traces, bins=10)
    assert middles.tolist() == [50.0 + 100 * piece for piece in range(10)]
    np.testing.assert_allclose(values[:, 0], 55.0 + 100 * np.arange(10))
    np.testing.assert_allclose(values[:, 1], 2 * values[:, 0])


def test_pieces_that_a_seed_lacks_are_left_out():
    steps = np.arange(1, 11) * 100
    gap = np.delete(steps, [3, 4])
    middles, values = binned([(steps, steps * 1.0), (gap, gap * 1.0)], bins=10)
    assert middles.tolist() == [50, 150, 250, 550, 650, 750, 850, 950]
    assert values.shape == (8, 2)
    np.testing.assert_allclose(values[:, 0], values[:, 1])


def test_shares_are_of_the_absolute_sum():
    weights = np.array([[[1.0, 1.0, 2.0], [0.0, -3.0, 1.0]], [[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]]])
    np.testing.assert_allclose(shares(weights), [[0.375, -0.75, 1.125], [0.5, 0.5, 0.5]])


def _luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("colours", "paper"), [(LIGHT, "#ffffff"), (DARK, "#15181c")], ids=["light", "dark"])
def test_lines_stand_out_from_the_paper(colours, paper):
    for colour in colours:
        low, high = sorted((_luminance(colour), _luminance(paper)))
        assert (high + 0.05) / (low + 0.05) >= 3  # WCAG 2.1, 1.4.11


def test_methods_have_a_look_each():
    count = len(LIGHT) * len(DASHES)
    colours = Colours(tuple(f"method {number}" for number in range(count)))
    looks = {str(sorted(colours.line(label).items())) for label in colours.labels}
    assert len(looks) == count == 21


@pytest.mark.parametrize("count", [2, 5])
def test_many_methods_have_bars_in_place_of_bands_and_single_seeds(tmp_path, count):
    runs = [read_run(make_run(tmp_path / name, name), []) for name in list(COMBINERS)[:count]]
    (section,) = sections(runs, None, [])
    axis = Figure().subplots()
    curves(section, Colours(section.labels))[0].panels[0].draw(axis)
    found = axis.collections
    if count == 2:
        assert len(found) == 2
        assert all(isinstance(band, PolyCollection) for band in found)
        assert len(axis.lines) == 2 * (1 + 3)  # the mean and three seeds
        return
    assert len(axis.lines) == len(found) == 5
    places = []
    for method, bars in zip(section.methods, found, strict=True):
        assert type(bars) is LineCollection
        bands = seed_bands(method.success.mean(-1))
        assert bands is not None
        for (x, low), (same, high) in bars.get_segments():
            assert x == same
            assert (low, high) == pytest.approx([np.interp(x, method.steps, band) for band in bands])
            places.append(x)
    assert len(set(places)) == len(places) == 5 * 4  # none hides another


def test_short_numbers():
    assert [short_number(value) for value in (0, 500, 1500, 2_000_000)] == ["0", "500", "1.5k", "2M"]
