"""A call leaves every global as it found it, and is silent when told to be."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.inference import registry

METHODS = {info.name: info for info in ph.methods() if info.name in registry.METHODS}
# One continuous latent; several with a deterministic; discrete ones in a chain; both kinds together.
MODELS = ["normal_normal", "eight_schools", "hmm", "mixture"]
# A few of everything, for a method that has a setting of that name.
TINY = {
    "num_samples": 8,
    "num_warmup": 8,
    "num_chains": 2,
    "num_particles": 64,
    "num_steps": 8,
    "num_temperatures": 4,
    "max_tree_depth": 3,
}

each_method = pytest.mark.parametrize("method", METHODS)
pytestmark = pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")  # tiny runs earn them


def infer_tiny(model: ph.Model, method: str, *, seed: int | None = 0, **more: Any) -> ph.Posterior:
    settings = {name: value for name, value in (TINY | more).items() if name in METHODS[method].defaults}
    return ph.infer(model, method, seed=seed, progress=False, **settings)


def snapshot() -> dict[str, Any]:
    """Every global that inference could touch, in a form that ``==`` can compare."""
    store = pyro.get_param_store()
    kind, keys, *rest = np.random.get_state()
    return {
        "torch random state": torch.get_rng_state().tolist(),
        "NumPy random state": (kind, keys.tolist(), rest),
        "Python random state": random.getstate(),
        "torch default dtype": torch.get_default_dtype(),
        "torch gradients on": torch.is_grad_enabled(),
        "torch threads": torch.get_num_threads(),
        "Pyro settings": dict(pyro.settings.get()),  # all validation flags, torch's among them
        "Pyro parameters": {name: (id(store._params[name]), value.tolist()) for name, value in store.items()},
        "Pyro constraints": {name: str(constraint) for name, constraint in store._constraints.items()},
        "Pyro handlers": len(pyro.poutine.runtime._PYRO_STACK),
        "NumPy error handling": np.geterr(),
        "matplotlib rcParams": dict(mpl.rcParams),
    }


@contextmanager
def unchanged() -> Iterator[None]:
    before = snapshot()
    yield
    after = snapshot()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, "\n".join(f"{name}: {before[name]!s:.200} -> {after[name]!s:.200}" for name in changed)


@contextmanager
def lived_in(validation: bool) -> Iterator[None]:
    """A session in which the user has set, seeded and fitted things."""
    with pyro.get_param_store().scope(), pyro.validation_enabled(validation):
        pyro.set_rng_seed(17)
        torch.randn(3), np.random.randn(3), random.gauss(0.0, 1.0)  # leaves NumPy and Python a second normal in hand
        pyro.param("mine", torch.tensor([1.0, 2.0]))
        pyro.param("scale", torch.tensor(3.0), constraint=dist.constraints.positive)
        yield


def latent_for(method: str) -> Callable[[], torch.Tensor]:
    """A latent ``z`` that the method can treat."""
    if registry.method_class(method).needs.continuous != "none":
        return lambda: pyro.sample("z", dist.Normal(0.0, 1.0))
    return lambda: pyro.sample("z", dist.Bernoulli(0.5))


@each_method
@pytest.mark.parametrize("name", MODELS)
def test_a_run_changes_no_global_and_prints_nothing(
    method: str, name: str, load_model: Callable[[str], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    model = load_model(name).model
    can = registry.method_class(method).needs.unmet(model.structure) is None
    capfd.readouterr()
    for validation, seed in [(True, 0), (False, 0), (True, None)]:
        with lived_in(validation), unchanged():
            try:
                infer_tiny(model, method, seed=seed)
            except ph.UnsupportedModel:  # a refusal leaves no trace either
                assert not can
    assert tuple(capfd.readouterr()) == ("", "")


@each_method
def test_every_method_can_treat_one_of_these_models(method: str, load_model: Callable[[str], Any]) -> None:
    needs = registry.method_class(method).needs
    assert any(needs.unmet(load_model(name).model.structure) is None for name in MODELS)


@each_method
@pytest.mark.parametrize("validation", [True, False])
def test_a_programs_parameters_are_not_the_users(method: str, validation: bool) -> None:
    latent = latent_for(method)

    def program() -> None:
        mine = pyro.param("mine", torch.zeros(2))
        scale = pyro.param("new", torch.tensor(2.0), constraint=dist.constraints.positive)
        pyro.sample("y", dist.Normal(latent() + mine.sum(), scale))

    with lived_in(validation), unchanged():
        infer_tiny(ph.Model(program).observe(y=0.5), method)


class Breakdown(Exception):
    """Nothing that the library could take for an error of its own."""


@each_method
@pytest.mark.parametrize("at_run", [1, 2, 3, 7])
@pytest.mark.parametrize("validation", [True, False])
def test_a_program_that_breaks_down_takes_no_global_with_it(method: str, at_run: int, validation: bool) -> None:
    latent, runs = latent_for(method), 0

    def program() -> None:
        nonlocal runs
        runs += armed
        z = latent()
        if runs >= at_run:
            torch.set_default_dtype(torch.float16)
            torch.manual_seed(0), np.random.seed(0), random.seed(0)
            pyro.enable_validation(not validation)
            pyro.param("left behind", z)
            raise Breakdown
        pyro.sample("y", dist.Normal(z, 1.0))

    armed = False
    model = ph.Model(program).observe(y=0.5)
    armed = True
    with lived_in(validation), unchanged():
        with pytest.raises((ph.ProgramError, Breakdown)) as caught:
            infer_tiny(model, method, engine="loop", num_warmup=1, num_samples=50)
        assert isinstance(caught.value, Breakdown) or isinstance(caught.value.__cause__, Breakdown)


def test_a_program_that_breaks_down_at_once_takes_no_global_with_it() -> None:
    def program() -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))
        torch.set_default_dtype(torch.float16)
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        pyro.enable_validation(False)
        raise Breakdown

    with lived_in(True), unchanged(), pytest.raises(ph.ProgramError) as caught:
        ph.Model(program).observe(y=0.5)
    assert isinstance(caught.value.__cause__, Breakdown)


@pytest.mark.parametrize("validation", [True, False])
def test_a_posterior_at_work_changes_no_global_and_prints_nothing(
    validation: bool, load_model: Callable[[str], Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = load_model("normal_normal").model
    post = ph.infer(model, "importance", num_particles=500, seed=0, progress=False)
    capfd.readouterr()
    with lived_in(validation), unchanged():
        post.summary()
        post.diagnose()
        post.expect("mu")
        post.expect(lambda draw: draw["mu"] > 0)
        post.pointwise_log_likelihood()
        post.loo()
        post.predict()
        post.with_predictions().data  # noqa: B018
        ph.load(post.save(tmp_path / "post.nc"), model=model).summary()
        model.simulate(5, seed=0)
        model.check()
    assert tuple(capfd.readouterr()) == ("", "")
