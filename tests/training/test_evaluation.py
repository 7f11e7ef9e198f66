"""Bounds, gaps and posteriors of amortised guides against the linear Gaussian model, where all are known."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import phlogiston as ph
from phlogiston.training.evaluate import annealing
from phlogiston.training.fitted import Fitted

LOADINGS = torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.0, -1.0], [0.3, 0.2]])
SIGMA2, COUNT = 0.25, 40
PRECISION = torch.eye(2) + LOADINGS.T @ LOADINGS / SIGMA2  # of z given any x


def ppca(num_rows: int) -> None:
    with pyro.plate("row", num_rows):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ LOADINGS.T, math.sqrt(SIGMA2)).to_event(1))


class Exact(nn.Module):
    """The posterior's own mean, and its covariance or the best diagonal one; ``off`` shifts the mean."""

    def __init__(self, *, full: bool, off: float = 0.0) -> None:
        super().__init__()
        covariance = torch.linalg.inv(PRECISION)
        self.weight = nn.Parameter(covariance @ LOADINGS.T / SIGMA2)
        self.off, self.scale = off, torch.linalg.cholesky(covariance) if full else PRECISION.diagonal() ** -0.5

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x @ self.weight.T + self.off, self.scale.expand(len(x), *self.scale.shape)


def data(count: int = COUNT, seed: int = 0) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    z = torch.randn(count, 2, generator=noise)
    return z @ LOADINGS.T + math.sqrt(SIGMA2) * torch.randn(count, 4, generator=noise)


def exact_log_likelihood(x: torch.Tensor) -> np.ndarray:
    covariance = LOADINGS @ LOADINGS.T + SIGMA2 * torch.eye(4)
    return torch.distributions.MultivariateNormal(torch.zeros(4), covariance).log_prob(x).double().numpy()


def fitted(*, full: bool, off: float = 0.0) -> Fitted:
    model = ph.Model(ppca, COUNT).observe(x=data())
    encoder = ph.Amortized(encoder=Exact(full=full, off=off), covariance="full" if full else "diag")
    return Fitted(model=model, method="svi", guide=encoder.build(model))


DIAGONAL_GAP = 0.5 * float(PRECISION.diagonal().log().sum() - torch.logdet(PRECISION))  # 0.045032


def test_the_exact_posterior_has_no_gap_and_gives_the_likelihood_with_any_number_of_draws() -> None:
    for count in (1, 7):
        found = fitted(full=True).bound_log_likelihood(num_samples=count, seed=0)
        np.testing.assert_allclose(found.per_datum, exact_log_likelihood(data()), atol=2e-5)
        assert found.num_samples == count
    bound = fitted(full=True).estimate_elbo(num_samples=4, seed=0)
    np.testing.assert_allclose(bound.elbo, exact_log_likelihood(data()), atol=2e-5)


def test_the_bound_rises_with_the_draws_and_stays_below_the_likelihood() -> None:
    exact, off = exact_log_likelihood(data()), fitted(full=False, off=0.4)
    bounds = [off.bound_log_likelihood(num_samples=k, repeats=8, seed=3) for k in (1, 5, 50, 500)]
    means = [float(found.mean.value) for found in bounds]
    errors = [float(np.sqrt((found.spread**2 / 8).sum())) / COUNT for found in bounds if found.spread is not None]
    for i in range(3):
        assert means[i + 1] > means[i] - 3 * math.hypot(errors[i], errors[i + 1])
    assert means[3] - means[0] > 10 * errors[0]
    assert all(mean < exact.mean() + 4 * error for mean, error in zip(means, errors, strict=True))
    assert abs(means[3] - exact.mean()) < 4 * errors[3] + 0.002
    # the error that one run reports is that which repeated runs have
    assert float(bounds[2].mean.se) * math.sqrt(8.0) == pytest.approx(errors[2] * math.sqrt(8.0), rel=0.5)


def test_one_draw_is_the_elbo_in_expectation() -> None:
    off = fitted(full=False, off=0.4)
    once, elbo = (
        off.bound_log_likelihood(num_samples=1, repeats=400, seed=1),
        off.estimate_elbo(num_samples=400, seed=2),
    )
    assert once.spread is not None
    error = math.hypot(float(np.sqrt((once.spread**2 / 400).sum())) / COUNT, float(elbo.mean.se))
    assert abs(float(once.per_datum.mean()) - float(elbo.mean.value)) < 4 * error
    np.testing.assert_allclose(elbo.reconstruction - elbo.kl, elbo.elbo)
    gap = exact_log_likelihood(data()).mean() - float(elbo.mean.value)
    known = DIAGONAL_GAP + 0.5 * 0.4**2 * float(PRECISION.sum())
    assert abs(gap - known) < 4 * float(elbo.mean.se)


def test_the_gap_is_split_into_family_and_encoder() -> None:
    found = fitted(full=False, off=0.4).split_gap(num_samples=1000, num_steps=200, seed=0)
    amortisation = 0.5 * 0.4**2 * float(PRECISION.sum())
    assert abs(float(found.approximation.value) - DIAGONAL_GAP) < 4 * float(found.approximation.se) + 0.004
    assert abs(float(found.amortisation.value) - amortisation) < 4 * float(found.amortisation.se) + 0.004
    assert float(found.total.value) == pytest.approx(
        float(found.approximation.value) + float(found.amortisation.value), abs=1e-9
    )
    full = fitted(full=True, off=0.4).split_gap(num_samples=1000, num_steps=200, seed=0)
    assert abs(float(full.approximation.value)) < 4 * float(full.approximation.se) + 0.004


def test_new_data_of_any_size_have_their_posterior() -> None:
    x = data(count=3, seed=9)
    post = fitted(full=True).posterior(x=x, num_samples=4000, seed=0)
    assert post.draws["z"].shape == (1, 4000, 3, 2)
    covariance = torch.linalg.inv(PRECISION)
    exact = (x @ LOADINGS / SIGMA2 @ covariance).numpy()
    moments = post.moments("z")
    assert (np.abs(moments.mean - exact) < 4.5 * moments.mean_se).all()
    assert (np.abs(moments.sd - covariance.diagonal().sqrt().numpy()) < 4.5 * moments.sd_se).all()
    assert post.log_evidence is not None
    assert float(post.log_evidence.value) == pytest.approx(exact_log_likelihood(x).sum(), abs=1e-3)
    one = fitted(full=False, off=0.4).posterior(x=x[:1], num_samples=4000, seed=0)
    assert one.log_weights is not None
    weighted = one.moments("z")
    assert (np.abs(weighted.mean - exact[:1]) < 5 * weighted.mean_se).all()
    again = fitted(full=False, off=0.4).posterior(x=x[:1], num_samples=4000, seed=0)
    assert torch.equal(one.draws["z"], again.draws["z"])


def test_the_latents_that_are_used_are_counted() -> None:
    used = fitted(full=False).usage()
    means = data() @ Exact(full=False).weight.detach().T
    np.testing.assert_allclose(used.variance, means.var(0, correction=0).numpy(), rtol=1e-5)
    scale2 = PRECISION.diagonal() ** -1
    known = 0.5 * (means**2 + scale2 - 1.0 - scale2.log()).mean(0)
    np.testing.assert_allclose(used.kl, known.detach().numpy(), atol=0.06)
    assert used.names == ("z[0]", "z[1]")
    assert used.active_units == 2


def test_a_guide_that_ignores_the_data_is_flagged() -> None:
    blind = fitted(full=False)
    with torch.no_grad():
        blind.guide.encoder.weight.zero_()  # type: ignore[union-attr]
    with pytest.warns(ph.AmortisationWarning, match=r"none of 2 latent coordinates .* \(posterior collapse\)"):
        assert blind.usage().active_units == 0


def test_discrete_latents_are_summed_out_of_each_datum() -> None:
    means = torch.tensor([-2.0, 2.0])

    def mixture(num_rows: int) -> None:
        with pyro.plate("row", num_rows):
            kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.3, 0.7])))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(means[kind] + z, 1.0))

    class Wide(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.zeros(len(x), 1), torch.full((len(x), 1), 1.5)

    x = torch.tensor([-3.0, 0.1, 2.0])
    model = ph.Model(mixture, 3).observe(x=x)
    found = Fitted(model=model, method="svi", guide=ph.Amortized(encoder=Wide()).build(model))
    bound = found.bound_log_likelihood(num_samples=20_000, seed=0)
    weights, normal = torch.tensor([0.3, 0.7]).log(), torch.distributions.Normal(means, math.sqrt(2.0))
    exact = torch.logsumexp(weights + normal.log_prob(x.unsqueeze(-1)), -1).numpy()
    assert (np.abs(bound.per_datum - exact) < 4.5 * bound.se).all()
    labelled = Fitted(model=model.observe(kind=torch.tensor([0, 1, 1])), method="svi", guide=found.guide)
    known = (weights + normal.log_prob(x.unsqueeze(-1))).numpy()[[0, 1, 2], [0, 1, 1]]
    bound = labelled.bound_log_likelihood(num_samples=20_000, seed=0)
    assert (np.abs(bound.per_datum - known) < 4.5 * bound.se).all()


def test_covariates_come_with_new_data() -> None:
    def schools(sigma: torch.Tensor) -> None:
        with pyro.plate("school", len(sigma)) as index:
            theta = pyro.sample("theta", dist.Normal(0.0, 3.0))
            pyro.sample("y", dist.Normal(theta, sigma[index]))

    sigma = torch.arange(1.0, 9.0)
    model = ph.Model(schools, sigma).observe(y=torch.zeros(8))
    found = Fitted(model=model, method="svi", guide=ph.Amortized().build(model))
    bound = found.bound_log_likelihood(y=[1.0, 2.0], sigma=torch.tensor([1.0, 2.0]), num_samples=4000, seed=0)
    exact = dist.Normal(0.0, (9.0 + torch.tensor([1.0, 4.0])).sqrt()).log_prob(torch.tensor([1.0, 2.0])).numpy()
    assert (np.abs(bound.per_datum - exact) < 4.5 * bound.se).all()
    with pytest.raises(ph.ModelError, match=r"input 'sigma': found none for the 2 new data; .*write: sigma=..."):
        found.bound_log_likelihood(y=[1.0, 2.0])


def test_what_cannot_be_asked_is_refused() -> None:
    bare = Fitted(model=ph.Model(ppca, COUNT).observe(x=data()), method="svi")
    with pytest.raises(ph.UnsupportedModel, match="found no amortised guide"):
        bare.posterior()
    with pytest.raises(ph.SettingError, match="num_samples: found 0"):
        fitted(full=True).bound_log_likelihood(num_samples=0)
    with pytest.raises(ph.ModelError, match=r"observed value of shape \(3, 5\); expected shape \(3, 4\)"):
        fitted(full=True).estimate_elbo(x=torch.zeros(3, 5))

    def shared() -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("row", 5):
            z = pyro.sample("z", dist.Normal(0.0, scale))
            pyro.sample("x", dist.Normal(z, 1.0))

    model = ph.Model(shared).observe(x=torch.zeros(5))
    found = Fitted(model=model, method="svi", guide=ph.Amortized().build(model))
    with warnings.catch_warnings(), pytest.raises(ph.UnsupportedModel, match="site 'scale': found a latent outside"):
        found.estimate_elbo()


@pytest.mark.parametrize("full", [False, True])
def test_annealing_finds_the_likelihood_where_the_guide_is_far_off(full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annealing, "PAIRS", 2048)  # data come in chunks of 32, chains in chunks of 64
    exact, off = exact_log_likelihood(data()), fitted(full=full, off=1.0)
    found = off.bound_log_likelihood(num_samples=320, method="ais", num_steps=40, seed=0)
    z = (found.per_datum - exact) / found.se
    assert np.abs(z).max() < 4.0
    assert abs(float(found.mean.value) - exact.mean()) < 4.0 * float(found.mean.se)
    assert float(found.mean.se) < 0.01
    assert found.se.mean() < 0.5 * off.bound_log_likelihood(num_samples=320, seed=0).se.mean()


def test_annealing_reads_latents_of_any_support(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annealing, "PAIRS", 320)  # chains come in chunks, 80, 80 and 40

    class Wide(nn.Module):
        def forward(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.zeros(len(y), 1), torch.ones(len(y), 1)

    def program(num_rows: int) -> None:
        with pyro.plate("row", num_rows):
            rate = pyro.sample("rate", dist.Gamma(3.0, 2.0))
            pyro.sample("y", dist.Poisson(rate))

    y = torch.tensor([0.0, 1.0, 4.0, 9.0])
    model = ph.Model(program, 4).observe(y=y)
    guide = ph.Amortized(encoder=Wide(), inputs=("y",)).build(model)
    found = Fitted(model=model, method="svi", guide=guide).bound_log_likelihood(num_samples=200, method="ais", seed=0)
    exact = dist.GammaPoisson(3.0, 2.0).log_prob(y).numpy()
    assert (np.abs(found.per_datum - exact) < 4.0 * found.se).all()
    assert (found.se < 0.1).all()
    with pytest.raises(ph.SettingError, match="method: found 'smc'; expected 'iwae' or 'ais'"):
        Fitted(model=model, method="svi", guide=guide).bound_log_likelihood(method="smc")  # type: ignore[arg-type]
