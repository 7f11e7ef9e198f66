"""Inference as optimisation: gaps that are known, bounds, and trouble."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.training.adam import Adam

QUICK = {"engine": "graph", "window": 40, "num_steps": 1000, "num_samples": 4000}


def correlated(rho: float = 0.9) -> ph.Model:
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
    return ph.Model(lambda: pyro.sample("z", dist.MultivariateNormal(torch.zeros(2, dtype=torch.float64), covariance)))


def fit(model: ph.Model, **settings: Any) -> ph.Posterior:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        return ph.infer(model, ph.SVI(**{**QUICK, **settings}), seed=1, progress=False)


def test_the_mean_field_gap_of_a_correlated_normal_is_the_known_one() -> None:
    post = fit(correlated(), guide="normal")
    assert post.converged
    assert float(post.elbo.value) == pytest.approx(-0.830366, abs=0.01 + 4 * post.elbo.se)
    assert post.state["guide/log_scale"] == pytest.approx(0.5 * np.log(1 - 0.81), abs=0.02)
    log_q_scale = np.exp(post.state["guide/log_scale"])
    loc, inverse = post.state["guide/loc"], np.linalg.inv([[1.0, 0.9], [0.9, 1.0]])
    kl = 0.5 * (
        np.diag(inverse) @ log_q_scale**2 + loc @ inverse @ loc - 2 - np.log(log_q_scale**2).sum() + np.log(0.19)
    )
    assert kl == pytest.approx(0.830366, abs=0.01)  # the gap itself, without Monte Carlo error


def test_a_full_rank_guide_leaves_no_gap() -> None:
    for guide in ("multivariate_normal", "low_rank"):
        post = fit(correlated(), guide=guide)
        assert abs(post.gap.value) < 0.005
        assert post.log_evidence.value == pytest.approx(0.0, abs=0.005)


def test_ppca_with_the_best_diagonal_guide(load_model: Any) -> None:
    post = fit(load_model("ppca").model, guide="normal")
    assert post.gap.value == pytest.approx(0.045032, abs=0.004 + 4 * post.gap.se)
    parts = post.decomposition
    total = parts.expected_log_joint.value + parts.entropy.value
    assert total == pytest.approx(parts.elbo.value)
    assert parts.reconstruction.value - parts.kl.value == pytest.approx(parts.elbo.value)
    assert "reconstruction - KL[q, p(z)]" in str(parts)


def test_the_structured_guide_is_exact_where_elements_of_a_plate_are_independent_given_the_rest() -> None:
    def program() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("i", 3):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0))

    model = ph.Model(program).observe(y=[1.0, 2.0, -1.0])
    post = fit(model, guide="structured")
    assert abs(post.gap.value) < 0.005
    assert post.state["guide/below"].shape == (3,)  # one entry for each z and mu, none between two z
    assert fit(model, guide="normal").gap.value > 0.1


def test_the_importance_weighted_bound_rises_with_k_and_stays_below_the_evidence(load_model: Any) -> None:
    module = load_model("ppca")
    means = []
    for k in (1, 5, 50):
        post = fit(module.model, guide="normal", bound="iwae", num_particles=k, num_steps=700)
        tail = post.history["elbo"][-500:]
        means.append((tail.mean(), tail.std() / np.sqrt(500)))
    exact = module.reference.log_evidence
    assert means[0][0] < means[1][0] + 2 * means[1][1] < means[2][0] + 4 * means[2][1]
    assert means[0][0] + 0.02 < means[2][0]
    assert all(mean < exact + 4 * error for mean, error in means)


def test_renyi_lies_between_the_elbo_and_the_evidence(load_model: Any) -> None:
    module = load_model("ppca")
    post = fit(module.model, bound="renyi", alpha=0.5, num_particles=50, num_steps=700)
    tail = post.history["elbo"][-500:].mean()
    assert module.reference.log_evidence - 0.045 < tail < module.reference.log_evidence + 0.005


def test_both_gradients_have_the_same_mean_and_sticking_has_less_noise(load_model: Any) -> None:
    from phlogiston.training.bounds import bound_and_gradient
    from phlogiston.training.guides import multivariate_normal

    target = load_model("ppca").model.target("graph")
    evaluate, _ = target.columns()
    inverse = torch.tensor([[0.8, 0.3], [0.3, 0.7]], dtype=torch.float64)
    guide = multivariate_normal(torch.tensor([0.7, 0.2], dtype=torch.float64), torch.linalg.cholesky(0.3 * inverse))
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((4000, 2, 5)))
    for alpha in (1.0, 0.0, 0.5):
        means, errors = [], []
        for sticking in (True, False):
            found = [bound_and_gradient(guide, evaluate, guide.initial, n, alpha, sticking)[1] for n in noise[:150]]
            flat = torch.stack([torch.cat([g[name].reshape(-1) for name in guide.initial]) for g in found])
            means.append(flat.mean(0))
            errors.append(flat.std(0) / 150**0.5)
        assert ((means[0] - means[1]).abs() < 4.5 * (errors[0] ** 2 + errors[1] ** 2).sqrt() + 1e-12).all()


def test_khat_flags_the_mean_field_guide_of_the_funnel(load_model: Any) -> None:
    post = fit(load_model("funnel").centred_model, num_steps=1500)
    assert any("Pareto k-hat" in line for line in post.warnings)


def test_a_run_that_was_cut_short_says_so(load_model: Any) -> None:
    with pytest.warns(ph.ConvergenceWarning, match=r"all 60 steps were done"):
        post = ph.infer(
            load_model("ppca").model,
            ph.SVI(engine="graph", num_steps=60, guide="multivariate_normal", num_samples=9999),
            seed=0,
            progress=False,
        )
    assert post.converged is False
    assert len(post.history["elbo"]) == 60


def test_a_number_that_is_not_finite_stops_with_step_and_site_and_the_last_finite_parameters() -> None:
    def program() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 100.0))
        pyro.factor("cliff", torch.where(z > 1.0, torch.log(1.2 - z), 3.0 * z))

    with pytest.warns(
        ph.ConvergenceWarning, match=r"step \d+ met a bound or gradient that is not finite.*site 'cliff'"
    ):
        post = ph.infer(ph.Model(program), ph.SVI(engine="graph", initial={"z": 0.0}), seed=0, progress=False)
    assert np.isfinite(post.state["guide/loc"]).all()


def test_a_posterior_of_svi_comes_back_from_disk(load_model: Any, tmp_path: Any) -> None:
    model = load_model("ppca").model
    post = fit(model, num_steps=200)
    again = ph.load(post.save(tmp_path / "svi.nc"), model=model)
    np.testing.assert_array_equal(again.history["elbo"], post.history["elbo"])
    assert again.stop_reason == post.stop_reason
    assert again.gap == post.gap


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guide": "mvn"}, "guide: found 'mvn'"),
        ({"bound": "renyi", "alpha": 1.5}, "alpha: found 1.5; expected a number below 1"),
        ({"optim": "adam"}, r"optim: found 'adam'; expected ph.Adam"),
        ({"num_steps": 0}, "num_steps: found 0"),
    ],
)
def test_bad_settings_are_refused_at_the_call(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ph.SettingError, match=message):
        ph.SVI(**settings)
    with pytest.raises(ph.SettingError, match="learning_rate: found -1"):
        Adam(learning_rate=-1.0)
