"""Sequences: ``pyro.markov``, hidden Markov models, state spaces, random walks, Pyro's distributions over time."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.reparam import LinearHMMReparam

from programs.case import Answer, Table, normals, t

table = Table()
Y = normals(5, seed=2)
SEQUENCES = normals(3, 4, seed=3)
START = t(0.6, 0.4)
MOVE = t([[0.8, 0.2], [0.3, 0.7]])


def forward(y: torch.Tensor, loc: torch.Tensor) -> float:
    """log p(y) of the chain with START, MOVE and unit noise around ``loc``."""
    emission = torch.distributions.Normal(loc, 1.0).log_prob(y[:, None])
    alpha = START.log() + emission[0]
    for row in emission[1:]:
        alpha = torch.logsumexp(alpha[:, None] + MOVE.log(), 0) + row
    return float(torch.logsumexp(alpha, 0))


@table.add("markov", "enumeration", args=(Y,), oracle="enum", nesting=0)
def hidden_markov(y):
    loc = pyro.sample("loc", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
    z = None
    for i in pyro.markov(range(len(y))):
        z = pyro.sample(f"z_{i}", dist.Categorical(START if z is None else MOVE[z]))
        pyro.sample(f"y_{i}", dist.Normal(loc[z], 1.0), obs=y[i])


LOCS = t(-1.0, 1.5)


@table.add(
    "markov",
    "enumeration",
    args=(Y,),
    oracle="brute",
    answer=Answer("exact", forward(Y, LOCS), settings={"num_samples": 20}),
)
def hidden_markov_of_known_emissions(y):
    z = None
    for i in pyro.markov(range(len(y))):
        z = pyro.sample(f"z_{i}", dist.Categorical(START if z is None else MOVE[z]))
        pyro.sample(f"y_{i}", dist.Normal(LOCS[z], 1.0), obs=y[i])


@table.add("markov", "enumeration", "plate", "to_event", args=(SEQUENCES,), oracle="enum", nesting=1)
def many_hidden_markov_sequences(y):
    rows = pyro.sample("rows", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    with pyro.plate("sequence", 3, dim=-1):
        z = torch.zeros(3, dtype=torch.long)
        for i in pyro.markov(range(4)):
            z = pyro.sample(f"z_{i}", dist.Categorical(rows[z]), infer={"enumerate": "parallel"})
            pyro.sample(f"y_{i}", dist.Normal(loc[z], 1.0), obs=y[:, i])


LENGTHS = torch.tensor([4, 2, 3])


@table.add(
    "markov",
    "enumeration",
    "poutine.mask",
    "plate",
    args=(SEQUENCES,),
    oracle="enum",
    nesting=1,
    answer=Answer("exact", sum(forward(SEQUENCES[i, : LENGTHS[i]], LOCS) for i in range(3))),
)
def sequences_of_unequal_length(y):
    with pyro.plate("sequence", 3):
        z = None
        for i in pyro.markov(range(4)):
            with poutine.mask(mask=i < LENGTHS):
                z = pyro.sample(f"z_{i}", dist.Categorical(START if z is None else MOVE[z]))
                pyro.sample(f"y_{i}", dist.Normal(LOCS[z], 1.0), obs=y[:, i])


@table.add("markov", "enumeration", "poutine.mask", "plate", args=(SEQUENCES,), oracle="enum", nesting=1)
def sequences_with_gaps_in_the_data(y):
    loc = pyro.sample("loc", dist.Normal(LOCS, 1.0).to_event(1))
    with pyro.plate("sequence", 3):
        z = None
        for i in pyro.markov(range(3)):
            z = pyro.sample(f"z_{i}", dist.Categorical(START if z is None else MOVE[z]))
            with poutine.mask(mask=torch.tensor([True, i != 1, i != 2])):
                pyro.sample(f"y_{i}", dist.Normal(loc[z], 1.0), obs=y[:, i])


@table.add("markov", "enumeration", args=(Y,), oracle="enum", nesting=0)
def second_order_chain(y):
    p = pyro.sample("p", dist.Beta(torch.full((2, 2), 2.0), 2.0).to_event(2))
    before, last = torch.tensor(0), torch.tensor(0)
    for i in pyro.markov(range(len(y)), history=2):
        z = pyro.sample(f"z_{i}", dist.Bernoulli(p[before, last])).long()
        pyro.sample(f"y_{i}", dist.Normal(2.0 * z, 1.0), obs=y[i])
        before, last = last, z


@table.add("markov", "enumeration", args=(Y[:4],), oracle="enum", nesting=0)
def factorial_chain(y):
    a = b = torch.tensor(0)
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    for i in pyro.markov(range(len(y))):
        a = pyro.sample(f"a_{i}", dist.Categorical(MOVE[a]))
        b = pyro.sample(f"b_{i}", dist.Categorical(MOVE[b]))
        pyro.sample(f"y_{i}", dist.Normal(LOCS[a] + 0.5 * LOCS[b], scale), obs=y[i])


@table.add("markov", "enumeration", "plate", args=(normals(4, 3, seed=5) > 0,), oracle="enum", nesting=1)
def autoregressive_tones(notes):
    """Each note depends on the hidden state and on the note before it."""
    p = pyro.sample("p", dist.Beta(torch.full((2, 2, 3), 2.0), 2.0).to_event(3))
    z, before = torch.tensor(0), torch.zeros(3, dtype=torch.long)
    tones = pyro.plate("tone", 3, dim=-1)
    for i in pyro.markov(range(4)):
        z = pyro.sample(f"z_{i}", dist.Categorical(MOVE[z]))
        with tones as tone:
            pyro.sample(f"note_{i}", dist.Bernoulli(p[z, before, tone]), obs=notes[i].double())
        before = notes[i].long()


@table.add("markov", "enumeration", args=(Y,), oracle="brute")
def recursion_under_markov(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))

    @pyro.markov
    def step(i, z):
        if i == len(y):
            return
        z = pyro.sample(f"z_{i}", dist.Bernoulli(0.2 + 0.6 * z))
        pyro.sample(f"y_{i}", dist.Normal(loc * z, 1.0), obs=y[i])
        step(i + 1, z)

    step(0, torch.tensor(0.0))


@table.add("markov", "enumeration", "observed discrete", args=(Y,), oracle="brute")
def some_states_are_known(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    z = torch.tensor(0)
    for i in pyro.markov(range(len(y))):
        known = torch.tensor(1) if i % 2 else None
        z = pyro.sample(f"z_{i}", dist.Categorical(MOVE[z]), obs=known)
        pyro.sample(f"y_{i}", dist.Normal(loc * z, 1.0), obs=y[i])


@table.add("markov", observed={f"y_{i}": value for i, value in enumerate(Y)})
def local_level():
    scale = pyro.sample("scale", dist.Exponential(1.0))
    level = torch.tensor(0.0)
    for i in pyro.markov(range(5)):
        level = pyro.sample(f"level_{i}", dist.Normal(level, scale))
        pyro.sample(f"y_{i}", dist.Normal(level, 1.0))


@table.add("plate", "deterministic", observed={"y": Y})
def random_walk_by_cumsum():
    with pyro.plate("time", 5):
        step = pyro.sample("step", dist.Normal(0.0, 1.0))
        walk = pyro.deterministic("walk", step.cumsum(-1))
        pyro.sample("y", dist.Normal(walk, 0.5))


@table.add("plate", args=(Y,), observed={"y": Y})
def autoregression_on_data(before):
    phi = pyro.sample("phi", dist.Uniform(-1.0, 1.0))
    sigma = pyro.sample("sigma", dist.LogNormal(0.0, 1.0))
    with pyro.plate("time", 5):
        pyro.sample("y", dist.Normal(phi * before.roll(1), sigma))


@table.add("to_event", observed={"y": Y})
def stochastic_volatility():
    sigma = pyro.sample("sigma", dist.Exponential(5.0))
    step = pyro.sample("step", dist.Normal(torch.zeros(5), 1.0).to_event(1))
    pyro.sample("y", dist.StudentT(4.0, 0.0, torch.exp(sigma * step.cumsum(-1))).to_event(1))


@table.add("enumeration", "Categorical", args=(torch.tensor([4.0, 5, 3, 0, 1]),), oracle="enum", nesting=1)
def change_point(y):
    rates = pyro.sample("rates", dist.Exponential(1.0).expand([2]).to_event(1))
    change = pyro.sample("change", dist.Categorical(torch.ones(5)))
    with pyro.plate("year", 5) as year:
        rate = torch.where(year < change, rates[0], rates[1])
        pyro.sample("y", dist.Poisson(rate), obs=y)


@table.add("DiscreteHMM", observed={"y": Y})
def discrete_hmm():
    rows = pyro.sample("rows", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    loc = pyro.sample("loc", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
    pyro.sample("y", dist.DiscreteHMM(rows[0].log(), rows.log(), dist.Normal(loc, 1.0), duration=5))


def gaussian_hmm_of(scale: torch.Tensor) -> dist.GaussianHMM:
    eye = torch.eye(2)
    initial = dist.MultivariateNormal(torch.zeros(2), eye)
    noise = dist.MultivariateNormal(torch.zeros(2), scale**2 * eye)
    seen = dist.MultivariateNormal(torch.zeros(1), torch.eye(1))
    return dist.GaussianHMM(initial, 0.9 * eye, noise, torch.ones(2, 1), seen, duration=5)


@table.add("GaussianHMM", observed={"y": Y[:, None]})
def gaussian_hmm():
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    pyro.sample("y", gaussian_hmm_of(scale))


@table.add("LinearHMM", "LinearHMMReparam", observed={"y": Y[:, None]})
def linear_hmm():
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    one, zero = torch.ones(1), torch.zeros(1)
    hmm = dist.LinearHMM(
        dist.Normal(zero, one).to_event(1),
        0.9 * torch.eye(1),
        dist.Normal(zero, scale * one).to_event(1),
        torch.eye(1),
        dist.Normal(zero, one).to_event(1),
        duration=5,
    )
    with poutine.reparam(config={"y": LinearHMMReparam()}):
        pyro.sample("y", hmm)


@table.add("IndependentHMM", observed={"y": normals(5, 2, seed=6)})
def independent_hmm():
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    eye = torch.eye(1)
    hmm = dist.GaussianHMM(
        dist.MultivariateNormal(torch.zeros(1), eye).expand([2]),
        eye.expand(2, 5, 1, 1),
        dist.MultivariateNormal(torch.zeros(1), scale * eye).expand([2, 5]),
        eye,
        dist.MultivariateNormal(torch.zeros(1), eye).expand([2, 5]),
        duration=5,
    )
    pyro.sample("y", dist.IndependentHMM(hmm))


@table.add("GammaGaussianHMM")
def gamma_gaussian_hmm():
    rate = pyro.sample("rate", dist.Gamma(3.0, 1.0))
    eye = torch.eye(1)
    pyro.sample(
        "y",
        dist.GammaGaussianHMM(
            dist.Gamma(torch.tensor(3.0), rate),
            dist.MultivariateNormal(torch.zeros(1), eye),
            eye,
            dist.MultivariateNormal(torch.zeros(1), eye),
            eye,
            dist.MultivariateNormal(torch.zeros(1), eye),
            duration=5,
        ),
        obs=Y[:, None],
    )


@table.add("GaussianMRF")
def gaussian_mrf():
    tie = pyro.sample("tie", dist.HalfNormal(1.0))
    eye = torch.eye(1)
    pairs = dist.MultivariateNormal(torch.zeros(2), torch.eye(2) + 0.1 * torch.ones(2, 2) * tie)
    seen = dist.MultivariateNormal(torch.zeros(2), 2.0 * torch.eye(2))
    mrf = dist.GaussianMRF(dist.MultivariateNormal(torch.zeros(1), eye), pairs.expand([5]), seen.expand([5]))
    pyro.sample("y", mrf, obs=Y[:, None])


@table.add("plate", "markov", "Binomial", observed={f"new_{i}": t(3.0, 2.0)[i] for i in range(2)})
def epidemic_with_known_counts():
    rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
    susceptible, infected = torch.tensor(20.0), torch.tensor(2.0)
    for i in pyro.markov(range(2)):
        new = pyro.sample(f"new_{i}", dist.Binomial(susceptible, 1.0 - torch.exp(-rate * infected / 22.0)))
        susceptible, infected = susceptible - new, infected + new


@table.add(
    "markov", "plate", "enumeration", "nested plates", args=(normals(3, 4, 2, seed=7),), oracle="enum", nesting=2
)
def chains_of_two_channels(y):
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    channels = pyro.plate("channel", 2, dim=-1)
    with pyro.plate("sequence", 3, dim=-2):
        z = torch.zeros(3, 1, dtype=torch.long)
        for i in pyro.markov(range(4)):
            z = pyro.sample(f"z_{i}", dist.Categorical(MOVE[z]))
            with channels:
                pyro.sample(f"y_{i}", dist.Normal(loc[z], 1.0), obs=y[:, i])


@table.add("factor", "plate", observed={"x": Y})
def gaussian_field_by_factors():
    smooth = pyro.sample("smooth", dist.Gamma(2.0, 1.0))
    with pyro.plate("place", 5):
        z = pyro.sample("z", dist.Normal(0.0, 10.0))
        pyro.sample("x", dist.Normal(z, 1.0))
    pyro.factor("neighbours", -0.5 * smooth * (z[1:] - z[:-1]).square().sum())
