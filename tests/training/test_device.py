"""Training on another device: the moved graph names no other, and gives on a GPU what it gives on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.datasets import load_digits
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import phlogiston as ph
from phlogiston.engine.learning import inplace_steps
from phlogiston.engine.learning.adam import AdamConfig, AdamState
from phlogiston.engine.trace import devices
from phlogiston.errors import DeviceWarning, SettingError, UnsupportedModel

GPU = torch.device("cuda", 0)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DIGITS = torch.tensor(load_digits().images > 7.5).double()[:1000]


def vae(decoder: nn.Module, num_images: int) -> None:
    pyro.module("decoder", decoder)
    scale = pyro.param("scale", torch.ones(()), constraint=dist.constraints.positive)
    with pyro.plate("image", num_images):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), scale).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(2))


def vae_model() -> ph.Model:
    torch.manual_seed(0)
    layers = (nn.Linear(4, 16 * 16), nn.ReLU(), nn.Unflatten(1, (16, 4, 4)))
    decoder = nn.Sequential(*layers, nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1), nn.Flatten(1, 2))
    return ph.Model(vae, decoder, len(DIGITS)).observe(x=DIGITS)


def svi(**settings: Any) -> ph.SVI:
    usual = {"guide": ph.Amortized(hidden=(32,)), "num_steps": 200, "batch_size": 128, "stop": False}
    return ph.SVI(**{**usual, "dtype": "float64", "engine": "graph", **settings})


def generator(network: nn.Module, num_rows: int) -> None:
    pyro.module("network", network)
    with pyro.plate("row", num_rows):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.deterministic("x", network(z), event_dim=1)


def gan_model() -> ph.Model:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    return ph.Model(generator, network, 512).observe(x=torch.randn(512, 2) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]]))


def game(**settings: Any) -> ph.Adversarial:
    usual = {"num_steps": 200, "batch_size": 64, "instance_noise": 0.1, "critic_steps": 2, "clip_weights": 2.0}
    return ph.Adversarial(**{**usual, "precision": "float64", "engine": "graph", **settings})


@pytest.mark.parametrize(("made", "settings"), [(vae_model, svi), (gan_model, game)], ids=["vae", "gan"])
def test_a_moved_graph_names_no_other_device(made: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[fx.GraphModule, list[torch.Tensor]]] = []
    whole = inplace_steps.batch_by

    def kept(function: Any, arguments: list[torch.Tensor]) -> fx.GraphModule:
        seen.append((whole(function, arguments), arguments))
        return seen[-1][0]

    monkeypatch.setattr(inplace_steps, "batch_by", kept)
    ph.train(made(), settings(num_steps=8), seed=0, progress=False)
    assert len(seen) == 2  # two lengths of a batch, two players
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module, arguments in seen:
            there = [torch.empty_like(value, device=GPU) for value in arguments]
            assert {value.device for value in devices.moved(module, GPU)(*there)} == {GPU}
            with pytest.raises(RuntimeError, match=r"same device|not on the expected device|two different devices"):
                module(*there)


def test_what_only_the_cpu_has_stays_there() -> None:
    def attends(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)

    with torch.no_grad():
        module = inplace_steps.batch_by(attends, [torch.zeros(1, 1, 4, 8)])
    with pytest.raises(UnsupportedModel, match=r"which only the CPU has.*device='cpu'"):
        devices.moved(module, GPU)


def test_a_loop_is_not_moved() -> None:
    moving, rule = (
        AdamState.at((torch.zeros(3),)).to(torch.device("meta")),
        AdamConfig(0.9, 0.999, 1e-8, None),
    )
    with pytest.raises(UnsupportedModel, match=r"a loop over a program.*device='cpu'"):
        inplace_steps.make_update(lambda params, inputs: (params[0], params), rule, moving, (), tier="loop", calls=1)


def test_devices_that_cannot_be_had_are_refused() -> None:
    for settings in (svi, game):
        with pytest.raises(SettingError, match=r"device: found 'gpu'; expected 'auto' or one of 'cpu'"):
            settings(device="gpu")
    for made, settings in ((vae_model, svi), (gan_model, game)):
        with pytest.raises(SettingError, match=r"device: found 'cuda:99'; expected one that is there: 'cpu'"):
            ph.train(made(), settings(device="cuda:99"), seed=0, progress=False)


def test_a_guide_without_networks_is_not_moved() -> None:
    with pytest.raises(SettingError, match=r"device: found 'cuda' with guide='normal'.*device='cpu'"):
        ph.SVI(device="cuda")
    with pytest.raises(SettingError, match=r"device: found 'cuda' with .*bound='iwae'"):
        svi(device="cuda", bound="iwae", num_particles=5)


def test_auto_leaves_small_steps_on_the_cpu() -> None:
    assert devices.chosen("auto", 1e3) == devices.CPU
    assert ph.train(gan_model(), game(num_steps=3, device="auto"), seed=0, progress=False).engine == "graph"


def close(here: ph.Fitted, there: ph.Fitted, curve: str) -> None:
    assert there.engine.endswith("on cuda:0")
    np.testing.assert_allclose(there.history[curve], here.history[curve], rtol=1e-6)
    for name, value in here.params.items():
        assert there.params[name].device.type == "cpu"
        torch.testing.assert_close(there.params[name], value, rtol=1e-5, atol=1e-6)
    parts = [value if isinstance(value, list) else [value] for value in there.state.values()]
    kept = [value.device.type for part in parts for value in part if isinstance(value, torch.Tensor)]
    assert set(kept) == {"cpu"}


@on_gpu
@pytest.mark.filterwarnings("ignore::phlogiston.errors.DeviceWarning")
@pytest.mark.parametrize("engine", ["graph", "compiled"])
@pytest.mark.parametrize(
    ("made", "settings", "curve"), [(vae_model, svi, "elbo"), (gan_model, game, "critic_loss")], ids=["vae", "gan"]
)
def test_a_gpu_gives_what_the_cpu_gives(made: Any, settings: Any, curve: str, engine: Any) -> None:
    here = ph.train(made(), settings(), seed=0, progress=False)
    there = ph.train(made(), settings(device="cuda", engine=engine), seed=0, progress=False)
    close(here, there, curve)


@on_gpu
@pytest.mark.filterwarnings("ignore::phlogiston.errors.DeviceWarning")
@pytest.mark.parametrize(
    ("made", "settings", "curve"), [(vae_model, svi, "elbo"), (gan_model, game, "critic_loss")], ids=["vae", "gan"]
)
def test_a_gpu_run_goes_on_here_and_there(made: Any, settings: Any, curve: str, tmp_path: Path) -> None:
    whole = ph.train(made(), settings(device="cuda"), seed=0, progress=False)
    half = ph.train(made(), settings(num_steps=100, device="cuda"), seed=0, progress=False)
    file = half.save(tmp_path / "half.pt")
    if settings is svi:  # a game's learning rates fall over its length
        there = ph.train(made(), settings(device="cuda"), seed=0, progress=False, resume_from=file)
        np.testing.assert_allclose(there.history[curve], whole.history[curve], rtol=1e-12)  # a GPU's sums vary
    here = ph.train(made(), settings(), seed=0, progress=False, resume_from=file)
    assert here.engine == "graph"
    assert len(here.history[curve]) == len(whole.history[curve])


@on_gpu
def test_a_step_that_a_gpu_slows_down_is_noted() -> None:
    with pytest.warns(DeviceWarning, match="starts more slowly on cuda:0"):
        ph.train(vae_model(), svi(num_steps=5, device="cuda"), seed=0, progress=False)
