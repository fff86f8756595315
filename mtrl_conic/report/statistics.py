"""Means, interquartile means, bootstrap intervals and probabilities of improvement.

Definitions: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", 2021,
arXiv 2108.13264, and its library `rliable`, which the tests compare with. S seeds, K tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
RESAMPLES = 5000
CONFIDENCE = 0.95
_AT_ONCE = 2_000_000  # numbers of a resampled array that are held at a time


class Interval(NamedTuple):
    """Bounds of a percentile bootstrap interval."""

    low: float
    high: float


def standard_error(values: Array) -> float | None:
    """Standard error of the mean of independent values [S]; None for one value."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def interquartile_mean(scores: Array) -> float:
    """Mean of the middle half of all S × K scores: a quarter, rounded down, is cut off at each end."""
    return float(stats.trim_mean(scores, 0.25, axis=None))


def stratified_interval(
    scores: Array, statistic: Callable[[Array], Array], resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """Interval of a statistic of scores [S, K] by the stratified bootstrap: seeds are drawn for each task by itself.

    Args:
        scores: [S, K].
        statistic: of [R, S, K] → [R], such as `interquartile_means`.
        resamples: R, drawn in pieces.
        seed: of the draws; the same numbers give the same interval.

    Returns:
        None for one seed, from which nothing can be drawn but itself.
    """
    if len(scores) < 2:
        return None
    random = np.random.default_rng(seed)
    pieces = []
    for count in _pieces(resamples, scores.size):
        pieces.append(statistic(resample(scores, random.integers(len(scores), size=(count, *scores.shape)))))
    return percentile_interval(np.concatenate(pieces))


def resample(scores: Array, indices: NDArray[np.int64]) -> Array:
    """Scores [R, S, K] of the seeds `indices` [R, S, K] in each task."""
    return scores[indices, np.arange(scores.shape[1])]


def interquartile_means(scores: Array) -> Array:
    """The interquartile mean of each of R resamples [R, S, K] → [R]."""
    return np.asarray(stats.trim_mean(scores.reshape(len(scores), -1), 0.25, axis=1))


def percentile_interval(values: Array) -> Interval:
    """The central 95 % of the statistic's values [R] over resamples."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, (tail, 100 - tail))
    return Interval(float(low), float(high))


def seed_bands(values: Array, resamples: int = 1000, seed: int = 0) -> tuple[Array, Array] | None:
    """Bands [T] around the mean over seeds of curves [T, S]: whole seeds are drawn. None for one seed."""
    count = values.shape[1]
    if count < 2:
        return None
    draws = np.random.default_rng(seed).integers(count, size=(resamples, count))
    shares = np.stack([(draws == index).mean(1) for index in range(count)])  # [S, R]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values @ shares, (tail, 100 - tail), axis=1)
    return low, high


def probability_of_improvement(x: Array, y: Array) -> float:
    """Probability that a run of X beats one of Y on a task, P(x > y) + P(x = y) / 2, mean over the K tasks.

    Args:
        x: scores [S, K] of the one method.
        y: [S', K] of the other.
    """
    return float(_improvements(x[None], y[None])[0])


def improvement_interval(x: Array, y: Array, resamples: int = 2000, seed: int = 0) -> Interval | None:
    """Its interval by the stratified bootstrap, with both methods drawn independently; None for one seed."""
    if min(len(x), len(y)) < 2:
        return None
    random = np.random.default_rng(seed)
    pieces = []
    for count in _pieces(resamples, x.size * len(y)):
        drawn = [resample(scores, random.integers(len(scores), size=(count, *scores.shape))) for scores in (x, y)]
        pieces.append(_improvements(*drawn))
    return percentile_interval(np.concatenate(pieces))


def _improvements(x: Array, y: Array) -> Array:
    """[R, S, K] and [R, S', K] → [R]."""
    difference = np.sign(x[:, :, None] - y[:, None, :])
    return (difference.mean((1, 2, 3)) + 1) / 2


def _pieces(total: int, size: int) -> list[int]:
    """`total` in pieces of which each holds at most so many arrays of `size` as fit at once."""
    piece = max(1, _AT_ONCE // size)
    return [min(piece, total - start) for start in range(0, total, piece)]


def performance_profile(scores: Array, thresholds: Array) -> Array:
    """Share of the S × K runs with a score above each threshold."""
    return np.asarray((scores[..., None] > thresholds).mean((0, 1)))
