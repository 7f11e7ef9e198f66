"""The scale that is learnt from draws and gradients, where some of them are wild."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.inference.mcmc.adaptation import learnt_scale, unit_scale

SD = np.array([0.1, 1.0, 30.0])


def sample(count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Draws of independent normals, and the gradients of their log density there."""
    draws = np.random.default_rng(0).standard_normal((count, 3)) * SD
    return draws, -draws / SD**2


def covariance_of(scale: tuple[torch.Tensor, ...]) -> np.ndarray:
    root = scale[0].numpy()
    return root @ root.T if root.ndim == 2 else np.diag(root**2)


@pytest.mark.parametrize("kind", ["dense", "diag"])
@pytest.mark.parametrize("wild", [0.0, 1e15, 1e155, 1e300, np.inf, np.nan])
def test_one_wild_gradient_changes_nothing_that_matters(kind: str, wild: float) -> None:
    draws, grads = sample()
    if wild:
        grads[7] = [wild, -wild, wild]
    found = covariance_of(learnt_scale(draws, grads, unit_scale(kind, 3, torch.float64)))
    assert np.isfinite(found).all()
    # The spread of 400 draws is known to some 4 %; one outlier at the edge of the bulk widens that of the gradients.
    assert np.sqrt(np.diag(found)) == pytest.approx(SD, rel=0.9)
    np.linalg.cholesky(found)


@pytest.mark.parametrize("kind", ["dense", "diag"])
def test_gradients_and_draws_that_do_not_vary_end_nothing(kind: str) -> None:
    scale = unit_scale(kind, 3, torch.float64)
    draws, grads = sample()
    for block in (np.s_[:, 1], np.s_[:, :]):
        still, flat = draws.copy(), grads.copy()
        still[block], flat[block] = 0.0, 0.0
        for pair in ((still, grads), (draws, flat), (still, flat)):
            found = covariance_of(learnt_scale(*pair, scale))
            assert np.isfinite(found).all()
            np.linalg.cholesky(found)


@pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")
def test_data_that_are_all_the_same_end_no_run() -> None:
    def program(y: torch.Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 100.0))
        sigma = pyro.sample("sigma", dist.HalfCauchy(1.0))
        with pyro.plate("i", len(y)):
            pyro.sample("y", dist.Normal(mu, sigma), obs=y)

    model = ph.Model(program, torch.full((10,), 3.0))
    post = ph.infer(model, "nuts", num_samples=100, num_warmup=200, engine="graph", seed=0, progress=False)
    assert post.diagnose().verdict != "trust"  # the density has no upper limit where sigma goes to zero
