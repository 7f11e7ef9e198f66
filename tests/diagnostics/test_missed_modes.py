"""Modes with mass that matters and that no draw visits."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.diagnostics.checks.missed_modes import NAME, mirrored
from phlogiston.posterior.verdict import Check


def squared() -> None:
    a = pyro.sample("a", dist.Normal(1.0, 3.0))
    pyro.sample("y", dist.Normal(a * a, 0.5))


def labels() -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 5.0).to_event(1))
    with pyro.plate("i", 40):
        pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.5, 0.5])), dist.Normal(mu, 1.0)))


SQUARED = ph.Model(squared).observe(y=9.0)
LABELS = ph.Model(labels).observe(y=torch.cat([torch.linspace(-5, -3, 20), torch.linspace(3, 5, 20)]))


def positive_share() -> float:
    """P(a > 0), by a sum over a grid."""
    a = np.linspace(-8.0, 8.0, 200_001)
    density = np.exp(-0.5 * ((a - 1.0) / 3.0) ** 2 - 0.5 * ((9.0 - a * a) / 0.5) ** 2)
    return float(density[a > 0].sum() / density.sum())


def check_of(posterior: ph.Posterior) -> Check:
    return next(check for check in posterior.diagnose().checks if check.name == NAME)


def draws_of_square(share: float, count: int = 2000) -> ph.Posterior:
    """Draws of the two normals at the modes, so many of the positive one."""
    size = np.random.default_rng(0).normal(3.0, 1.0 / 12.0, count)
    signs = np.where(np.arange(count) < share * count, 1.0, -1.0)
    return ph.Posterior(draws={"a": torch.from_numpy(signs * size)[None]}, method="given", model=SQUARED, seed=0)


@pytest.mark.parametrize("positive", [False, True])
def test_the_mass_of_the_mode_without_draws_is_the_exact_one(positive: bool) -> None:
    check = check_of(draws_of_square(float(positive)))
    exact = positive_share()
    assert exact == pytest.approx(0.661, abs=1e-3)
    assert check.finding is not None
    assert check.state == "do not use"
    assert check.finding.number == pytest.approx(1.0 - exact if positive else exact, abs=0.02)
    assert f"a = {'-' if positive else ''}3" in check.finding.message


def test_draws_at_both_modes_raise_no_alarm() -> None:
    assert check_of(draws_of_square(positive_share())).state == "fine"


@pytest.mark.parametrize("method", ["mh", "nuts", "svi"])
def test_a_method_that_saw_one_mode_is_not_trusted(method: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        posterior: Any = ph.infer(SQUARED, method, seed=0, progress=False)
    one_mode = not 0.05 < float(posterior.expect(lambda draw: draw["a"] > 0).value) < 0.95
    assert (check_of(posterior).state == "do not use") == one_mode
    if one_mode:
        assert posterior.diagnose().verdict == "do not use"


@pytest.mark.parametrize("both", [False, True])
def test_labels_that_never_switched_are_found_with_half_of_the_mass(both: bool) -> None:
    rng = np.random.default_rng(1)
    mu = np.array([-4.0, 4.0]) + rng.normal(0.0, 20**-0.5, (2000, 2))
    if both:
        mu[::2] = mu[::2, ::-1]
    check = check_of(ph.Posterior(draws={"mu": torch.from_numpy(mu)[None]}, method="given", model=LABELS, seed=0))
    assert (check.finding is None) == both
    if check.finding is not None:
        assert check.finding.number == pytest.approx(0.5, abs=0.03)
        assert "order the labels" in check.finding.meaning


def test_a_mode_of_negligible_mass_raises_no_alarm() -> None:
    def program() -> None:
        x = pyro.sample("x", dist.Normal(0.0, 10.0))
        pyro.factor("modes", torch.logaddexp(-0.5 * (x - 6.0) ** 2, -0.5 * (x + 6.0) ** 2 - 4.0))

    x = np.random.default_rng(2).normal(6.0, 1.0, (1, 2000))
    check = check_of(ph.Posterior(draws={"x": torch.from_numpy(x)}, method="given", model=ph.Model(program), seed=0))
    assert check.finding is None
    assert "modes without draws hold 1.8%" in check.outcome  # exp(-4) / (1 + exp(-4)) = 0.0180


def test_mirrored_points_change_signs_and_reverse_sites() -> None:
    u = np.arange(1.0, 13.0).reshape(3, 4)
    points = mirrored(u, [(0, 2, (2,)), (2, 4, (2,))], np.random.default_rng(0))
    np.testing.assert_array_equal(points[0], -u[0])
    np.testing.assert_array_equal(np.abs(points[:3]), u)
    np.testing.assert_array_equal(points[3], [2.0, 1.0, 4.0, 3.0])
