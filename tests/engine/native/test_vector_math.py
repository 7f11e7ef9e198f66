"""Functions in machine code against mpmath over their whole range, to two units in the last place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from phlogiston.engine.native.functions import FUNCTIONS
from phlogiston.engine.native.ir import Op, Program, Ref
from phlogiston.engine.native.llvm.emit import emit
from phlogiston.engine.native.llvm.machine import Machine
from phlogiston.engine.native.lower import lower

mp = pytest.importorskip("mpmath")
mp.mp.prec = 120
SPECIAL = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 5e-324, 1e-310, -1.0, 1.0, 2.0, -2.5, 1e300, -1e300])


def in_machine_code(name: str, *columns: np.ndarray, width: int = 4) -> np.ndarray:
    """A function of numbers at many points."""
    program = Program([len(columns)], inputs={"u": 0})
    out = program.new(1)
    program.items.append(Op(name, (), Ref(out, 0, ()), tuple(Ref(0, k, ()) for k in range(len(columns)))))
    program.outputs["value"] = (Ref(out, 0, ()), ())
    machine = Machine.of(emit(lower(program), width))
    count = columns[0].size
    u, value = np.zeros((len(columns), -(-count // width) * width)), np.zeros((1, -(-count // width) * width))
    u[:, :count] = columns
    machine({"u": u, "value": value}, machine.workspace())
    return value[0, :count]


def errors(found: np.ndarray, points: np.ndarray, exact: Callable[[Any], Any]) -> np.ndarray:
    """In units of the last place of the exact result."""
    wanted = [exact(mp.mpf(float(x))) for x in points]
    units = [mp.mpf(float(np.spacing(abs(float(value))))) for value in wanted]
    return np.array([float(abs(mp.mpf(float(y)) - w) / u) for y, w, u in zip(found, wanted, units, strict=True)])


def spread(low: float, high: float, count: int = 1200) -> np.ndarray:
    """Points between two bounds, evenly and by magnitude."""
    rng = np.random.default_rng(0)
    points = [rng.uniform(low, high, count)]
    if high > 0:
        points.append(np.exp(rng.uniform(-700.0, np.log(high), count)))
    if low < 0:
        points.append(-np.exp(rng.uniform(-700.0, np.log(-low), count)))
    return np.concatenate(points)


EXACT: dict[str, tuple[np.ndarray, Callable[[Any], Any]]] = {
    "exp": (spread(-708.0, 709.7), lambda x: mp.exp(x)),
    "expm1": (spread(-60.0, 709.0), lambda x: mp.expm1(x)),
    "log": (np.exp(spread(-740.0, 709.0)), lambda x: mp.log(x)),
    "log1p": (np.concatenate([spread(-0.999, 1.0), np.exp(spread(0.0, 700.0))]), lambda x: mp.log1p(x)),
    "sigmoid": (spread(-700.0, 700.0), lambda x: 1 / (1 + mp.exp(-x))),
    "log_sigmoid": (spread(-700.0, 700.0), lambda x: -mp.log1p(mp.exp(-x))),
    "tanh": (spread(-30.0, 30.0), lambda x: mp.tanh(x)),
    "softplus": (spread(-700.0, 20.0), lambda x: mp.log1p(mp.exp(x))),
    "sin": (spread(-1e4, 1e4), lambda x: mp.sin(x)),
    "cos": (spread(-1e4, 1e4), lambda x: mp.cos(x)),
    "erf": (spread(-6.0, 6.0), lambda x: mp.erf(x)),
    "erfc": (spread(-5.0, 20.0), lambda x: mp.erfc(x)),
}


@pytest.mark.parametrize("name", EXACT)
def test_functions_are_right_to_two_units_in_the_last_place(name: str) -> None:
    points, exact = EXACT[name]
    assert errors(in_machine_code(name, points), points, exact).max() <= 2.0


@pytest.mark.parametrize("name", [name for name, function in FUNCTIONS.items() if len(function.rules) == 1])
def test_special_values_are_those_of_numpy(name: str) -> None:
    with np.errstate(all="ignore"):
        wanted = np.asarray(FUNCTIONS[name].evaluate(SPECIAL), float)
    found = in_machine_code(name, SPECIAL)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("name", ["exp", "log", "log1p", "tanh", "lgamma"])
def test_the_width_of_a_vector_changes_no_bit(name: str) -> None:
    points = np.abs(EXACT.get(name, EXACT["exp"])[0][:500])
    np.testing.assert_array_equal(in_machine_code(name, points), in_machine_code(name, points, width=8))
