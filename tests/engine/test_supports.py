"""Supports are computed through transforms, and methods draw inside of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.distributions.transforms as T
from torch.distributions import biject_to

import phlogiston as ph
from phlogiston.engine.program.supports import Circle, Image, is_declared_right, support_of

pytestmark = pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")

EXPONENTIAL = dist.Exponential(1.0)
# name: distribution, values inside, values outside
TRUE = {
    "scaled": (dist.TransformedDistribution(EXPONENTIAL, [T.AffineTransform(0.0, 2.0)]), [0.1, 5.0], [-0.1]),
    "mirrored": (dist.TransformedDistribution(EXPONENTIAL, [T.AffineTransform(1.0, -2.0)]), [0.9, -7.0], [1.1]),
    "exp": (dist.TransformedDistribution(EXPONENTIAL, [T.ExpTransform()]), [1.1, 9.0], [0.9, -1.0]),
    "sigmoid": (dist.TransformedDistribution(EXPONENTIAL, [T.SigmoidTransform()]), [0.6, 0.99], [0.4, 1.5]),
    "power": (
        dist.TransformedDistribution(dist.Uniform(0.5, 2.0), [T.PowerTransform(torch.tensor(-1.0))]),
        [0.6, 1.9],
        [0.4, 2.1],
    ),
    "composed": (
        dist.TransformedDistribution(
            dist.Beta(2.0, 2.0), [T.ComposeTransform([T.AffineTransform(1.0, 2.0), T.ExpTransform()])]
        ),
        [math.exp(1.1), math.exp(2.9)],
        [1.0, math.exp(3.1), -1.0],
    ),
    "inverse": (
        dist.TransformedDistribution(dist.Uniform(0.2, 0.4), [T.SigmoidTransform().inv]),
        [math.log(0.3 / 0.7)],
        [0.0, -3.0],
    ),
    "cumulative": (
        dist.TransformedDistribution(EXPONENTIAL, [T.CumulativeDistributionTransform(dist.Normal(0.0, 1.0))]),
        [0.6, 0.9],
        [0.4, 1.2],
    ),
    "expanded and masked": (
        dist.TransformedDistribution(EXPONENTIAL, [T.AffineTransform(3.0, 1.0)]).expand([]).mask(True),
        [3.5],
        [2.5],
    ),
}


@pytest.mark.parametrize("name", TRUE)
def test_a_support_is_that_of_the_base_sent_through_the_transforms(name: str) -> None:
    fn, inside, outside = TRUE[name]
    support = support_of(fn)
    assert not is_declared_right(fn)
    assert support.check(torch.tensor(inside)).all()
    assert not support.check(torch.tensor(outside)).any()
    bijection = biject_to(support)
    u = torch.linspace(-4.0, 1.5, 33, dtype=torch.float64)  # beyond, 1 - sigmoid is rounded away
    value = bijection(u)
    assert support.check(value).all()
    torch.testing.assert_close(bijection.inv(value), u, rtol=1e-6, atol=1e-6)
    density = (fn.log_prob(value) + bijection.log_abs_det_jacobian(u, value)).exp()
    assert torch.isfinite(density).all()
    fine = torch.linspace(-60.0, 60.0, 240_001, dtype=torch.float64)
    mapped = bijection(fine)
    density = (fn.log_prob(mapped) + bijection.log_abs_det_jacobian(fine, mapped)).exp().nan_to_num(0.0, 0.0, 0.0)
    assert float(density.sum() * (fine[1] - fine[0])) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize(
    "fn",
    [
        dist.TransformedDistribution(dist.Normal(0.0, 1.0), [T.ExpTransform(), T.AffineTransform(1.0, -2.0)][:1]),
        dist.TransformedDistribution(dist.Normal(0.0, 1.0), [T.AffineTransform(1.0, -2.0), T.SigmoidTransform()]),
        dist.LogNormal(0.0, 1.0),
        dist.Weibull(1.0, 2.0),
        dist.Normal(torch.zeros(3), 1.0).to_event(1),
        dist.InverseGamma(2.0, 1.0),
        dist.TransformedDistribution(dist.Normal(torch.zeros(3), 1.0).to_event(1), [T.StickBreakingTransform()]),
    ],
    ids=lambda fn: type(fn).__name__,
)
def test_a_support_that_is_declared_right_is_kept(fn: Any) -> None:
    assert is_declared_right(fn)
    assert not isinstance(support_of(fn), Image)


def test_events_keep_their_dimensions() -> None:
    fn = dist.TransformedDistribution(
        dist.Exponential(torch.ones(4, 3)).to_event(1), [T.AffineTransform(0.0, torch.tensor([1.0, -1.0, 2.0]))]
    )
    value = fn.sample()
    assert support_of(fn).check(value).shape == (4,)
    assert support_of(fn).check(value).all()
    assert not support_of(fn).check(-value).any()


def scaled(sign: float) -> None:
    x = pyro.sample("x", dist.TransformedDistribution(dist.Exponential(1.0), [T.AffineTransform(0.0, sign * 2.0)]))
    pyro.sample("y", dist.Normal(x, 2.0), obs=torch.tensor(-sign))


def exact_mean() -> tuple[float, float]:
    x = np.linspace(1e-6, 60.0, 400_001)
    weights = np.exp(-x / 2 - 0.5 * ((x + 1) / 2) ** 2)
    mean = float((x * weights).sum() / weights.sum())
    return mean, float(np.sqrt((x**2 * weights).sum() / weights.sum() - mean**2))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("method", ["nuts", "importance", "mh", "smc", "laplace"])
def test_methods_draw_inside_the_true_support(method: str, sign: float) -> None:
    post = ph.infer(ph.Model(scaled, sign), method, seed=0, progress=False)
    mean, sd = exact_mean()
    found = post.expect("x")
    assert (post.draws["x"] * sign >= 0.0).all()
    assert abs(float(found.value) * sign - mean) < 5 * float(found.se) + 0.02 * sd


@pytest.mark.parametrize(
    ("fn", "value"),
    [
        (dist.TransformedDistribution(EXPONENTIAL, [T.AffineTransform(0.0, 2.0)]), -3.0),
        (dist.TransformedDistribution(EXPONENTIAL, [T.AffineTransform(0.0, -1.0)]), 3.0),
        (dist.TransformedDistribution(EXPONENTIAL, [T.ExpTransform()]), 0.5),
    ],
)
def test_an_observation_outside_is_refused(fn: Any, value: float) -> None:
    def program() -> None:
        pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("y", fn)

    with pytest.raises(ph.ModelError, match="outside the support"):
        ph.Model(program).observe(y=value)


def test_the_density_of_data_below_a_latent_bound_is_zero() -> None:
    def program() -> None:
        bound = pyro.sample("bound", dist.Uniform(0.0, 5.0))
        shifted = dist.TransformedDistribution(dist.Exponential(1.0), [T.AffineTransform(bound, 1.0)])
        pyro.sample("y", shifted, obs=torch.tensor(2.0))

    post = ph.infer(ph.Model(program), "importance", seed=0, progress=False)
    assert post.expect("bound").value == pytest.approx(2 - (1 - 3 * math.exp(-2)) / (1 - math.exp(-2)), abs=0.02)
    assert post.log_evidence is not None
    assert post.log_evidence.value == pytest.approx(math.log((1 - math.exp(-2)) / 5), abs=0.06)


@pytest.mark.parametrize("loc", [0.0, 3.0, -2.0])
def test_a_latent_angle_lives_on_the_circle(loc: float) -> None:
    def program() -> None:
        a = pyro.sample("a", dist.VonMises(loc, 2.0))
        pyro.sample("y", dist.VonMises(a, 1.0), obs=torch.tensor(loc + 7.0))

    grid = np.linspace(-np.pi, np.pi, 20_001)[:-1]
    log = 2.0 * np.cos(grid - loc) + np.cos(loc + 7.0 - grid)
    weights = np.exp(log - log.max()) / np.exp(log - log.max()).sum()
    normaliser = 2 * math.log(2 * np.pi) + math.log(float(np.i0(2.0))) + math.log(float(np.i0(1.0)))
    evidence = math.log(np.exp(log).sum() * (grid[1] - grid[0])) - normaliser
    model = ph.Model(program)
    assert isinstance(model.sites["a"].support, Circle)
    u = torch.linspace(-60.0, 60.0, 40_001, dtype=torch.float64)
    density = model.target("graph").log_density(u[:, None]).exp()
    assert math.log(float(density.sum() * (u[1] - u[0]))) == pytest.approx(evidence, abs=1e-5)
    post = ph.infer(model, "nuts", seed=0, progress=False, num_samples=500, num_warmup=300)
    angles = post.draws["a"]
    assert (angles.abs() <= math.pi).all()
    for f in (np.cos, np.sin):
        mean = float((weights * f(grid)).sum())
        sd = float(np.sqrt((weights * f(grid) ** 2).sum() - mean**2))
        assert float(f(angles.numpy()).mean()) == pytest.approx(mean, abs=0.15 * sd)


class Shifted(dist.TorchDistribution):
    """An exponential whose class declares whatever it is told to."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, support: Any, strict: bool) -> None:
        self._declared, self._strict = support, strict
        super().__init__(validate_args=False)

    @property
    def support(self) -> Any:
        """What it was told to declare."""
        return self._declared

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        """Draws, all positive."""
        return torch.empty(sample_shape).exponential_()

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Undefined, or an error, below zero."""
        if self._strict and bool((value < 0.0).any()):
            raise ValueError("outside of the support")
        return value.sqrt().square().neg()


@pytest.mark.parametrize(
    ("support", "strict", "found"),
    [
        (dist.constraints.real, False, "undefined within the support"),
        (dist.constraints.real, True, "undefined within the support"),
        (dist.constraints.less_than(0.0), False, "a draw outside of the support"),
    ],
)
def test_a_class_that_declares_a_wrong_support_is_refused(support: Any, strict: bool, found: str) -> None:
    def program() -> None:
        x = pyro.sample("x", Shifted(support, strict))
        pyro.sample("y", dist.Normal(x, 1.0), obs=torch.tensor(1.0))

    with pytest.raises(ph.ModelError, match=found):
        ph.infer(ph.Model(program), "nuts", seed=0, progress=False)
