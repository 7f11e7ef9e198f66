"""Effective numbers of draws: of chains by their autocorrelation, of weighted draws by their weights."""

from __future__ import annotations

import numpy as np
import pytest

from phlogiston.stats.effective_size import effective_size, evenly_spaced, weighted_size
from phlogiston.stats.weights import effective_sample_size


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_autoregressive_chains_have_the_known_effective_size(rho: float) -> None:
    rng = np.random.default_rng(0)
    x = np.empty((8, 4000, 1))
    x[:, 0] = rng.standard_normal((8, 1))
    for t in range(1, x.shape[1]):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1.0 - rho**2) * rng.standard_normal((8, 1))
    known = x.size * (1.0 - rho) / (1.0 + rho)
    assert effective_size(x) == pytest.approx(known, rel=0.15)
    assert effective_size(x, tails=True) <= effective_size(x)


def test_the_worst_component_counts_and_constants_do_not() -> None:
    rng = np.random.default_rng(1)
    good, constant = rng.standard_normal((4, 1000, 1)), np.ones((4, 1000, 1))
    slow = np.repeat(rng.standard_normal((4, 100, 1)), 10, axis=1)
    assert effective_size(np.concatenate([good, slow, constant], 2)) == effective_size(slow) < 600.0
    assert effective_size(constant) == 0.0
    assert effective_size(good[:, :3]) == 12.0  # too few for an autocorrelation


def test_weights_count_by_kish_along_an_axis_and_from_logs() -> None:
    weights = np.array([[1.0, 1.0, 1.0, 1.0], [3.0, 1.0, 0.0, 0.0]])
    assert weighted_size(weights, 1) == pytest.approx([4.0, 1.6])
    assert weighted_size(5.0 * weights[1]) == pytest.approx(1.6)
    with np.errstate(divide="ignore"):
        assert effective_sample_size(np.log(weights[1]) + 1000.0) == pytest.approx(1.6)


def test_evenly_spaced_rows_reach_both_ends() -> None:
    assert evenly_spaced(101, 5).tolist() == [0, 25, 50, 75, 100]
    assert evenly_spaced(3, 3).tolist() == [0, 1, 2]
