"""Masked discrete latents, plates without a size and minibatches of a program's own, against exact answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal

import phlogiston as ph

DATA = torch.tensor(np.random.default_rng(82).normal(2.5, 1.0, 60)).float()
START, STEP = np.array([0.6, 0.4]), np.array([[0.8, 0.2], [0.3, 0.7]])
LOC, LENGTHS = np.array([-1.0, 1.5]), (4, 1, 3)
SEQUENCES = np.random.default_rng(80).normal(0.3, 1.4, (3, 4))


def hmm(y: torch.Tensor, inner: bool) -> None:
    start, step, loc = (torch.tensor(value) for value in (START, STEP, LOC))
    with pyro.plate("sequence", 3):
        x: Any = None
        for t in pyro.markov(range(4)):
            seen = t < torch.tensor(LENGTHS)
            law = dist.Categorical(start if x is None else step[x])
            with poutine.mask(mask=True if inner else seen):
                x = pyro.sample(f"x_{t}", law.mask(seen) if inner else law)
            with poutine.mask(mask=seen):
                pyro.sample(f"y_{t}", dist.Normal(loc[x], 1.0), obs=y[:, t])


def forward(y: np.ndarray) -> tuple[float, np.ndarray]:
    """Log evidence of one sequence, and the probabilities of its last state."""
    alpha = START * np.exp(-0.5 * (y[0] - LOC) ** 2)
    for value in y[1:]:
        alpha = (alpha @ STEP) * np.exp(-0.5 * (value - LOC) ** 2)
    return float(np.log(alpha.sum()) - 0.5 * len(y) * np.log(2 * np.pi)), alpha / alpha.sum()


@pytest.mark.parametrize("inner", [False, True])
def test_sequences_of_unequal_length_have_the_evidence_of_the_forward_algorithm(inner: bool) -> None:
    exact = [forward(SEQUENCES[i, :n]) for i, n in enumerate(LENGTHS)]
    post = ph.infer(ph.Model(hmm, torch.tensor(SEQUENCES), inner), "exact", seed=0, progress=False, num_samples=20_000)
    assert post.log_evidence is not None
    assert post.log_evidence.value == pytest.approx(sum(evidence for evidence, _ in exact), abs=1e-10)
    for i, n in enumerate(LENGTHS):
        states = exact[i][1]
        for t in range(n - 1, 4):  # past its end a sequence goes on as its prior does
            drawn = float((post.draws[f"x_{t}"][0, :, i] == 1).double().mean())
            assert drawn == pytest.approx(states[1], abs=5 * np.sqrt(0.25 / 20_000))
            states = states @ STEP


@pytest.mark.parametrize(("method", "scale"), [("laplace", 2.0), ("laplace", 1.0), ("gibbs", 1.0), ("mh", 1.0)])
def test_a_masked_discrete_latent_leaves_the_rest_of_the_posterior_alone(method: str, scale: float) -> None:
    def program() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("i", 3), poutine.scale(scale=scale), poutine.mask(mask=torch.tensor([True, False, False])):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.7, 0.1, 0.2])))
            pyro.sample("y", dist.Normal(mu, 1.0), obs=torch.ones(3) + 0.0 * z)

    # One datum that counts so often: precision 1 + scale, mean scale / (1 + scale).
    post = ph.infer(ph.Model(program), method, seed=0, progress=False)
    assert float(post.draws["mu"].mean()) == pytest.approx(scale / (1.0 + scale), abs=0.06)
    assert float(post.draws["mu"].std()) == pytest.approx((1.0 + scale) ** -0.5, rel=0.08)
    hidden = (post.draws["z"][..., 1:] == 0).double().mean()
    assert float(hidden) == pytest.approx(0.7, abs=0.05)


def test_a_masked_discrete_latent_of_any_number_of_states_has_a_density() -> None:
    def program() -> None:
        with pyro.plate("i", 2), poutine.mask(mask=torch.tensor([True, False])):
            n = pyro.sample("n", dist.Poisson(4.0))
            pyro.sample("y", dist.Normal(n, 1.0), obs=torch.tensor([3.0, 90.0]))

    values = {"n": torch.tensor([3.0, 7.0])}
    exact = dist.Poisson(4.0).log_prob(values["n"]).sum() + dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.0))
    assert float(ph.Model(program).target().log_joint(values)) == pytest.approx(float(exact), abs=1e-6)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dim", [None, -2])
def test_a_plate_without_a_size_takes_that_of_its_sites(nested: bool, dim: int | None) -> None:
    y = torch.tensor([-1.0, 0.0, 2.0, 3.0], dtype=torch.float64).reshape((4,) if dim is None else (4, 1))

    def program(y: torch.Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        outer = pyro.plate("outer", 2, dim=-3) if nested else poutine.scale(scale=1.0)
        with outer, pyro.plate("data", dim=dim):
            z = pyro.sample("z", dist.Categorical(torch.ones(*y.shape, 2) / 2))
            pyro.sample("y", dist.Normal(mu + 2.0 * z - 1.0, 1.0), obs=y.expand(2, *y.shape[-2:]) if nested else y)

    if nested and dim is None:
        y = y.reshape(1, 4)
    model = ph.Model(program, y)
    assert {plate.size for plate in model.sites["z"].plates} == ({2, 4} if nested else {4})
    flat, mu = y.reshape(-1).numpy(), 0.3
    both = 0.5 * sum(np.exp(-0.5 * (flat - mu - s) ** 2) for s in (-1, 1)) / np.sqrt(2 * np.pi)
    exact = (2 if nested else 1) * np.log(both).sum() - 0.5 * mu**2 - 0.5 * np.log(2 * np.pi)
    assert float(model.target().log_density(torch.tensor([mu], dtype=torch.float64))) == pytest.approx(exact, abs=1e-10)


def indexed(data: torch.Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("d", 60, subsample_size=10) as i:
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=data[i])


def subsampled(data: torch.Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("d", 60, subsample_size=10):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=pyro.subsample(data, event_dim=0))


def guide(data: torch.Tensor) -> None:
    pyro.sample("mu", dist.Normal(pyro.param("a", torch.tensor(0.0)), pyro.param("b", torch.tensor(0.2))))
    loc = pyro.param("loc", torch.zeros(60))
    with pyro.plate("d", 60, subsample_size=10) as i:
        pyro.sample("z", dist.Normal(loc[i], 0.7))


def guide_with_parameters_in_the_plate(data: torch.Tensor) -> None:
    pyro.sample("mu", dist.Normal(pyro.param("a", torch.tensor(0.0)), pyro.param("b", torch.tensor(0.2))))
    with pyro.plate("d", 60, subsample_size=10):
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(60), event_dim=0), 0.7))


@pytest.mark.parametrize("program", [indexed, subsampled])
def test_a_density_takes_the_whole_of_a_plate_that_the_program_subsamples(program: Any) -> None:
    model = ph.Model(program, DATA)
    assert model.sites["z"].shape == (60,)
    at = {"mu": torch.tensor(2.0), "z": torch.linspace(1.0, 3.0, 60)}
    exact = sum(dist.Normal(*law).log_prob(value).sum() for law, value in _terms(at))
    assert float(model.target().log_joint(at)) == pytest.approx(float(exact), rel=1e-6)
    post = ph.infer(model, "laplace", seed=0, progress=False)
    precision = 60 / 2 + 0.01
    assert float(post.draws["mu"].mean()) == pytest.approx(float(DATA.sum()) / 2 / precision, abs=0.05)


def _terms(at: dict[str, torch.Tensor]) -> list[tuple[tuple[Any, Any], torch.Tensor]]:
    return [((0.0, 10.0), at["mu"]), ((at["mu"], 1.0), at["z"]), ((at["z"], 1.0), DATA)]


@pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")  # few steps
@pytest.mark.parametrize("made", [guide, guide_with_parameters_in_the_plate, AutoNormal])
def test_a_guide_is_learned_from_the_minibatches_that_the_program_asks_for(made: Any) -> None:
    ours = AutoNormal(indexed) if made is AutoNormal else made
    method = ph.SVI(guide=ours, num_steps=3000, stop=False, engine="graph", optim=ph.Adam(learning_rate=0.01))
    post = ph.infer(ph.Model(indexed, DATA), method, seed=0, progress=False)
    exact = float(DATA.sum()) / 2 / (60 / 2 + 0.01)
    assert post.draws["z"].shape[-1] == 60
    assert float(post.draws["mu"].mean()) == pytest.approx(exact, abs=0.15)
    assert float((post.draws["z"].mean((0, 1)) - (DATA + exact) / 2).abs().mean()) < 0.15


@pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")  # few steps
def test_rows_of_inputs_are_the_minibatch_of_a_program_that_does_not_index() -> None:
    generator = np.random.default_rng(3)
    x = torch.tensor(generator.normal(size=(40, 2))).float()
    y = x @ torch.tensor([1.0, -2.0]) + 0.5 * torch.tensor(generator.normal(size=40)).float()

    def program(x: torch.Tensor, y: torch.Tensor) -> None:
        beta = pyro.sample("beta", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        with pyro.plate("i", len(x)):
            pyro.sample("y", dist.Normal(x @ beta, 0.5), obs=y)

    precision = x.T @ x / 0.25 + torch.eye(2) / 9.0
    exact = torch.linalg.solve(precision, x.T @ y / 0.25)
    method = ph.SVI(batch_size=10, num_steps=3000, stop=False, engine="graph", optim=ph.Adam(learning_rate=0.01))
    post = ph.infer(ph.Model(program, x, y), method, seed=0, progress=False)
    assert torch.allclose(post.draws["beta"].mean((0, 1)).float(), exact, atol=0.06)


@pytest.mark.parametrize("mask", [[True, True, True], [True, False, True]])
@pytest.mark.parametrize("engine", ["loop", "graph"])
def test_a_scale_around_latents_that_are_summed_out_counts_copies_of_them(mask: list[bool], engine: str) -> None:
    y = torch.tensor([0.5, 1.0, 2.0])

    def program() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("i", 3), poutine.scale(scale=2.0), poutine.mask(mask=torch.tensor(mask)):
            z = pyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(mu + 2.0 * z, 1.0), obs=y)

    mu = torch.tensor(0.5, dtype=torch.float64)
    normal = torch.distributions.Normal
    each = torch.stack(
        [normal(mu, 1.0).log_prob(y) + math.log(0.7), normal(mu + 2.0, 1.0).log_prob(y) + math.log(0.3)]
    ).logsumexp(0)
    exact = normal(0.0, 1.0).log_prob(mu) + 2.0 * (each * torch.tensor(mask)).sum()
    found = ph.Model(program).target(engine=engine).log_density(mu.reshape(1, 1))
    assert float(found) == pytest.approx(float(exact), rel=1e-6)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(poutine.condition(program, {"mu": mu}), lambda: None)
    assert float(found) == pytest.approx(-float(loss), rel=1e-5)


@pytest.mark.parametrize("method", ["importance", "rejection", "gibbs", "mh"])
def test_methods_that_draw_discrete_latents_refuse_scaled_ones(method: str) -> None:
    def program() -> None:
        with pyro.plate("i", 3), poutine.scale(scale=2.0):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=torch.ones(3))

    with pytest.raises(ph.UnsupportedModel, match=r"site 'z': found a discrete latent under poutine\.scale"):
        ph.infer(ph.Model(program), method, seed=0, progress=False)
