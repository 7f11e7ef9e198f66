"""Parameters that are held, and what a training keeps on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.training.fitted import Fitted


def line() -> None:
    slope = pyro.param("slope", torch.tensor(1.0))
    width = pyro.param("width", torch.tensor(1.0), constraint=dist.constraints.positive)
    z = pyro.sample("z", dist.Normal(0.0, width))
    pyro.sample("y", dist.Normal(slope * z, 1.0))


def fitted() -> Fitted:
    model = ph.Model(line).observe(y=1.0).with_parameters({"slope": torch.tensor(3.0), "width": torch.tensor(2.0)})
    history = {"step": np.arange(3), "elbo": np.array([-3.0, -2.0, -1.5])}
    return Fitted(
        model=model, method="svi", history=history, state={"rng": np.arange(4), "step": 3}, stop_reason="done"
    )


def test_held_parameters_are_those_of_every_reading() -> None:
    model = fitted().model
    z = model.simulate(20_000, seed=0)["z"]
    assert abs(float(z.std()) - 2.0) < 0.05
    evidence = ph.infer(model, "importance", num_particles=50_000, seed=0).log_evidence
    exact = dist.Normal(0.0, (9.0 * 4.0 + 1.0) ** 0.5).log_prob(torch.tensor(1.0)).item()
    assert evidence is not None
    assert abs(evidence.value - exact) < 4 * float(evidence.se)
    assert model.observe(y=2.0).parameters.keys() == {"slope", "width"}


def test_a_wrong_parameter_is_refused() -> None:
    model = ph.Model(line)
    with pytest.raises(ph.UnknownName, match=r"no parameter 'slop'; did you mean 'slope'"):
        model.with_parameters({"slop": torch.tensor(1.0)})
    with pytest.raises(
        ph.ModelError, match=r"parameter 'slope': found shape \(2,\); expected that of the program, \(\)"
    ):
        model.with_parameters({"slope": torch.ones(2)})


def test_a_training_comes_back_from_disk(tmp_path: Path) -> None:
    before = fitted()
    path = before.save(tmp_path / "deep" / "line.pt")
    after = ph.load(path, model=ph.Model(line))
    assert isinstance(after, Fitted)
    assert after.params.keys() == before.params.keys()
    assert all(torch.equal(after.params[name], before.params[name]) for name in before.params)
    np.testing.assert_array_equal(after.history["elbo"], before.history["elbo"])
    np.testing.assert_array_equal(after.state["rng"], before.state["rng"])
    assert after.stop_reason == "done"


def test_a_training_of_another_model_or_no_training_is_refused(tmp_path: Path) -> None:
    path = fitted().save(tmp_path / "line.pt")
    with pytest.raises(ph.DataFileError, match=r"training of another model: parameter 'slope'"):
        ph.load(path, model=ph.Model(lambda: pyro.sample("z", dist.Normal(0.0, 1.0))))
    with pytest.raises(ValueError, match=r"write: ph.load\(path, model=model\)"):
        ph.load(path)
    (tmp_path / "other.pt").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ph.DataFileError, match="found no phlogiston training"):
        ph.load(tmp_path / "other.pt", model=ph.Model(line))


def test_an_unknown_trainer_is_refused() -> None:
    with pytest.raises(ph.UnknownName, match="unknown trainer 'swi'"):
        ph.train(ph.Model(line).observe(y=1.0), "swi")
    with pytest.raises(TypeError, match="expected a trainer or a name"):
        ph.train(ph.Model(line).observe(y=1.0), ph.Estimate(0.0, 1.0))


def test_the_parameters_of_modules_are_held_too() -> None:
    layer = torch.nn.Linear(1, 1)

    def program() -> None:
        module = pyro.module("layer", layer)
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        pyro.sample("y", dist.Normal(module(z), torch.exp(layer.bias)).to_event(1))  # in an operation and in a score

    held = {"layer$$$weight": torch.full((1, 1), 3.0), "layer$$$bias": torch.full((1,), 0.5)}
    own = [value.detach().clone() for value in layer.parameters()]
    model = ph.Model(program).observe(y=torch.tensor([2.0])).with_parameters(held)
    for engine in ("graph", "loop"):
        found = model.target(engine=engine).log_joint({"z": torch.tensor([0.7])})
        expected = dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.7)) + dist.Normal(
            3.0 * 0.7 + 0.5, torch.tensor(0.5).exp()
        ).log_prob(torch.tensor(2.0))
        assert float(found) == pytest.approx(float(expected), rel=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(own, layer.parameters(), strict=True))
