"""Hidden Markov models that are written without a duration: the sequence that is observed has one."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph

START, MOVES = torch.tensor([0.6, 0.4]), torch.tensor([[0.8, 0.2], [0.3, 0.7]])
Y = torch.from_numpy(np.random.default_rng(0).standard_normal(9))


def program(y: torch.Tensor) -> None:
    m = pyro.sample("m", dist.Normal(1.0, 1.0))
    emissions = dist.Normal(torch.stack([-m, m], -1), 1.0)
    pyro.sample("y", dist.DiscreteHMM(START.log(), MOVES.log(), emissions), obs=y)


def forward(m: float) -> float:
    """Log density of the sequence by the forward algorithm, the first state drawn from START and moved once."""
    state, total = START.double().numpy(), 0.0
    for y in Y.numpy():
        state = (state @ MOVES.double().numpy()) * np.exp(-0.5 * (y - np.array([-m, m])) ** 2) / np.sqrt(2.0 * np.pi)
        total += np.log(state.sum())
        state /= state.sum()
    return total


def test_a_sequence_of_any_length_is_scored_and_predicted() -> None:
    model = ph.Model(program, Y)
    for m in (-0.5, 0.7):
        found = model.target().log_joint({"m": torch.tensor(m, dtype=torch.float64)})
        prior = -0.5 * (m - 1.0) ** 2 - 0.5 * np.log(2.0 * np.pi)
        assert float(found) == pytest.approx(forward(m) + prior, rel=1e-6)
    post = ph.infer(model, "laplace", num_samples=500, seed=0, progress=False)
    assert post.predict()["y"].shape == (1, 500, 9)
    assert post.diagnose().checks
