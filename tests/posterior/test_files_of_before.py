"""Files that the version before wrote (0.1.0 at d483c31) load, and what they hold goes on."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import phlogiston as ph

SAVED = Path(__file__).parent / "saved_by_0_1"
Y = torch.tensor([1.2, 0.4, -0.3, 2.1, 0.9])
POINTS = torch.randn(64, 1, generator=torch.Generator().manual_seed(0)) * 2 + 1
pytestmark = pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")


def model() -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("i", 5):
        pyro.sample("y", dist.Normal(mu, 0.5 + tau))


def scale(n: int) -> None:
    s = pyro.param("s", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("i", n):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z * s, 0.5))


def gen(n: int) -> None:
    w = pyro.param("w", torch.tensor([0.5, 0.5]))
    with pyro.plate("i", n):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("x", (w[0] + w[1] * z).unsqueeze(-1), event_dim=1)


def unpacked(name: str, folder: Path) -> Path:
    path = folder / name
    path.write_bytes(gzip.decompress((SAVED / f"{name}.gz").read_bytes()))
    return path


def test_chains_load_and_go_on(tmp_path: Path) -> None:
    observed = ph.Model(model).observe(y=Y)
    post = ph.load(unpacked("nuts.nc", tmp_path), model=observed)
    assert post.draws["mu"].double().mean(1).tolist() == pytest.approx([0.8768829047258366, 0.9013465087263732])
    assert (post.seed, post.num_chains, post.num_draws) == (3, 2, 20)
    longer = ph.infer(observed, "nuts", num_chains=2, num_samples=5, seed=3, resume_from=post, progress=False)
    torch.testing.assert_close(longer.draws["mu"][:, :20], post.draws["mu"])
    assert longer.num_draws == 25


def test_weighted_draws_load(tmp_path: Path) -> None:
    post = ph.load(unpacked("importance.nc", tmp_path))
    assert (post.method, post.num_draws) == ("importance", 60)
    assert post.log_evidence is not None


def test_trainings_load_and_go_on() -> None:
    observed = ph.Model(scale, 5).observe(y=Y)
    fitted = ph.load(SAVED / "trained.pt", model=observed)
    assert float(fitted.params["s"]) == pytest.approx(1.5026, abs=1e-4)
    longer = ph.train(observed, "svi", num_steps=60, seed=1, resume_from=fitted, progress=False)
    assert float(longer.params["s"]) != pytest.approx(1.5026, abs=1e-6)
    assert longer.history["step"][-1] >= fitted.history["step"][-1]


def test_an_amortised_guide_loads() -> None:
    observed = ph.Model(scale, 5).observe(y=Y)
    fitted = ph.load(SAVED / "amortised.pt", model=observed)
    assert float(fitted.params["s"]) == pytest.approx(0.9799, abs=1e-4)
    assert fitted.posterior(num_samples=7, seed=0).draws["z"].shape == (1, 7, 5)


def test_adversarial_training_loads() -> None:
    fitted = ph.load(SAVED / "game.pt", model=ph.Model(gen, 64).observe(x=POINTS))
    torch.testing.assert_close(fitted.params["w"], torch.tensor([0.4637, 0.5442]), atol=1e-4, rtol=0.0)
