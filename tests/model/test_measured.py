"""A generator under an observation: inverted, completed and given a likelihood, against closed forms."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph

SETTINGS: dict[str, Any] = {"num_samples": 500, "num_warmup": 200, "num_chains": 8, "engine": "graph"}
nan = math.nan


@pytest.fixture(scope="module")
def linear(load_model: Any) -> Any:
    return load_model("gan_linear")


@pytest.fixture(scope="module")
def fitted(linear: Any) -> ph.Fitted:
    short = dataclasses.replace(linear.adversarial, num_steps=300)
    return ph.train(linear.model, short, seed=0, progress=False)


def agrees(found: ph.Estimate, exact: np.ndarray) -> None:
    np.testing.assert_array_less(np.abs(found.value - exact), 4.0 * np.asarray(found.se) + 1e-9)


@pytest.mark.filterwarnings("ignore::phlogiston.errors.ConvergenceWarning")  # its rule for stopping asks for more
@pytest.mark.parametrize(("method", "hidden"), [("nuts", ()), ("nuts", (0, 3)), ("svi", (2,))])
def test_inverting_a_linear_generator_is_principal_components(
    method: str, hidden: tuple[int, ...], linear: Any, fitted: ph.Fitted
) -> None:
    flower = linear.data[80].clone()
    flower[list(hidden)] = nan
    known, model = linear.exact(fitted, flower), fitted.measured(x=flower, noise=linear.noise)
    if method == "nuts":
        post = ph.infer(model, "nuts", seed=1, progress=False, **SETTINGS)
    else:
        svi = ph.SVI(guide="multivariate_normal", num_steps=800, window=40, num_samples=4000, engine="graph")
        post = ph.infer(model, svi, seed=1, progress=False)
        assert abs(post.log_evidence.value - known.log_evidence) < 4 * post.log_evidence.se + 0.01
    agrees(post.expect("z"), known.mean[None])
    agrees(post.expect(lambda draw: (draw["z"] - torch.from_numpy(known.mean)) ** 2), known.sd[None] ** 2)
    agrees(post.expect("x"), known.completed[None])  # what was hidden too
    assert set(post.draws) == {"z", "x"}


def test_the_log_likelihood_by_annealing_is_within_a_twentieth_of_a_nat(linear: Any, fitted: ph.Fitted) -> None:
    for flower in (linear.data[3], linear.data[120].clone().index_fill(0, torch.tensor([1]), nan)):
        ais = ph.AIS(num_particles=2000, engine="graph")
        found = ph.infer(fitted.measured(x=flower, noise=linear.noise), ais, seed=0, progress=False).log_evidence
        exact = linear.exact(fitted, flower).log_evidence
        assert abs(found.value - exact) < 4 * found.se
        assert abs(found.value - exact) < 0.05


def test_several_rows_are_inverted_at_once(linear: Any, fitted: ph.Fitted) -> None:
    rows = linear.data[[5, 60, 140]].clone()
    rows[1, :2] = nan
    post = ph.infer(fitted.measured(x=rows, noise=linear.noise), "nuts", seed=0, progress=False, **SETTINGS)
    agrees(post.expect("z"), np.stack([linear.exact(fitted, row).mean for row in rows]))


def test_a_spread_with_a_prior_is_inferred(linear: Any, fitted: ph.Fitted) -> None:
    prior, flower = dist.HalfNormal(1.0), linear.data[80]
    model = fitted.measured(x=flower, noise=prior)
    found = ph.infer(model, ph.AIS(num_particles=2000, engine="graph"), seed=0, progress=False)
    grid = np.linspace(1e-3, 6.0, 3000)
    logs = np.array([linear.exact(fitted, flower, s).log_evidence for s in grid])
    weights = np.exp(logs + prior.log_prob(torch.from_numpy(grid)).numpy())
    assert abs(found.log_evidence.value - math.log(np.trapezoid(weights, grid))) < 4 * found.log_evidence.se
    agrees(found.expect("x_noise"), np.array(np.trapezoid(grid * weights, grid) / np.trapezoid(weights, grid)))


def test_noise_of_any_distribution_has_its_density(linear: Any, fitted: ph.Fitted) -> None:
    flower, u = linear.data[7].clone(), torch.tensor([[0.3, -0.4], [1.0, 0.2]], dtype=torch.float64)
    flower[3] = nan
    model = fitted.measured(x=flower, noise=lambda x: dist.StudentT(3.0, x, 0.5))
    net = {name: value.double() for name, value in fitted.state_dict("generator").items()}
    out = u @ net["weight"].T + net["bias"]
    by_hand = dist.StudentT(3.0, out[:, :3], 0.5).log_prob(flower[:3].double()).sum(-1)
    by_hand = by_hand + dist.Normal(0.0, 1.0).log_prob(u).sum(-1)
    torch.testing.assert_close(model.target("graph").log_density(u), by_hand)


def by_class(n: int) -> None:
    middles = pyro.param("middles", torch.tensor([0.0, 3.0]))
    with pyro.plate("rows", n):
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.7, 0.3])))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("x", middles[k.long()] + z)


def test_the_class_of_a_measurement_is_found_or_given() -> None:
    # y | k is Normal(middle, sqrt(1 + 0.5^2))
    y, sd = 1.2, math.sqrt(1.25)
    joint = np.array([0.7, 0.3]) * dist.Normal(torch.tensor([0.0, 3.0]), sd).log_prob(torch.tensor(y)).exp().numpy()
    model = ph.Model(by_class, 40).observe(k=torch.zeros(40))  # the training data do not stay
    post = ph.infer(ph.measured(model, x=[y], noise=0.5), ph.AIS(num_particles=2000, engine="graph"), seed=0)
    assert abs(post.log_evidence.value - math.log(joint.sum())) < 4 * post.log_evidence.se
    agrees(post.expect("k"), np.array([joint[1] / joint.sum()]))
    given = ph.infer(ph.measured(model, x=[y], k=[1], noise=0.5), "laplace", seed=0)
    assert given.log_evidence.value == pytest.approx(math.log(joint[1]), abs=1e-6)


def pixels(n: int) -> None:
    with pyro.plate("image", n, dim=-3):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 2, dim=-2), pyro.plate("column", 3, dim=-1):
            pyro.deterministic("x", z * torch.arange(6.0).reshape(2, 3), event_dim=0)


def test_rows_are_found_wherever_their_plate_is() -> None:
    image = torch.arange(6.0).reshape(2, 3)
    image[1, 2] = nan
    post = ph.infer(ph.measured(ph.Model(pixels, 7), x=image, noise=1.0), "laplace", seed=0)
    precision = 1.0 + sum(i**2 for i in range(5))
    agrees(post.expect("z"), np.full((1, 1, 1), sum(i**2 for i in range(5)) / precision))
    assert post.draws["x"].shape[2:] == (1, 2, 3)


def sized(net: torch.nn.Module) -> None:
    with pyro.plate("rows", 9):
        pyro.deterministic("x", net(pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))))


def test_bad_input_is_refused_with_the_fix(linear: Any, fitted: ph.Fitted) -> None:
    flower = linear.data[0]
    with pytest.raises(ph.ModelError, match=r"site 'x': found data of shape \(3,\); expected \(rows, 4\) or \(4,\)"):
        fitted.measured(x=flower[:3], noise=0.1)
    with pytest.raises(ph.ModelError, match=r"site 'x': found NaN only"):
        fitted.measured(x=[nan] * 4, noise=0.1)
    for noise in (0.0, -1.0, nan, True):
        with pytest.raises(ph.SettingError, match=r"noise: found .*; expected a standard deviation above zero"):
            fitted.measured(x=flower, noise=noise)
    refused: dict[Any, str] = {
        "much": "noise: found 'much'; expected a standard deviation above zero",
        torch.tensor([0.1, -0.1, 0.1, 0.1]): "expected a standard deviation above zero",
        dist.Normal(0.0, 1.0): r"found a Normal prior, which draws numbers below zero.*write: noise=dist.HalfNormal",
    }
    for noise, message in refused.items():
        with pytest.raises(ph.SettingError, match=message):
            fitted.measured(x=flower, noise=noise)
    with pytest.raises(ph.UnsupportedModel, match="noise: found a function that gives a Tensor; expected a distrib"):
        fitted.measured(x=flower, noise=lambda x: x).check()
    odd: dict[Any, str] = {
        None: "NoneType .*expected an array of numbers",
        "a": "str .*expected an array of numbers",
        ((1.0,), (1.0, 2.0)): "tuple .*expected an array of numbers",
        flower[None][:0]: "no rows; expected some entries",
    }
    for value, message in odd.items():
        with pytest.raises(ph.ModelError, match=f"site 'x': found {message}"):
            fitted.measured(x=value, noise=0.1)
    with pytest.raises(TypeError, match=r"measured: found Fitted; expected a ph.Model; write: fitted.measured"):
        ph.measured(fitted, x=flower, noise=0.1)  # type: ignore[arg-type]
    assert fitted.measured(x=flower, noise=np.float32(0.5)).sites["x_seen"].role == "observed"
    with pytest.raises(ph.UnknownName, match=r"program 'gan_linear' has no site 'y'"):
        fitted.measured(y=flower, noise=0.1)
    with pytest.raises(ph.UnsupportedModel, match=r"found 0 computed outputs among the data \(z\); expected one of x"):
        fitted.measured(z=torch.zeros(1, 2), noise=0.1)
    with pytest.raises(ph.UnsupportedModel, match=r"plate 'rows': found a size, 9, that is no input.*write: def sized"):
        ph.measured(ph.Model(sized, torch.nn.Linear(2, 4)), x=flower, noise=0.1)
    with pytest.raises(ph.UnsupportedModel, match=r"write: ph\.measured\(model, x=\.\.\., noise=0\.1\)"):
        ph.infer(linear.model, "nuts")
