"""Observations of which entries are missing: only these become latent, and every method finds the closed form."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from short_runs import SETTINGS

import phlogiston as ph
from phlogiston.inference.method import Method
from phlogiston.report.plots.components import choose

NAN = float("nan")
PRIOR_SD, SD = 2.0, 1.5
Y = [1.0, NAN, 2.0, NAN, 0.5, -0.5, NAN]


def normal() -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, PRIOR_SD))
    with pyro.plate("i", len(Y)):
        pyro.sample("y", dist.Normal(mu, SD))


def coin() -> None:
    p = pyro.sample("p", dist.Beta(2.0, 3.0))
    with pyro.plate("i", 6):
        pyro.sample("y", dist.Bernoulli(p))


def counts() -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("i", 4):
        pyro.sample("y", dist.Poisson(rate))


def classes() -> None:
    z = pyro.sample("z", dist.Bernoulli(0.3))
    with pyro.plate("i", 3):
        y = pyro.sample("y", dist.Categorical(torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])[z.long()]))
        pyro.sample("x", dist.Normal(y.to(z.dtype), 1.0))


def vectors() -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    with pyro.plate("i", 3):
        pyro.sample("y", dist.MultivariateNormal(mu, torch.tensor([[1.0, 0.6], [0.6, 1.0]])))


def infer(model: ph.Model, method: str) -> ph.Posterior:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)  # few draws, judged by their own errors
        return ph.infer(model, method, seed=3, progress=False, **SETTINGS[method][0])


def agrees(posterior: ph.Posterior, site: str, mean: Any, sd: Any) -> None:
    found = posterior.moments(site)
    assert (np.abs(found.mean - mean) <= 4.5 * np.asarray(found.mean_se) + 1e-9).all(), (found.mean, mean)
    assert (np.abs(found.sd - sd) <= 4.5 * np.asarray(found.sd_se) + 1e-9).all(), (found.sd, sd)


CONTINUOUS = ["rejection", "importance", "hmc", "nuts", "mh", "gibbs"]


@pytest.mark.parametrize("method", CONTINUOUS)
def test_a_normal_with_missing_values_is_the_closed_form(method: str) -> None:
    y = torch.tensor(Y)
    seen = y[~y.isnan()]
    precision = 1 / PRIOR_SD**2 + len(seen) / SD**2
    mean, sd = float(seen.sum()) / SD**2 / precision, precision**-0.5
    posterior = infer(ph.Model(normal).observe(y=y, missing="latent"), method)
    agrees(posterior, "mu", mean, sd)
    imputed = np.where(y.isnan(), mean, y), np.where(y.isnan(), (sd**2 + SD**2) ** 0.5, 0.0)
    agrees(posterior, "y", *imputed)
    listed = [row for row in posterior.summary().index if row.startswith("y")]
    assert [each.label for each in choose(posterior, "y").components] == listed
    assert listed == [f"y[{i}]" for i in np.flatnonzero(y.isnan())]  # the others are data
    if posterior.log_evidence is not None:
        cov = PRIOR_SD**2 * torch.ones(len(seen), len(seen)) + SD**2 * torch.eye(len(seen))
        exact = float(dist.MultivariateNormal(torch.zeros(len(seen)), cov).log_prob(seen))
        assert abs(posterior.log_evidence.value - exact) <= 4 * float(posterior.log_evidence.se)


@pytest.mark.parametrize("method", CONTINUOUS)
def test_missing_coin_flips_are_summed_out_and_drawn_back(method: str) -> None:
    posterior = infer(ph.Model(coin).observe(y=[1.0, NAN, 0.0, 1.0, NAN, 1.0], missing="latent"), method)
    agrees(posterior, "p", 5 / 9, (20 / 810) ** 0.5)
    share = np.array([1.0, 5 / 9, 0.0, 1.0, 5 / 9, 1.0])
    agrees(posterior, "y", share, (share * (1 - share)) ** 0.5)


@pytest.mark.parametrize("method", ["rejection", "importance", "mh", "gibbs"])
def test_missing_counts_are_drawn(method: str) -> None:
    posterior = infer(ph.Model(counts).observe(y=[2.0, NAN, 0.0, 3.0], missing="latent"), method)
    agrees(posterior, "rate", 7 / 4, 7**0.5 / 4)
    mean, sd = np.array([2.0, 7 / 4, 0.0, 3.0]), np.array([0.0, (7 / 4 + 7 / 16) ** 0.5, 0.0, 0.0])
    agrees(posterior, "y", mean, sd)


def test_missing_classes_have_exact_probabilities() -> None:
    x = torch.tensor([1.0, 0.5, 0.0])
    posterior = infer(ph.Model(classes).observe(y=[2.0, NAN, 0.0], x=x, missing="latent"), "exact")
    tables = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]).double()
    by_class = dist.Normal(torch.arange(3.0), 1.0).log_prob(x[:, None]).double().exp()
    terms = torch.tensor([0.7, 0.3]).double()[:, None] * tables * by_class[1]
    terms = terms * (tables[:, 2] * by_class[0, 2] * tables[:, 0] * by_class[2, 0])[:, None]
    assert posterior.log_evidence is not None
    assert posterior.log_evidence.value == pytest.approx(float(terms.sum().log()), abs=1e-6)
    np.testing.assert_allclose(posterior.marginals["y"][1], terms.sum(0) / terms.sum(), atol=1e-6)
    np.testing.assert_allclose(posterior.marginals["y"][0], [0.0, 0.0, 1.0], atol=1e-10)
    np.testing.assert_allclose(posterior.marginals["z"], terms.sum(1) / terms.sum(), atol=1e-6)
    assert set(posterior.draws["y"][0, :, 0].tolist()) == {2}


@pytest.mark.parametrize("method", ["hmc", "nuts", "gibbs"])
def test_entries_within_an_event_are_imputed_from_the_others(method: str) -> None:
    y = torch.tensor([[0.5, NAN], [1.0, -1.0], [NAN, NAN]])
    posterior = infer(ph.Model(vectors).observe(y=y, missing="latent"), method)
    # The joint normal of mu and y, conditioned on what was seen.
    within, prior = torch.tensor([[1.0, 0.6], [0.6, 1.0]]).double(), 4.0 * torch.eye(2).double()
    blocks = [[prior + (within if i == j and i > 0 else 0.0) for j in range(4)] for i in range(4)]
    cov = torch.cat([torch.cat(row, 1) for row in blocks])
    seen = torch.tensor([2, 4, 5])
    gain = cov[:, seen] @ torch.linalg.inv(cov[seen][:, seen])
    mean = gain @ torch.tensor([0.5, 1.0, -1.0]).double()
    variance = (cov - gain @ cov[seen]).diagonal().clamp(min=0.0)
    agrees(posterior, "mu", mean[:2].numpy(), variance[:2].sqrt().numpy())
    agrees(posterior, "y", mean[2:].reshape(3, 2).numpy(), variance[2:].sqrt().reshape(3, 2).numpy().round(6))


def test_likelihood_prediction_and_groups_know_what_was_seen() -> None:
    model = ph.Model(normal).observe(y=Y, missing="latent")
    assert model.sites["y"].role == "latent"
    assert model.target().dim == 1 + 3
    posterior = infer(model, "nuts")
    seen = ~np.isnan(Y)
    pointwise = posterior.pointwise_log_likelihood()["y"]
    expected = dist.Normal(posterior.draws["mu"][..., None], SD).log_prob(torch.tensor(Y).double().nan_to_num())
    np.testing.assert_allclose(pointwise[..., seen], expected[..., seen], atol=1e-10)
    assert float(pointwise[..., ~seen].abs().max()) == 0.0
    assert posterior.loo().khat.shape == (int(seen.sum()),)
    assert float(posterior.predict(seed=0)["y"].std((0, 1)).min()) > 1.0
    np.testing.assert_array_equal(np.isnan(posterior.data["observed_data"]["y"].values), ~seen)
    assert posterior.with_predictions().predictions["prior_predictive"]["y"].shape == (*posterior.draws["y"].shape,)


def test_what_cannot_be_missing_is_refused() -> None:
    with pytest.raises(
        ph.ModelError, match=r"found 3 NaN of 7 values.*write: model.observe\(..., missing=\"latent\"\)"
    ):
        ph.Model(normal).observe(y=Y)
    with pytest.raises(ph.ModelError, match="1 infinite of 7 values"):
        ph.Model(normal).observe(y=[float("inf"), *Y[1:]], missing="latent")
    with pytest.raises(ph.ModelError, match="outside the support"):
        ph.Model(coin).observe(y=[2.0, NAN, 0.0, 1.0, NAN, 1.0], missing="latent")
    with pytest.raises(ph.ModelError, match=r"shape \(2,\)"):
        ph.Model(normal).observe(y=[NAN, 1.0], missing="latent")
    with pytest.raises(ph.SettingError, match="missing: found 'drop'"):
        ph.Model(normal).observe(y=Y, missing="drop")
    simplex = ph.Model(lambda: pyro.sample("s", dist.Dirichlet(torch.ones(3))))
    with pytest.raises(ph.ModelError, match="missing entries within an event in Simplex"):
        simplex.observe(s=[0.2, NAN, 0.3], missing="latent")
    whole = ph.Model(vectors).observe(y=[[0.5, NAN], [1.0, -1.0], [0.0, 0.0]], missing="latent")
    with pytest.raises(ph.UnsupportedModel, match="method 'importance' cannot treat site 'y': found missing entries"):
        infer(whole, "importance")


def test_without_missing_entries_nothing_changes() -> None:
    model = ph.Model(coin).observe(y=torch.ones(6), missing="latent")
    assert model.sites["y"].role == "observed"
    again = ph.Model(normal).observe(y=Y, missing="latent").observe(y=torch.zeros(7))
    assert again.sites["y"].role == "observed"
    method: Method = ph.NUTS(num_samples=10)
    assert method.needs.unmet(again.structure) is None
