"""Discrete latents of a guide's own, summed exactly: the bound against sums written out, and what it finds."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.ops.indexing import Vindex

import phlogiston as ph
from phlogiston.errors import UnsupportedModel

Y = torch.tensor([-1.2, 0.3, 2.4, 0.9])
PRIOR, PLACES = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([-1.0, 0.5, 2.0])
KINDS = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]])
SUMMED: dict[str, Any] = {"infer": {"enumerate": "parallel"}}


def free() -> None:
    """A latent that guide and program agree on: SVI moves continuous ones."""
    pyro.sample("free", dist.Normal(0.0, 1.0))


def mixture() -> None:
    free()
    with pyro.plate("row", 4) as rows:
        kind = pyro.sample("kind", dist.Categorical(PRIOR))
        pyro.sample("y", dist.Normal(PLACES[kind], 0.8), obs=Y[rows])


def by_row() -> None:
    free()
    odds = pyro.param("odds", torch.zeros(4, 3))
    with pyro.plate("row", 4) as rows:
        pyro.sample("kind", dist.Categorical(logits=odds[rows]), **SUMMED)


def nested() -> None:
    switch = pyro.sample("switch", dist.Bernoulli(0.3))
    with pyro.plate("row", 4) as rows:
        kind = pyro.sample("kind", dist.Categorical(KINDS[switch.long()]))
        shift = pyro.sample("shift", dist.Normal(PLACES[kind], 1.0))
        pyro.sample("y", dist.Normal(shift + switch, 0.8), obs=Y[rows])


TABLE = torch.softmax(torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)), -1)
MIDDLES = torch.randn(3, generator=torch.Generator().manual_seed(1))


def nested_guide() -> None:
    odds = pyro.param("odds", torch.tensor(0.4))
    switch = pyro.sample("switch", dist.Bernoulli(torch.sigmoid(odds)), **SUMMED)
    with pyro.plate("row", 4) as rows:
        kind = pyro.sample("kind", dist.Categorical(Vindex(TABLE)[switch.long(), rows]), **SUMMED)
        pyro.sample("shift", dist.Normal(MIDDLES[kind], 0.5))


def first_bounds(program: Any, guide: Any, steps: int, **settings: Any) -> np.ndarray:
    """Bounds of steps that go nowhere."""
    still = ph.SVI(
        guide=guide, num_steps=steps, window=steps, stop=False, optim=ph.Adam(learning_rate=1e-12), **settings
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        found = ph.infer(ph.Model(program), still, seed=0, progress=False)
    assert found.engine == settings.get("engine", found.engine)
    return found.history["elbo"]


def nested_bound() -> float:
    """E_q log p - log q over every assignment; given all discrete ones, the normals' part is in closed form."""
    q_switch = torch.tensor([1.0 - torch.sigmoid(torch.tensor(0.4)), torch.sigmoid(torch.tensor(0.4))])
    total = 0.0
    for switch in (0, 1):
        rows = 0.0
        for row, kind in itertools.product(range(4), range(3)):
            shift = dist.Normal(MIDDLES[kind], 0.5)
            kl = torch.distributions.kl_divergence(shift, dist.Normal(PLACES[kind], 1.0))
            seen = dist.Normal(MIDDLES[kind] + switch, 0.8).log_prob(Y[row]) - 0.5 * 0.5**2 / 0.8**2
            q = TABLE[switch, row, kind]
            rows = rows + q * (seen - kl + KINDS[switch, kind].log() - q.log())
        prior = torch.tensor([0.7, 0.3])[switch].log()
        total = total + q_switch[switch] * (rows + prior - q_switch[switch].log())
    return float(total)


@pytest.mark.parametrize("engine", ["graph", "loop"])
def test_the_bound_is_the_sum_written_out(engine: Any) -> None:
    joint = PRIOR.log() + dist.Normal(PLACES, 0.8).log_prob(Y[:, None])
    exact = float((joint.sum() - 12 * np.log(1.0 / 3.0)) / 3.0)  # of even odds
    np.testing.assert_allclose(first_bounds(mixture, by_row, 3, engine=engine), exact, rtol=1e-6)
    halves = first_bounds(mixture, by_row, 6, engine=engine, batch_size=2)
    np.testing.assert_allclose(halves.reshape(3, 2).mean(1), exact, rtol=1e-6)


def test_latents_of_a_guide_may_depend_on_each_other() -> None:
    found = first_bounds(nested, nested_guide, 1000, num_particles=4, engine="graph")
    assert abs(found.mean() - nested_bound()) < 4.0 * found.std() / len(found) ** 0.5
    assert found.std() / len(found) ** 0.5 < 0.03


def test_a_guide_that_holds_the_posterior_finds_it_without_noise() -> None:
    settings = ph.SVI(guide=by_row, engine="graph", num_steps=600, window=40, optim=ph.Adam(learning_rate=0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        post = ph.infer(ph.Model(mixture), settings, seed=0, progress=False)
    joint = PRIOR.log() + dist.Normal(PLACES, 0.8).log_prob(Y[:, None])
    exact = float(joint.logsumexp(-1).sum())
    assert post.history["elbo"][-1] == pytest.approx(exact, abs=0.005)
    assert float(post.log_evidence.value) == pytest.approx(exact, abs=0.005)
    share = torch.stack([(post.draws["kind"][0] == kind).double().mean(0) for kind in range(3)], -1)
    error = 4.0 * 0.5 / post.draws["kind"].shape[1] ** 0.5
    np.testing.assert_allclose(share, joint.softmax(-1), atol=error)


def test_what_cannot_be_summed_is_named() -> None:
    def shifted() -> None:
        pyro.sample("free", dist.Normal(0.0, 1.0), **SUMMED)
        with pyro.plate("row", 4):
            pyro.sample("kind", dist.Categorical(logits=pyro.param("odds", torch.zeros(4, 3))))

    with pytest.raises(UnsupportedModel, match=r"guide, site 'free': found enumeration of a Normal"):
        first_bounds(mixture, shifted, 1)

    def half() -> None:
        pyro.sample("switch", dist.Bernoulli(torch.sigmoid(pyro.param("odds", torch.tensor(0.4)))), **SUMMED)

    with pytest.raises(UnsupportedModel, match=r"site 'kind': found a discrete latent that the guide lacks, beside"):
        first_bounds(nested, half, 1)

    def mixed() -> None:
        switch = pyro.sample("switch", dist.Bernoulli(pyro.param("odds", torch.tensor(0.4))), **SUMMED)
        with pyro.plate("row", 4) as rows:
            kind = pyro.sample("kind", dist.Categorical(Vindex(TABLE)[switch.long(), rows]))
            pyro.sample("shift", dist.Normal(MIDDLES[kind], 0.5))

    with pytest.raises(UnsupportedModel, match=r"guide, site 'kind': found draws without gradient that depend on"):
        first_bounds(nested, mixed, 1)
