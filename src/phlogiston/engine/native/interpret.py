"""A program of the intermediate form run in NumPy: the oracle of every later phase, and of fuzzing. It is slow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from phlogiston.engine.native.functions import FUNCTIONS
from phlogiston.engine.native.ir import IDENTITY, Array, Call, Item, Loop, Op, Program, Ref, places, walk
from phlogiston.engine.native.routines import ROUTINES


def interpret(program: Program, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Run a program.

    Args:
        program: what to run.
        inputs: name -> numbers ``[size, lanes]``, a column for each draw.

    Returns:
        name -> ``[*shape, lanes]`` for each of the program's outputs.
    """
    lanes = next(iter(inputs.values())).shape[1]
    buffers = _fresh(program, lanes)
    for name, buffer in program.inputs.items():
        buffers[buffer] = np.array(inputs[name], float)
    with np.errstate(all="ignore"):
        _run(program, program.items, buffers, ())
    found = {}
    for name, (ref, shape) in program.outputs.items():
        found[name] = buffers[ref.buffer][places(program, ref, shape)].reshape(*shape, lanes)
    return found


def _fresh(program: Program, lanes: int) -> list[Array]:
    begin = {
        item.out.buffer: IDENTITY[item.how] for item in walk(program.items) if isinstance(item, Op) and item.how != "="
    }
    buffers = [np.full((size, lanes), begin.get(index, np.nan)) for index, size in enumerate(program.sizes)]
    for index, data in program.data.items():
        buffers[index] = np.repeat(np.asarray(data, float)[:, None], lanes, 1)
    return buffers


def _run(program: Program, items: Sequence[Item], buffers: list[Array], steps: tuple[int, ...]) -> None:
    for item in items:
        if isinstance(item, Loop):
            order = range(item.trips)
            for t in reversed(order) if item.reverse else order:
                _run(program, item.body, buffers, (*steps, t))
        elif isinstance(item, Op):
            _operate(program, item, buffers, steps)
        else:
            values = [buffers[ref.buffer][places(program, ref, shape, steps)] for ref, shape in routine_places(item)]
            result = ROUTINES[item.fn].evaluate(item.sizes, *values[1:])
            buffers[item.out.buffer][places(program, item.out, routine_places(item)[0][1], steps)] = result


def _operate(program: Program, op: Op, buffers: list[Array], steps: tuple[int, ...]) -> None:
    values = [buffers[ref.buffer][places(program, ref, op.shape, steps)] for ref in op.args]
    result = FUNCTIONS[op.fn].evaluate(*values)
    at, out = places(program, op.out, op.shape, steps), buffers[op.out.buffer]
    if op.how == "=":
        out[at] = result
    elif op.how == "+=":
        np.add.at(out, at, result)
    else:
        np.maximum.at(out, at, result)


def routine_places(call: Call) -> list[tuple[Ref, tuple[int, ...]]]:
    """The result and the arguments of a routine, each with its shape."""
    shapes = ROUTINES[call.fn].shapes(call.sizes)
    return list(zip((call.out, *call.args), shapes, strict=True))
