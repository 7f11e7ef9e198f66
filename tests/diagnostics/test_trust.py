"""``diagnose``: what it must see, what it must let pass, and how it says so."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.diagnostics.checks.generators import check_coverage, check_precision, check_usage
from phlogiston.diagnostics.checks.mixing import modes_between_chains, stuck
from phlogiston.diagnostics.checks.modes import Cut, inside, region_evidence, regions_of
from phlogiston.diagnostics.checks.prior_conflict import check_conflict
from phlogiston.diagnostics.checks.stein import stein
from phlogiston.posterior.verdict import Check, Diagnosis, Finding
from phlogiston.training.fitted import Fitted

COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)


def _bench() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "trust.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_trust", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    sys.path.insert(0, str(path.parent))  # what benchmarks share
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
    return module


BENCH = _bench()


@pytest.mark.parametrize(
    "name", [name for name in BENCH.BAD if not name.endswith(("SVI, correlation 0.99", "trained"))]
)
def test_a_bad_fit_of_the_bench_is_flagged(name: str) -> None:
    report = BENCH.BAD[name](20)
    assert report.verdict != "trust"
    for finding in report:
        assert finding.message
        assert finding.meaning
        assert finding.action


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in BENCH.HEALTHY
        if not name.startswith(("PPCA", "regression", "mix", "correlated normal, full", "GAN"))
    ],
)
def test_a_healthy_fit_of_the_bench_is_trusted(name: str) -> None:
    report = BENCH.HEALTHY[name](20)
    assert report.verdict == "trust", report


def gaussian() -> None:
    pyro.sample("z", dist.MultivariateNormal(torch.zeros(2, dtype=torch.float64), COVARIANCE))


def scale() -> None:
    sigma = pyro.sample("sigma", dist.Gamma(3.0, 1.0))
    pyro.sample("y", dist.Normal(0.0, sigma))


def two_modes() -> None:
    z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
    weights, centres = torch.tensor([0.8, 0.2]), torch.tensor([-4.0, 4.0])
    pyro.factor("modes", torch.logsumexp(weights.log() - 0.5 * (z - centres) ** 2, 0))


def posterior_of(model: ph.Model, **draws: Any) -> ph.Posterior:
    tensors = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in draws.items()}
    return ph.Posterior(draws=tensors, method="given", model=model, seed=0)


def states(report: Diagnosis) -> dict[str, str]:
    return {check.name: check.state for check in report.checks}


def correlated(rng: np.random.Generator, factor: float = 1.0, count: int = 2000) -> np.ndarray:
    root = np.linalg.cholesky(COVARIANCE.numpy())
    return (np.sqrt(factor) * rng.standard_normal((count, 2)) @ root.T)[None]


@pytest.mark.parametrize(("factor", "word"), [(0.5, "too narrow"), (2.0, "too wide")])
def test_a_wrong_variance_is_seen(factor: float, word: str) -> None:
    report = posterior_of(ph.Model(gaussian), z=correlated(np.random.default_rng(0), factor)).diagnose()
    assert report.verdict == "do not use"
    assert word in report[0].message
    assert report[0].site.startswith("z[")
    assert abs(report[0].number) > report[0].threshold == 5.0


def test_right_draws_pass_and_the_share_of_alarms_is_small() -> None:
    model = ph.Model(gaussian)
    alarms = [bool(posterior_of(model, z=correlated(np.random.default_rng(s))).diagnose()) for s in range(40)]
    assert sum(alarms) == 0  # each has a chance below 1e-4


def test_a_missing_correlation_is_seen_though_the_variances_are_those_of_the_best_mean_field() -> None:
    precision = np.linalg.inv(COVARIANCE.numpy())
    draws = np.random.default_rng(0).standard_normal((1, 4000, 2)) / np.sqrt(np.diag(precision))
    report = posterior_of(ph.Model(gaussian), z=draws).diagnose()
    assert report.verdict == "do not use"
    assert "do not depend on each other in the draws as in the density" in report[0].message


def test_a_dropped_jacobian_is_seen() -> None:
    # Sampling log sigma with the density of sigma and no Jacobian draws from p(sigma | y) / sigma.
    rng = np.random.default_rng(1)
    grid = np.geomspace(1e-3, 30.0, 20_000)
    for power, verdict in ((0.0, "trust"), (-1.0, "do not use")):
        log_p = 2.0 * np.log(grid) - grid - np.log(grid) - 0.5 * (1.3 / grid) ** 2 + power * np.log(grid)
        mass = np.exp(log_p - log_p.max()) * np.gradient(grid)
        sigma = rng.choice(grid, 3000, p=mass / mass.sum()) * np.exp(rng.normal(0.0, 1e-4, 3000))
        report = posterior_of(ph.Model(scale).observe(y=1.3), sigma=sigma[None]).diagnose()
        assert report.verdict == verdict, report
    assert "mean score of sigma is +0." in report[0].message


@pytest.mark.parametrize(("share", "verdict"), [(0.8, "trust"), (0.5, "do not use"), (0.95, "do not use")])
def test_a_wrong_weight_of_a_mode_is_seen(share: float, verdict: str) -> None:
    rng = np.random.default_rng(0)
    centre = np.where(rng.random(3000) < share, -4.0, 4.0)
    report = posterior_of(ph.Model(two_modes), z=(centre + rng.standard_normal(3000))[None]).diagnose()
    assert report.verdict == verdict, report
    assert states(report)["weights of modes"] == ("fine" if verdict == "trust" else verdict)
    assert states(report)["draws against the density"] == "fine"  # which Stein's identities cannot see


def test_the_mass_of_a_region_is_found_with_an_honest_error() -> None:
    # Exact: half of a standard normal in three dimensions times exp(5).
    scores = []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        u = rng.standard_normal((800, 3))
        u[:, 0] = np.sign(u[:, 0]) * (np.abs(u[:, 0]) + 3.0)
        region = [(Cut(np.array([1.0, 0.0, 0.0]), 0.0), True)]

        def density(x: np.ndarray) -> np.ndarray:
            z = x.copy()
            z[:, 0] = np.abs(x[:, 0]) - 3.0
            inside = np.where(z[:, 0] > 0.0, 0.0, -np.inf)
            return 5.0 - 0.5 * np.square(z).sum(1) - 1.5 * np.log(2.0 * np.pi) + inside

        part = u[u[:, 0] < 0.0]
        found, error = region_evidence(part, float(len(part)), density, region, rng)
        scores.append((found - 5.0 - np.log(0.5)) / error)
    assert np.abs(np.mean(scores)) < 4.0 / np.sqrt(50)
    assert 0.7 < np.std(scores) < 1.4


def test_a_proposal_that_is_too_thin_is_seen_where_k_hat_is_lucky() -> None:
    model = ph.Model(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)))
    thin = ph.Importance(proposal=lambda: pyro.sample("z", dist.Normal(0.0, 0.3)))
    post = ph.infer(model, thin, seed=8, progress=False)
    assert post.figures["pareto_k"] < 0.7  # though the tail's shape is 1 - 0.3^2 = 0.91
    assert states(post.diagnose())["draws against the density"] == "do not use"


def test_the_regions_part_the_space() -> None:
    u = np.random.default_rng(0).standard_normal((600, 2)) + np.repeat([[-6.0, 0.0], [6.0, 0.0], [0.0, 9.0]], 200, 0)
    regions = regions_of(u)
    masks = np.stack([inside(u, region) for region in regions])
    assert sorted(masks.sum(1)) == [200, 200, 200]
    assert (masks.sum(0) == 1).all()


def test_stein_sees_nothing_in_heavy_tails_that_have_no_variance() -> None:
    u = np.random.default_rng(0).standard_cauchy((1, 4000, 1))
    found, limit, count = stein(u, -2.0 * u / (1.0 + u**2), chains=False)
    assert not found
    assert (limit, count) == (5.0, 2)


def test_chains_in_different_modes_are_told_apart(load_model: Any) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((4, 200)) + np.array([-6.0, -6.0, 6.0, -6.0])[:, None]
    lp = np.zeros((4, 200))
    lp[2] = -8.0
    check = modes_between_chains({"mu": values}, lp, lambda name, shape: [])
    assert check.finding is not None
    assert "3 stay near mu = -6" in check.finding.message
    assert "first group's log density is 8.0 nats higher" in check.finding.meaning
    assert modes_between_chains({"mu": rng.standard_normal((4, 200))}, None, lambda name, shape: []).state == "fine"


def test_a_stuck_chain_is_named() -> None:
    values = np.random.default_rng(0).standard_normal((4, 100, 2))
    assert stuck({"z": values}).state == "fine"
    values[2] = values[2, 0]
    check = stuck({"z": values})
    assert check.finding is not None
    assert check.finding.message.startswith("chain 2 does not move")


@pytest.mark.parametrize(("gap", "state"), [(0.3, "fine"), (0.6, "fine"), (2.0, "caution")])
def test_a_wide_gap_and_a_broken_off_optimisation_are_found(gap: float, state: str) -> None:
    names = ("elbo", "gap", "expected_log_joint", "entropy", "reconstruction", "kl")
    figures = dict.fromkeys(names, 0.0) | {f"{name}_se": 0.1 for name in names}
    post = dataclasses.replace(
        posterior_of(ph.Model(gaussian), z=correlated(np.random.default_rng(0))),
        figures=figures | {"gap": gap, "converged": float(gap < 1.0)},
        log_evidence=ph.Estimate(0.0, 0.1),
        stop_reason="the last step was reached",
    )
    found = states(post.diagnose())
    assert found["ELBO gap"] == found["optimisation"] == state


def test_divergences_are_placed(load_model: Any) -> None:
    model = load_model("eight_schools").centred_model
    with pytest.warns(ph.ConvergenceWarning, match="most where tau is small"):
        post = ph.infer(model, "nuts", num_samples=500, num_warmup=500, seed=0, progress=False)
    found = next(f for f in post.diagnose() if "diverged" in f.message)
    assert found.site == "tau"


def test_prior_and_data_in_conflict() -> None:
    def program() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("i", 20):
            pyro.sample("y", dist.Normal(mu, 1.0))

    for centre, state in ((1.0, "fine"), (8.0, "caution")):
        post = ph.infer(ph.Model(program).observe(y=np.full(20, centre)), "nuts", seed=0)
        assert states(post.diagnose())["prior and data"] == state
        assert states(post.diagnose(thorough=False)).get("prior and data") is None


def test_a_value_at_the_edge_of_a_prior_is_no_conflict() -> None:
    prior = np.abs(np.random.default_rng(0).standard_normal(4000))
    for value, state in ((1e-4, "fine"), (6.0, "caution")):
        check = check_conflict({"sigma": prior}, {"sigma": np.array(value)}, lambda name, shape: [])
        assert check.state == state


def test_impossible_draws_are_reported() -> None:
    post = posterior_of(ph.Model(scale).observe(y=1.3), sigma=np.zeros((1, 300)))
    report = post.diagnose()
    assert report.verdict == "do not use"
    assert "not finite at 100.0% of the draws" in report[0].message


def test_a_posterior_without_its_model_is_judged_by_what_it_has(load_model: Any) -> None:
    post = ph.infer(load_model("normal_normal").model, "nuts", num_samples=200, num_warmup=200, seed=0)
    bare = dataclasses.replace(post, model=None).diagnose()
    assert states(bare)["draws against the density"] == "not judged"
    assert states(bare)["stuck chains"] == "fine"
    assert bare.verdict == post.diagnose().verdict


ANGLES = torch.arange(8) * (2.0 * np.pi / 8.0)
CENTRES = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=-1).double()


def ring(count: int) -> None:
    """Eight narrow normals on a circle."""
    weights = pyro.param("weights", torch.full((8,), 0.125, dtype=torch.float64))
    with pyro.plate("point", count):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(CENTRES[z], 0.01).to_event(1))


@pytest.mark.parametrize(("modes", "verdict"), [(8, "trust"), (5, "caution"), (1, "do not use")])
def test_a_generator_that_leaves_out_modes_is_flagged(modes: int, verdict: str) -> None:
    data = ph.Model(ring, 500).simulate(1, seed=0)["x"][0]
    weights = torch.zeros(8, dtype=torch.float64)
    weights[:modes] = 1.0 / modes
    model = ph.Model(ring, 500).observe(x=data).with_parameters({"weights": weights})
    fitted = Fitted(model=model, method="adversarial", converged=True, stop_reason="done", seed=0)
    report = fitted.diagnose()
    assert report.verdict == verdict, report
    if modes < 8:
        assert abs(report[0].number - modes / 8.0) < 0.05


def test_samples_beside_the_data_are_found_though_they_reach_all_of_it() -> None:
    rng = np.random.default_rng(0)
    angle = rng.uniform(0.0, 2.0 * np.pi, 500)
    data = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.01 * rng.standard_normal((500, 2))
    samples = rng.uniform(-1.2, 1.2, (500, 2))
    assert check_coverage(data, samples, rng).state == "fine"
    assert check_precision(data, samples, rng).state == "caution"


@pytest.mark.parametrize(("active", "state"), [(8, "fine"), (4, "fine"), (3, "caution"), (0, "do not use")])
def test_latents_that_say_nothing_are_found(active: int, state: str) -> None:
    used = np.arange(8) < active
    assert check_usage(used, used * 1.5).state == state


def test_a_point_is_no_posterior_and_an_enumeration_is_exact(load_model: Any) -> None:
    point = ph.infer(load_model("normal_normal").model, "map", seed=0, progress=False)
    assert states(point.diagnose())["spread"] == "caution"
    exact = ph.infer(load_model("hmm").model, "exact", num_samples=50, seed=0)
    assert states(exact.diagnose())["enumeration"] == "fine"
    assert exact.diagnose().verdict == "trust"


@pytest.mark.parametrize(("scale", "state"), [(20.0, "fine"), (400.0, "caution")])
def test_a_training_that_was_still_rising_is_found(scale: float, state: str) -> None:
    curve = -100.0 - 200.0 * np.exp(-np.arange(500) / scale) + np.random.default_rng(0).standard_normal(500)
    report = Fitted(model=ph.Model(ring, 5), method="svi", history={"elbo": curve}, stop_reason="done").diagnose()
    assert states(report)["training at rest"] == state


def test_training_that_broke_is_found() -> None:
    model = ph.Model(ring, 5)
    broken = model.with_parameters({"weights": torch.full((8,), torch.nan, dtype=torch.float64)})
    told = {"settings": {"num_steps": 10}, "figures": {"steps": 3.0}}
    report = Fitted(model=broken, method="svi", stop_reason="step 3 met a loss that is not finite", **told).diagnose()
    assert report.verdict == "do not use"
    assert report[0].message == "parameter 'weights' is not finite"
    assert report[1].message.startswith("the optimisation had not converged: step 3")


def test_a_report_reads_as_its_findings_and_prints_as_text_and_html() -> None:
    minor = Finding("a is 1 (limit 0)", "do b", number=1.0, threshold=0.0, site="a", meaning="It means <c>.")
    grave = Finding("d is 2 (limit 0)", "do e", severity="do not use")
    report = Diagnosis(
        (
            Check("A", minor.message, minor),
            Check("D", grave.message, grave),
            Check("F", "6"),
            Check("G", "no", judged=False),
        )
    )
    assert list(report) == [grave, minor]
    assert report
    assert report.verdict == "do not use"
    assert report[0] is grave
    assert not Diagnosis((Check("F", "6"),))
    text = str(report)
    assert text.startswith("do not use: 2 findings in 3 checks")
    for part in ("It means <c>.", "Next: do b.", "fine: F (6)", "not judged: G (no)"):
        assert part in text
    html = report._repr_html_()
    assert "It means &lt;c&gt;." in html
    assert "<c>" not in html
    assert str(minor) == "a is 1 (limit 0); do b"


def test_what_is_no_number_is_not_fine() -> None:
    from phlogiston.diagnostics.checks.chains import checks_of_weights
    from phlogiston.diagnostics.checks.variational import check_gap

    assert check_gap(ph.Estimate(float("nan"), float("nan"))).state == "do not use"
    assert [check.state for check in checks_of_weights(float("inf"), float("nan"), 1000)] == ["do not use"] * 2
