"""One program, read as a whole, element by element, minibatch by minibatch and as terms of a bound: one density."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch.distributions import biject_to

import phlogiston as ph
from phlogiston.engine.learning.elbo_terms import PARAM, Learning
from phlogiston.engine.learning.element_terms import ElementTerms
from phlogiston.engine.learning.minibatch_terms import BatchTerms, Encoding
from phlogiston.engine.program.handlers import Substitute
from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.program.plates import data_plate, in_plate
from phlogiston.engine.program.reading import read

X = torch.tensor([-0.7, 0.2, 1.4, 0.9, -1.1], dtype=torch.float64)
TWO = torch.stack([X, X.flip(0) + 0.3], -1)
SEEN = torch.tensor([True, True, False, True, False])
PROBS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
STEP = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]], dtype=torch.float64)
LOC = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)


def plain(batch: int | None) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    sd = pyro.sample("sd", dist.Gamma(2.0, 1.5))
    with pyro.plate("row", 5, subsample_size=batch) as i:
        z = pyro.sample("z", dist.Normal(mu, sd))
        pyro.sample("x", dist.Normal(z, 0.5), obs=X[i])


def masked_data(batch: int | None) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("row", 5, subsample_size=batch) as i:
        z = pyro.sample("z", dist.LogNormal(mu, 1.0))
        with poutine.mask(mask=SEEN[i]):
            pyro.sample("x", dist.Normal(z, 0.5), obs=X[i])
            pyro.sample("half", dist.Normal(z, 0.5).mask(X[i] > 0), obs=X[i])


def scaled(batch: int | None) -> None:
    with poutine.scale(scale=0.3):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("row", 5, subsample_size=batch) as i, poutine.scale(scale=2.5):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=X[i])
        pyro.factor("f", -0.1 * (z - 1.0) ** 2)


def with_a_parameter(batch: int | None) -> None:
    w = pyro.param("w", torch.tensor([0.4, 1.3], dtype=torch.float64))
    scale = pyro.param("scale", torch.tensor(0.8, dtype=torch.float64), constraint=dist.constraints.positive)
    with pyro.plate("row", 5, subsample_size=batch) as i:
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
        pyro.deterministic("image", z @ w)
        pyro.sample("x", dist.Normal(z @ w, scale), obs=X[i])


def point_mass(batch: int | None) -> None:
    raw = pyro.sample("raw", dist.Normal(0.0, 1.0))
    mu = pyro.sample("mu", dist.Delta(2.0 * raw, log_density=-0.5 * raw**2))
    with pyro.plate("row", 5, subsample_size=batch) as i:
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=X[i])


def nested(batch: int | None) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("row", 5, subsample_size=batch, dim=-2) as i:
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        with pyro.plate("column", 2, dim=-1), poutine.mask(mask=SEEN[i].unsqueeze(-1)):
            pyro.sample("x", dist.Normal(z, 0.5), obs=TWO[i])


def mixture(batch: int | None) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("row", 5, subsample_size=batch) as i:
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        k = pyro.sample("k", dist.Categorical(PROBS))
        pyro.sample("x", dist.Normal(z + LOC[k], 0.5), obs=X[i])


def masked_mixture(batch: int | None) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("row", 5, subsample_size=batch) as i, poutine.mask(mask=SEEN[i]):
        k = pyro.sample("k", dist.Categorical(PROBS))
        pyro.sample("x", dist.Normal(mu + LOC[k], 0.5), obs=X[i])


def masked_chain(batch: int | None) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("row", 5, subsample_size=batch) as i:
        k: Any = None
        for t in pyro.markov(range(3)):
            with poutine.mask(mask=t < 1 + i % 3):
                k = pyro.sample(f"k_{t}", dist.Categorical(PROBS if k is None else STEP[k]))
                pyro.sample(f"x_{t}", dist.Normal(mu + LOC[k], 0.5), obs=X[i] - t)


def masked_inside(batch: int | None) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("row", 5, subsample_size=batch, dim=-2) as i:
        k = pyro.sample("k", dist.Categorical(PROBS))
        with pyro.plate("column", 2, dim=-1), poutine.mask(mask=SEEN[i].unsqueeze(-1)):
            j = pyro.sample("j", dist.Bernoulli(0.2 + 0.2 * k))
            pyro.sample("x", dist.Normal(mu + LOC[k] * j, 0.5), obs=TWO[i])


def masked_by_a_scalar(batch: int | None) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("row", 5, subsample_size=batch) as i:
        with poutine.mask(mask=False):
            k = pyro.sample("k", dist.Categorical(PROBS))
            pyro.sample("x", dist.Normal(mu + LOC[k], 0.5), obs=X[i])
        pyro.sample("y", dist.Normal(mu, 1.0), obs=X[i])


def scaled_beside_a_mask(batch: int | None) -> None:
    with poutine.scale(scale=0.5):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("row", 5, subsample_size=batch) as i:
        with poutine.scale(scale=3.0):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=X[i])
        with poutine.mask(mask=SEEN[i]):
            k = pyro.sample("k", dist.Categorical(PROBS))
            pyro.sample("x", dist.Normal(mu + LOC[k], 0.5), obs=X[i])


def without_a_size(batch: int | None, rows: torch.Tensor = X) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("row"):
        k = pyro.sample("k", dist.Categorical(PROBS.expand(len(rows), 3)))
        pyro.sample("x", dist.Normal(mu + LOC[k], 0.5), obs=rows)


def without_indices(batch: int | None, rows: torch.Tensor = X) -> None:
    slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    with pyro.plate("row", len(rows)):
        z = pyro.sample("z", dist.Normal(torch.stack([rows, rows**2], -1) @ slope, 1.0))
        k = pyro.sample("k", dist.Categorical(PROBS))
        pyro.sample("x", dist.Normal(z + LOC[k], 0.5), obs=rows)


def without_a_size_inside(batch: int | None) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("row", 5, dim=-2, subsample_size=batch) as i, pyro.plate("column", dim=-1):
        k = pyro.sample("k", dist.Categorical(PROBS.expand(len(i), 2, 3)))
        pyro.sample("x", dist.Normal(mu + LOC[k], 0.5), obs=TWO[i])
        pyro.sample("y", dist.Normal(LOC[k], 0.5), obs=TWO[i] - 1.0)


PROGRAMS: list[Callable[[int | None], None]] = [
    plain,
    masked_data,
    scaled,
    with_a_parameter,
    point_mass,
    nested,
    mixture,
    masked_mixture,
    masked_chain,
    masked_inside,
    masked_by_a_scalar,
    scaled_beside_a_mask,
    without_a_size,
    without_indices,
    without_a_size_inside,
]


def by_pyro(program: Callable[[int | None], None], values: dict[str, torch.Tensor], discrete: bool) -> float:
    """log p(values, data) by Pyro's own trace, or by ``TraceEnum_ELBO`` with an empty guide."""
    pyro.clear_param_store()
    held = poutine.condition(program, data=values)
    if not discrete:
        return float(poutine.trace(held).get_trace(None).log_prob_sum().detach())
    marginal = TraceEnum_ELBO(max_plate_nesting=2)
    return -float(marginal.loss(config_enumerate(held), lambda batch: None, None))


def drawn(model: ph.Model, seed: int) -> tuple[torch.Tensor, dict[str, torch.Tensor], float]:
    """A point of the real line, the continuous latents there, and log |d latents / d point|."""
    target = model.target("loop")
    u = torch.from_numpy(np.random.default_rng(seed).normal(size=target.dim))
    values = {site.name: target.constrain(u)[site.name] for site in model.structure.continuous}
    jacobian = 0.0
    for slot in target.slots:
        bijection, own = biject_to(slot.site.support), u[slot.start : slot.stop].reshape(slot.shape)
        jacobian += float(bijection.log_abs_det_jacobian(own, bijection(own)).sum())
    return u, values, jacobian


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
@pytest.mark.parametrize("batch", [None, 2])
def test_every_reading_gives_the_density_of_pyro(program: Callable[[int | None], None], batch: int | None) -> None:
    inputs = (X,) if program in (without_a_size, without_indices) else ()
    with isolated(seed=0, dtype=torch.float64):
        agree(ph.Model(program, batch, *inputs), program)


def agree(model: ph.Model, program: Callable[[int | None], None]) -> None:
    discrete = bool(model.structure.discrete)
    plate = data_plate(model.structure.observable)
    assert plate is not None
    assert plate.size == 5
    for seed in range(2):
        u, values, jacobian = drawn(model, seed)
        exact = pytest.approx(by_pyro(program, values, discrete), abs=1e-10)
        assert float(model.target("loop").log_density(u)) - jacobian == exact
        assert float(model.target("graph").log_density(u)) - jacobian == exact
        assert by_element(model, values) == exact
        for size in (5, 2):
            assert by_minibatch(model, values, size) == exact
            assert learned(model, u, size) - jacobian == exact


def held_outside(model: ph.Model, values: dict[str, torch.Tensor]) -> float:
    """The terms outside of the plate of the data."""
    plate = data_plate(model.structure.observable)
    assert plate is not None
    reading = read(model, model.structure, Substitute(values), sum_out=True)
    return float(reading.sum_of(reading.outside(plate)))


def by_element(model: ph.Model, values: dict[str, torch.Tensor]) -> float:
    plate = data_plate(model.structure.observable)
    assert plate is not None
    terms = ElementTerms(model, model.structure, plate, torch.float64)
    rows = torch.arange(5)
    given = {
        name: values[name].movedim(terms.axis(name), 0).unsqueeze(1 + terms.axis(name))
        if name in terms.local
        else values[name].expand(5, *values[name].shape)
        for name in values
    }
    return float(terms(rows, given)["log_joint"].sum()) + held_outside(model, values)


def by_minibatch(model: ph.Model, values: dict[str, torch.Tensor], size: int) -> float:
    plate = data_plate(model.structure.observable)
    assert plate is not None
    with torch.no_grad():
        terms = BatchTerms(model, model.structure, plate, torch.float64)
        u = [biject_to(slot.site.support).inv(values[slot.site.name]).reshape(-1) for slot in terms.shared]
        total = 0.0
        for index in torch.arange(5).split(size):
            local = {
                name: Encoding(value.index_select(len(model.sites[name].batch_shape) + plate.dim, index))
                for name, value in values.items()
                if in_plate(model.sites[name], plate.name)
            }
            found = terms(model.structure.parameters, index, local, torch.cat(u) if u else torch.zeros(0))
            total += float(found["likelihood"]) + sum(float(found[f"prior/{name}"].sum()) for name in local)
    return total + held_outside(model, values)


def learned(model: ph.Model, u: torch.Tensor, size: int) -> float:
    plate = data_plate(model.structure.observable)
    learning = Learning(model, model.structure, None, plate=plate, dtype=torch.float64)
    with torch.no_grad():
        given = {PARAM + name: value for name, value in learning.initial.items()}
        parts = [learning.terms({**given, "u": u, "index": index}) for index in torch.arange(5).split(size)]
    rows = sum(float(value.sum()) for part in parts for value in part.values() if value.ndim)
    return rows + sum(float(value) for value in parts[0].values() if not value.ndim)
