"""The programs in models/posteriordb against densities written out by hand, at the reference draws."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import posteriordb as db
from scipy import stats
from scipy.integrate import solve_ivp
from scipy.special import logsumexp

Values = dict[str, np.ndarray]
THINNED = 100  # draws of each posterior that are looked at
STATES = range(2)
each = pytest.mark.parametrize("name", db.posteriors())

normal, cauchy = stats.norm.logpdf, stats.halfcauchy.logpdf


def half_normal(x: float, scale: float) -> float:
    return stats.halfnorm.logpdf(x, scale=scale)


def get(draw: Values, name: str, length: int) -> np.ndarray:
    return np.array([draw[f"{name}[{i + 1}]"] for i in range(length)])


# The log joint density of one draw, from the models' mathematics; constants do not matter.


def eight_schools(d: dict[str, Any], draw: Values) -> float:
    theta = get(draw, "theta", 8)
    prior = normal(draw["mu"], 0, 5) + cauchy(draw["tau"], scale=5) + normal(theta, draw["mu"], draw["tau"]).sum()
    return prior + normal(d["y"], theta, d["sigma"]).sum()


def non_centred(d: dict[str, Any], draw: Values) -> float:
    return eight_schools(d, draw) + 8 * np.log(draw["tau"])  # d theta / d theta_raw


def blr(d: dict[str, Any], draw: Values) -> float:
    beta, sigma = get(draw, "beta", 5), draw["sigma"]
    return normal(beta, 0, 10).sum() + half_normal(sigma, 10) + normal(d["y"], d["X"] @ beta, sigma).sum()


def kidscore(d: dict[str, Any], draw: Values) -> float:
    beta, sigma = get(draw, "beta", 2), draw["sigma"]
    return cauchy(sigma, scale=2.5) + normal(d["kid_score"], beta[0] + beta[1] * d["mom_iq"], sigma).sum()


def earnings(d: dict[str, Any], draw: Values) -> float:
    beta = get(draw, "beta", 2)
    return normal(np.log(d["earn"]), beta[0] + beta[1] * d["height"], draw["sigma"]).sum()


def mesquite(d: dict[str, Any], draw: Values) -> float:
    b, area = get(draw, "beta", 4), d["diam1"] * d["diam2"]
    mean = b[0] + b[1] * np.log(area * d["canopy_height"]) + b[2] * np.log(area) + b[3] * d["group"]
    return normal(np.log(d["weight"]), mean, draw["sigma"]).sum()


def nes(d: dict[str, Any], draw: Values) -> float:
    b, age = get(draw, "beta", 9), d["age_discrete"]
    mean = b[0] + b[1] * d["real_ideo"] + b[2] * d["race_adj"] + b[6] * d["educ1"] + b[7] * d["gender"]
    mean = mean + b[8] * d["income"] + b[3] * (age == 2) + b[4] * (age == 3) + b[5] * (age == 4)
    return normal(d["partyid7"], mean, draw["sigma"]).sum()


def ark(d: dict[str, Any], draw: Values) -> float:
    beta, y, K = get(draw, "beta", 5), d["y"], d["K"]
    prior = normal(draw["alpha"], 0, 10) + normal(beta, 0, 10).sum() + cauchy(draw["sigma"], scale=2.5)
    mean = [draw["alpha"] + sum(beta[k] * y[t - 1 - k] for k in range(K)) for t in range(K, len(y))]
    return prior + normal(y[K:], mean, draw["sigma"]).sum()


def garch11(d: dict[str, Any], draw: Values) -> float:
    y, variance = d["y"], [d["sigma1"] ** 2]
    for before in y[:-1]:
        variance.append(draw["alpha0"] + draw["alpha1"] * (before - draw["mu"]) ** 2 + draw["beta1"] * variance[-1])
    return normal(y, draw["mu"], np.sqrt(variance)).sum()


def gp_regr(d: dict[str, Any], draw: Values) -> float:
    gap = d["x"][:, None] - d["x"]
    kernel = draw["alpha"] ** 2 * np.exp(-(gap**2) / (2 * draw["rho"] ** 2)) + draw["sigma"] * np.eye(len(gap))
    prior = stats.gamma.logpdf(draw["rho"], 25, scale=1 / 4)
    prior += half_normal(draw["alpha"], 2) + half_normal(draw["sigma"], 1)
    return prior + stats.multivariate_normal.logpdf(d["y"], np.zeros(len(gap)), kernel)


def gauss_mix(d: dict[str, Any], draw: Values) -> float:
    mu, sigma, theta = get(draw, "mu", 2), get(draw, "sigma", 2), draw["theta"]
    prior = normal(mu, 0, 2).sum() + half_normal(sigma, 2).sum() + stats.beta.logpdf(theta, 5, 5)
    parts = np.log([theta, 1 - theta])[:, None] + normal(d["y"], mu[:, None], sigma[:, None])
    return prior + logsumexp(parts, axis=0).sum()


def forward(transition: np.ndarray, log_emission: np.ndarray) -> float:
    alpha = log_emission[0]
    for emission in log_emission[1:]:
        alpha = logsumexp(alpha[:, None] + np.log(transition), axis=0) + emission
    return logsumexp(alpha)


def hmm_example(d: dict[str, Any], draw: Values) -> float:
    theta, mu = np.array([get(draw, f"theta{k + 1}", 2) for k in STATES]), get(draw, "mu", 2)
    return normal(mu, [3, 10], 1).sum() + forward(theta, normal(d["y"][:, None], mu, 1))


def hmm_drive(d: dict[str, Any], draw: Values) -> float:
    theta = np.array([get(draw, f"theta{k + 1}", 2) for k in STATES])
    phi, rate = get(draw, "phi", 2), get(draw, "lambda", 2)
    prior = ((d["alpha"] - 1) * np.log(theta)).sum() + normal([phi, rate], [0, 3], 1).sum()
    emission = stats.expon.logpdf(d["u"][:, None], scale=1 / phi) + stats.expon.logpdf(d["v"][:, None], scale=1 / rate)
    return prior + forward(theta, emission)


def one_comp(d: dict[str, Any], draw: Values) -> float:
    k_a, K_m, V_m, sigma = (draw[name] for name in ("k_a", "K_m", "V_m", "sigma"))

    def slope(t: float, C: np.ndarray) -> np.ndarray:
        return np.exp(-k_a * t) * d["D"] * k_a / d["V"] - V_m / d["V"] * C / (K_m + C)

    times = d["times"]
    C = solve_ivp(slope, (0, times[-1]), [0.0], "LSODA", t_eval=times, rtol=1e-10, atol=1e-12).y[0]
    return cauchy([k_a, K_m, V_m, sigma]).sum() + stats.lognorm.logpdf(d["C_hat"], sigma, scale=C).sum()


BY_HAND = {
    "arK-arK": ark,
    "bball_drive_event_0-hmm_drive_0": hmm_drive,
    "earnings-logearn_height": earnings,
    "eight_schools-eight_schools_centered": eight_schools,
    "eight_schools-eight_schools_noncentered": non_centred,
    "garch-garch11": garch11,
    "gp_pois_regr-gp_regr": gp_regr,
    "hmm_example-hmm_example": hmm_example,
    "kidiq-kidscore_momiq": kidscore,
    "low_dim_gauss_mix-low_dim_gauss_mix": gauss_mix,
    "mesquite-logmesquite_logva": mesquite,
    "nes1980-nes": nes,
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": one_comp,
    "sblrc-blr": blr,
}


@functools.cache
def thinned(name: str) -> Values:
    """Every hundredth reference draw of each parameter."""
    draws = db.reference_draws(name)
    return {key: value.reshape(-1)[:: value.size // THINNED][:THINNED] for key, value in draws.items()}


@functools.cache
def target_of(name: str) -> Any:
    return db.load(name).model().target("graph")


def sites_of(name: str) -> dict[str, torch.Tensor]:
    """The reference draws as values of the program's latents."""
    target, draws, parameters = target_of(name), thinned(name), db.load(name).parameters
    wanted = {site.name: site.shape for site in target.structure.of("latent", "deterministic")}
    values = {site: np.full((THINNED, *shape), np.nan) for site, shape in wanted.items()}
    for parameter, (site, *index) in parameters.items():
        values[site][(slice(None), *index)] = draws[parameter]
    if "theta_raw" in values:
        values["theta_raw"] = (values["theta"] - values["mu"][:, None]) / values["tau"][:, None]
    return {site.name: torch.from_numpy(values[site.name]) for site in target.structure.of("latent")}


@each
def test_every_parameter_of_the_reference_has_a_site(name: str, posteriordb: Path) -> None:
    sites = sites_of(name)
    assert set(db.load(name).parameters) == set(thinned(name))
    assert all(torch.isfinite(value).all() for value in sites.values())


@each
def test_density_and_gradient_are_finite_and_traced(name: str, posteriordb: Path) -> None:
    target = target_of(name)
    u = target.unconstrain(sites_of(name))
    value, grad = target.value_and_grad(u)
    assert u.shape == (THINNED, target.dim)
    assert torch.isfinite(value).all()
    assert torch.isfinite(grad).all()
    assert target.engine_of("density_and_grad") == "graph"


@each
def test_the_program_is_the_model_written_by_hand(name: str, posteriordb: Path) -> None:
    given = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in db.data(name).items()}
    draws = thinned(name)
    by_hand = np.array([BY_HAND[name](given, {k: v[i] for k, v in draws.items()}) for i in range(THINNED)])
    found = target_of(name).log_joint(sites_of(name)).numpy()
    gap = found - by_hand
    np.testing.assert_allclose(gap, gap[0], atol=(1e-6 if name.startswith("one_comp") else 1e-8) * np.abs(found).max())


@pytest.mark.parametrize("name", [n for n in db.posteriors() if "hmm" in n or "mix" in n or "garch" in n])
def test_the_jacobian_of_ordered_and_dependent_supports(name: str, posteriordb: Path) -> None:
    target, step = target_of(name), 1e-5
    u = target.unconstrain({site: value[:5] for site, value in sites_of(name).items()})
    moved = u[:, None] + step * torch.cat([torch.eye(target.dim), -torch.eye(target.dim)]).double()
    values = target.constrain(moved)
    free = [
        values[s.name][..., :-1] if s.name == "theta" and s.shape else values[s.name]
        for s in target.structure.continuous
    ]
    flat = torch.cat([value.reshape(*moved.shape[:2], -1) for value in free], -1)
    jacobian = (flat[:, : target.dim] - flat[:, target.dim :]) / (2 * step)
    added = target.log_density(u) - target.log_joint(target.constrain(u))
    torch.testing.assert_close(added, torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-6, atol=1e-6)


def test_without_the_data_a_model_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POSTERIORDB", raising=False)
    with pytest.raises(RuntimeError, match=r"POSTERIORDB is not set; .*git clone .* export POSTERIORDB="):
        db.load("arK-arK").model()
    with pytest.raises(KeyError, match="found no program for 'nothing'"):
        db.load("nothing")
