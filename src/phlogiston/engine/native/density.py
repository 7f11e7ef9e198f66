"""From the recording of a program's density to machine code for blocks of chains, phase by phase."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import llvmlite.binding as llvm
import numpy as np
import torch

from phlogiston.engine.native.adjoint import with_gradient
from phlogiston.engine.native.call import NativeCall
from phlogiston.engine.native.ir import Array, NotNative, Program, walk
from phlogiston.engine.native.llvm.emit import emit
from phlogiston.engine.native.llvm.machine import Machine, aligned
from phlogiston.engine.native.lower import lower
from phlogiston.engine.native.recording.analyse import record
from phlogiston.engine.native.standardise import standardised
from phlogiston.engine.program.isolate import isolated

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class NativeProgram:
    """The recording of a density, or the reason why it has none."""

    program: Program | None
    reason: str


def recorded(density: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], dim: int) -> NativeProgram:
    """Record a density ``u [D] -> value []`` of a program."""
    example = {"u": torch.zeros(dim, dtype=torch.float64)}
    second = {"u": torch.linspace(-0.7, 0.9, dim, dtype=torch.float64)}
    try:
        with isolated(seed=0, dtype=torch.float64), torch.no_grad():
            return NativeProgram(record(density, example, second), "")
    except NotNative as error:
        return NativeProgram(None, str(error))


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
        dim: length of x.
        seconds: that each phase took, by name.
        operations: of the program before and after it was differentiated.
    """

    machine: Machine
    scale: tuple[int, ...]
    dim: int
    seconds: dict[str, float] = field(default_factory=dict)
    operations: tuple[int, int] = (0, 0)

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
            width,
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
    low = lower(full)
    clock.append(time.process_time())
    code = emit(low, width_for(chains))
    clock.append(time.process_time())
    machine = Machine.of(code)
    clock.append(time.process_time())
    names = ("adjoint", "lower", "emit", "llvm")
    seconds = {name: after - before for name, before, after in zip(names, clock, clock[1:], strict=False)}
    counts = (sum(1 for _ in walk(program.items)), sum(1 for _ in walk(full.items)))
    return NativeDensity(machine, form.scale, program.sizes[program.inputs["u"]], seconds, counts)
