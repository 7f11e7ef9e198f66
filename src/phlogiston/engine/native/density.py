"""From the recording of a program's density to machine code for blocks of chains, phase by phase."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import llvmlite.binding as llvm
import numpy as np

from phlogiston.engine.native.adjoint import with_gradient
from phlogiston.engine.native.call import NativeCall, evaluate
from phlogiston.engine.native.fuse import fuse
from phlogiston.engine.native.ir import Array, Program, walk
from phlogiston.engine.native.llvm.emit import emit
from phlogiston.engine.native.llvm.machine import Machine, aligned
from phlogiston.engine.native.lower import lower
from phlogiston.engine.native.standardise import standardised

Shapes = tuple[tuple[int, ...], ...]


@functools.lru_cache(maxsize=1)
def widest() -> int:
    """Doubles in the longest vector of this processor, at least four."""
    features = llvm.get_host_cpu_features()
    return 8 if features.get("avx512f") else 4


def width_for(chains: int) -> int:
    """Chains in a vector, so that few lanes are idle."""
    return widest() if chains > 4 else 4


@dataclass
class NativeDensity:
    """Machine code of a standardised density with its gradient, for any number of chains.

    Args:
        machine: the code.
        scale: buffers of the scale's parts.
        shapes: of these parts.
        dim: length of x.
        seconds: that each phase took, by name.
        operations: of the program before and after it was differentiated.
    """

    machine: Machine
    scale: tuple[int, ...]
    shapes: Shapes
    dim: int
    seconds: dict[str, float] = field(default_factory=dict)
    operations: tuple[int, int] = (0, 0)

    def at(self, u: Array) -> dict[str, Array]:
        """``value`` and ``grad [D]`` at one point ``u [D]``, with the scale that changes nothing."""
        first, *rest = self.shapes
        unit = np.eye(self.dim) if len(first) == 2 else np.ones(first)
        call = self.call(1, [unit, *(np.zeros(shape) for shape in rest)])
        evaluate(call, np.ascontiguousarray(u[:, None]))
        return {"value": call.value[0, 0].copy(), "grad": call.grad[:, 0].copy()}

    def call(self, chains: int, scale: Sequence[Array]) -> NativeCall:
        """The code with memory of its own, for so many chains at one scale."""
        width = self.machine.code.width
        room = -(-chains // width) * width
        constants = aligned(len(self.machine.constants))
        constants[:] = self.machine.constants
        for buffer, part in zip(self.scale, scale, strict=True):
            start = self.machine.code.starts.get(buffer)
            if start is not None:
                constants[start : start + part.size] = np.ravel(part)
        return NativeCall(
            self.machine.address,
            np.zeros((self.dim, room)),
            np.zeros((1, room)),
            np.zeros((self.dim, room)),
            self.machine.workspace(),
            constants,
            self.machine.tables,
        )


def native_density(program: Program, shapes: Shapes, chains: int) -> NativeDensity:
    """Compile a recorded density ``u [D] -> value []`` for a scale of these shapes.

    Args:
        program: as ``record`` leaves it.
        shapes: of the scale's parts, as ``standardised`` takes them.
        chains: in a block, which decide the width of vectors.
    """
    clock = [time.process_time()]
    form = standardised(program, shapes)
    full = with_gradient(form.program, by="x")
    clock.append(time.process_time())
    low = fuse(lower(full))
    clock.append(time.process_time())
    code = emit(low, width_for(chains))
    clock.append(time.process_time())
    machine = Machine.of(code)
    clock.append(time.process_time())
    names = ("adjoint", "lower", "emit", "llvm")
    seconds = {name: after - before for name, before, after in zip(names, clock, clock[1:], strict=False)}
    counts = (sum(1 for _ in walk(program.items)), sum(1 for _ in walk(full.items)))
    return NativeDensity(machine, form.scale, shapes, program.sizes[program.inputs["u"]], seconds, counts)


@dataclass(frozen=True)
class NativeRows:
    """Machine code of a reading ``u [D]`` -> named tensors, for many rows in one call.

    Args:
        machine: the code.
        shapes: of the outputs for one row.
    """

    machine: Machine
    shapes: dict[str, tuple[int, ...]]

    def __call__(self, u: Array) -> dict[str, Array]:
        """``u [n, D]`` -> each output ``[n, *shape]``."""
        rows, width = u.shape[0], self.machine.code.width
        room = max(1, -(-rows // width)) * width
        columns = np.zeros((u.shape[1], room))
        columns[:, :rows] = u.T
        columns[:, rows:] = u[:1].T if rows else 0.0
        found = {name: np.empty((math.prod(shape), room)) for name, shape in self.shapes.items()}
        self.machine({"u": columns, **found}, self.machine.workspace())
        return {
            name: np.ascontiguousarray(found[name][:, :rows].T).reshape(rows, *shape)
            for name, shape in self.shapes.items()
        }


def native_rows(program: Program, *, with_grad: bool = False) -> NativeRows:
    """Compile a recorded reading of ``u [D]``; ``with_grad`` adds the gradient of its output ``value``."""
    full = with_gradient(program) if with_grad else program
    shapes = {name: shape for name, (_, shape) in full.outputs.items()}
    return NativeRows(Machine.of(emit(fuse(lower(full)), widest())), shapes)
