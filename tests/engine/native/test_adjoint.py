"""The adjoint of programs written by hand, interpreted, against torch's derivatives and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from phlogiston.engine.native.adjoint import with_gradient
from phlogiston.engine.native.functions import FUNCTIONS
from phlogiston.engine.native.interpret import interpret
from phlogiston.engine.native.ir import Call, Loop, Op, Program, Ref, Table, contiguous

LANES = 3


def gradient(program: Program, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = interpret(with_gradient(program), {"u": u})
    return found["value"], found["grad"]


def summed(program: Program, ref: Ref, shape: tuple[int, ...]) -> None:
    """Make the sum of an array the program's value, each element with a weight of its own."""
    size = int(np.prod(shape))
    weights = program.new(size, 1.0 + 0.1 * np.arange(size))
    total = program.new(1)
    out = Ref(total, 0, (0,) * len(shape))
    program.items.append(Op("mul", shape, out, (ref, Ref(weights, 0, contiguous(shape))), "+="))
    program.outputs["value"] = (Ref(total, 0, ()), ())


def differences(program: Program, u: np.ndarray) -> np.ndarray:
    h = 1e-6
    rows = []
    for k in range(u.shape[0]):
        step = np.zeros_like(u)
        step[k] = h
        up, down = interpret(program, {"u": u + step})["value"], interpret(program, {"u": u - step})["value"]
        rows.append((up - down) / (2 * h))
    return np.stack(rows)


DOMAIN = {
    **dict.fromkeys(("log", "log2", "log10", "log_of_sum", "sqrt", "rsqrt", "lgamma", "digamma", "pow"), (0.3, 4.0)),
    **dict.fromkeys(("xlogy", "logaddexp", "remainder"), (0.3, 4.0)),
    **dict.fromkeys(("asin", "acos", "atanh", "erfinv"), (-0.9, 0.9)),
    "acosh": (1.2, 4.0),
    "ndtri": (0.05, 0.95),
    "log1p": (-0.8, 4.0),
}


@pytest.mark.parametrize("name", [name for name, function in FUNCTIONS.items() if not function.is_flat])
def test_every_functions_derivatives_are_those_of_differences(name: str) -> None:
    low, high = DOMAIN.get(name, (-2.0, 2.0))
    count = len(FUNCTIONS[name].rules)
    size = 5
    program = Program([size * count], inputs={"u": 0})
    out = program.new(size)
    args = tuple(Ref(0, size * k, (1,)) for k in range(count))
    program.items.append(Op(name, (size,), Ref(out, 0, (1,)), args))
    summed(program, Ref(out, 0, (1,)), (size,))
    u = np.random.default_rng(7).uniform(low, high, (size * count, LANES))
    _, grad = gradient(program, u)
    expected = differences(program, u)
    differentiable = [rule is not None for rule in FUNCTIONS[name].rules for _ in range(size)]
    keep = np.array(differentiable) | (name in ("clamp_min", "clamp_max"))
    if name in ("clamp_min", "clamp_max"):
        keep[size:] = False
    np.testing.assert_allclose(grad[keep], expected[keep], rtol=2e-6, atol=2e-6)


def test_a_recursion_is_swept_backwards() -> None:
    """h[0] = u[0]; h[t] = tanh(a h[t - 1]) + u[t], with a = u[T]."""
    steps = 7
    program = Program([steps + 1], inputs={"u": 0})
    h, inner = program.new(steps), program.new(2 * (steps - 1))
    program.items.append(Op("copy", (), Ref(h, 0, ()), (Ref(0, 0, ()),)))
    body = (
        Op("mul", (), Ref(inner, 0, (), (2,)), (Ref(h, 0, (), (1,)), Ref(0, steps, (), (0,)))),
        Op("tanh", (), Ref(inner, 1, (), (2,)), (Ref(inner, 0, (), (2,)),)),
        Op("add", (), Ref(h, 1, (), (1,)), (Ref(inner, 1, (), (2,)), Ref(0, 1, (), (1,)))),
    )
    program.items.append(Loop(steps - 1, body))
    summed(program, Ref(h, 0, (1,)), (steps,))
    u = np.random.default_rng(1).normal(size=(steps + 1, LANES))
    value, grad = gradient(program, u)
    for lane in range(LANES):
        x = torch.tensor(u[:, lane], requires_grad=True)
        states = [x[0]]
        for t in range(1, steps):
            states.append(torch.tanh(states[-1] * x[steps]) + x[t])
        total = (torch.stack(states) * (1.0 + 0.1 * torch.arange(steps, dtype=torch.float64))).sum()
        (expected,) = torch.autograd.grad(total, x)
        np.testing.assert_allclose(value[lane], total.item(), rtol=1e-13)
        np.testing.assert_allclose(grad[:, lane], expected.numpy(), rtol=1e-12)


def test_a_gathered_element_gets_the_sum_of_what_its_copies_pass_on() -> None:
    program = Program([3], inputs={"u": 0})
    table = program.new(5, np.array([2, 0, 2, 1, 2]))
    out = program.new(5)
    program.items.append(Op("exp", (5,), Ref(out, 0, (1,)), (Ref(0, 0, (0,), (), Table(table, 0, (1,))),)))
    summed(program, Ref(out, 0, (1,)), (5,))
    u = np.random.default_rng(2).normal(size=(3, LANES))
    _, grad = gradient(program, u)
    weights = np.array([1.1, 1.3, 1.0 + 1.2 + 1.4])[:, None]
    np.testing.assert_allclose(grad, weights * np.exp(u), rtol=1e-13)


@pytest.mark.parametrize("fn", ["cholesky", "solve_lower", "solve_lower_transposed"])
def test_routines_have_the_derivatives_of_torch(fn: str) -> None:
    n, m = 4, 2
    rng = np.random.default_rng(3)
    root = rng.normal(size=(n, n))
    matrix = root @ root.T + n * np.eye(n)
    flat = np.concatenate([matrix.ravel(), rng.normal(size=n * m)])
    program = Program([n * n + n * m], inputs={"u": 0})
    square, right = Ref(0, 0, (n, 1)), Ref(0, n * n, (m, 1))
    shape = (n, n) if fn == "cholesky" else (n, m)
    out = Ref(program.new(n * shape[1]), 0, contiguous(shape))
    sizes, args = ((n,), (square,)) if fn == "cholesky" else ((n, m), (square, right))
    program.items.append(Call(fn, sizes, out, args))
    summed(program, out, shape)
    value, grad = gradient(program, np.repeat(flat[:, None], LANES, 1))
    x = torch.tensor(flat, requires_grad=True)
    a, b = x[: n * n].reshape(n, n), x[n * n :].reshape(n, m)
    if fn == "cholesky":
        result = torch.linalg.cholesky(a)
    elif fn == "solve_lower":
        result = torch.linalg.solve_triangular(a, b, upper=False)
    else:
        result = torch.linalg.solve_triangular(a.mT.triu(), b, upper=True)
    weights = (1.0 + 0.1 * torch.arange(result.numel(), dtype=torch.float64)).reshape(shape)
    total = (result * weights).sum()
    (expected,) = torch.autograd.grad(total, x)
    np.testing.assert_allclose(value[1], total.item(), rtol=1e-12)
    np.testing.assert_allclose(grad[:, 1], expected.numpy(), rtol=1e-10, atol=1e-12)
