"""Gibbs sampling: what moves together, by which conditional, and whether the posterior is left as it is."""

from __future__ import annotations

import itertools
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.inference.mcmc.gibbs import conditional
from phlogiston.inference.mcmc.gibbs_plan import PROBES, Detector, Move, candidates_of
from phlogiston.inference.starts import joint_points


@pytest.fixture(autouse=True)
def _no_advice() -> Any:
    """Chains this short are rightly found wanting."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        yield


def plan_of(model: ph.Model, blocks: Any = None) -> tuple[Any, list[Move]]:
    target = model.target("graph")
    full = target.full(8, 0)
    probes = joint_points(target, full, "uniform", np.random.SeedSequence(0), PROBES).numpy()
    return full, Detector(full, probes).moves(candidates_of(full, blocks), in_parallel=True)


def within(posterior: ph.Posterior, site: str, mean: Any, sd: Any = None) -> None:
    found = posterior.moments(site)
    assert (np.abs(found.mean - mean) < 4 * found.mean_se).all(), (found, mean)
    if sd is not None:
        assert (np.abs(found.sd - sd) < 4 * found.sd_se).all(), (found, sd)


@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_two_normal_sites_have_the_known_autocorrelation(rho: float) -> None:
    def program() -> None:
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(rho * x, (1.0 - rho**2) ** 0.5))

    posterior = ph.infer(
        ph.Model(program), ph.Gibbs(num_chains=64, num_samples=800, num_warmup=100), seed=0, progress=False
    )
    x = posterior.draws["x"].numpy()  # mean 0 and variance 1 are known
    products = (x[:, 1:] * x[:, :-1]).mean(1)
    error = products.std(ddof=1) / np.sqrt(len(products))
    assert abs(products.mean() - rho**2) < 4 * error
    within(posterior, "x", 0.0, 1.0)
    within(posterior, "y", 0.0, 1.0)
    assert float(posterior.stats["acceptance_rate"].min()) > 1.0 - 1e-9


def field(side: int) -> None:
    """Spins of one plate, each coupled with the next by a term of its own."""
    with pyro.plate("spin", side):
        s = pyro.sample("s", dist.Categorical(torch.tensor([0.4, 0.6])))
    spin = 2.0 * s.double() - 1.0
    with pyro.plate("bond", side - 1):
        pyro.factor("coupling", 0.7 * spin[1:] * spin[:-1])


def in_one_term() -> None:
    with pyro.plate("spin", 4):
        s = pyro.sample("s", dist.Bernoulli(0.3))
    pyro.factor("coupling", 0.4 * s.sum() ** 2 - s[0] * s[3])


def spins() -> None:
    s = [2.0 * pyro.sample(f"s_{i}", dist.Bernoulli(0.4)) - 1.0 for i in range(6)]
    for i, j in ((0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5)):
        pyro.factor(f"bond_{i}_{j}", 0.44 * s[i] * s[j])


def chain_of_sites() -> None:
    z = torch.tensor(0)
    for t in range(3):
        z = pyro.sample(
            f"z_{t}", dist.Categorical(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4]])[z])
        )
        pyro.sample(f"y_{t}", dist.Normal(z.double(), 1.0), obs=torch.tensor(0.5 * t))


def apart() -> None:
    with pyro.plate("point", 3):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.1, 0.2, 0.3, 0.4])))
        pyro.sample("y", dist.Normal(z.double(), 1.0), obs=torch.tensor([0.2, 3.0, 1.0]))


def mixed_states() -> None:
    a = pyro.sample("a", dist.Binomial(4, 0.3))
    b = pyro.sample("b", dist.Bernoulli(0.2 + 0.15 * a))
    pyro.sample("c", dist.OneHotCategorical(torch.stack([0.2 + 0.3 * b, 0.5 - 0.3 * b, 0.3 + 0.0 * b], -1)))
    pyro.factor("pull", 0.3 * a * b)


def states_of(full: Any) -> np.ndarray:
    events = [full.states[part.site.name] for part in full.parts for _ in part.coordinates]
    return np.array([np.concatenate(events) for events in itertools.product(*events)])


def exact_probabilities(full: Any, states: np.ndarray) -> np.ndarray:
    log_joint = full.terms(states).sum(1)
    weights = np.exp(log_joint - log_joint.max())
    return weights / weights.sum()


def transition(full: Any, move: Move, states: np.ndarray) -> np.ndarray:
    """The matrix of one move, from the conditionals that the sampler draws from."""
    probabilities, _ = conditional(full, move, states)
    matrix = np.zeros((len(states), len(states)))
    rest = np.setdiff1d(np.arange(states.shape[1]), move.coordinates)
    for i, j in itertools.product(range(len(states)), repeat=2):
        if (states[i, rest] == states[j, rest]).all():
            chosen = [(move.states == states[j, row]).all(1).argmax() for row in move.coordinates]
            matrix[i, j] = np.prod([probabilities[i, e, k] for e, k in enumerate(chosen)])
    return matrix


@pytest.mark.parametrize(
    ("program", "blocks", "moves"),
    [
        (lambda: field(5), None, 2),
        (in_one_term, None, 4),
        (in_one_term, [["s"]], 4),
        (spins, None, 2),  # a chessboard
        (chain_of_sites, None, 2),
        (chain_of_sites, [["z_0", "z_2"], ["z_1"]], 2),
        (chain_of_sites, [["z_0", "z_1"], ["z_2"]], 2),
        (apart, None, 1),
        (mixed_states, None, 3),
        (mixed_states, [["a", "c"], ["b"]], 2),
    ],
)
def test_every_move_and_the_sweep_leave_the_exact_posterior_as_it_is(program: Any, blocks: Any, moves: int) -> None:
    model = ph.Model(program)
    full, plan = plan_of(model, blocks)
    assert len(plan) == moves
    states = states_of(full)
    assert len(states) <= 64
    pi = exact_probabilities(full, states)
    not_for_exact = program is mixed_states or full.parts[0].site.name == "s"  # one-hot; coupled within a plate
    marginals = {} if not_for_exact else ph.infer(model, "exact", seed=0).marginals
    for part in full.parts if marginals else ():
        table = full.states[part.site.name]
        for k, coordinates in enumerate(part.coordinates):
            found = [pi[(states[:, coordinates] == state).all(1)].sum() for state in table]
            marginal = marginals[part.site.name].reshape(-1, len(table))[k]
            np.testing.assert_allclose(found, marginal.numpy(), atol=1e-10)
    sweep = np.eye(len(states))
    for move in plan:
        matrix = transition(full, move, states)
        np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-12)
        assert np.abs(pi @ matrix - pi).max() < 1e-10
        sweep = sweep @ matrix
    assert np.abs(pi @ sweep - pi).max() < 1e-10
    assert np.abs(np.linalg.matrix_power(sweep, 500) - pi).max() < 1e-8  # and forgets where it began


def test_spins_of_a_plate_that_are_coupled_do_not_move_in_parallel() -> None:
    model = ph.Model(lambda: field(5))
    _, plan = plan_of(model)
    assert [sorted(move.coordinates[:, 0].tolist()) for move in plan] == [[0, 2, 4], [1, 3]]
    posterior = ph.infer(model, ph.Gibbs(num_chains=32, num_samples=300, num_warmup=50), seed=0, progress=False)
    full, _ = plan_of(model)
    states = states_of(full)
    within(posterior, "s", exact_probabilities(full, states) @ states)


def test_latents_found_to_be_coupled_on_the_way_move_one_by_one_from_then_on() -> None:
    def program() -> None:
        far = pyro.sample("far", dist.Normal(0.0, 3.0))
        with pyro.plate("spin", 2):
            s = pyro.sample("s", dist.Bernoulli(0.5))
        # Between -2 and 2, where chains begin, the spins know nothing of each other.
        pyro.factor("late", torch.where(far > 4.0, 3.0 * (s[0] == s[1]), torch.zeros(())))
        pyro.sample("y", dist.Normal(far, 0.1), obs=torch.tensor(6.0))

    posterior = ph.infer(ph.Model(program), ph.Gibbs(num_chains=16, num_samples=400, num_warmup=200), seed=0)
    assert int(posterior.state["0/alone"]) == 1
    alike = posterior.expect(lambda draw: (draw["s"][0] == draw["s"][1]).double())
    assert abs(alike.value - 1.0 / (1.0 + np.exp(-3.0))) < 4 * alike.se


def hierarchy() -> None:
    precision = pyro.sample("precision", dist.Gamma(2.0, 1.0))
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("group", 3):
        theta = pyro.sample("theta", dist.Normal(mu, precision**-0.5))
    with pyro.plate("datum", 6):
        pyro.sample("y", dist.Normal(theta[torch.tensor([0, 0, 1, 1, 2, 2])], 0.5), obs=torch.arange(6.0) - 2.0)


def scale_of_effects() -> None:
    tau = pyro.sample("tau", dist.HalfNormal(2.0))
    with pyro.plate("group", 4):
        raw = pyro.sample("raw", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(tau * raw, 0.7), obs=torch.tensor([1.0, -2.0, 0.5, 3.0]))


def counts() -> None:
    with pyro.plate("part", 2):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
        p = pyro.sample("p", dist.Beta(2.0, 3.0))
        pyro.sample("n", dist.Poisson(rate), obs=torch.tensor([3.0, 8.0]))
        pyro.sample("k", dist.Binomial(10, p), obs=torch.tensor([7.0, 2.0]))
    shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("throw", 4):
        pyro.sample("face", dist.Categorical(shares), obs=torch.tensor([0, 2, 2, 1]))


def regression() -> None:
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3), 2.0).to_event(1))
    variance = pyro.sample("variance", dist.InverseGamma(3.0, 2.0))
    features = torch.tensor([[1.0, 0.0, 2.0], [1.0, 1.0, -1.0], [1.0, 2.0, 0.5], [1.0, 3.0, 1.0]])
    with pyro.plate("row", 4):
        pyro.sample("y", dist.Normal(features @ beta, variance.sqrt()), obs=torch.tensor([1.0, 2.0, 2.5, 4.0]))


def awkward() -> None:
    pyro.sample("cauchy", dist.HalfCauchy(1.0))
    flat = pyro.sample("laplace", dist.Laplace(0.0, 1.0))
    almost = pyro.sample("almost", dist.Normal(0.0, 1.0))
    pyro.factor("quartic", -1e-4 * almost**4)
    pyro.sample("y", dist.StudentT(3.0, flat, 1.0), obs=torch.tensor(0.4))


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (hierarchy, {"precision": "gamma", "mu": "normal", "theta": "normal"}),
        (scale_of_effects, {"tau": "truncated normal", "raw": "normal"}),
        (counts, {"rate": "gamma", "p": "beta", "shares": "Dirichlet"}),
        (regression, {"beta": "normal", "variance": "inverse gamma"}),
        (awkward, {"cauchy": None, "laplace": None, "almost": None}),
    ],
)
def test_closed_forms_are_found_where_they_are_and_only_there(program: Any, expected: dict[str, str | None]) -> None:
    _, plan = plan_of(ph.Model(program))
    found = {move.sites[0]: move.family.name if move.family else None for move in plan}
    assert found == expected
    assert len(plan) == len(expected)  # elements of a plate in parallel


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(hierarchy, marks=pytest.mark.slow),
        pytest.param(scale_of_effects, marks=pytest.mark.slow),
        counts,
        regression,
    ],
)
def test_closed_forms_agree_with_nuts(program: Any) -> None:
    model = ph.Model(program)
    gibbs = ph.infer(model, ph.Gibbs(num_chains=16, num_samples=400, num_warmup=100), seed=1, progress=False)
    nuts = ph.infer(
        model, ph.NUTS(num_chains=16, num_samples=300, num_warmup=150, engine="graph"), seed=1, progress=False
    )
    assert float(gibbs.stats["acceptance_rate"].min()) > 1.0 - 1e-6
    for site in gibbs.draws:
        a, b = gibbs.moments(site), nuts.moments(site)
        assert (np.abs(a.mean - b.mean) < 4 * np.hypot(a.mean_se, b.mean_se)).all()
        assert (np.abs(a.sd - b.sd) < 4 * np.hypot(a.sd_se, b.sd_se)).all()


@pytest.mark.slow
def test_blocks_of_continuous_latents_move_jointly() -> None:
    _, plan = plan_of(ph.Model(hierarchy), [["mu", "theta"], ["precision"]])
    assert [(move.sites, move.coordinates.shape, move.kind) for move in plan] == [
        (("mu", "theta"), (1, 4), "closed form"),
        (("precision",), (1, 1), "closed form"),
    ]
    method = ph.Gibbs(blocks=[["mu", "theta"], ["precision"]], num_chains=8, num_samples=300, num_warmup=50)
    joint = ph.infer(ph.Model(hierarchy), method, seed=0, progress=False)
    alone = ph.infer(ph.Model(hierarchy), ph.Gibbs(num_chains=8, num_samples=300, num_warmup=50), seed=0)
    a, b = joint.moments("mu"), alone.moments("mu")
    assert abs(a.mean - b.mean) < 4 * np.hypot(a.mean_se, b.mean_se)
    method = ph.Gibbs(blocks=[["cauchy", "laplace"], ["almost"]], num_chains=16, num_samples=500, num_warmup=300)
    walked = ph.infer(ph.Model(awkward), method, seed=0, progress=False)
    nuts = ph.infer(ph.Model(awkward), ph.NUTS(num_chains=16, num_samples=300, num_warmup=200), seed=0)
    for site in ("laplace", "almost"):
        a, b = walked.moments(site), nuts.moments(site)
        assert abs(a.mean - b.mean) < 4 * np.hypot(a.mean_se, b.mean_se)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (
            [["mu"], ["theta"]],
            r"blocks: found no block with site 'precision'; expected every latent; write: .*precision",
        ),
        ([["mu", "mu"], ["theta"], ["precision"]], "site 'mu' more than once"),
        ([["mu"], ["thetas"], ["precision"]], "blocks: found site 'thetas'; did you mean 'theta'"),
    ],
)
def test_blocks_cover_every_latent_once_or_the_error_names_it(blocks: Any, message: str) -> None:
    with pytest.raises(ph.SettingError, match=message):
        ph.infer(ph.Model(hierarchy), "gibbs", blocks=blocks, num_samples=5, num_warmup=5)


def test_blocks_that_cannot_be_moved_are_refused() -> None:
    def program() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("spin", 12):
            s = pyro.sample("s", dist.Bernoulli(0.5))
        b = pyro.sample("b", dist.Bernoulli(0.5))
        pyro.factor("f", 0.1 * a * b * s.sum())

    for blocks, message in (
        ([["a", "b"], ["s"]], "a discrete latent among others"),
        ([["b", "s"], ["a"]], r"8.19e\+03 joint states; expected at most 1024"),
    ):
        with pytest.raises(ph.SettingError, match=message):
            ph.infer(ph.Model(program), "gibbs", blocks=blocks, num_samples=5, num_warmup=5)


def everything() -> None:
    weight = pyro.sample("weight", dist.Uniform(0.0, 1.0))
    tau = pyro.sample("tau", dist.HalfCauchy(1.0))
    n = pyro.sample("n", dist.Poisson(4.0))
    with pyro.plate("data", 3):
        z = pyro.sample("z", dist.Bernoulli(weight))
        pyro.sample("x", dist.Normal(2.0 * z - 1.0 + 0.1 * n, 1.0 + tau), obs=torch.tensor([-1.5, 0.3, 2.0]))


def same(a: ph.Posterior, b: ph.Posterior) -> bool:
    return all(torch.equal(a.draws[name], b.draws[name]) for name in a.draws) and all(
        torch.equal(a.stats[name], b.stats[name]) for name in a.stats
    )


@pytest.mark.parametrize("engine", ["graph", pytest.param("compiled", marks=pytest.mark.slow)])
def test_two_runs_are_one_bit_for_bit_from_memory_and_from_disk(engine: str, tmp_path: Path) -> None:
    model = ph.Model(everything)
    settings = {"num_warmup": 40, "engine": engine, "progress": False, "seed": 3}
    whole = ph.infer(model, "gibbs", num_samples=40, **settings)
    half = ph.infer(model, "gibbs", num_samples=15, **settings)
    assert same(whole, ph.infer(model, "gibbs", num_samples=25, resume_from=half, **settings))
    loaded = ph.load(half.save(tmp_path / "half.nc"))
    assert same(whole, ph.infer(model, "gibbs", num_samples=25, resume_from=loaded, **settings))


def test_workers_make_no_difference() -> None:
    model = ph.Model(everything)
    settings = {
        "num_chains": 6,
        "chains_per_block": 2,
        "num_warmup": 20,
        "num_samples": 20,
        "seed": 1,
        "engine": "graph",
    }
    here = ph.infer(model, "gibbs", progress=False, **settings)
    with ThreadPoolExecutor(2) as threads:  # processes: see the tests of chains, and of user proposals
        assert same(here, ph.infer(model, "gibbs", executor=threads, progress=False, **settings))


def test_a_count_without_end_moves_by_integers() -> None:
    def program() -> None:
        n = pyro.sample("n", dist.Poisson(40.0))
        m = pyro.sample("m", dist.Geometric(0.2))
        pyro.sample("y", dist.Normal(n, 5.0), obs=torch.tensor(30.0))
        pyro.sample("k", dist.Normal(m, 3.0), obs=torch.tensor(1.0))

    posterior = ph.infer(ph.Model(program), ph.Gibbs(num_chains=32, num_samples=500, num_warmup=200), seed=0)
    for site, prior, seen, sd in (
        ("n", torch.distributions.Poisson(40.0), 30.0, 5.0),
        ("m", torch.distributions.Geometric(0.2), 1.0, 3.0),
    ):
        k = torch.arange(200.0, dtype=torch.float64)
        weights = (prior.log_prob(k) - 0.5 * ((k - seen) / sd) ** 2).softmax(0)
        mean = float(weights @ k)
        within(posterior, site, mean, float((weights @ (k - mean) ** 2).sqrt()))
        assert (posterior.draws[site] >= 0).all()


@pytest.mark.parametrize("engine", ["graph", "loop"])
def test_a_density_that_turns_nan_is_rejected_and_counted(engine: str) -> None:
    def program() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("hole", torch.where(z > 1.0, torch.nan, 0.0))

    settings = {"num_chains": 4, "num_samples": 50, "num_warmup": 20} if engine == "loop" else {"num_chains": 32}
    posterior = ph.infer(ph.Model(program), ph.Gibbs(engine=engine, **settings), seed=0, progress=False)
    assert (posterior.draws["z"] <= 1.0).all()
    assert posterior.stats["num_nan"].sum() > 0
    if engine != "loop":
        exact = torch.distributions.Normal(0.0, 1.0)
        mean = -float(exact.log_prob(torch.tensor(1.0)).exp() / exact.cdf(torch.tensor(1.0)))
        within(posterior, "z", mean)


def test_a_model_without_a_start_names_the_site() -> None:
    def impossible() -> None:
        pyro.sample("z", dist.Bernoulli(0.5))
        pyro.factor("never", torch.tensor(-torch.inf))

    with pytest.raises(ph.ModelError, match=r"starting point, site 'never': found a log probability of -inf"):
        ph.infer(ph.Model(impossible), "gibbs", num_samples=5, num_warmup=5)


def test_starting_values_may_name_discrete_sites() -> None:
    settings = {"num_samples": 1, "num_warmup": 0, "num_chains": 2, "progress": False}
    initial = {"weight": 0.5, "tau": 1.0, "n": [3.0, 9.0], "z": [0.0, 1.0, 1.0]}
    posterior = ph.infer(ph.Model(everything), "gibbs", initial=initial, seed=0, **settings)
    assert (posterior.draws["n"][:, 0] - torch.tensor([3.0, 9.0]).double()).abs().max() < 8
    with pytest.raises(ph.SettingError, match=r"initial, site 'n': found shape \(3,\); expected \(\) or \(2,\)"):
        ph.infer(ph.Model(everything), "gibbs", initial={**initial, "n": [1.0, 2.0, 3.0]}, **settings)
    with pytest.raises(ph.SettingError, match="initial: found site 'm'"):
        ph.infer(ph.Model(everything), "gibbs", initial={**initial, "m": 1.0}, **settings)


def test_statistics_have_their_names_and_meaning() -> None:
    posterior = ph.infer(ph.Model(everything), "gibbs", num_samples=50, num_warmup=50, seed=0, progress=False)
    assert set(posterior.stats) == {"lp", "acceptance_rate", "num_nan"}
    full = posterior.model.target().full(4, 0)
    w = torch.from_numpy(np.array(posterior.state["0/w"]))
    np.testing.assert_allclose(full.terms(w.numpy()).sum(1), posterior.stats["lp"][:, -1].numpy(), rtol=1e-12)
    last = {name: value[:, -1] for name, value in posterior.draws.items()}
    for name, value in full.values(w).items():
        torch.testing.assert_close(value, last[name])
