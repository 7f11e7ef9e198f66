"""Loops of programs stay loops: as many operations whatever the number of steps, and the same density and gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from phlogiston.engine.native.adjoint import with_gradient
from phlogiston.engine.native.density import native_rows
from phlogiston.engine.native.interpret import interpret
from phlogiston.engine.native.ir import Loop, Program, walk
from phlogiston.engine.native.recording.analyse import record
from phlogiston.engine.native.roll import roll

Density = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
SHORT, LONG = 48, 96


def log_normal(x: torch.Tensor, loc: Any, scale: Any) -> torch.Tensor:
    return torch.distributions.Normal(loc, scale, validate_args=False).log_prob(x)


def volatility(u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A state carried from step to step, then stacked."""
    phi, h = torch.tanh(u[0]), [u[1]]
    for t in range(1, len(y)):
        h.append(phi * h[-1] + u[2 + t])
    return log_normal(y, 0.0, torch.exp(0.5 * torch.stack(h))).sum()


def garch(u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A running sum of terms."""
    a, b, c = torch.exp(u[0]), torch.sigmoid(u[1]), torch.sigmoid(u[2])
    variance, total = a, torch.zeros(())
    for t in range(1, len(y)):
        variance = a + b * y[t - 1] ** 2 + c * variance
        total = total + log_normal(y[t], 0.0, variance.sqrt())
    return total


def autoregression(u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Two lags, whose data flow repeats with twice the operations' period."""
    terms = [log_normal(y[t], u[0] * y[t - 1] + u[1] * y[t - 2], torch.exp(u[2])) for t in range(2, len(y))]
    return torch.stack(terms).sum()


def long_lag(u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A state of five steps before."""
    h = [u[t] for t in range(5)]
    for t in range(5, len(y)):
        h.append(torch.sin(h[t - 5]) + y[t])
    return torch.stack(h).square().sum()


def in_place(u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Written into one array, step by step."""
    h = torch.zeros(len(y), dtype=torch.float64)
    h[0] = u[0]
    for t in range(1, len(y)):
        h[t] = torch.tanh(u[1] * h[t - 1]) + y[t]
    return h.square().sum()


def forward_algorithm(u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Small matrices in every step."""
    transition = torch.log_softmax(u[:4].reshape(2, 2), -1)
    alpha = torch.log_softmax(u[4:6], -1)
    for t in range(len(y)):
        alpha = torch.logsumexp(alpha[:, None] + transition, 0) + log_normal(y[t], u[6:8], 1.0)
    return torch.logsumexp(alpha, 0)


def backwards(u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """From the last datum to the first."""
    state = u[0]
    for t in range(len(y) - 1, -1, -1):
        state = torch.sin(state) * u[1] + y[t]
    return state


def alternating(u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Another operation at every second step."""
    state = u[0]
    for t in range(len(y)):
        state = torch.sin(state) + y[t] if t % 2 else torch.tanh(state * u[1])
    return state


def runge_kutta(u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Prey and predators by the classical scheme."""

    def slope(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.exp(u[0]) * a - torch.exp(u[1]) * a * b, torch.exp(u[3]) * a * b - torch.exp(u[2]) * b

    a, b, d, total = torch.ones(()).double(), torch.ones(()).double(), 0.02, torch.zeros(())
    for t in range(len(y)):
        a1, b1 = slope(a, b)
        a2, b2 = slope(a + d / 2 * a1, b + d / 2 * b1)
        a3, b3 = slope(a + d / 2 * a2, b + d / 2 * b2)
        a4, b4 = slope(a + d * a3, b + d * b3)
        a, b = a + d / 6 * (a1 + 2 * a2 + 2 * a3 + a4), b + d / 6 * (b1 + 2 * b2 + 2 * b3 + b4)
        total = total + log_normal(y[t], a, 1.0)
    return total


def nested(u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A loop within a loop."""
    total = torch.zeros(())
    for i in range(len(y) // 4):
        state = u[0]
        for k in range(12):
            state = torch.sin(state) + y[i] * u[1 + k]
        total = total + state**2
    return total


def two_in_a_row(u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Two loops, the second over what the first has left."""
    h = [u[0]]
    for t in range(1, len(y)):
        h.append(0.5 * h[-1] + y[t])
    total = torch.zeros(())
    for t in range(1, len(y)):
        total = total + torch.exp(-((h[t] - h[t - 1]) ** 2))
    return total


DENSITIES: list[Density] = [
    volatility,
    garch,
    autoregression,
    long_lag,
    in_place,
    forward_algorithm,
    backwards,
    alternating,
    runge_kutta,
    nested,
    two_in_a_row,
]
each = pytest.mark.parametrize("density", DENSITIES, ids=lambda density: density.__name__)


@functools.cache
def recorded(density: Density, steps: int) -> tuple[Program, torch.Tensor]:
    y = torch.from_numpy(np.random.default_rng(1).normal(size=steps))

    def reading(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"value": density(values["u"], y)}

    return record(reading, {"u": torch.zeros(steps + 3, dtype=torch.float64)}), y


@each
def test_the_number_of_operations_does_not_grow_with_the_steps(density: Density) -> None:
    short, long = (sum(1 for _ in walk(roll(recorded(density, steps)[0]).items)) for steps in (SHORT, LONG))
    assert long <= short + 2
    assert short < 0.5 * len(recorded(density, SHORT)[0].items)


@each
def test_rolled_and_unrolled_programs_compute_the_same(density: Density) -> None:
    program, _ = recorded(density, SHORT)
    u = np.random.default_rng(0).normal(size=(SHORT + 3, 2)) * 0.3
    expected = interpret(with_gradient(program), {"u": u})
    found = interpret(with_gradient(roll(program)), {"u": u})
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-12)


@each
def test_machine_code_of_loops_gives_the_values_of_torch(density: Density) -> None:
    program, y = recorded(density, LONG)
    u = np.random.default_rng(2).normal(size=(3, LONG + 3)) * 0.3
    found = native_rows(roll(program), with_grad=True)(u)
    for row in range(3):
        point = torch.from_numpy(u[row].copy()).requires_grad_()
        if density is in_place:  # autograd refuses what it has overwritten
            value = density(point.detach(), y)
        else:
            value = density(point, y)
            (grad,) = torch.autograd.grad(value, point)
            np.testing.assert_allclose(found["grad"][row], grad.numpy(), rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(found["value"][row], value.detach().numpy(), rtol=1e-11)


def test_a_loop_within_a_loop_is_one_nest() -> None:
    rolled = roll(recorded(nested, LONG)[0])
    outer = [item for item in rolled.items if isinstance(item, Loop)]
    assert any(isinstance(part, Loop) for loop in outer for part in loop.body)
