"""Posteriors without an end: a flat prior that no datum bounds."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import phlogiston as ph


def flat(name: str, support: constraints.Constraint = constraints.real) -> torch.Tensor:
    return pyro.sample(name, dist.ImproperUniform(support, (), ()))  # type: ignore[no-any-return]


def unbounded() -> None:
    flat("a")
    pyro.sample("y", dist.Normal(pyro.sample("b", dist.Normal(0.0, 1.0)), 1.0))


def only_a_sum() -> None:
    pyro.sample("y", dist.Normal(flat("a") + 2.0 * flat("b"), 1.0))


def a_scale_of_one() -> None:
    pyro.sample("y", dist.Normal(pyro.sample("b", dist.Normal(0.0, 1.0)), flat("s", constraints.positive)))


def separable() -> None:
    slope = flat("slope")
    with pyro.plate("i", 4):
        pyro.sample("y", dist.Bernoulli(logits=slope * torch.tensor([-2.0, -1.0, 1.0, 2.0])))


def a_location() -> None:
    mu = flat("mu")
    with pyro.plate("i", 3):
        pyro.sample("y", dist.Normal(mu, 1.0))


def a_location_far_away() -> None:
    mu = flat("mu")
    with pyro.plate("i", 3):
        pyro.sample("y", dist.StudentT(1.5, mu, 1e-3))


def a_location_and_a_scale() -> None:
    mu, sd = flat("mu"), flat("sd", constraints.positive)
    with pyro.plate("i", 6):
        pyro.sample("y", dist.Normal(mu, sd))


SHORT = ph.NUTS(num_samples=50, num_warmup=100, engine="graph")


@pytest.mark.parametrize(
    ("program", "names"), [(unbounded, "along a;"), (only_a_sum, "along a and b together; give a a prior")]
)
def test_chains_and_guides_refuse_a_posterior_that_is_level_both_ways(program: Callable[[], None], names: str) -> None:
    model = ph.Model(program).observe(y=1.0)
    for method in (SHORT, ph.HMC(num_samples=10, num_warmup=10, engine="graph"), ph.SVI(num_steps=10, engine="graph")):
        with pytest.raises(ph.UnsupportedModel, match=f"the posterior is improper: its density does not fall {names}"):
            ph.infer(model, method, seed=0)


@pytest.mark.parametrize(
    ("program", "y", "site"), [(a_scale_of_one, 1.0, "s"), (separable, [0.0, 0.0, 1.0, 1.0], "slope")]
)
@pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")
def test_a_posterior_that_is_level_one_way_is_called_improper(
    program: Callable[[], None], y: float | list[float], site: str
) -> None:
    few = ph.NUTS(num_samples=20, num_warmup=20, num_chains=2, max_tree_depth=6, engine="graph")
    report = ph.infer(ph.Model(program).observe(y=y), few, seed=0).diagnose()
    assert report.verdict == "do not use"
    assert report.findings[0].message == f"the posterior is improper: its density does not fall along {site}"
    assert "a prior that can be drawn from" in report.findings[0].action


@pytest.mark.parametrize(
    ("program", "y"),
    [
        (a_location, [1e6, 1e6, 2.0]),
        (a_location_far_away, [5.0, 5.001, 5.002]),
        (a_location_and_a_scale, [0.1, 0.4, 0.3, 0.2, 0.6, 0.5]),
    ],
)
@pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")
def test_flat_priors_that_data_bound_are_fine(program: Callable[[], None], y: list[float]) -> None:
    report = ph.infer(ph.Model(program).observe(y=y), SHORT, seed=0).diagnose()
    (check,) = [check for check in report.checks if check.name == "a finite integral"]
    assert check.state == "fine"
