"""Sequential Monte Carlo and annealed importance sampling: what is peculiar to them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.inference.particles.tempering import next_beta
from phlogiston.stats.weights import log_mean_at_least, log_mean_exp

pytestmark = pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")  # short runs earn them


def two_modes(distance: float, share: float) -> ph.Model:
    """A normal prior of sd 10 and a likelihood with two humps of sd 1, whose evidence and shares are known."""

    def program() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 10.0))
        weights, centres = torch.tensor([1.0 - share, share]), torch.tensor([-distance, distance])
        pyro.factor("humps", torch.logsumexp(weights.log() - 0.5 * (z - centres) ** 2, 0))

    return ph.Model(program)


def log_evidence_of_two_modes(distance: float) -> float:
    return 0.5 * math.log(1 / 101.0) - distance**2 / 202.0  # int N(z; 0, 100) exp(-(z - c)^2 / 2) dz


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"moves": "mh", "num_steps": 16},
        {"waste_free": False, "num_particles": 2048, "num_steps": 4},
        {"ess": 0.9, "target_accept_prob": 0.65},
    ],
    ids=str,
)
def test_smc_weighs_modes_that_no_chain_passes_between(settings: dict[str, Any]) -> None:
    post = ph.infer(two_modes(8.0, 0.8), ph.SMC(**settings), seed=2, progress=False)
    right = post.expect(lambda draw: draw["z"] > 0)
    islands = (post.draws["z"] > 0).double().mean(1)
    error = float(islands.std() / math.sqrt(len(islands)))
    assert abs(right.value - 0.8) < 4 * error
    assert abs(post.log_evidence.value - log_evidence_of_two_modes(8.0)) < 4 * post.log_evidence.se
    assert post.log_evidence.se < 0.15


@pytest.mark.parametrize("settings", [{}, {"moves": "mh", "num_steps": 3}], ids=str)
def test_ais_is_right_however_badly_it_mixes(settings: dict[str, Any]) -> None:
    post = ph.infer(two_modes(8.0, 0.8), ph.AIS(num_temperatures=40, **settings), seed=1, progress=False)
    assert abs(post.log_evidence.value - log_evidence_of_two_modes(8.0)) < 4 * post.log_evidence.se
    right = post.expect(lambda draw: draw["z"] > 0)
    assert abs(right.value - 0.8) < 4 * right.se


def test_a_step_in_temperature_leaves_the_share_that_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    likelihood = -0.5 * rng.chisquare(20, 5000) * 4.0
    for ess in (0.3, 0.9):
        beta = next_beta(likelihood, 0.0, ess)
        weights = np.exp(beta * (likelihood - likelihood.max()))
        assert weights.sum() ** 2 / np.square(weights).sum() / 5000 == pytest.approx(ess, abs=1e-6)
    assert next_beta(np.full(10, -3.0), 0.2, 0.5) == 1.0
    impossible = np.concatenate([likelihood, np.full(5000, -np.inf)])
    assert next_beta(impossible, 0.0, 0.5) == pytest.approx(next_beta(likelihood, 0.0, 0.5))


def test_doubts_are_answered_in_settings_that_the_method_has() -> None:
    with pytest.warns(ph.ConvergenceWarning, match="R-hat of z is .*; raise num_particles or num_steps"):
        ph.infer(two_modes(8.0, 0.8), "smc", seed=2, progress=False)


def test_more_effective_particles_take_more_temperatures(load_model: Any) -> None:
    model = load_model("nig_regression").model
    few, many = (ph.infer(model, "smc", ess=ess, seed=0, progress=False).figures for ess in (0.3, 0.9))
    assert many["num_temperatures"] > few["num_temperatures"]


def test_errors_of_the_evidence_are_calibrated(load_model: Any) -> None:
    module = load_model("normal_normal")
    for method in (
        ph.SMC(num_particles=512, num_steps=4, engine="graph"),
        ph.AIS(num_particles=100, num_temperatures=6, engine="graph"),
    ):
        z = []
        for seed in range(30):
            found = ph.infer(module.model, method, seed=seed, progress=False).log_evidence
            z.append((found.value - module.reference.log_evidence) / found.se)
        assert 0.7 < np.std(z) < 1.45, (method, np.std(z))
        assert abs(np.mean(z)) < 0.8


def test_the_sandwich_holds_the_evidence_of_simulated_data(load_model: Any) -> None:
    model, inside = load_model("normal_normal").model, 0
    method = ph.AIS(num_particles=100, num_temperatures=10, engine="graph")
    for seed in range(15):
        both = method.sandwich(model, seed=seed)
        y = both.model.observed["y"].double().numpy()
        covariance = np.eye(5) + 4.0
        exact = -0.5 * (5 * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1])
        exact -= 0.5 * y @ np.linalg.solve(covariance, y)
        inside += both.interval[0] <= exact <= both.interval[1]
        assert both.guaranteed[0] <= exact <= both.guaranteed[1]
        assert both.gap.value > -4 * both.gap.se
        assert "log evidence in [" in str(both)
    assert inside >= 14


@pytest.mark.parametrize(("sd", "size"), [(0.1, 100), (1.0, 30), (3.0, 100)])
def test_the_bound_of_a_mean_weight_is_rarely_wrong_and_not_far(sd: float, size: int) -> None:
    rng = np.random.default_rng(0)
    logs = sd * rng.standard_normal((400, size)) - 0.5 * sd**2  # the log of their mean weight is zero
    bounds = np.array([log_mean_at_least(row, 0.025) for row in logs])
    assert (bounds > 0.0).mean() < 0.025
    depth = np.median([log_mean_exp(row).value for row in logs] - bounds)
    assert 0.0 < depth < max(4.0 * math.sqrt(math.expm1(sd**2) / size), -1.3 * math.log(0.025) / size)
    assert log_mean_at_least(logs[0] - 900.0, 0.025) == pytest.approx(bounds[0] - 900.0)
    assert log_mean_at_least(np.full(3, -np.inf), 0.025) == -np.inf


def test_the_sandwich_tightens_with_more_temperatures(load_model: Any) -> None:
    model = load_model("nig_regression").model
    loose, tight = (ph.AIS(num_particles=100, num_temperatures=t).sandwich(model, seed=3) for t in (5, 80))
    assert tight.gap.value < loose.gap.value


def test_latents_that_cannot_all_be_drawn_or_summed_are_refused() -> None:
    def flat() -> None:
        mu = pyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        pyro.sample("y", dist.Normal(mu, 1.0))

    model = ph.Model(flat).observe(y=1.0)
    for method in ("smc", "ais"):
        with pytest.raises(ph.UnsupportedModel, match="'mu': found an improper flat prior; expected a prior that can"):
            ph.infer(model, method)
    with pytest.raises(ph.UnsupportedModel, match="'humps': found a factor, which is no distribution of data"):
        ph.AIS().sandwich(two_modes(1.0, 0.5))


def test_an_impossible_observation_is_an_error() -> None:
    def program() -> None:
        width = pyro.sample("width", dist.Uniform(0.0, 1.0))
        pyro.sample("y", dist.Uniform(0.0, width))

    model = ph.Model(program).observe(y=0.5)
    assert ph.infer(model, "smc", seed=0, progress=False).draws["width"].min() > 0.5
    found = ph.infer(model, "ais", seed=0, progress=False).log_evidence
    assert abs(found.value - math.log(math.log(2.0))) < 4 * found.se

    def never() -> None:
        width = pyro.sample("width", dist.Uniform(0.0, 1.0))
        pyro.factor("no", torch.where(width > 2.0, 0.0, -math.inf))

    for method in ("smc", "ais"):
        with pytest.raises(ph.ImpossibleEvidence, match="draws from the prior have likelihood zero"):
            ph.infer(ph.Model(never), method, seed=0, progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_particles": 100}, r"num_particles: found 100 for 16 islands x 8; .*; write: num_particles=256"),
        ({"num_chains": 1}, "SMC: found num_chains=1, num_steps=8; expected at least 2 islands"),
        ({"ess": 1.5}, "ess: found 1.5; expected a number between 0 and 1"),
        ({"moves": "nuts"}, "moves: found 'nuts'; expected 'hmc' or 'mh'"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ph.SettingError, match=message):
        ph.SMC(**settings)


def test_scaled_latents_and_missing_data_temper_rightly() -> None:
    def program() -> None:
        with pyro.poutine.scale(scale=0.5):
            mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("i", 3):
            pyro.sample("y", dist.Normal(mu, 1.0))

    model = ph.Model(program).observe(y=[1.0, math.nan, 2.0], missing="latent")
    smc = ph.infer(model, ph.SMC(num_particles=512, num_steps=4), seed=0, progress=False)
    plain = ph.infer(model, "importance", num_particles=4_000, seed=0, progress=False)
    pairs = [(post.log_evidence.value, post.log_evidence.se) for post in (smc, plain)]
    assert abs(pairs[0][0] - pairs[1][0]) < 4 * math.hypot(pairs[0][1], pairs[1][1])
    first, second = smc.moments("mu"), plain.moments("mu")
    assert abs(first.mean - second.mean) < 4 * np.hypot(first.mean_se, second.mean_se)
