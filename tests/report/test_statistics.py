"""The statistics of the report, compared with `rliable` on the same numbers and the same resamples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rliable import library as rliable
from rliable import metrics

from mtrl_conic.report import statistics


def scores(seeds: int, tasks: int, seed: int = 0) -> np.ndarray:
    """Success rates over 50 episodes, with ties, zeros and ones as real ones have."""
    random = np.random.default_rng(seed)
    return random.binomial(50, random.beta(0.5, 0.5, tasks), (seeds, tasks)) / 50


SHAPES = [(2, 3), (3, 10), (5, 10), (10, 10), (10, 50), (4, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_iqm_is_rliables(shape):
    sample = scores(*shape)
    assert statistics.interquartile_mean(sample) == pytest.approx(metrics.aggregate_iqm(sample), abs=1e-15)
    stacked = np.stack([sample, scores(*shape, seed=1)])
    expected = [metrics.aggregate_iqm(each) for each in stacked]
    np.testing.assert_allclose(statistics.interquartile_means(stacked), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("shape", SHAPES)
def test_iqm_interval_is_rliables_on_the_same_resamples(shape):
    sample, resamples = scores(*shape), 400
    np.random.seed(3)  # noqa: NPY002 - rliable draws from the global generator
    _, intervals = rliable.get_interval_estimates(
        {"x": sample}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=resamples
    )
    np.random.seed(3)  # noqa: NPY002
    bootstrap = rliable.StratifiedBootstrap(sample)
    indices = np.stack([bootstrap.update_indices()[0] for _ in range(resamples)])
    ours = statistics.percentile_interval(statistics.interquartile_means(statistics.resample(sample, indices)))
    np.testing.assert_allclose(ours, intervals["x"][:, 0], rtol=0, atol=1e-12)


def test_iqm_interval_is_rliables_with_draws_of_its_own():
    sample = scores(5, 10, seed=4)
    _, intervals = rliable.get_interval_estimates(
        {"x": sample}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=4000
    )
    ours = statistics.stratified_interval(sample, statistics.interquartile_means, 20_000)
    width = intervals["x"][1, 0] - intervals["x"][0, 0]
    np.testing.assert_allclose(ours, intervals["x"][:, 0], rtol=0, atol=0.08 * width)


@pytest.mark.parametrize(("x_seeds", "y_seeds"), [(3, 3), (5, 2), (10, 10)])
def test_probability_of_improvement_is_rliables(x_seeds, y_seeds):
    x, y = scores(x_seeds, 10, seed=1), scores(y_seeds, 10, seed=2)
    ours = statistics.probability_of_improvement(x, y)
    assert ours == pytest.approx(metrics.probability_of_improvement(x, y), abs=1e-12)
    assert statistics.probability_of_improvement(y, x) == pytest.approx(1 - ours)
    _, intervals = rliable.get_interval_estimates(
        {"x": (x, y)}, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=500
    )
    interval = statistics.improvement_interval(x, y, 20_000)
    width = intervals["x"][1, 0] - intervals["x"][0, 0]
    np.testing.assert_allclose(interval, intervals["x"][:, 0], rtol=0, atol=0.2 * width)


def test_profile_is_rliables():
    sample, thresholds = scores(5, 10), np.linspace(0, 1, 21)
    profile = [rliable.run_score_deviation(sample, threshold) for threshold in thresholds]
    np.testing.assert_allclose(statistics.performance_profile(sample, thresholds), profile)


def test_a_piecewise_bootstrap_draws_the_same(monkeypatch):
    sample = scores(4, 10)
    whole = statistics.stratified_interval(sample, statistics.interquartile_means, 300)
    monkeypatch.setattr(statistics, "_AT_ONCE", 7 * sample.size)
    assert statistics.stratified_interval(sample, statistics.interquartile_means, 300) == whole


def test_bands_are_the_bootstrap_of_the_mean():
    values = np.random.default_rng(0).random((3, 5))
    low, high = statistics.seed_bands(values, resamples=50_000)
    draws = np.random.default_rng(1).integers(5, size=(50_000, 5))
    expected = np.percentile(values[:, draws].mean(-1), (2.5, 97.5), axis=1)
    np.testing.assert_allclose((low, high), expected, atol=0.01)
    assert ((low < values.mean(1)) & (values.mean(1) < high)).all()


def test_one_seed_has_no_interval():
    single = scores(1, 10)
    assert statistics.standard_error(single.mean(1)) is None
    assert statistics.stratified_interval(single, statistics.interquartile_means) is None
    assert statistics.improvement_interval(single, scores(3, 10)) is None
    assert statistics.seed_bands(single.T) is None


def test_standard_error():
    assert statistics.standard_error(np.array([0.2, 0.4, 0.9])) == pytest.approx(math.sqrt(0.13) / math.sqrt(3))
