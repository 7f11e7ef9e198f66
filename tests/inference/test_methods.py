"""Every registered method on every reference model: the same result, right within its own error, or a refusal."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from short_runs import SETTINGS

import phlogiston as ph
from phlogiston.inference import registry

MODELS = sorted(  # with a reference answer: what has to be trained first has none
    path.stem for path in (Path(__file__).parents[2] / "models").glob("*.py") if "\nreference = " in path.read_text()
)
# Fifty flowers of three species drawn blindly: 3^50 assignments, which chance does not find. The methods must say so.
HOPELESS = {("rejection", "iris"), ("importance", "iris")}
# Where an approximation's family holds the posterior, nearly: there its weights repair the rest, and it must be right.
WITHIN_THE_FAMILY = {
    "laplace": {"beta_binomial", "funnel", "gamma_poisson", "normal_normal", "ppca"},
    "pathfinder": {"beta_binomial", "funnel", "gamma_poisson", "mixture", "normal_normal", "ppca"},
    "svi": {"beta_binomial", "dirichlet_categorical", "gamma_poisson", "mixture", "normal_normal", "ppca"},
}
POINTS = {"map"}  # a point and no distribution; tests of its own
SEEDS = (11, 12)
Z_LIMIT = 4.0


def settings_of(method: str) -> list[dict[str, Any]]:
    return SETTINGS.get(method, [{}])


def can(method: str, model: ph.Model) -> bool:
    return registry.method_class(method).needs.unmet(model.structure) is None


def repaired(posterior: ph.Posterior) -> bool:
    """Whether the weights of an approximation's draws are so even that they repair it.

    Elsewhere (a normal on the log of a variance) second moments hang on weights that are too rare to be met.
    """
    return posterior.figures["gap"] < 0.03 and posterior.figures["ess"] > 0.8 * posterior.num_draws


@cache
def run(method: str, name: str, seed: int, variant: int = 0) -> ph.Posterior:
    from conftest import _load_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)  # short runs may well deserve them
        settings = settings_of(method)[variant]
        return ph.infer(_load_model(name).model, method, seed=seed, progress=False, **settings)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"method", "name"} <= set(metafunc.fixturenames):
        cases = [  # one worker runs all tests of a case, which share their runs
            pytest.param(method, name, marks=pytest.mark.xdist_group(f"{method}-{name}"))
            for method in registry.METHODS
            for name in MODELS
        ]
        metafunc.parametrize(("method", "name"), cases)


def test_a_hopeless_run_is_an_error_or_is_flagged(load_model: Any) -> None:
    model = load_model("iris").model
    with pytest.raises(ph.ImpossibleEvidence, match=r"rejection: none of \d+ prior draws was accepted"):
        ph.infer(model, "rejection", max_attempts=100_000, seed=0, progress=False)
    with pytest.warns(ph.WeightWarning, match="Pareto k-hat is"):
        ph.infer(model, "importance", num_particles=20_000, seed=0, progress=False)


def test_a_method_treats_the_model_or_refuses_it_by_name(method: str, name: str, load_model: Any) -> None:
    model = load_model(name).model
    if can(method, model):
        return
    able = [other for other in registry.METHODS if can(other, model)]
    with pytest.raises(ph.UnsupportedModel) as caught:
        ph.infer(model, method)
    assert f"method {method!r} cannot treat site" in str(caught.value)
    assert str(caught.value).endswith(f"methods that can: {', '.join(able)}")


@pytest.mark.parametrize("seed", SEEDS)
def test_moments_and_evidence_are_those_of_the_reference(method: str, name: str, seed: int, load_model: Any) -> None:
    module = load_model(name)
    if not can(method, module.model) or (method, name) in HOPELESS:
        pytest.skip("refused or hopeless; see the tests of these")
    posterior, reference = run(method, name, seed), module.reference
    if method in POINTS:
        pytest.skip("a point and no distribution")
    if method in WITHIN_THE_FAMILY and not repaired(posterior):
        assert name not in WITHIN_THE_FAMILY[method], f"gap and ESS: {posterior.figures}"
        if posterior.diagnose(thorough=False).verdict == "trust":  # means are right, second moments need not be
            assert_moments(posterior, reference, spreads=False)
        return
    assert_moments(posterior, reference)
    for site, exact in reference.probabilities.items():
        if site in posterior.marginals:
            np.testing.assert_allclose(posterior.marginals[site].numpy(), np.asarray(exact), atol=1e-10)


def assert_moments(posterior: ph.Posterior, reference: ph.Reference, *, spreads: bool = True) -> None:
    count = posterior.num_chains * posterior.num_draws
    for site in reference.mean:
        # A state so rare that the draws may lack it leaves no error of its own: allow for a few draws of it.
        rare = 5.0 / count if site in reference.probabilities else 1e-9
        found, (mean_se, sd_se) = posterior.moments(site), reference.standard_error(site)
        judged = [(found.mean, found.mean_se, reference.mean[site], mean_se, rare)]
        if spreads:
            judged.append((found.sd, found.sd_se, reference.sd[site], sd_se, np.sqrt(rare) if rare > 1e-9 else rare))
        for value, error, exact, exact_error, floor in judged:
            tolerance = Z_LIMIT * np.hypot(error, exact_error) + floor
            assert (np.abs(value - np.asarray(exact)) <= tolerance).all(), (
                f"{site}: {value} ± {error}, expected {exact}"
            )
    if posterior.log_evidence is not None and reference.log_evidence is not None:
        gap = abs(posterior.log_evidence.value - reference.log_evidence)
        assert gap <= Z_LIMIT * posterior.log_evidence.se + 1e-9


def test_every_result_has_the_same_form(method: str, name: str, load_model: Any) -> None:
    model = load_model(name).model
    if not can(method, model) or (method, name) in HOPELESS:
        pytest.skip("refused or hopeless; see the tests of these")
    posterior = run(method, name, SEEDS[0])
    expected = {site.name: site for site in model.structure.of("latent", "deterministic")}
    assert set(posterior.draws) == set(expected)
    for site, values in posterior.draws.items():
        assert values.shape == (posterior.num_chains, posterior.num_draws, *expected[site].shape)
        assert torch.isfinite(values.double()).all()
    data = posterior.data
    group = data["posterior"]
    for site in expected.values():
        assert group[site.name].dims == ("chain", "draw", *site.dims)
    assert posterior.engine.split()[0] in ("native", "compiled", "graph", "loop")
    assert len(posterior.summary()) == sum(values[0, 0].numel() for values in posterior.draws.values())
    assert ("r_hat" in posterior.summary().columns) == (posterior.is_chain and posterior.num_chains > 1)


def test_a_seed_gives_the_same_draws_and_another_seed_gives_others(method: str, name: str, load_model: Any) -> None:
    model = load_model(name).model
    if not can(method, model) or (method, name) in HOPELESS:
        pytest.skip("refused or hopeless; see the tests of these")
    settings = {**settings_of(method)[0]}
    settings.update({k: min(30, settings[k]) for k in ("num_samples", "num_warmup", "num_steps") if k in settings})
    if "num_particles" in settings:
        settings["num_particles"] = 300
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        first, again = (ph.infer(model, method, seed=5, progress=False, **settings) for _ in range(2))
    assert all(torch.equal(first.draws[site], again.draws[site]) for site in first.draws)
    one, other = (run(method, name, seed) for seed in SEEDS)
    if getattr(registry.method_class(method), "is_random", True):
        assert any(not torch.equal(one.draws[site], other.draws[site]) for site in one.draws)
    assert (first.seed, one.seed, other.seed) == (5, *SEEDS)


def test_every_method_is_exact_or_in_the_table_of_families() -> None:
    approximate = {name for name in registry.METHODS if not getattr(registry.method_class(name), "exact", True)}
    assert approximate == {*WITHIN_THE_FAMILY, *POINTS}


@pytest.mark.parametrize("name", ["beta_binomial", "hmm", "dirichlet_categorical"])
def test_rejection_by_matching_is_exact_and_its_rate_is_the_evidence(name: str, load_model: Any) -> None:
    module = load_model(name)
    method = ph.Rejection(likelihood_bound="match", num_samples=500)
    posterior = ph.infer(module.model, method, seed=3, progress=False)
    assert posterior.log_evidence is not None
    assert abs(posterior.log_evidence.value - module.reference.log_evidence) < 4 * posterior.log_evidence.se
    assert np.log(posterior.figures["acceptance_rate"]) == pytest.approx(posterior.log_evidence.value)
    for site in module.reference.mean:
        found = posterior.moments(site)
        assert (np.abs(found.mean - module.reference.mean[site]) <= 4 * found.mean_se).all()


def test_rejection_under_the_likelihood_bound_accepts_at_the_known_rate(load_model: Any) -> None:
    posterior = ph.infer(load_model("beta_binomial").model, "rejection", num_samples=5000, seed=0, progress=False)
    rate, attempts = posterior.figures["acceptance_rate"], posterior.figures["attempts"]
    assert abs(rate - 0.299519) < 4 * np.sqrt(0.3 * 0.7 / attempts)


def test_prior_importance_sampling_has_the_known_efficiency(load_model: Any) -> None:
    posterior = ph.infer(load_model("beta_binomial").model, "importance", num_particles=200_000, seed=0, progress=False)
    assert posterior.figures["ess"] / 200_000 == pytest.approx(0.434964, rel=0.02)


def test_abc_approaches_the_posterior_as_the_tolerance_shrinks(load_model: Any) -> None:
    module = load_model("normal_normal")
    sds = []
    for tolerance in (3.0, 1.0):
        method = ph.Rejection(tolerance={"y": tolerance}, num_samples=2000)
        sds.append(float(ph.infer(module.model, method, seed=1, progress=False).moments("mu").sd))
    exact = float(np.asarray(module.reference.sd["mu"]))
    assert abs(sds[1] - exact) < abs(sds[0] - exact)


def test_a_raised_bound_thins_what_was_accepted_before() -> None:
    from phlogiston.inference.particles.rejection import Accepted

    rng = np.random.default_rng(0)
    accepted = Accepted(bound=-2.0, may_rise=True)
    low = {"z": torch.zeros(200_000), "log_weight": torch.full((200_000,), -2.0)}
    high = {"z": torch.ones(200_000), "log_weight": torch.full((200_000,), 0.0)}
    accepted.add(low, rng)
    accepted.add(high, rng)
    share = float(accepted.values(10**9)["z"].mean())
    assert accepted.bound == 0.0
    assert share == pytest.approx(1.0 / (1.0 + np.exp(-2.0)), abs=0.003)


def test_importance_from_an_earlier_posterior_beats_the_prior(load_model: Any) -> None:
    module = load_model("eight_schools")
    first = ph.infer(module.model, "importance", num_particles=20_000, seed=0, progress=False)
    for family in ("student_t", "normal"):
        method = ph.Importance(num_particles=20_000, proposal=first, family=family)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ph.WeightWarning)
            again = ph.infer(module.model, method, seed=1, progress=False)
        assert abs(again.log_evidence.value - module.reference.log_evidence) < 4 * again.log_evidence.se
    assert again.figures["ess"] > first.figures["ess"]


def test_importance_from_an_earlier_posterior_recovers_discrete_latents(load_model: Any) -> None:
    module = load_model("mixture")
    first = ph.infer(module.model, "importance", num_particles=5_000, seed=0, progress=False)
    again = ph.infer(module.model, ph.Importance(proposal=first, num_particles=20_000), seed=1, progress=False)
    found = again.moments("z")
    assert (np.abs(found.mean - module.reference.mean["z"]) <= 4 * found.mean_se).all()
    assert abs(again.log_evidence.value - module.reference.log_evidence) < 4 * again.log_evidence.se


def test_a_program_that_proposes_the_posterior_has_equal_weights(load_model: Any) -> None:
    import pyro
    import pyro.distributions as dist

    module = load_model("normal_normal")

    def exact_posterior() -> None:
        pyro.sample("mu", dist.Normal(0.8, np.sqrt(4.0 / 21.0)))

    posterior = ph.infer(
        module.model, ph.Importance(proposal=exact_posterior, num_particles=1000), seed=0, progress=False
    )
    assert posterior.figures["ess"] == pytest.approx(1000, rel=1e-9)
    assert posterior.log_evidence.value == pytest.approx(-7.886954, abs=1e-6)
    assert posterior.figures["pareto_k"] < 0.5


def test_a_proposal_may_leave_latents_to_the_prior(load_model: Any) -> None:
    import pyro
    import pyro.distributions as dist

    module = load_model("eight_schools")

    def proposal(sigma: torch.Tensor) -> None:
        pyro.sample("mu", dist.Normal(4.4, 4.0))

    posterior = ph.infer(module.model, ph.Importance(proposal=proposal, num_particles=40_000), seed=0, progress=False)
    assert abs(posterior.log_evidence.value - module.reference.log_evidence) < 4 * posterior.log_evidence.se


def test_more_particles_than_are_kept_are_resampled_from_the_same_run(load_model: Any) -> None:
    module = load_model("eight_schools")
    whole = ph.infer(module.model, ph.Importance(num_particles=60_000), seed=4, progress=False)
    kept = ph.infer(module.model, ph.Importance(num_particles=60_000, max_draws=8_000), seed=4, progress=False)
    assert kept.log_evidence == whole.log_evidence
    assert kept.figures == whole.figures
    assert kept.log_weights is None
    assert kept.draws["mu"].shape == (1, 8_000)
    known = set(whole.draws["mu"].reshape(-1).tolist())
    assert set(kept.draws["mu"].reshape(-1).tolist()) <= known
    estimate = kept.expect("mu")
    assert abs(estimate.value - 4.396821) < 4 * estimate.se


def test_the_centred_hierarchy_is_flagged_and_the_non_centred_one_is_better(load_model: Any) -> None:
    module = load_model("eight_schools")
    settings = ph.NUTS(num_samples=200, num_warmup=150, num_chains=8, max_tree_depth=5, engine="graph")
    with pytest.warns(
        ph.ConvergenceWarning,
        match=r"theta is drawn around mu with the latent scale tau: write model = ph.reparam\(model\)",
    ):
        centred = ph.infer(module.centred_model, settings, seed=0, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        repaired = ph.infer(module.model, settings, seed=0, progress=False)
    better, worse = (post.summary().loc["tau", "ess_bulk"] for post in (repaired, centred))
    assert better > 2.0 * worse
    assert centred.warnings


def test_exact_refuses_a_table_that_is_too_large_with_its_size() -> None:
    import pyro
    import pyro.distributions as dist

    def coupled() -> None:
        spins = [pyro.sample(f"s_{i}", dist.Bernoulli(0.5)) for i in range(30)]
        pyro.factor("coupling", sum(spins) ** 2 * 0.01)

    with pytest.raises(ph.UnsupportedModel, match=r"a table of 1.07e\+09 numbers; expected at most max_table=1e\+07"):
        ph.infer(ph.Model(coupled), "exact")


def test_exact_follows_plates_and_chains_far_beyond_the_joint_table() -> None:
    import pyro
    import pyro.distributions as dist

    def chains() -> None:
        with pyro.plate("series", 20):
            z = 0
            for t in pyro.markov(range(15)):
                z = pyro.sample(f"z_{t}", dist.Categorical(torch.tensor([[0.9, 0.1], [0.2, 0.8]])[z]))
                pyro.sample(f"y_{t}", dist.Normal(torch.tensor([-1.0, 1.0])[z], 1.0))

    model = ph.Model(chains).observe(**{f"y_{t}": torch.linspace(-2, 2, 20) for t in range(15)})
    log_evidence, marginals = model.target().enumerate()
    alpha = torch.zeros(20, 2, dtype=torch.float64)
    transition = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64).log()
    for t in range(15):
        before = transition[0].expand(20, 2) if t == 0 else torch.logsumexp(alpha[:, :, None] + transition, 1)
        y = torch.linspace(-2, 2, 20, dtype=torch.float64)[:, None]
        alpha = before + torch.distributions.Normal(torch.tensor([-1.0, 1.0]).double(), 1.0).log_prob(y)
    assert float(log_evidence) == pytest.approx(float(torch.logsumexp(alpha, 1).sum()), rel=1e-6)
    last = torch.softmax(alpha, 1)
    torch.testing.assert_close(marginals["z_14"], last, rtol=1e-5, atol=1e-6)
