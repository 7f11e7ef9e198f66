"""Products of data with chains' vectors: the same numbers, from one copy of the data with the chains first."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.engine.graph import batch_by
from phlogiston.engine.products import with_chains_first


def both_ways(data: torch.Tensor) -> torch.fx.GraphModule:
    """Value and gradient of 1/2 |A x|^2 for many x, mapped along their last dimension."""

    def of_one(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        product = data @ x
        return 0.5 * product.square().sum(), data.mT.contiguous() @ product

    return batch_by(torch.func.vmap(of_one, in_dims=-1, out_dims=-1), [torch.zeros(data.shape[1], 3, dtype=data.dtype)])


@pytest.mark.parametrize("shape", [(300, 4), (4, 300)], ids=["tall", "wide"])
def test_value_and_gradient_read_one_copy_of_the_data(shape: tuple[int, int]) -> None:
    rng = torch.Generator().manual_seed(0)
    data, x = torch.randn(shape, generator=rng, dtype=torch.float64), torch.randn(shape[1], 3, dtype=torch.float64)
    module = both_ways(data)
    before = module(x)
    after = with_chains_first(module)(x)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-12, atol=1e-10)
    stored = [value for value in module.buffers() if value.ndim == 2]
    assert [tuple(value.shape) for value in stored] == [(4, 300)]


def test_small_data_stay_as_they_are() -> None:
    module = both_ways(torch.ones(10, 4, dtype=torch.float64))
    code = module.code
    assert with_chains_first(module).code == code


def test_chains_of_a_regression_agree_with_the_closed_form() -> None:
    rng = torch.Generator().manual_seed(1)
    design = torch.randn(400, 5, generator=rng, dtype=torch.float64)
    y = design @ torch.arange(5.0, dtype=torch.float64) + torch.randn(400, generator=rng, dtype=torch.float64)

    def regression() -> None:
        beta = pyro.sample("beta", dist.Normal(torch.zeros(5), 10.0).to_event(1))
        with pyro.plate("row", 400):
            pyro.sample("y", dist.Normal(design @ beta, 1.0))

    post = ph.infer(ph.Model(regression).observe(y=y), "nuts", num_samples=500, seed=0, progress=False)
    precision = design.mT @ design + torch.eye(5) / 100.0
    mean, sd = torch.linalg.solve(precision, design.mT @ y), torch.linalg.inv(precision).diagonal().sqrt()
    draws, ess = post.draws["beta"].reshape(-1, 5), torch.tensor(post.summary()["ess_bulk"].tolist())
    assert ((draws.mean(0) - mean).abs() < 4.5 * sd / ess.sqrt()).all()
    assert ((draws.std(0) / sd - 1.0).abs() < 4.5 / (2.0 * ess).sqrt()).all()
