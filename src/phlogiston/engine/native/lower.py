"""Large operations as loops of small ones, and results copied to where the caller wants them."""

from __future__ import annotations

import math

from phlogiston.engine.native.ir import Call, Item, Loop, Op, Program, Ref, contiguous
from phlogiston.engine.native.routines import ROUTINES

SMALL = 32  # elements of an operation that are unrolled into registers


def lower(program: Program) -> Program:
    """The program with every operation at most ``SMALL`` elements wide, and its outputs in arrays of their own."""
    full = program.copy()
    full.items = _with_constants_copied(full, program.items, ())
    for name, (ref, shape) in program.outputs.items():
        out = Ref(full.new(max(1, math.prod(shape))), 0, contiguous(shape))
        full.items.append(Op("copy", shape, out, (ref,)))
        full.outputs[name] = (out, shape)
    full.items = [lowered(item) for item in full.items]
    return full


def lowered(item: Item) -> Item:
    """One item, its large operations as loops."""
    if isinstance(item, Loop):
        return Loop(item.trips, tuple(lowered(part) for part in item.body), item.reverse)
    if isinstance(item, Call) or math.prod(item.shape) <= SMALL:
        return item
    return lowered(_split(item, _axis(item)))


def _axis(op: Op) -> int:
    """The longest axis; of those, one that the operation does not sum over, so that sums stay in registers."""
    summed = [op.out.table is None and stride == 0 for stride in op.out.strides]
    return max(range(len(op.shape)), key=lambda axis: (op.shape[axis], not summed[axis], -axis))


def _split(op: Op, axis: int) -> Loop:
    def inner(ref: Ref) -> Ref:
        table = ref.table
        if table is not None:
            rest = table.strides[:axis] + table.strides[axis + 1 :]
            table = table._replace(strides=rest, steps=(*table.steps, table.strides[axis]))
        rest = ref.strides[:axis] + ref.strides[axis + 1 :]
        return Ref(ref.buffer, ref.offset, rest, (*ref.steps, ref.strides[axis]), table)

    shape = op.shape[:axis] + op.shape[axis + 1 :]
    return Loop(op.shape[axis], (Op(op.fn, shape, inner(op.out), tuple(map(inner, op.args)), op.how),))


def _with_constants_copied(
    program: Program, items: list[Item] | tuple[Item, ...], around: tuple[int, ...]
) -> list[Item]:
    """Routines read vectors from the work space: constants that they take are copied there."""
    found: list[Item] = []
    for item in items:
        if isinstance(item, Loop):
            body = _with_constants_copied(program, item.body, (*around, item.trips))
            found.append(Loop(item.trips, tuple(body), item.reverse))
        elif isinstance(item, Call):
            shapes = ROUTINES[item.fn].shapes(item.sizes)[1:]
            args = []
            for ref, shape in zip(item.args, shapes, strict=True):
                if ref.buffer in program.data or ref.buffer in program.inputs.values():
                    size, slots = math.prod(shape), contiguous(around)
                    steps = tuple(slot * size for slot in slots)
                    copy = Ref(program.new(size * math.prod(around)), 0, contiguous(shape), steps)
                    found.append(Op("copy", shape, copy, (ref,)))
                    ref = copy
                args.append(ref)
            found.append(item._replace(args=tuple(args)))
        else:
            found.append(item)
    return found
