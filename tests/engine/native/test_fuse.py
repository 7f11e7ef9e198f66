"""Loops that are joined compute what they did apart, and fewer of them are left."""

from __future__ import annotations

import numpy as np
import pytest
from random_programs import RandomProgram

from phlogiston.engine.native.adjoint import with_gradient
from phlogiston.engine.native.fuse import fuse
from phlogiston.engine.native.interpret import interpret
from phlogiston.engine.native.ir import Loop, Op, Program, Ref
from phlogiston.engine.native.lower import lower


@pytest.mark.parametrize("seed", range(16))
def test_what_is_joined_computes_the_same(seed: int) -> None:
    made = RandomProgram(seed, operations=16)
    low = lower(with_gradient(made.program))
    joined = fuse(low)
    assert len(joined.items) <= len(low.items)
    u = np.random.default_rng(seed).normal(size=(made.dim, 2))
    before, after = interpret(low, {"u": u}), interpret(joined, {"u": u})
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-12, atol=1e-12 * (1.0 + np.abs(value).max()))


def test_a_likelihood_and_its_adjoint_are_one_loop() -> None:
    """value = sum_n log(1 + (y_n - u)^2), with its derivative: one pass over the data."""
    program = Program([1], inputs={"u": 0})
    count = 100
    y = program.new(count, np.linspace(-2.0, 2.0, count))
    rest, square, term, total = program.new(count), program.new(count), program.new(count), program.new(1)
    line = Ref(0, 0, (1,))
    program.items += [
        Op("sub", (count,), Ref(rest, 0, (1,)), (Ref(y, 0, (1,)), line._replace(strides=(0,)))),
        Op("mul", (count,), Ref(square, 0, (1,)), (Ref(rest, 0, (1,)), Ref(rest, 0, (1,)))),
        Op("log1p", (count,), Ref(term, 0, (1,)), (Ref(square, 0, (1,)),)),
        Op("copy", (count,), Ref(total, 0, (0,)), (Ref(term, 0, (1,)),), "+="),
    ]
    program.outputs["value"] = (Ref(total, 0, ()), ())
    joined = fuse(lower(with_gradient(program)))
    assert sum(isinstance(item, Loop) for item in joined.items) == 1


def test_a_loop_that_needs_a_whole_sum_stays_apart() -> None:
    """The second loop reads what the first one has only when it ends."""
    program = Program([40], inputs={"u": 0})
    total, scaled = program.new(1), program.new(40)
    program.items += [
        Op("copy", (40,), Ref(total, 0, (0,)), (Ref(0, 0, (1,)),), "+="),
        Op("div", (40,), Ref(scaled, 0, (1,)), (Ref(0, 0, (1,)), Ref(total, 0, (0,)))),
    ]
    program.outputs["value"] = (Ref(scaled, 0, (1,)), (40,))
    joined = fuse(lower(program))
    assert [isinstance(item, Loop) for item in joined.items] == [True, True]
    u = np.random.default_rng(0).uniform(1.0, 2.0, (40, 3))
    np.testing.assert_allclose(interpret(joined, {"u": u})["value"], u / u.sum(0), rtol=1e-12)
