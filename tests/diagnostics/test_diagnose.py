"""The table of checks: what judges when, where identities do not hold, tails, and checks of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import phlogiston as ph
from phlogiston.diagnostics.checks.chains import PARTICLES, Remedies, checks_of_chains
from phlogiston.diagnostics.checks.jumps import jumps_along
from phlogiston.diagnostics.checks.modes import check_modes
from phlogiston.diagnostics.checks.tails import check_tails
from phlogiston.diagnostics.diagnose import CHECKS
from phlogiston.posterior.labels import numbered
from phlogiston.report.pages.agreement_page import _own as of_one_method
from phlogiston.stats.tails import mean_limit, tail_shape

COUNT = 4000
DATA = torch.tensor([1.2, 3.7, 2.2, 4.1, 0.6], dtype=torch.float64)
DENSITY = "draws against the density"


def uniform_endpoint() -> None:
    theta = pyro.sample("theta", dist.Pareto(1.0, 1.5))
    with pyro.plate("i", 5):
        pyro.sample("y", dist.Uniform(0.0, theta))


def ordered() -> None:
    a, b = pyro.sample("a", dist.Normal(0.0, 1.0)), pyro.sample("b", dist.Normal(0.0, 1.0))
    pyro.factor("order", torch.where(a < b, 0.0, -torch.inf))


def step() -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.factor("step", torch.where(x > 0.0, torch.tensor(3.0, dtype=torch.float64).log(), 0.0))


def cusp() -> None:
    pyro.sample("x", dist.Laplace(0.0, 1.0))


def draws_of_endpoint(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"theta": 4.1 * rng.random(COUNT) ** (-1.0 / 6.5)}  # Pareto(4.1, 1.5 + 5)


def draws_in_order(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return dict(zip("ab", np.sort(rng.standard_normal((COUNT, 2))).T, strict=True))


def draws_of_step(rng: np.random.Generator) -> dict[str, np.ndarray]:
    sign = np.where(rng.random(COUNT) < 0.75, 1.0, -1.0)
    return {"x": sign * np.abs(rng.standard_normal(COUNT))}


MODELS: dict[str, tuple[ph.Model, Callable[[np.random.Generator], dict[str, np.ndarray]]]] = {
    "endpoint": (ph.Model(uniform_endpoint).observe(y=DATA), draws_of_endpoint),
    "ordered": (ph.Model(ordered), draws_in_order),
    "step": (ph.Model(step), draws_of_step),
}


def state_of(model: ph.Model, draws: dict[str, np.ndarray]) -> str:
    values = {name: torch.from_numpy(value)[None] for name, value in draws.items()}
    report = ph.Posterior(draws=values, method="exact", model=model, seed=0).diagnose()
    return next(check.state for check in report.checks if check.name == DENSITY)


@pytest.mark.parametrize("name", MODELS)
def test_exact_draws_of_a_density_that_jumps_are_not_called_wrong(name: str) -> None:
    model, draw = MODELS[name]
    assert state_of(model, draw(np.random.default_rng(1))) == "not judged"


@pytest.mark.parametrize(("name", "site"), [("endpoint", "theta"), ("ordered", "b"), ("step", "x")])
def test_draws_that_no_jump_explains_are_still_seen(name: str, site: str) -> None:
    model, draw = MODELS[name]
    draws = draw(np.random.default_rng(1))
    away = {site: 4.1 + 6.0 * (draws[site] - 4.1) if name == "endpoint" else draws[site] + 3.0}
    assert state_of(model, {**draws, **away}) == "do not use"


def test_a_cusp_is_judged_as_the_identities_hold_there() -> None:
    x = np.random.default_rng(0).laplace(size=COUNT)
    assert state_of(ph.Model(cusp), {"x": x}) == "fine"
    assert state_of(ph.Model(cusp), {"x": 0.7 * x}) == "do not use"


def test_the_flux_of_a_jump_is_the_score_that_correct_draws_have() -> None:
    # For the exponential density on (1, inf) with rate 1 the mean score is -1 and the flux at the edge is 1.
    x = 1.0 + np.random.default_rng(0).exponential(size=(COUNT, 1))

    def log_density(rows: np.ndarray) -> np.ndarray:
        return np.where(rows[:, 0] >= 1.0, -rows[:, 0], -np.inf)

    def ones(rows: np.ndarray) -> np.ndarray:
        return np.ones(len(rows))

    found = jumps_along(x[:40], 0, 1.0, log_density)
    assert found.place == pytest.approx(1.0, abs=1e-6)
    assert found.boundary_term(ones)[0] == pytest.approx(-1.0, rel=0.1)  # by a sum over 65 points
    for smooth in (stats.norm.logpdf, lambda z: stats.gamma.logpdf(z - 1.0, 2.0)):  # the second vanishes at its edge
        nothing = jumps_along(x[:40], 0, 1.0, lambda rows, smooth=smooth: smooth(rows[:, 0]))
        assert nothing.boundary_term(ones) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("law", "shape"), [(stats.t(3), 1 / 3), (stats.t(2), 1 / 2), (stats.cauchy, 1.0), (stats.norm, 0.0)]
)
def test_the_shape_of_a_tail_is_that_of_its_law(law: Any, shape: float) -> None:
    found = [tail_shape(law.rvs(size=COUNT, random_state=seed)) for seed in range(30)]
    assert np.mean(found) == pytest.approx(shape, abs=0.08)  # the fit is drawn towards 1/2, and pre-asymptotic


def test_means_that_do_not_exist_are_flagged_and_others_are_not() -> None:
    rng = np.random.default_rng(3)
    draws = {
        "ratio": rng.standard_normal((4, 1000)) / rng.standard_normal((4, 1000)),
        "normal": rng.standard_normal((4, 1000)),
    }
    found = check_tails(draws, None, numbered)
    assert found.finding is not None
    assert (found.finding.site, found.state) == ("ratio", "caution")
    assert found.finding.number > mean_limit(COUNT) == pytest.approx(0.845, abs=0.001)
    fine = {
        "normal": draws["normal"],
        "t3": rng.standard_t(3, (4, 1000)),
        "far mode": np.where(rng.random((4, 1000)) < 0.01, 10.0, 0.0) + rng.standard_normal((4, 1000)),
        "coin": (rng.random((4, 1000)) < 0.01).astype(float),
    }
    assert check_tails(fine, None, numbered).state == "fine"


def test_the_diagnosis_of_a_half_cauchy_says_that_its_mean_does_not_exist() -> None:
    post = ph.infer(ph.Model(lambda: pyro.sample("tau", dist.HalfCauchy(1.0))), "importance", seed=1)
    finding = next(iter(post.diagnose()))
    assert finding.site == "tau"
    assert "medians and quantiles" in finding.action


class SignOf:
    """A check of one's own."""

    def __init__(self, site: str = "z") -> None:
        self.site = site

    def applies(self, subject: ph.Subject) -> bool:
        return self.site in subject.posterior.draws

    def checks(self, subject: ph.Subject) -> list[ph.Check]:
        share = float(subject.posterior.expect(lambda draw: draw[self.site] > 0).value)
        finding = None if share > 0.9 else ph.Finding(f"{self.site} is positive with probability {share:.2f}", "think")
        return [ph.Check("sign", f"{share:.2f}", finding)]


def test_checks_of_ones_own_are_given_as_objects_classes_or_names() -> None:
    post = ph.infer(ph.Model(lambda: pyro.sample("z", dist.Normal(0.0, 1.0))), "importance", seed=0)
    plain = [check.name for check in post.diagnose().checks]
    assert "sign" not in plain
    ph.register("check", "sign of z", SignOf)
    try:
        for given in (SignOf(), SignOf, "sign of z"):
            report = post.diagnose(extra=[given])  # type: ignore[list-item]
            assert [check.name for check in report.checks] == [*plain, "sign"]
            assert report.verdict == "caution"
            assert "positive with probability 0.5" in report[0].message
    finally:
        CHECKS.unregister("sign of z")
    assert [check.name for check in post.diagnose(extra=[SignOf("absent")]).checks] == plain
    with pytest.raises(ph.UnknownName, match="unknown check 'sing'"):
        post.diagnose(extra=["sing"])
    with pytest.raises(ph.SettingError, match=r"applies\(subject\) and checks\(subject\)"):
        post.diagnose(extra=[len])  # type: ignore[list-item]


def test_the_gradients_at_the_draws_are_there_for_checks_of_ones_own() -> None:
    x = np.random.default_rng(0).standard_normal(500)
    post = ph.Posterior(draws={"x": torch.from_numpy(x)[None]}, method="exact", model=ph.Model(step).observe(), seed=0)
    found = ph.Subject(post).evaluated
    assert found is not None
    np.testing.assert_allclose(found.gradient[..., 0], -found.u[..., 0])  # the score of a standard normal


def test_draws_that_differ_by_rounding_alone_are_not_judged_by_their_modes() -> None:
    rng = np.random.default_rng(0)
    for size in (1e6, 1e16):
        u = size * (1.0 + 1.2e-16 * rng.integers(0, 2, (4, 500, 1)))
        check = check_modes(u, lambda rows: np.zeros(len(rows)), str, rng, chains=True)
        assert check.finding is None


@pytest.mark.parametrize("severity", ["caution", "do not use"])
def test_the_page_of_several_methods_shows_what_each_ones_own_checks_found(severity: Any) -> None:
    bad = ph.Check("R-hat", "1.02", ph.Finding("R-hat is 1.02", "raise num_warmup", severity=severity))
    shown = of_one_method("nuts", ph.Diagnosis((ph.Check("divergences", "none"), bad)))
    assert (shown.name, shown.state) == ("checks of nuts", severity)
    assert of_one_method("nuts", ph.Diagnosis((ph.Check("divergences", "none"),))).state == "fine"


def test_the_advice_is_in_the_settings_of_the_method_that_ran() -> None:
    draws = {"x": np.random.default_rng(0).standard_normal((4, 10)) + np.arange(4.0)[:, None]}
    chains = checks_of_chains(draws, {}, numbered, Remedies())
    assert [c.finding.action for c in chains if c.finding] == ["raise num_warmup and num_samples", "raise num_samples"]
    particles = checks_of_chains(draws, {}, numbered, PARTICLES)
    assert {c.finding.action for c in particles if c.finding} == {"raise num_particles or num_steps"}
    diverging = {"diverging": np.ones((4, 10))}
    for recentre, action in (("", "raise target_accept_prob"), ("do A", "do A, or raise target_accept_prob")):
        finding = checks_of_chains(draws, diverging, numbered, Remedies(recentre=recentre))[0].finding
        assert finding is not None
        assert finding.action == action
