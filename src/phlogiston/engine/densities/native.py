"""The readings of a program at an unconstrained point as machine code, each recorded when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from phlogiston.engine.native.density import NativeDensity, NativeRows, Shapes, native_density, native_rows
from phlogiston.engine.native.ir import Array, NotNative, Program
from phlogiston.engine.native.recording.analyse import record
from phlogiston.engine.native.roll import roll
from phlogiston.engine.program.interpreter import Interpreter
from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.program.reading import Values

# A reading of the target -> the reading of the interpreter that is recorded, and whether its gradient is wanted.
_READINGS = {
    "density": ("density", False),
    "density_and_grad": ("density", True),
    "joint_and_grad": ("joint_density", True),
    "constrain": ("constrain", False),
}


_STEP = 1e-5  # of the difference that a gradient is compared with


@dataclass(frozen=True)
class Recording:
    """A reading as a program of the intermediate form; ``program`` is None where it has none, for a ``reason``."""

    program: Program | None
    reason: str = ""
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)


def _points(dim: int) -> Iterator[Array]:
    """Points at which recordings are compared with programs, ``[D]`` each."""
    yield np.linspace(-0.7, 0.9, dim)
    rng = np.random.default_rng(0)
    for spread in (0.5, 1.0, 2.0, 3.0, 4.0):
        yield rng.normal(size=dim) * spread


def _agrees_with_differences(u: Array, grad: Array, code: Callable[[Array], Mapping[str, Array]]) -> bool:
    """Whether a finite gradient at ``u [D]`` is the slope of the values along one direction."""
    along = np.random.default_rng(1).normal(size=u.shape)
    along /= np.linalg.norm(along)
    ahead, behind = float(code(u + _STEP * along)["value"]), float(code(u - _STEP * along)["value"])
    slope, size = float(grad @ along), float(np.linalg.norm(grad))
    return abs((ahead - behind) / (2.0 * _STEP) - slope) <= 1e-3 * abs(slope) + 1e-5 * (1.0 + size)


class NativeReadings:
    """What native code does for one target.

    Args:
        interpreter: of the program.
        wanted: whether native code is to be used at all.
    """

    def __init__(self, interpreter: Interpreter, *, wanted: bool) -> None:
        self._interpreter, self._wanted = interpreter, wanted and interpreter.dim > 0
        self._recordings: dict[str, Recording] = {}
        self._rows: dict[str, NativeRows] = {}
        self._chains: dict[tuple[Shapes, int], NativeDensity] = {}

    def recording(self, name: str = "density") -> Recording:
        """One of the interpreter's readings."""
        if not self._wanted:
            return Recording(None)
        if name not in self._recordings:
            self._recordings[name] = self._recorded(name)
        return self._recordings[name]

    def _recorded(self, name: str) -> Recording:
        example = {"u": torch.zeros(self._interpreter.dim, dtype=torch.float64)}
        reading = getattr(self._interpreter, name)
        try:
            with isolated(seed=0, dtype=torch.float64), torch.no_grad():
                dtypes: dict[str, torch.dtype] = {}

                def noted(inputs: Values) -> Values:
                    found: Values = reading(inputs)
                    dtypes.update({key: value.dtype for key, value in found.items()})
                    return found

                return Recording(roll(record(noted, example)), "", dtypes)
        except NotNative as error:
            return Recording(None, str(error))

    def chains(self, shapes: Shapes, chains: int) -> NativeDensity | None:
        """The standardised density of a block of chains with its gradient; None where there is no native code."""
        recording = self.recording()
        if recording.program is None:
            return None
        if (shapes, chains) not in self._chains:
            try:
                density = native_density(recording.program, shapes, chains)
            except NotNative as error:
                self._recordings["density"] = Recording(None, str(error))
                return None
            if not self._follows("density", density.at):
                return None
            self._chains[shapes, chains] = density
        return self._chains[shapes, chains]

    def _follows(self, name: str, code: Callable[[Array], Mapping[str, Array]]) -> bool:
        """Whether machine code gives what the program gives, at points other than the one that was recorded.

        A recording follows torch's operations only: one that computes outside torch leaves constants in it. Points are
        tried until everything is finite at one, since infinities say little.
        """
        for u in _points(self._interpreter.dim):
            with isolated(seed=0, dtype=torch.float64), torch.no_grad():
                expected: Values = getattr(self._interpreter, name)({"u": torch.from_numpy(u)})
            wanted = {key: value.to(torch.float64).numpy() for key, value in expected.items()}
            found = code(u)
            for key, value in wanted.items():
                if not np.allclose(found[key], value, rtol=1e-9, atol=1e-9, equal_nan=True):
                    self._recordings[name] = Recording(None, f"the recording of {key} does not follow the program")
                    return False
            if all(np.isfinite(value).all() for value in wanted.values()):
                return "grad" not in found or self._has_slope(name, u, code)
        return True

    def _has_slope(self, name: str, u: Array, code: Callable[[Array], Mapping[str, Array]]) -> bool:
        """Whether the gradient at ``u [D]`` is that of the values near by; autograd decides where these differ."""
        grad = code(u)["grad"]
        size = float(np.linalg.norm(grad[np.isfinite(grad)]))  # an infinite one would allow any difference
        if np.isfinite(grad).all() and _agrees_with_differences(u, grad, code):
            return True
        reading = "density_and_grad" if name == "density" else "joint_and_grad"
        with isolated(seed=0, dtype=torch.float64):
            exact: Values = getattr(self._interpreter, reading)({"u": torch.from_numpy(u)})
        if np.allclose(grad, exact["grad"].numpy(), rtol=1e-6, atol=1e-9 * (1.0 + size), equal_nan=True):
            return True
        self._recordings[name] = Recording(None, "the gradient of its recording is not that of the program")
        return False

    def evaluate(self, name: str, u: torch.Tensor) -> Values | None:
        """One of the target's readings at ``u [n, D]``; None where it has no native code."""
        if name not in _READINGS:
            return None
        reading, with_grad = _READINGS[name]
        recording = self.recording(reading)
        if recording.program is None:
            return None
        if name not in self._rows:
            try:
                rows = native_rows(recording.program, with_grad=with_grad)
            except NotNative as error:
                self._recordings[reading] = Recording(None, str(error))
                return None
            if not self._follows(reading, lambda u: {key: value[0] for key, value in rows(u[None]).items()}):
                return None
            self._rows[name] = rows
        found = self._rows[name](np.asarray(u.numpy(), np.float64))
        return {
            key: torch.from_numpy(value).to(recording.dtypes.get(key, torch.float64)) for key, value in found.items()
        }

    def ran(self, name: str) -> bool:
        """Whether a reading of the target has run natively."""
        return name in self._rows
