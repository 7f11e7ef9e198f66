"""Metropolis-Hastings: acceptance, proposals of every kind, and whether the posterior is left as it is."""

from __future__ import annotations

import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.inference.mcmc.metropolis import compare, on_values, proposals
from phlogiston.inference.mcmc.random_walk import acceptance
from phlogiston.inference.particles.proposals import from_prior
from phlogiston.inference.rng import streams


@pytest.fixture(autouse=True)
def _no_advice() -> Any:
    """Chains this short are rightly found wanting."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        yield


def within(posterior: ph.Posterior, site: str, mean: Any, sd: Any = None) -> None:
    found = posterior.moments(site)
    assert (np.abs(found.mean - mean) < 4 * found.mean_se).all(), (found, mean)
    if sd is not None:
        assert (np.abs(found.sd - sd) < 4 * found.sd_se).all(), (found, sd)


def normal() -> None:
    pyro.sample("z", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize("scale", [0.5, 2.4, 6.0])
def test_a_random_walk_of_fixed_scale_accepts_at_the_known_rate(scale: float) -> None:
    method = ph.MH(
        step_size=scale, num_warmup=0, num_chains=256, chains_per_block=256, num_samples=600, initial="prior"
    )
    posterior = ph.infer(ph.Model(normal), method, seed=0, progress=False)  # begins in the target: no burn-in
    rates = posterior.stats["acceptance_rate"].mean(1)
    error = float(rates.std()) / len(rates) ** 0.5
    assert abs(float(rates.mean()) - 2.0 / np.pi * np.arctan(2.0 / scale)) < 4 * error
    accepted = posterior.stats["accepted"].double().mean(1)
    assert abs(float(accepted.mean() - rates.mean())) < 4 * float(accepted.std()) / len(rates) ** 0.5
    within(posterior, "z", 0.0, 1.0)


def correlated() -> None:
    cov = torch.tensor([[1.0, 9.5], [9.5, 100.0]])
    pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), cov))


def test_the_random_walk_learns_scale_and_covariance_and_then_keeps_them() -> None:
    method = ph.MH(num_chains=32, num_samples=1500, num_warmup=600, num_steps=2)
    posterior = ph.infer(ph.Model(correlated), method, seed=0, progress=False)
    within(posterior, "x", 0.0, [1.0, 10.0])
    root = posterior.state["0/root"]
    found = root @ root.T
    assert found[0, 1] / np.sqrt(found[0, 0] * found[1, 1]) == pytest.approx(0.95, abs=0.05)
    assert float(posterior.stats["acceptance_rate"].mean()) == pytest.approx(0.337, abs=0.06)
    more = ph.infer(ph.Model(correlated), method, resume_from=posterior, progress=False)
    assert np.array_equal(more.state["0/root"], root)
    assert more.state["0/step_size"] == posterior.state["0/step_size"]
    lower = ph.MH(num_chains=32, num_warmup=400, num_samples=200, target_accept_prob=0.15)
    rate = ph.infer(ph.Model(correlated), lower, seed=0, progress=False).stats["acceptance_rate"].mean()
    assert float(rate) == pytest.approx(0.15, abs=0.05)


def coupled() -> None:
    a = pyro.sample("a", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
    b = pyro.sample("b", dist.Binomial(3, 0.2 + 0.3 * a.double()))
    with pyro.plate("datum", 2):
        pyro.sample("y", dist.Normal(a.double() + b, 1.0), obs=torch.tensor([1.0, 2.5]))


STATES = {"a": torch.arange(3).repeat_interleave(4), "b": torch.arange(4).double().repeat(3)}


def exact_of_states(model: ph.Model) -> np.ndarray:
    """Probabilities of ``STATES``, whose marginals are those of Exact."""
    log_joint = model.target().log_joint(STATES)
    pi = log_joint.softmax(0)
    exact = ph.infer(model, "exact", seed=0)
    torch.testing.assert_close(log_joint.logsumexp(0), torch.tensor(exact.log_evidence.value).double())
    for site, values in STATES.items():
        found = [float(pi[values == k].sum()) for k in range(len(exact.marginals[site]))]
        np.testing.assert_allclose(found, exact.marginals[site].numpy(), atol=1e-10)
    return pi.numpy()


def density_of(model: ph.Model) -> Any:
    from phlogiston.inference.mcmc.blocks import Task
    from phlogiston.inference.mcmc.metropolis import CustomBlock

    block = CustomBlock(proposal=lambda values, rng: (values, 0.0), num_warmup=0, num_steps=1)
    root = np.random.SeedSequence(0)
    task = Task(
        model=model, sampler=block, engine="graph", dtype=torch.float64, first_chain=0, chains=12, seed=root,
        seeds=(), start="uniform", num_samples=1, calls=1,
    )  # fmt: skip
    return on_values(task, model.target("graph"))[0]


def test_independent_proposals_leave_the_exact_posterior_as_it_is() -> None:
    model = ph.Model(coupled)
    pi, target = exact_of_states(model), model.target("graph")
    prior = target.log_prior(STATES).exp().numpy()
    chunk = next(from_prior(model, "graph").draw(3000, np.random.SeedSequence(0)))
    weight = np.full(12, np.nan)  # as the sampler is given them
    for a, b, w in zip(chunk["a"].tolist(), chunk["b"].tolist(), chunk["log_weight"].tolist(), strict=True):
        weight[int(a * 4 + b)] = w
    assert np.isfinite(weight).all()
    matrix = np.empty((12, 12))
    for i in range(12):
        state = {"words": streams(np.random.SeedSequence(0).spawn(12)), "weight": np.full(12, weight[i])}
        state.update(x=np.zeros((12, 1)), lp=np.zeros(12))
        matrix[i] = prior * compare(state, np.zeros((12, 1)), weight, np.zeros(12))[0]
        matrix[i, i] += 1.0 - matrix[i].sum()
    assert np.abs(pi @ matrix - pi).max() < 1e-10
    assert np.abs(np.linalg.matrix_power(matrix, 2000) - pi).max() < 1e-8


def lopsided(values: dict[str, torch.Tensor], rng: np.random.Generator) -> tuple[dict[str, Any], Any]:
    """Up more often than down, in a or in b, with what Hastings asks for."""
    chains = len(values["a"])
    up, which = torch.from_numpy(rng.random(chains) < 0.8), torch.from_numpy(rng.random(chains) < 0.5)
    step = torch.where(up, 1, -1)
    log_q = step.double() * np.log(0.8 / 0.2)
    return {"a": values["a"] + step * which, "b": values["b"] + step * ~which}, log_q


@pytest.mark.parametrize("hastings", [True, False])
def test_an_asymmetric_proposal_needs_its_hastings_term(hastings: bool) -> None:
    model = ph.Model(coupled)
    pi, density = exact_of_states(model), density_of(model)
    states = np.stack([STATES["a"].double().numpy(), STATES["b"].numpy()], 1)
    x = np.repeat(states, 300, 0)
    proposed, log_q = proposals(lopsided, density.sites, x, np.random.default_rng(0))
    probability = acceptance(density(proposed) - density(x) - (log_q if hastings else 0.0))
    matrix = np.zeros((12, 12))
    pairs = {(tuple(old), tuple(new)): p for old, new, p in zip(x, proposed, probability, strict=True)}
    assert len(pairs) == 48  # each state has four proposals
    for (old, new), accepted in pairs.items():
        i = int(old[0] * 4 + old[1])
        inside = 0 <= new[0] <= 2 and 0 <= new[1] <= 3
        assert inside or accepted == 0.0
        if inside:
            q = 0.5 * (0.8 if sum(new) > sum(old) else 0.2)
            matrix[i, int(new[0] * 4 + new[1])] += q * accepted
    matrix[range(12), range(12)] += 1.0 - matrix.sum(1)
    wrong = np.abs(pi @ matrix - pi).max()
    assert wrong < 1e-10 if hastings else wrong > 1e-3
    settings = {"num_chains": 64, "num_samples": 250, "num_warmup": 50, "num_steps": 3, "seed": 0, "progress": False}
    function = lopsided if hastings else lambda values, rng: (lopsided(values, rng)[0], 0.0)
    posterior = ph.infer(model, "mh", proposal=function, **settings)
    mean = float(pi @ STATES["b"].numpy())
    found = posterior.moments("b")
    assert (abs(found.mean - mean) < 4 * found.mean_se) == hastings


def test_discrete_latents_alone_move_under_the_random_walk() -> None:
    model = ph.Model(coupled)
    pi = exact_of_states(model)
    posterior = ph.infer(model, ph.MH(num_chains=64, num_samples=300, num_warmup=50), seed=0, progress=False)
    within(posterior, "a", pi @ STATES["a"].numpy())
    within(posterior, "b", pi @ STATES["b"].numpy())


def test_latents_coupled_within_a_plate_are_not_summed_out() -> None:
    def program() -> None:
        pull = pyro.sample("pull", dist.Normal(0.5, 0.5))
        with pyro.plate("spin", 3):
            s = pyro.sample("s", dist.Bernoulli(0.5))
        pyro.factor("coupling", 0.3 * pull * s.sum() ** 2)

    posterior = ph.infer(
        ph.Model(program), ph.MH(num_chains=64, num_samples=300, num_warmup=100, num_steps=3), seed=0, progress=False
    )
    pull = torch.linspace(-4.0, 6.0, 4001, dtype=torch.float64)
    count = torch.arange(4.0, dtype=torch.float64)
    ways = torch.tensor([1.0, 3.0, 3.0, 1.0]).double().log()
    log_joint = -0.5 * ((pull[:, None] - 0.5) / 0.5) ** 2 + 0.3 * pull[:, None] * count**2 + ways
    weights = log_joint.flatten().softmax(0).reshape(log_joint.shape)
    within(posterior, "pull", float((weights.sum(1) * pull).sum()))
    within(posterior, "s", float((weights.sum(0) * count).sum()) / 3.0)


def poisson() -> None:
    n = pyro.sample("n", dist.Poisson(12.0))
    p = pyro.sample("p", dist.Beta(3.0, 3.0))
    pyro.sample("y", dist.Normal(n * p, 1.0), obs=torch.tensor(7.0))


def poisson_moments() -> tuple[float, float]:
    n, p = torch.arange(80.0, dtype=torch.float64), torch.linspace(1e-4, 1.0 - 1e-4, 3000, dtype=torch.float64)
    log_joint = torch.distributions.Poisson(12.0).log_prob(n)[:, None] + 2 * p.log() + 2 * (1 - p).log()
    weights = (log_joint - 0.5 * (n[:, None] * p - 7.0) ** 2).flatten().softmax(0).reshape(80, 3000)
    return float(weights.sum(1) @ n), float(weights.sum(0) @ p)


def jump(values: dict[str, torch.Tensor], rng: np.random.Generator) -> tuple[dict[str, Any], Any]:
    """n by a few, p from the uniform distribution; symmetric."""
    chains = len(values["n"])
    steps = torch.from_numpy(rng.integers(-3, 4, chains)).double()
    return {"n": values["n"] + steps, "p": torch.from_numpy(rng.random(chains))}, 0.0


@pytest.mark.parametrize("proposal", ["random_walk", "independence", jump], ids=["walk", "independence", "user"])
def test_a_poisson_latent_moves(proposal: Any) -> None:
    method = ph.MH(proposal=proposal, num_chains=64, num_samples=600, num_warmup=300, num_steps=3)
    posterior = ph.infer(ph.Model(poisson), method, seed=0, progress=False)
    n, p = poisson_moments()
    within(posterior, "n", n)
    within(posterior, "p", p)
    assert (posterior.draws["n"] >= 0).all()
    assert set(posterior.stats) == {"lp", "acceptance_rate", "accepted", "num_nan"}
    assert posterior.stats["accepted"].dtype == torch.bool


def test_proposals_from_a_posterior_and_from_a_model(load_model: Any) -> None:
    module = load_model("eight_schools")
    first = ph.infer(module.model, "importance", num_particles=20_000, seed=0, progress=False)
    fitted = ph.MH(proposal=first, num_chains=16, num_samples=600, num_warmup=50)
    posterior = ph.infer(module.model, fitted, seed=1, progress=False)
    blind = ph.infer(module.model, ph.MH(proposal="independence", num_chains=16, num_samples=600), seed=1)
    assert posterior.figures["acceptance_rate"] > blind.figures["acceptance_rate"]

    def nearly() -> None:
        pyro.sample("mu", dist.Normal(0.7, 0.6))

    module = load_model("normal_normal")
    guided = ph.MH(proposal=ph.Model(nearly), num_chains=16, num_samples=600, num_warmup=50)
    for found, reference in (
        (posterior, load_model("eight_schools").reference),
        (ph.infer(module.model, guided, seed=1, progress=False), module.reference),
    ):
        within(found, "mu", reference.mean["mu"], reference.sd["mu"])
    torch.testing.assert_close(
        posterior.stats["lp"], posterior.model.target().log_joint(dict(posterior.draws)), rtol=1e-9, atol=1e-9
    )


def same(a: ph.Posterior, b: ph.Posterior) -> bool:
    return all(torch.equal(a.draws[name], b.draws[name]) for name in a.draws) and all(
        torch.equal(a.stats[name], b.stats[name]) for name in a.stats
    )


def mixture() -> None:
    weight = pyro.sample("weight", dist.Uniform(0.0, 1.0))
    with pyro.plate("data", 3):
        z = pyro.sample("z", dist.Bernoulli(weight))
        pyro.sample("x", dist.Normal(2.0 * z - 1.0, 1.0), obs=torch.tensor([-1.5, 0.3, 2.0]))


KINDS = [(mixture, "random_walk"), (poisson, "random_walk"), (poisson, "independence"), (poisson, jump)]
each_kind = pytest.mark.parametrize(("program", "proposal"), KINDS, ids=["summed", "walk", "independence", "user"])


@each_kind
@pytest.mark.parametrize("engine", ["graph", pytest.param("compiled", marks=pytest.mark.slow)])
def test_two_runs_are_one_bit_for_bit_from_memory_and_from_disk(
    program: Any, proposal: Any, engine: str, tmp_path: Path
) -> None:
    model = ph.Model(program)
    settings = {"num_warmup": 40, "num_steps": 7, "proposal": proposal, "engine": engine, "progress": False, "seed": 3}
    whole = ph.infer(model, "mh", num_samples=60, **settings)
    half = ph.infer(model, "mh", num_samples=25, **settings)
    assert same(whole, ph.infer(model, "mh", num_samples=35, resume_from=half, **settings))
    loaded = ph.load(half.save(tmp_path / "half.nc"))
    assert same(whole, ph.infer(model, "mh", num_samples=35, resume_from=loaded, **settings))
    other = ph.infer(model, "mh", num_samples=60, **{**settings, "seed": 4})
    assert not same(whole, other)


@each_kind
def test_workers_make_no_difference(program: Any, proposal: Any) -> None:
    settings = {"num_chains": 6, "chains_per_block": 2, "num_warmup": 20, "num_samples": 20, "seed": 1}
    settings.update(proposal=proposal, progress=False)
    model = ph.Model(program)
    here = ph.infer(model, "mh", **settings)
    with ThreadPoolExecutor(2) as threads:
        assert same(here, ph.infer(model, "mh", executor=threads, **settings))
    if proposal is jump:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
            assert same(here, ph.infer(model, "mh", executor=processes, **settings))
    first = next(iter(here.draws.values()))
    assert len(torch.unique(first[:, -1])) > 1


@pytest.mark.parametrize("proposal", ["random_walk", "independence", "user"])
def test_a_density_that_turns_nan_is_rejected_and_counted(proposal: str) -> None:
    def program() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("hole", torch.where(z > 1.0, torch.nan, 0.0))

    def shift(values: dict[str, torch.Tensor], rng: np.random.Generator) -> tuple[dict[str, Any], Any]:
        return {"z": values["z"] + torch.from_numpy(rng.standard_normal(len(values["z"])))}, 0.0

    chosen: Any = shift if proposal == "user" else proposal
    method = ph.MH(proposal=chosen, num_chains=32, num_samples=600, num_warmup=200, num_steps=2)
    posterior = ph.infer(ph.Model(program), method, seed=0, progress=False)
    assert (posterior.draws["z"] <= 1.0).all()
    assert posterior.stats["num_nan"].sum() > 100
    assert (posterior.draws["z"].std(1) > 0.3).all()  # no chain is frozen
    exact = torch.distributions.Normal(0.0, 1.0)
    within(posterior, "z", -float(exact.log_prob(torch.tensor(1.0)).exp() / exact.cdf(torch.tensor(1.0))))


def test_starting_values_are_honoured() -> None:
    posterior = ph.infer(
        ph.Model(normal), ph.MH(initial={"z": 500.0}, num_warmup=0, num_samples=1, step_size=1e-3), progress=False
    )
    assert (posterior.draws["z"] - 500.0).abs().max() < 0.1
    stay = ph.MH(proposal=lambda values, rng: (values, 0.0), initial={"n": 5.0, "p": 0.25}, num_samples=3, num_warmup=0)
    posterior = ph.infer(ph.Model(poisson), stay, progress=False)
    assert (posterior.draws["n"] == 5.0).all()
    torch.testing.assert_close(posterior.draws["p"], torch.full((4, 3), 0.25).double())
    with pytest.raises(ph.SettingError, match="initial: found values by site; expected a name"):
        ph.infer(ph.Model(normal), ph.MH(proposal="independence", initial={"z": 0.0}))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda values: values, r"proposal: found a function that returned dict; expected \(new values"),
        (lambda values: ({"m": values["n"]}, 0.0), "proposal: found site 'm'"),
        (
            lambda values: ({"n": values["n"][:1]}, 0.0),
            r"proposal, site 'n': found shape \(1,\); expected shape \(4,\)",
        ),
        (lambda values: (values, torch.zeros(3)), r"proposal, log ratio: found shape \(3,\)"),
    ],
)
def test_a_proposal_that_returns_something_else_is_an_error(answer: Any, message: str) -> None:
    with pytest.raises(ph.SettingError, match=message):
        ph.infer(ph.Model(poisson), ph.MH(proposal=lambda values, rng: answer(values), num_samples=5, num_warmup=0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"proposal": "random"}, "proposal: found 'random'; expected 'random_walk' or 'independence'"),
        ({"proposal": 3}, "proposal: found int; expected a name, a posterior, a model or a function"),
        ({"step_size": 0.0}, "step_size: found 0.0"),
        ({"target_accept_prob": 1.5}, "target_accept_prob: found 1.5"),
        ({"num_steps": 0}, "num_steps: found 0"),
        ({"initial": "nowhere"}, "initial: found 'nowhere'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ph.SettingError, match=message):
        ph.MH(**settings)


def test_impossible_evidence_is_an_error_under_independent_proposals() -> None:
    def program() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("far", torch.where(z > 50.0, 0.0, -torch.inf))

    with pytest.raises(ph.ImpossibleEvidence, match="mh: none of 256 proposals has a finite density"):
        ph.infer(ph.Model(program), ph.MH(proposal="independence", num_samples=5))
