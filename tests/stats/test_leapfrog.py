"""The leapfrog integrator on arrays, and the one in machine code."""

from __future__ import annotations

import numpy as np
import torch

from phlogiston.inference.mcmc.hmc import step
from phlogiston.stats.leapfrog import leapfrogs


def force(x: np.ndarray) -> np.ndarray:
    return np.asarray(-(x**3))


def test_arrays_and_machine_code_take_the_same_steps() -> None:
    rng = np.random.default_rng(0)
    x, momentum = rng.standard_normal((2, 5, 3))
    end, last = leapfrogs(x, momentum, force(x), 0.1, 7, lambda x: (x, force(x), x))
    moved, kicked, kick = x.copy(), momentum.copy(), 0.05
    for _ in range(7):
        step(moved, kicked, force(moved), kick, 0.1)
        kick = 0.1
    step(moved, kicked, force(moved), 0.05, 0.0)
    np.testing.assert_allclose(moved, end, rtol=1e-13)
    np.testing.assert_allclose(kicked, last, rtol=1e-13)


def test_numpy_and_torch_take_the_same_steps() -> None:
    x, momentum = np.random.default_rng(1).standard_normal((2, 4))
    end, last = leapfrogs(x, momentum, -x, 0.2, 5, lambda x: (x, -x, x))
    t, p = torch.from_numpy(x), torch.from_numpy(momentum)
    there, kicked = leapfrogs(t, p, -t, 0.2, 5, lambda x: (x, -x, x))
    np.testing.assert_allclose(there.numpy(), end, rtol=1e-14)
    np.testing.assert_allclose(kicked.numpy(), last, rtol=1e-14)
    back, _ = leapfrogs(end, -last, -end, 0.2, 5, lambda x: (x, -x, x))
    np.testing.assert_allclose(back, x, rtol=1e-12)  # the integrator is reversible
