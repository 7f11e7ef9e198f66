"""Modes apart from each other: what a method that climbs says of their weights, against sums on a grid."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph

DATA = np.array([8.7, 9.4, 9.1, 8.9])


def squared() -> None:
    a = pyro.sample("a", dist.Normal(1.0, 3.0))
    with pyro.plate("i", len(DATA)):
        pyro.sample("y", dist.Normal(a * a, 0.5))


def exact() -> tuple[float, float]:
    """P(a > 0) and the log evidence."""
    grid = torch.linspace(-6.0, 6.0, 60_001, dtype=torch.float64)
    logs = dist.Normal(1.0, 3.0).log_prob(grid)
    logs = logs + dist.Normal(grid[:, None] ** 2, 0.5).log_prob(torch.from_numpy(DATA)).sum(1)
    total = logs.logsumexp(0)
    return float((logs[grid > 0] - total).exp().sum()), float(total + np.log(12.0 / 60_000))


@pytest.mark.parametrize("seed", range(3))
def test_laplace_mixes_the_modes_that_its_climbs_found(seed: int) -> None:
    post = ph.infer(ph.Model(squared).observe(y=DATA), "laplace", seed=seed)
    positive, evidence = exact()
    assert post.figures["modes"] == 2.0
    assert "they ended at 2 modes" in post.stop_reason
    assert post.log_evidence is not None
    assert abs(post.log_evidence.value - evidence) < 4 * post.log_evidence.se + 1e-6
    assert abs(post.figures["laplace_evidence"] - evidence) < 0.01
    found = post.expect(lambda draw: draw["a"] > 0)
    assert abs(found.value - positive) < 4 * found.se


def test_one_mode_stays_one() -> None:
    post = ph.infer(ph.Model(lambda: pyro.sample("z", dist.Normal(0.0, 1.0))), "laplace", seed=0)
    assert post.figures["modes"] == 1.0
