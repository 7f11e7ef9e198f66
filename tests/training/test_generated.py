"""Measures of a generator's draws against closed forms, and against samples that are known to agree or to differ."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import phlogiston as ph
from phlogiston import divergence


def normals(count: int, dims: int, loc: float = 0.0, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(loc, scale, (count, dims))


def with_moments(points: np.ndarray, loc: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """The points moved and mixed so that their sample moments are these to rounding."""
    white = points - points.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    return loc + white @ np.linalg.cholesky(covariance).T


def test_frechet_is_that_of_two_normals_exactly() -> None:
    first, second = np.array([[1.0, 0.48], [0.48, 0.36]]), np.diag([1.0, 9.0])  # they do not commute
    x = with_moments(normals(50, 2), np.zeros(2), first)
    y = with_moments(normals(60, 2, seed=1), np.array([3.0, -1.0]), second)
    # in two dimensions tr (AB)^(1/2) = sqrt(tr AB + 2 sqrt(det AB))
    cross = math.sqrt(np.trace(first @ second) + 2.0 * math.sqrt(np.linalg.det(first @ second)))
    assert divergence.frechet(x, y) == pytest.approx(10.0 + 1.36 + 10.0 - 2.0 * cross, rel=1e-9)
    assert divergence.frechet(x, x) == pytest.approx(0.0, abs=1e-9)
    # N(0, I) against N(1, 4 I): |1|^2 + tr I + tr 4 I - 2 tr 2 I = D + D
    one, four = with_moments(normals(50, 5), np.zeros(5), np.eye(5)), normals(50, 5, seed=3)
    assert divergence.frechet(one, with_moments(four, np.ones(5), 4.0 * np.eye(5))) == pytest.approx(10.0, rel=1e-9)


@pytest.mark.parametrize("count", [20, 64])
def test_frechet_of_no_more_points_than_dimensions_is_finite_and_warned_of(count: int) -> None:
    with pytest.warns(ph.PhlogistonWarning, match=rf"found {count} points of 64 dimensions.*divergence.kid"):
        found = divergence.frechet(normals(count, 64), normals(200, 64, seed=1))
    assert math.isfinite(found)
    assert found > 0.0


def third_degree(p: tuple[float, float, float], q: tuple[float, float, float]) -> float:
    """E (ab + 1)^3 for independent a and b with these first three moments."""
    return 1.0 + 3.0 * p[0] * q[0] + 3.0 * p[1] * q[1] + p[2] * q[2]


@pytest.mark.parametrize("loc", [0.0, 1.0])
def test_kid_is_unbiased_and_its_error_is_that_of_its_spread(loc: float) -> None:
    zero, other = (0.0, 1.0, 0.0), (loc, 1.0 + loc**2, 3.0 * loc + loc**3)
    exact = third_degree(zero, zero) + third_degree(other, other) - 2.0 * third_degree(zero, other)
    found = [divergence.kid(normals(200, 1, seed=2 * s), normals(250, 1, loc, seed=2 * s + 1)) for s in range(150)]
    values, errors = np.array([f.value for f in found]), np.array([f.se for f in found])
    assert abs(values.mean() - exact) < 4 * values.std() / math.sqrt(150)
    assert (values < 0).any() == (loc == 0.0)  # no bias means below zero about half the time where samples agree
    ratio = np.sqrt(np.square(errors).mean()) / values.std()
    # a jackknife counts the second order of a U-statistic twice, and where samples agree there is no other
    assert 0.85 < ratio < (1.6 if loc == 0.0 else 1.25)


def test_fidelity_on_points_that_can_be_counted() -> None:
    # data 0, 1, ..., 9 on a line: a ball to the nearest neighbour has radius 1
    data = np.arange(10.0)[:, None]
    draws = np.array([0.0, 0.5, 0.5, 20.0, 20.0, 20.0, 30.0, 30.0])[:, None]
    found = divergence.fidelity(data, draws, neighbours=1)
    assert found.precision.value == 3 / 8  # the first three
    assert found.density.value == (2 + 2 + 2) / 8  # in the balls around 0 and 1 each
    assert found.coverage.value == 2 / 10  # 0 and 1
    # draws' balls: 0 reaches 0.5; 0.5 to its twin, 0; 20 and 30 to theirs, 0. Of the data only 0 is in one
    assert found.recall.value == 1 / 10
    assert divergence.fidelity(data, data, neighbours=3).coverage.value == 1.0


def test_fidelity_of_samples_that_agree() -> None:
    n, k = 1500, 5  # more than are looked at in one go
    found = divergence.fidelity(normals(n, 2), normals(n, 2, seed=1), neighbours=k)
    expected = 1.0 - math.prod((n - 1 - j) / (2 * n - 1 - j) for j in range(k))
    assert abs(found.coverage.value - expected) < 5 * found.coverage.se
    assert abs(found.density.value - 1.0) < 5 * found.density.se + 0.02
    assert found.precision.value == pytest.approx(found.recall.value, abs=0.05)


def test_fidelity_tells_missing_variety_from_missing_quality() -> None:
    data = normals(600, 2)
    narrow, wide = (divergence.fidelity(data, normals(600, 2, scale=s, seed=1)) for s in (0.1, 9.0))
    assert narrow.precision.value > 0.95
    assert narrow.recall.value < 0.2
    assert wide.precision.value < 0.3
    assert wide.recall.value > 0.9


def test_a_density_ratio_gives_the_divergences_of_two_normals() -> None:
    hits = []
    for seed in range(4):
        x, y = normals(600, 1, seed=2 * seed), normals(700, 1, 1.0, seed=2 * seed + 1)
        found = divergence.density_ratio(x, y, seed=seed)
        for name, exact in (("kl", 0.5), ("reverse_kl", 0.5), ("js", 0.111421)):
            low, high = found.intervals[name]
            estimate = getattr(found, name)
            assert low < estimate.value < high
            assert abs(estimate.value - exact) < 4 * estimate.se
            hits.append(low < exact < high)
    assert np.mean(hits) > 0.7
    assert found.log_ratio.shape == (2, 600)


def test_a_density_ratio_tells_the_directions_apart_and_equal_samples() -> None:
    # KL[N(0, 1), N(0, 2)] = log 2 + 1/8 - 1/2, the other way 2 - log 2 - 1/2
    found = divergence.density_ratio(normals(1500, 1), normals(1500, 1, scale=2.0, seed=1), seed=0)
    assert abs(found.kl.value - (math.log(2.0) + 0.125 - 0.5)) < 4 * found.kl.se
    assert abs(found.reverse_kl.value - (1.5 - math.log(2.0))) < 4 * found.reverse_kl.se + 0.05
    same = divergence.density_ratio(normals(600, 1), normals(600, 1, seed=1), seed=0)
    assert abs(same.js.value) < 0.01


def test_every_measure_takes_a_feature_map() -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))  # float32, with parameters that ask for more
    x, y = normals(120, 16).reshape(120, 4, 4), normals(100, 16, 0.5, seed=1).reshape(100, 4, 4)
    mapped = [net(torch.from_numpy(v).float()).detach() for v in (x, y)]
    measures: list[Any] = [
        divergence.frechet,
        divergence.kid,
        divergence.fidelity,
        lambda a, b, **f: divergence.mmd(a, b, num_permutations=20, seed=0, **f),
        lambda a, b, **f: divergence.c2st(a, b, seed=0, **f),
        lambda a, b, **f: divergence.density_ratio(a, b, num_resamples=5, seed=0, **f).js,
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.WeightWarning)  # so few points may give a divergence below zero
        for measure in measures:
            assert str(measure(x, y, features=net)) == str(measure(*mapped))
    with pytest.raises(ValueError, match=r"features: found shape \(1, 16\) for 100 points; expected one row for each"):
        divergence.kid(x[:100], y, features=lambda v: v.mean(0).reshape(1, 16))
    with pytest.raises(ValueError, match=r"kid\(features\): found 120 of 120 numbers that are NaN"):
        divergence.kid(x, y, features=lambda v: v.mean((1, 2)) * math.nan)


def test_settings_without_sense_are_refused() -> None:
    points = normals(30, 2)
    with pytest.raises(ph.SettingError, match="neighbours: found 30; expected from 1 to 29"):
        divergence.fidelity(points, points, neighbours=30)
    with pytest.raises(ph.SettingError, match="num_resamples: found 1"):
        divergence.density_ratio(points, points, num_resamples=1)
    with pytest.raises(ph.SettingError, match="folds: found 1 for 30 points"):
        divergence.density_ratio(points, points, folds=1)
    with pytest.raises(ph.SettingError, match="max_points: found 3"):
        divergence.kid(points, points, max_points=3)
    with pytest.raises(ValueError, match=r"fidelity: found points of shape \(2,\) and \(3,\)"):
        divergence.fidelity(points, normals(30, 3))
    with pytest.raises(ValueError, match=r"frechet\(y\): found 1 of 60 numbers that are NaN"):
        divergence.frechet(points, np.where(np.arange(60).reshape(30, 2) == 3, np.nan, points))
