"""Products of data with a vector of each of many draws: the same numbers, from one copy of the data."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.engine.trace.graph import batch_by


def both_ways(data: torch.Tensor) -> torch.fx.GraphModule:
    """Half the square of A x and its gradient, for many x along the last dimension."""

    def of_one(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        product = data @ x
        return 0.5 * product.square().sum(), data.mT.contiguous() @ product

    example = torch.zeros(data.shape[1], 3, dtype=data.dtype)
    return batch_by(torch.func.vmap(of_one, in_dims=-1, out_dims=-1), [example])


@pytest.mark.parametrize(
    ("shape", "stored"),
    [
        pytest.param((300, 4), [(4, 300)], id="tall"),
        pytest.param((4, 300), [(4, 300)], id="wide"),
        pytest.param((10, 4), [(10, 4), (4, 10)], id="small"),
    ],
)
def test_value_and_gradient_read_one_copy_of_large_data(shape: tuple[int, int], stored: list[tuple[int, int]]) -> None:
    rng = torch.Generator().manual_seed(0)
    data, x = (torch.randn(size, generator=rng, dtype=torch.float64) for size in (shape, (shape[1], 3)))
    module = both_ways(data)
    value, gradient = module(x)
    torch.testing.assert_close(value, 0.5 * (data @ x).square().sum(0), rtol=1e-12, atol=0.0)
    torch.testing.assert_close(gradient, data.mT @ data @ x, rtol=1e-10, atol=1e-10)
    assert [tuple(value.shape) for value in module.buffers()] == stored


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
