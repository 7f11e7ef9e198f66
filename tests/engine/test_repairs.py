"""Masked terms, 0 log 0, computed sites, own randomness and global state: what is repaired, and what is refused."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.reparam import (
    AutoReparam,
    HaarReparam,
    LinearHMMReparam,
    LocScaleReparam,
    StudentTReparam,
    TransformReparam,
)

import phlogiston as ph
from phlogiston.engine.native import density as native_density

pytestmark = pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")
MASK = torch.tensor([True, False, True])
KEPT = torch.tensor([0, 2])
DATA = {
    "normal, NaN": (lambda a: dist.Normal(a, 1.0), [1.0, float("nan"), 2.0]),
    "lognormal, 0": (lambda a: dist.LogNormal(a, 1.0), [1.0, 0.0, 2.0]),
    "gamma, rate 0": (lambda a: dist.Gamma(2.0, a.exp() * torch.tensor([1.0, 0.0, 2.0])), [1.0, 0.0, 2.0]),
    "normal, scale 0": (lambda a: dist.Normal(0.0, a.exp() * torch.tensor([1.0, 0.0, 2.0])), [1.0, 0.0, 2.0]),
    "poisson, rate 0": (lambda a: dist.Poisson(a.exp() * torch.tensor([1.0, 0.0, 2.0])), [1.0, 3.0, 2.0]),
    "student, scale 0": (lambda a: dist.StudentT(3.0, a, torch.tensor([1.0, 0.0, 2.0])), [1.0, 0.0, 2.0]),
    "beta, 0": (lambda a: dist.Beta(a.exp(), 2.0), [0.3, 0.0, 0.5]),
}


def given_to(fn: Callable[[torch.Tensor], dist.TorchDistribution], values: list[float], how: str) -> ph.Model:
    y = torch.tensor(values)

    def program() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("i", 3):
            if how == "mask":
                with pyro.poutine.mask(mask=MASK):
                    pyro.sample("y", fn(a), obs=y)
            elif how == "scale":
                with pyro.poutine.scale(scale=MASK.float()):
                    pyro.sample("y", fn(a), obs=y)
            else:
                pyro.sample("y", fn(a).mask(MASK), obs=y)

    return ph.Model(program)


@pytest.mark.parametrize("how", ["mask", "scale", "distribution"])
@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("engine", ["graph", "loop"])
def test_terms_that_do_not_count_have_no_gradient(name: str, how: str, engine: str) -> None:
    fn, values = DATA[name]
    u = torch.tensor([[0.3], [-0.8]], dtype=torch.float64)
    value, grad = given_to(fn, values, how).target(engine).value_and_grad(u)
    a, y = u[:, 0].clone().requires_grad_(), torch.tensor(values).double()
    terms = []
    with pyro.validation_enabled(False):
        for one in a:
            law = fn(one.expand(3))
            kept = {key: getattr(law, key).expand(3)[KEPT].double() for key in law.arg_constraints}
            terms.append(type(law)(**kept).log_prob(y[KEPT]).sum() + dist.Normal(0.0, 1.0).log_prob(one))
    expected = torch.stack(terms)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(grad[:, 0], torch.autograd.grad(expected.sum(), a)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("engine", ["graph", "loop"])
def test_no_exposure_and_no_count_have_a_gradient(engine: str) -> None:
    exposure, counts = torch.tensor([0.0, 1.5, 2.0]), torch.tensor([0.0, 2.0, 3.0])

    def program() -> None:
        h = pyro.sample("h", dist.Gamma(2.0, 1.0))
        with pyro.plate("i", 3):
            pyro.sample("y", dist.Poisson(h * exposure), obs=counts)

    u = torch.tensor([[0.4]])
    _, grad = ph.Model(program).target(engine).value_and_grad(u)
    h = np.exp(0.4)
    assert float(grad) == pytest.approx(2.0 + 5.0 - h * (1.0 + 3.5), rel=1e-6)


def test_a_gradient_that_stays_undefined_is_traced_to_its_line_and_element() -> None:
    x = torch.tensor([1.0, 2.0, -1.0])

    def program() -> None:
        b = pyro.sample("b", dist.HalfNormal(1.0))
        with pyro.plate("i", 3):
            loc = torch.where(x > 0, torch.log((x * b).clamp(min=0.0)), 0.0)  # the clamped branch
            loc = torch.where(x > 0, torch.sqrt(x * b), 0.0) + 0.0 * loc.nan_to_num(0.0, 0.0, 0.0)
            pyro.sample("y", dist.Normal(loc, 1.0), obs=torch.zeros(3))

    with pytest.raises(ph.ModelError, match=r"site 'y'.*gradient that is not finite.*element \[2\] at .*test_repairs"):
        ph.infer(ph.Model(program), "nuts", seed=0, progress=False)


def schools() -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(5.0))
    with pyro.plate("s", 3):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 5.0), obs=torch.tensor([1.0, 2.0, 6.0]))


def positive() -> None:
    theta = pyro.sample("theta", dist.LogNormal(0.5, 1.0))
    pyro.sample("y", dist.Normal(theta, 1.0), obs=torch.tensor(2.0))


def heavy() -> None:
    theta = pyro.sample("theta", dist.StudentT(4.0, 0.0, 1.0))
    pyro.sample("y", dist.Normal(theta, 1.0), obs=torch.tensor(2.0))


def series() -> None:
    theta = pyro.sample("theta", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(theta, 1.0).to_event(1), obs=torch.tensor([1.0, 2.0, 0.0, 1.0]))


@pytest.mark.parametrize(
    ("program", "config", "computed"),
    [
        (schools, {"theta": LocScaleReparam(0.0)}, True),
        (schools, {"theta": LocScaleReparam(0.5)}, True),
        (schools, AutoReparam(centered=0.0), True),
        (positive, {"theta": TransformReparam()}, True),
        (series, {"theta": HaarReparam(dim=-1, experimental_allow_batch=False)}, True),
        (heavy, {"theta": StudentTReparam()}, False),
    ],
    ids=["locscale", "half", "auto", "transform", "haar", "student"],
)
def test_reparameterised_sites_are_computed_and_the_evidence_stays(program: Callable, config: object, computed: bool):
    model = ph.Model(pyro.poutine.reparam(program, config=config))
    assert model.sites["theta"].role == ("deterministic" if computed else "latent")
    assert [name for name, site in model.sites.items() if site.role == "observed"] == ["y"]
    before = ph.infer(ph.Model(program), "importance", seed=0, progress=False, num_particles=40_000)
    after = ph.infer(model, "importance", seed=1, progress=False, num_particles=40_000)
    assert after.draws["theta"].shape == before.draws["theta"].shape
    assert (
        abs(after.log_evidence.value - before.log_evidence.value)
        < 5 * (after.log_evidence.se**2 + before.log_evidence.se**2) ** 0.5
    )
    one, other = before.expect("theta"), after.expect("theta")
    assert (abs(one.value - other.value) < 5 * np.sqrt(one.se**2 + other.se**2)).all()


def test_a_linear_hmm_is_observed_under_its_reparameterisation() -> None:
    def program() -> None:
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        hmm = dist.LinearHMM(
            dist.Normal(0.0, 1.0).expand([1]).to_event(1),
            torch.eye(1),
            dist.Normal(0.0, scale).expand([1]).to_event(1),
            torch.eye(1),
            dist.StudentT(4.0, 0.0, 1.0).expand([1]).to_event(1),
            duration=4,
        )
        pyro.sample("y", hmm, obs=torch.tensor([[0.3], [0.1], [-0.4], [0.9]]))

    config = {"y": LinearHMMReparam(obs=StudentTReparam())}
    roles = {name: site.role for name, site in ph.Model(pyro.poutine.reparam(program, config=config)).sites.items()}
    assert roles["y"] == "observed"
    assert sum(role == "latent" for role in roles.values()) == 2


def test_data_under_a_reparameterisation_are_refused() -> None:
    program = pyro.poutine.reparam(schools, config={"y": LocScaleReparam(0.0)})
    with pytest.raises(ph.UnsupportedModel, match="without its Jacobian"):
        ph.Model(program).check()


def numpy_noise() -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    shift = float(np.random.randn())
    pyro.sample("y", dist.Normal(a + shift, 1.0), obs=torch.tensor(3.0))


def torch_noise() -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    shift = torch.randn(())
    pyro.sample("y", dist.Normal(a + shift, 1.0), obs=torch.tensor(3.0))


def python_noise() -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    shift = random.random()
    pyro.sample("y", dist.Normal(a + shift, 1.0), obs=torch.tensor(3.0))


def dropout() -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    shift = torch.nn.functional.dropout(a.expand(8), 0.5).mean()
    pyro.sample("y", dist.Normal(shift, 1.0), obs=torch.tensor(3.0))


@pytest.mark.parametrize("method", ["map", "nuts", "importance", "mh", "svi"])
@pytest.mark.parametrize("program", [numpy_noise, torch_noise, python_noise, dropout], ids=lambda f: f.__name__)
def test_own_randomness_is_refused_at_its_line(program: Callable[[], None], method: str) -> None:
    with pytest.raises(ph.ModelError, match=r"test_repairs.py:\d+: shift = .*density of site 'y'"):
        ph.infer(ph.Model(program), method, seed=0, progress=False)


def test_a_fresh_generator_is_refused_too() -> None:
    def program() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(a + float(np.random.default_rng().normal()), 1.0), obs=torch.tensor(3.0))

    with pytest.raises(ph.ModelError, match="outside of its sites"):
        ph.infer(ph.Model(program), "map", seed=0, progress=False)


def test_a_seed_within_the_program_is_refused() -> None:
    def program() -> None:
        pyro.set_rng_seed(0)
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(a, 1.0), obs=torch.tensor(3.0))

    with pytest.raises(ph.ModelError, match="seed that the program sets"):
        ph.infer(ph.Model(program), "importance", seed=0, progress=False)


@pytest.mark.parametrize("method", ["map", "laplace", "nuts"])
def test_gradients_that_a_program_switches_off_are_there_and_on_again(method: str) -> None:
    def program() -> None:
        torch.set_grad_enabled(False)
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float32)
        np.seterr(all="ignore")
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(a, 1.0), obs=torch.tensor(3.0))

    before = torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype(), np.geterr()
    post = ph.infer(ph.Model(program), method, seed=0, progress=False)
    assert (torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype(), np.geterr()) == before
    assert float(post.expect("a").value) == pytest.approx(1.5, abs=0.1)


def test_gradients_stay_off_in_a_context() -> None:
    def program() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with torch.no_grad():
            fixed = a * 1.0
        pyro.sample("y", dist.Normal(a + fixed - a.detach(), 1.0), obs=torch.tensor(3.0))

    _, grad = ph.Model(program).target("graph").value_and_grad(torch.tensor([[0.5]]))
    assert float(grad) == pytest.approx(-0.5 + 2.5, rel=1e-6)


def test_masked_entries_of_an_interval_are_scored_without_a_word() -> None:
    def program() -> None:
        with pyro.plate("i", 3), pyro.poutine.mask(mask=torch.tensor([True, False, True])):
            z = pyro.sample("z", dist.Uniform(-1.0, 1.5))
            pyro.sample("y", dist.Normal(z, 1.0), obs=torch.zeros(3))

    model = ph.Model(program)
    assert not model.check()
    value, grad = model.target().value_and_grad(torch.tensor([[0.3, 0.1, -0.2]], dtype=torch.float64))
    assert torch.isfinite(value).all()
    assert torch.isfinite(grad).all()


def test_native_code_of_a_density_with_an_edge_is_that_of_the_program() -> None:
    """At the first point that is tried the density is zero, which says nothing of machine code elsewhere."""

    def program() -> None:
        theta = pyro.sample("theta", dist.Pareto(1.0, 1.5))
        with pyro.plate("row", 3):
            pyro.sample("y", dist.Uniform(0.0, theta))

    model = ph.Model(program).observe(y=torch.tensor([1.2, 3.7, 4.1], dtype=torch.float64))
    u = torch.linspace(-1.0, 3.0, 9, dtype=torch.float64)[:, None]
    native, loop = model.target(), model.target("loop")
    assert torch.equal(native.log_density(u).isfinite(), loop.log_density(u).isfinite())
    torch.testing.assert_close(native.log_density(u), loop.log_density(u))
    assert native.engine_of("density") == "native"


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 3.0])
def test_native_code_with_a_wrong_gradient_is_not_used(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def program() -> None:
        pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))

    at = native_density.NativeDensity.at

    def spoiled(self: native_density.NativeDensity, u: np.ndarray) -> dict[str, np.ndarray]:
        found = at(self, u)
        return {"value": found["value"], "grad": np.array([wrong, found["grad"][1]])}

    monkeypatch.setattr(native_density.NativeDensity, "at", spoiled)
    target = ph.Model(program).target()
    chains = target.chains((torch.ones(2, dtype=torch.float64),), 4, 0)
    assert not chains.engine.startswith("native")
    assert "gradient of its recording" in target.not_native
