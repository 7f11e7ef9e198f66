"""The adjoint of a program: appended to it, in the same form, loops included.

The last operation is taken first. What an operation passes on is added to its argument's own place in a buffer of
adjoints, so that a slice or a gathered element costs its own size and no more, and loops run backwards. Memory is that
of the forward values, linear in the steps of a loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phlogiston.engine.native.functions import FUNCTIONS
from phlogiston.engine.native.ir import Array, Call, Item, Loop, Op, Program, Ref, contiguous, walk
from phlogiston.engine.native.routines import ROUTINES


def with_gradient(program: Program, of: str = "value", by: str = "u", name: str = "grad") -> Program:
    """The program with the gradient of one output (one number) by one input as a further output.

    Args:
        program: a forward program.
        of: the output to differentiate.
        by: the input by which.
        name: of the new output.
    """
    full = program.copy()
    output = program.outputs[of][0]
    sweep = _Sweep(full, _between(full, output))
    sweep.run(output)
    source = program.inputs[by]
    grad = sweep.adjoint_of(Ref(source, 0, (1,)))
    full.outputs[name] = (grad, (program.sizes[source],))
    return full


@dataclass
class Builder:
    """Writes operations, at the depth of the loops whose trips are ``around``, into ``items``."""

    program: Program
    around: tuple[int, ...] = ()
    items: list[Item] = field(default_factory=list)
    scalars: dict[float, int] = field(default_factory=dict)
    kept: int = -1  # the buffer of a number that is added in more than one place

    def __call__(self, fn: str, shape: tuple[int, ...], *args: Ref | float) -> Ref:
        """``fn`` of the arguments, in a buffer of its own."""
        refs = tuple(self.number(arg, shape) if isinstance(arg, float) else arg for arg in args)
        out = self.fresh(shape)
        self.items.append(Op(fn, shape, out, refs))
        return out

    def call(self, fn: str, sizes: tuple[int, ...], shape: tuple[int, ...], args: tuple[Ref, ...]) -> Ref:
        """A routine's result, in a buffer of its own."""
        out = self.fresh(shape)
        self.items.append(Call(fn, sizes, out, args))
        return out

    def add(self, to: Ref, shape: tuple[int, ...], part: Ref) -> None:
        """Add to places of a buffer; what was just computed for this alone is added where it is computed."""
        last = self.items[-1] if self.items else None
        if isinstance(last, Op) and last.out == part and last.how == "=" and part.buffer != self.kept:
            self.items[-1] = last._replace(out=to, how="+=")
        else:
            self.items.append(Op("copy", shape, to, (part,), "+="))

    def fresh(self, shape: tuple[int, ...]) -> Ref:
        """A new array, with a slot for every step of the loops around."""
        size = math.prod(shape)
        slots = contiguous(self.around)
        return Ref(
            self.program.new(size * math.prod(self.around)), 0, contiguous(shape), tuple(slot * size for slot in slots)
        )

    def number(self, value: float, shape: tuple[int, ...]) -> Ref:
        """A constant as an array of one shape."""
        if value not in self.scalars:
            self.scalars[value] = self.program.constant(value)
        return Ref(self.scalars[value], 0, (0,) * len(shape), (0,) * len(self.around))

    def constants(self, values: Array, strides: tuple[int, ...]) -> Ref:
        """An array of constants."""
        return Ref(self.program.new(values.size, np.ravel(values)), 0, strides, (0,) * len(self.around))


class _Number:
    """A number within a derivative: operators write operations."""

    def __init__(self, builder: Builder, shape: tuple[int, ...], ref: Ref) -> None:
        self.builder, self.shape, self.ref = builder, shape, ref

    def apply(self, fn: str, *args: Any) -> _Number:
        refs = [arg.ref if isinstance(arg, _Number) else float(arg) for arg in args]
        return _Number(self.builder, self.shape, self.builder(fn, self.shape, *refs))

    def __add__(self, other: Any) -> _Number:
        return self.apply("add", self, other)

    def __radd__(self, other: Any) -> _Number:
        return self.apply("add", other, self)

    def __sub__(self, other: Any) -> _Number:
        return self.apply("sub", self, other)

    def __rsub__(self, other: Any) -> _Number:
        return self.apply("sub", other, self)

    def __mul__(self, other: Any) -> _Number:
        return self.apply("mul", self, other)

    def __rmul__(self, other: Any) -> _Number:
        return self.apply("mul", other, self)

    def __truediv__(self, other: Any) -> _Number:
        return self.apply("div", self, other)

    def __rtruediv__(self, other: Any) -> _Number:
        return self.apply("div", other, self)

    def __neg__(self) -> _Number:
        return self.apply("neg", self)


class _Sweep:
    def __init__(self, program: Program, active: set[int]) -> None:
        self.program, self.active = program, active
        self.adjoints: dict[int, int] = {}
        self.scalars: dict[float, int] = {}

    def run(self, output: Ref) -> None:
        forward = list(self.program.items)
        seed = Builder(self.program, scalars=self.scalars)
        if output.buffer in self.active:
            seed.add(self.adjoint_of(output), (), seed.number(1.0, ()))
        self.program.items += seed.items
        for item in reversed(forward):
            self.program.items += self.swept(item, ())

    def adjoint_of(self, ref: Ref) -> Ref:
        if ref.buffer not in self.adjoints:
            self.adjoints[ref.buffer] = self.program.new(self.program.sizes[ref.buffer])
        return ref._replace(buffer=self.adjoints[ref.buffer])

    def swept(self, item: Item, around: tuple[int, ...]) -> list[Item]:
        if isinstance(item, Loop):
            inner = (*around, item.trips)
            body = [back for part in reversed(item.body) for back in self.swept(part, inner)]
            return [Loop(item.trips, tuple(body), not item.reverse)] if body else []
        if item.out.buffer not in self.active:
            return []
        builder = Builder(self.program, around, scalars=self.scalars)
        if isinstance(item, Call):
            adjoints = [self.adjoint_of(arg) if arg.buffer in self.active else None for arg in item.args]
            rule = ROUTINES[item.fn].adjoint
            if rule is None:
                raise NotImplementedError(f"the derivative of {item.fn}")
            rule(builder, item, self.adjoint_of(item.out), adjoints)
        else:
            self.operation(builder, item)
        return builder.items

    def operation(self, builder: Builder, op: Op) -> None:
        numbers = [_Number(builder, op.shape, ref) for ref in (*op.args, op.out)]
        g = _Number(builder, op.shape, self.adjoint_of(op.out))
        for rule, arg in zip(FUNCTIONS[op.fn].rules, op.args, strict=True):
            if rule is not None and arg.buffer in self.active:
                part = rule(g.apply, g, *numbers)
                ref = part.ref if isinstance(part, _Number) else builder.number(float(part), op.shape)
                builder.add(self.adjoint_of(arg), op.shape, ref)


def _between(program: Program, output: Ref) -> set[int]:
    """The buffers through which a change of an input reaches the output by way of derivatives."""
    links = [(arg.buffer, item.out.buffer) for item in walk(program.items) for arg in _differentiable(item)]
    from_inputs = _closure(set(program.inputs.values()), links)
    to_output = _closure({output.buffer}, [(after, before) for before, after in links])
    return from_inputs & to_output


def _closure(found: set[int], links: list[tuple[int, int]]) -> set[int]:
    """All that can be reached from a set; an operation in a loop may feed an earlier one, in the next step."""
    following: dict[int, list[int]] = {}
    for before, after in links:
        following.setdefault(before, []).append(after)
    found, waiting = set(found), list(found)
    while waiting:
        new = [after for after in following.get(waiting.pop(), []) if after not in found]
        found.update(new)
        waiting += new
    return found


def _differentiable(item: Op | Call) -> Sequence[Ref]:
    if isinstance(item, Call):
        return item.args
    if item.how == "max=":  # a shift that derivatives leave out
        return []
    return [arg for rule, arg in zip(FUNCTIONS[item.fn].rules, item.args, strict=True) if rule is not None]
