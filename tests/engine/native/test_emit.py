"""Machine code against the interpreter, on random programs with their gradients, in vectors of 4 and 8 chains."""

from __future__ import annotations

import numpy as np
import pytest
from random_programs import RandomProgram

from phlogiston.engine.native.adjoint import with_gradient
from phlogiston.engine.native.fuse import fuse
from phlogiston.engine.native.interpret import interpret
from phlogiston.engine.native.ir import Program
from phlogiston.engine.native.llvm.emit import emit
from phlogiston.engine.native.llvm.machine import Machine
from phlogiston.engine.native.lower import lower

TOLERANCE = 1e-11


def by_machine(program: Program, u: np.ndarray, width: int) -> dict[str, np.ndarray]:
    low = fuse(lower(program))
    machine = Machine.of(emit(low, width))
    found = {name: np.full((low.sizes[ref.buffer], u.shape[1]), np.nan) for name, (ref, _) in low.outputs.items()}
    work = machine.workspace()
    work[:] = np.nan  # what is not written before it is read shows
    machine({"u": u, **found}, work)
    return found


def agree(program: Program, u: np.ndarray, width: int) -> None:
    expected = interpret(program, {"u": u})
    for name, value in by_machine(program, u, width).items():
        wanted = expected[name].reshape(value.shape)
        np.testing.assert_allclose(value, wanted, rtol=TOLERANCE, atol=TOLERANCE * (1.0 + np.abs(wanted).max()))


@pytest.mark.parametrize("seed", range(60))
def test_machine_code_gives_what_the_interpreter_gives(seed: int) -> None:
    made = RandomProgram(seed)
    width = 4 if seed % 2 else 8
    u = np.random.default_rng(seed).normal(size=(made.dim, 8))
    agree(with_gradient(made.program), u, width)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 1100))
def test_machine_code_gives_what_the_interpreter_gives_on_many_more(seed: int) -> None:
    made = RandomProgram(seed, operations=20)
    u = np.random.default_rng(seed).normal(size=(made.dim, 8))
    agree(with_gradient(made.program), u, 8)
