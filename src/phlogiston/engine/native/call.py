"""Machine code called from machine code: numba's kernels take the address of a density and its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numba
import numpy as np
from llvmlite import ir
from numba import extending

from phlogiston.engine.native.ir import Array


class NativeCall(NamedTuple):
    """A density ``x -> value, grad`` of a block of chains, for kernels.

    ``x [D, C']``, ``value [1, C']`` and ``grad [D, C']`` have room for whole vectors: ``C'`` is a multiple of
    the code's width, and columns from C on repeat the first.
    """

    address: int
    x: Array
    value: Array
    grad: Array
    work: Array
    constants: Array
    tables: Array


def _called(typing: Any, address: Any, arguments: Any) -> Any:
    """Call the function at an address with a tuple of integers for its pointers; it returns nothing."""
    count, kinds = len(arguments), cast(Any, numba.types)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = ir.IntType(64)
        pointer = ir.FunctionType(ir.VoidType(), [word] * count).as_pointer()
        function = builder.inttoptr(values[0], pointer)
        packed = [builder.extract_value(values[1], i) for i in range(count)]
        builder.call(function, packed)
        return context.get_dummy_value()

    return kinds.none(kinds.int64, kinds.UniTuple(kinds.int64, count)), generate


_invoke = cast(Callable[..., None], extending.intrinsic(_called))


def _evaluate(call: NativeCall, front: Array) -> None:
    """Density and gradient of every column of ``front [D, C]``, into ``call.value`` and ``call.grad``."""
    dim, chains = front.shape
    room = call.x.shape[1]
    for d in range(dim):
        for c in range(chains):
            call.x[d, c] = front[d, c]
        for c in range(chains, room):
            call.x[d, c] = front[d, 0]
    _invoke(
        call.address,
        (
            np.int64(call.x.ctypes.data),
            np.int64(call.value.ctypes.data),
            np.int64(call.grad.ctypes.data),
            np.int64(room),
            np.int64(call.work.ctypes.data),
            np.int64(call.constants.ctypes.data),
            np.int64(call.tables.ctypes.data),
        ),
    )


evaluate = cast(Callable[[NativeCall, Array], None], numba.njit(cache=True, error_model="numpy")(_evaluate))
