"""Assembly to machine code by LLVM, and its call on arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phlogiston.engine.native.ir import Array
from phlogiston.engine.native.llvm.compile import compile_text
from phlogiston.engine.native.llvm.emit import NAME, Code

_ALIGNMENT = 64


def aligned(count: int, kind: Any = float) -> Array:
    """Zeros that begin at a multiple of the longest vector."""
    raw = np.zeros(count + _ALIGNMENT // 8, kind)
    skip = (-raw.ctypes.data % _ALIGNMENT) // 8
    return raw[skip : skip + count]


@dataclass
class Machine:
    """Machine code with what it reads and writes.

    ``address`` is that of ``f(inputs..., outputs..., columns, work, constants, tables)``, see ``Code``; its arguments
    are pointers and one integer. One thread at a time may use one work space.
    """

    code: Code
    engine: Any
    address: int
    constants: Array
    tables: Array
    _call: Any = field(repr=False, default=None)

    @staticmethod
    def of(code: Code) -> Machine:
        """Compile."""
        engine = compile_text(code.text)
        address = engine.get_function_address(NAME)
        constants, tables = aligned(len(code.constants)), code.tables
        constants[:] = code.constants
        machine = Machine(code, engine, address, constants, tables)
        kinds = [ctypes.c_void_p] * len(code.order) + [ctypes.c_int64] + [ctypes.c_void_p] * 3
        machine._call = ctypes.CFUNCTYPE(None, *kinds)(address)
        return machine

    def workspace(self) -> Array:
        """Room for one thread."""
        return aligned(max(1, self.code.work) * self.code.width)

    def exchange(self, buffer: int, data: Array) -> None:
        """Put other contents into an exchangeable constant."""
        start = self.code.starts[buffer]
        self.constants[start : start + data.size] = data.ravel()

    def __call__(self, arrays: Mapping[str, Array], work: Array) -> None:
        """Compute all columns of arrays ``[numbers, columns]`` that lie without gaps."""
        pointers = [arrays[name].ctypes.data for name in self.code.order]
        columns = next(iter(arrays.values())).shape[-1]
        self._call(*pointers, columns, work.ctypes.data, self.constants.ctypes.data, self.tables.ctypes.data)
