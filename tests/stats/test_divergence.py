"""Divergences against closed forms and against laws that hold whatever the distributions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston import divergence


class Hidden(dist.TorchDistribution):
    """A normal whose closed forms nobody knows."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = dist.constraints.real

    def __init__(self, loc: Any, scale: Any) -> None:
        self.inner = dist.Normal(loc, scale)
        super().__init__(self.inner.batch_shape, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        return self.inner.sample(sample_shape)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        return self.inner.log_prob(value)


def close(found: ph.Estimate, exact: Any) -> bool:
    return bool((np.abs(np.asarray(found.value) - exact) <= 4 * np.asarray(found.se) + 1e-6).all())


def test_closed_forms_are_exact() -> None:
    categorical = dist.Categorical(probs=torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64))
    uniform = dist.Categorical(probs=torch.ones(3, dtype=torch.float64) / 3)
    for found, exact in (
        (divergence.kl(dist.Normal(0.0, 1.0), dist.Normal(1.0, 2.0)), 0.443147),
        (divergence.entropy(dist.Normal(0.0, 1.0)), 1.418939),
        (divergence.entropy(categorical), 1.039721),
        (divergence.kl(categorical, uniform), 0.058892),
    ):
        assert found.kind == "exact"
        assert found.se == 0.0
        assert found.value == pytest.approx(exact, abs=2e-6)


def test_what_is_not_registered_is_estimated_with_its_error() -> None:
    locs = torch.tensor([0.0, 0.5, -2.0])
    found = divergence.kl(Hidden(locs, 1.0), dist.Normal(1.0, 2.0), num_samples=20_000, seed=1)
    exact = math.log(2.0) + (1.0 + (locs.numpy() - 1.0) ** 2) / 8.0 - 0.5
    assert found.kind == "estimate"
    assert np.shape(found.value) == (3,)
    assert close(found, exact)
    assert (np.asarray(found.se) < 0.02).all()
    assert close(divergence.entropy(Hidden(0.0, 3.0), seed=2), 1.418939 + math.log(3.0))
    beta = divergence.kl(dist.Beta(2.0, 3.0), dist.Uniform(0.0, 1.0), num_samples=40_000, seed=3)
    assert close(beta, 0.234907)


def test_errors_are_calibrated() -> None:
    z = []
    for seed in range(60):
        found = divergence.kl(Hidden(0.0, 1.0), dist.Normal(1.0, 2.0), num_samples=400, seed=seed)
        z.append((found.value - 0.4431472) / found.se)
    assert 0.75 < np.std(z) < 1.3
    assert abs(np.mean(z)) < 4 / math.sqrt(60)


@pytest.mark.parametrize(("delta", "exact"), [(0.5, 0.030311), (1.0, 0.111421), (2.0, 0.336831)])
def test_jensen_shannon_of_normals(delta: float, exact: float) -> None:
    assert close(divergence.js(dist.Normal(0.0, 1.0), dist.Normal(delta, 1.0), num_samples=40_000, seed=0), exact)


def test_jensen_shannon_of_finite_distributions_is_exact_and_bounded() -> None:
    left, right = (
        dist.Categorical(probs=torch.tensor([1.0, 0.0], dtype=torch.float64)),
        dist.Categorical(probs=torch.tensor([0.0, 1.0], dtype=torch.float64)),
    )
    found = divergence.js(left, right)
    assert (found.kind, found.value) == ("exact", pytest.approx(math.log(2.0)))
    assert divergence.js(left, left).value == pytest.approx(0.0, abs=1e-12)


def test_mass_that_the_other_lacks_makes_it_infinite() -> None:
    found = divergence.kl(dist.Uniform(-1.0, 1.0), dist.Beta(2.0, 2.0), seed=0)
    assert found.value == math.inf
    bounded = divergence.js(dist.Uniform(-1.0, 1.0), dist.Beta(2.0, 2.0), seed=0)
    assert 0.0 < bounded.value < math.log(2.0)


def test_mmd_has_the_known_value_an_honest_error_and_an_exact_level() -> None:
    z, p_values = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=200), rng.normal(1.0, 1.0, size=250)
        found = divergence.mmd(x, y, bandwidths=[1.0], num_permutations=20, seed=seed)
        z.append((found.squared.value - 0.177268) / found.squared.se)
        same = divergence.mmd(x, rng.normal(size=150), num_permutations=99, seed=seed)
        p_values.append(same.p_value)
    assert 0.7 < np.std(z) < 1.35
    assert abs(np.mean(z)) < 4 / math.sqrt(40)
    assert 0.3 < np.mean(p_values) < 0.7
    assert min(p_values) > 0.001


def test_mmd_sees_what_moments_do_not() -> None:
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], size=(2, 600))
    x, y = rng.normal(size=600), 0.8 * signs[0] + 0.6 * rng.normal(size=600)  # mean 0 and variance 1, both
    assert divergence.mmd(x, y, seed=0).p_value < 0.01


def test_c2st_finds_the_best_accuracy_and_chance() -> None:
    rng = np.random.default_rng(0)
    for delta, exact in ((0.5, 0.598706), (1.0, 0.691462), (2.0, 0.841345)):
        found = divergence.c2st(rng.normal(size=(1500, 1)), rng.normal(delta, 1.0, size=(1200, 1)), seed=1)
        assert found.size == 1200
        assert abs(found.accuracy.value - exact) < 4 * found.accuracy.se
        assert found.p_value < 1e-6
    p_values = [divergence.c2st(rng.normal(size=(300, 2)), rng.normal(size=(300, 2)), seed=s).p_value for s in range(8)]
    assert min(p_values) > 1e-4
    assert 0.15 < np.mean(p_values) < 0.85


def test_c2st_sees_a_correlation() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 2))
    y = rng.multivariate_normal([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]], size=1000)
    assert divergence.c2st(x, y, seed=0).accuracy.value > 0.6


def test_a_seed_gives_the_same_numbers_and_no_global_moves() -> None:
    before = torch.get_rng_state().clone()
    x, y = torch.randn(100, 3, generator=torch.Generator().manual_seed(1)), np.linspace(0, 1, 300).reshape(100, 3)
    assert divergence.c2st(x, y, seed=5) == divergence.c2st(x, y, seed=5)
    assert divergence.mmd(x, y, seed=5, num_permutations=9) == divergence.mmd(x, y, seed=5, num_permutations=9)
    divergence.js(dist.Normal(0.0, 1.0), dist.Normal(1.0, 1.0))
    assert torch.equal(before, torch.get_rng_state())


def test_what_cannot_be_compared_is_refused_with_the_reason() -> None:
    with pytest.raises(TypeError, match=r"kl\(p\): found ndarray; expected a torch or Pyro distribution; write: div"):
        divergence.kl(np.zeros(3), dist.Normal(0.0, 1.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"found events of shape \(2,\) and \(\); expected one shape"):
        divergence.js(dist.Normal(torch.zeros(2), 1.0).to_event(1), dist.Normal(torch.zeros(2), 1.0))
    with pytest.raises(ValueError, match="found a discrete distribution beside a continuous one"):
        divergence.kl(dist.Poisson(1.0), dist.Normal(0.0, 1.0))
    with pytest.raises(ValueError, match="num_samples: found 1; expected an integer of at least two"):
        divergence.entropy(dist.Normal(0.0, 1.0), num_samples=1)
    with pytest.raises(ValueError, match=r"mmd\(y\): found 1 of 10 numbers that are NaN or infinite"):
        divergence.mmd(np.zeros(10), np.array([math.nan] + 9 * [0.0]))
    with pytest.raises(ValueError, match=r"c2st\(x\): found 3 points; expected at least 8"):
        divergence.c2st(np.zeros(3), np.zeros(10))
    with pytest.raises(ValueError, match=r"found points of shape \(2,\) and \(3,\)"):
        divergence.c2st(np.zeros((9, 2)), np.zeros((9, 3)))
    with pytest.raises(ValueError, match=r"bandwidths: found \(0.0,\); expected numbers above zero"):
        divergence.mmd(np.zeros(10), np.ones(10), bandwidths=[0.0])
    for given, found in (("a", "str"), ([[1.0], [1.0, 2.0]], "list"), (np.zeros(10) + 1j, "complex numbers")):
        with pytest.raises(ValueError, match=rf"mmd\(x\): found {found}.*; expected (an array of numbers|real ones)"):
            divergence.mmd(given, np.zeros(10))
    with pytest.raises(TypeError, match="features: found 3; expected a function of points"):
        divergence.kid(np.zeros(10), np.ones(10), features=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"modes\(centres\): found a centre that is there twice"):
        divergence.modes(np.zeros((9, 1)), [[0.0], [0.0]], sd=1.0)
    with pytest.raises(ph.SettingError, match="modes: found sd=wide"):
        divergence.modes(np.zeros((9, 1)), [[0.0]], sd="wide")  # type: ignore[arg-type]
    many = np.random.default_rng(0).normal(size=(60, 30))
    with pytest.warns(ph.WeightWarning, match="a divergence below zero; expected more points"):
        divergence.density_ratio(many, many, seed=0)
    with pytest.raises(ValueError, match="folds: found 1 for 10 points"):
        divergence.c2st(np.zeros(10), np.ones(10), folds=1)
