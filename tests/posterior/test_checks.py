"""Predictive checks and leave-one-out calibration, against closed forms."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import phlogiston as ph
from phlogiston.diagnostics.checks.modes import check_modes
from phlogiston.posterior.predictive_checks import LooPit

Z = 5.0
Y = np.array([1.2, -0.4, 0.8, 2.1, 0.5])


@pytest.fixture(scope="module")
def post(load_model: Any) -> ph.Posterior:
    return ph.infer(load_model("normal_normal").model, "nuts", num_samples=2000, seed=0, progress=False)


@pytest.fixture(scope="module")
def weighted(load_model: Any) -> ph.Posterior:
    return ph.infer(load_model("normal_normal").model, "importance", num_particles=20_000, seed=0, progress=False)


@pytest.mark.parametrize("name", ["post", "weighted"])
def test_the_p_value_of_the_mean_is_the_exact_one(name: str, request: pytest.FixtureRequest) -> None:
    given: ph.Posterior = request.getfixturevalue(name)
    check = given.predictive_check("mean")
    mean, variance = 0.8, 0.436436**2 + 1.0 / 5.0  # of the mean of five new data
    exact = 1.0 - NormalDist(mean, np.sqrt(variance)).cdf(float(Y.mean()))
    worth = given.figures.get("ess", 2000.0)
    assert abs(float(check.p_value.value) - exact) < Z * np.sqrt(exact * (1.0 - exact) / worth)
    assert check.observed == pytest.approx(Y.mean())
    assert not check.extreme
    assert str(check).startswith("posterior predictive check of mean of y: observed 0.84")


def test_the_prior_predictive_is_the_exact_one(post: ph.Posterior) -> None:
    check = post.predictive_check("mean", prior=True)
    assert check.source == "prior predictive"
    assert post.plot.predictive(prior=True).get_suptitle().startswith("Prior predictions of y")
    exact = 1.0 - NormalDist(0.0, np.sqrt(4.0 + 1.0 / 5.0)).cdf(float(Y.mean()))
    assert abs(float(check.p_value.value) - exact) < Z * np.sqrt(exact * (1.0 - exact) / 8000)


def test_statistics_of_ones_own_may_be_several(post: ph.Posterior, tmp_path: Path) -> None:
    def sorted_data(data: torch.Tensor) -> torch.Tensor:
        return data.sort().values

    check = post.predictive_check(sorted_data)
    assert check.statistic == "sorted_data"
    assert np.allclose(check.observed, np.sort(Y))
    assert np.shape(check.p_value.value) == np.shape(check.p_value.se) == (5,)
    assert "of 5 p-values extreme" in str(check)
    figure = check.plot()
    assert len(figure.axes) == 5
    figure.savefig(tmp_path / "check.png")
    assert (tmp_path / "check.png").read_bytes().startswith(b"\x89PNG")
    assert all(axes.has_data() for axes in figure.axes)


def test_data_unlike_the_model_are_seen() -> None:
    def program() -> None:
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("i", 40):
            pyro.sample("y", dist.Poisson(rate))

    y = np.array([0.0] * 20 + [4.0] * 20)
    post = ph.infer(ph.Model(program).observe(y=y), "nuts", seed=0, progress=False)
    assert post.predictive_check("zeros").extreme
    assert post.predictive_check("sd").extreme
    assert not post.predictive_check("mean").extreme
    assert post.loo_pit().p_value < 0.01


def test_transforms_are_those_of_the_exact_leave_one_out_predictions(post: ph.Posterior) -> None:
    found = post.loo_pit()
    exact = []
    for i in range(5):
        rest = np.delete(Y, i)
        variance = 1.0 / (0.25 + 4.0)
        exact.append(NormalDist(variance * rest.sum(), np.sqrt(variance + 1.0)).cdf(Y[i]))
    assert np.abs(found.values - exact).max() < Z * 0.5 / np.sqrt(1500)


@pytest.mark.parametrize("size", [8, 50])
def test_the_p_value_of_a_transform_is_kolmogorovs(size: int) -> None:
    values = np.random.default_rng(size).random(size) ** 1.3
    found = LooPit("y", values)
    exact = stats.kstest(values, "uniform")
    assert found.statistic == pytest.approx(exact.statistic)
    assert found.p_value == pytest.approx(exact.pvalue, abs=0.02)


def test_calibrated_predictions_of_counts_give_uniform_transforms() -> None:
    rng = np.random.default_rng(0)

    def program() -> None:
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("i", 200):
            pyro.sample("y", dist.Poisson(rate))

    y = rng.poisson(1.5, 200).astype(float)
    post = ph.infer(ph.Model(program).observe(y=y), "importance", seed=0, progress=False)
    pit = post.loo_pit("y")
    assert pit.p_value > 0.01
    assert len(pit.plot().axes) == 1


def test_what_cannot_be_checked_is_refused_with_what_can(post: ph.Posterior) -> None:
    with pytest.raises(ph.UnknownName, match="found no statistic 'meen'; did you mean 'mean'"):
        post.predictive_check("meen")
    with pytest.raises(ph.UnknownName, match="check: found no site 'x'"):
        post.predictive_check("mean", "x")
    with pytest.raises(ph.ModelError, match=r"statistic 'log': found .* values that are not finite"):
        post.predictive_check(torch.log)
    with pytest.raises(ValueError, match="check: found 0 observed sites; expected"):
        ph.infer(ph.Model(lambda: pyro.sample("z", dist.Normal(0.0, 1.0))), "importance", seed=0).predictive_check(
            "mean"
        )

    def program() -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.MultivariateNormal(mu, torch.eye(2)))

    vectors = ph.infer(ph.Model(program).observe(y=[0.0, 1.0]), "importance", seed=0)
    with pytest.raises(ValueError, match="loo_pit: found site 'y', whose observations are vectors"):
        vectors.loo_pit()


def test_shares_of_modes_between_which_no_chain_moves_are_not_judged() -> None:
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((4, 500, 1)) + np.array([-6.0, 6.0, -6.0, 6.0])[:, None, None]

    def density(u: np.ndarray) -> np.ndarray:  # e^3 times as much mass on the right
        sides = [-0.5 * np.square(u[:, 0] + 6.0), 3.0 - 0.5 * np.square(u[:, 0] - 6.0)]
        return np.logaddexp(*sides)

    check = check_modes(draws, density, lambda i: "x", rng, chains=True)
    assert check.state == "not judged"
    assert "the chains hardly cross between them" in check.outcome
    mixed = rng.permutation(draws.reshape(-1, 1)).reshape(4, 500, 1)
    assert check_modes(mixed, density, lambda i: "x", rng, chains=True).state == "do not use"
