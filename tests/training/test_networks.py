"""Networks with statistics or randomness of their own, shared names, and what a saved training must not lose."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import phlogiston as ph
from phlogiston.diagnostics.checks.generators import check_reconstruction

X = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def vae(network: nn.Module) -> None:
    pyro.module("network", network)
    with pyro.plate("i", 60):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=network(z)).to_event(1))


def gan(network: nn.Module) -> None:
    pyro.module("network", network)
    with pyro.plate("i", 60):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.deterministic("x", network(z), event_dim=1)


def decoder(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), *layers, nn.ReLU(), nn.Linear(8, 6))


def trained(network: nn.Module, x: torch.Tensor = X, **settings: Any) -> ph.Fitted:
    run = {name: settings.pop(name) for name in ("resume_from", "checkpoint") if name in settings}
    usual = {"guide": ph.Amortized(hidden=(8,)), "num_steps": 20, "batch_size": 20, "engine": "graph", **settings}
    return ph.train(ph.Model(vae, network).observe(x=x), ph.SVI(**usual), seed=0, progress=False, **run)


class Encoder(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 4), *layers)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loc, log_scale = self.body(x).chunk(2, -1)
        return loc, log_scale.exp()


def test_batch_normalisation_is_refused_and_leaves_the_network_as_it_was() -> None:
    network = decoder(nn.BatchNorm1d(8))
    with pytest.raises(ph.UnsupportedModel, match=r"found a BatchNorm1d in training mode.*write: nn.LayerNorm"):
        trained(network)
    with pytest.raises(ph.UnsupportedModel, match="BatchNorm1d in training mode"):
        trained(decoder(), guide=ph.Amortized(encoder=Encoder(nn.BatchNorm1d(4))))
    settings = ph.Adversarial(num_steps=20, batch_size=20, engine="graph")
    with pytest.raises(ph.UnsupportedModel, match="BatchNorm1d in training mode"):
        ph.train(ph.Model(gan, network).observe(x=torch.randn(60, 6)), settings, seed=0, progress=False)
    spread = network[1].running_var  # type: ignore[index]
    assert float(spread.max()) < 10.0
    fit = trained(network.eval())
    assert torch.isfinite(torch.as_tensor(fit.history["elbo"])).all()


def test_dropout_is_trained_with_and_evaluated_without() -> None:
    network = decoder(nn.Dropout(0.5))
    fit = trained(network)
    without = ph.Model(vae, decoder(nn.Identity())).observe(x=X).with_parameters(fit.params)
    bounds = [found.estimate_elbo(seed=0).elbo for found in (fit, dataclasses.replace(fit, model=without))]
    np.testing.assert_array_equal(*bounds)
    assert torch.equal(fit.generate(5, seed=0)["x"], fit.generate(5, seed=0)["x"])
    assert network.training


class Program(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> None:
        with pyro.plate("i", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> None:
        with pyro.plate("i", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), 0.4).to_event(1))


def test_two_modules_with_parameters_of_one_name_are_refused() -> None:
    program, x = Program(), torch.randn(20, 1)
    settings = {"num_steps": 5, "engine": "graph"}
    with pytest.raises(ph.ModelError, match=r"2 parameters of the same names \(net\$\$\$weight, net\$\$\$bias\)"):
        ph.train(ph.Model(program, x), ph.SVI(guide=Guide(nn.Linear(1, 1)), **settings), seed=0, progress=False)
    shared = ph.train(ph.Model(program, x), ph.SVI(guide=Guide(program.net), **settings), seed=0, progress=False)
    assert sorted(shared.params) == ["net$$$bias", "net$$$weight"]


def test_settings_hold_the_learning_rate_that_was_used() -> None:
    assert trained(decoder()).settings["optim"].learning_rate == 1e-3
    assert trained(decoder(), optim=ph.Adam(learning_rate=0.02)).settings["optim"].learning_rate == 0.02


def test_a_training_goes_on_with_its_own_data_only(tmp_path: Path) -> None:
    first = trained(decoder(), stop=False)
    file = first.save(tmp_path / "first.fit")
    for before in (first, file):
        on = trained(decoder(), num_steps=30, stop=False, resume_from=before)
        assert len(on.history["elbo"]) == 30
        with pytest.raises(ph.DataFileError, match="resume_from: found a training on other data"):
            trained(decoder(), 1.0 - X, num_steps=30, stop=False, resume_from=before)


def test_an_encoder_that_a_file_cannot_hold_is_missed_aloud(tmp_path: Path) -> None:
    file = trained(decoder(), guide=ph.Amortized(encoder=Encoder())).save(tmp_path / "own.fit")
    with pytest.warns(ph.AmortisationWarning, match="found a guide with an encoder of your own"):
        loaded = ph.load(file, model=ph.Model(vae, decoder()).observe(x=X))
    assert loaded.guide is None


def test_a_decoder_that_cannot_reach_the_data_is_not_trusted() -> None:
    x = 255.0 * torch.rand(60, 6, generator=torch.Generator().manual_seed(1)).round()

    def program(network: nn.Module) -> None:
        pyro.module("network", network)
        with pyro.plate("i", 60):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(network(z), 1.0).to_event(1))

    torch.manual_seed(0)
    model = ph.Model(program, decoder(nn.Sigmoid())).observe(x=x)
    method = ph.SVI(guide=ph.Amortized(hidden=(8,)), num_steps=200, batch_size=20, engine="graph")
    report = ph.train(model, method, seed=0, progress=False).diagnose()
    found = {check.name: check for check in report.checks}
    assert found["reconstruction of x"].state == "do not use"


def test_reconstruction_is_judged_by_the_noise_that_the_model_predicts() -> None:
    rng = np.random.default_rng(0)
    signal, noise = rng.standard_normal((200, 3)), 10.0 * rng.standard_normal((200, 3))
    data = signal + noise
    honest = signal + 10.0 * rng.standard_normal((16, 200, 3))  # explains 1 %, as nobody could more
    assert check_reconstruction("x", data, honest).state == "fine"
    sure = signal + rng.standard_normal((16, 200, 3))
    assert check_reconstruction("x", data, sure).state == "do not use"
    assert check_reconstruction("x", data, data + rng.standard_normal((16, 200, 3))).state == "fine"
