"""The intermediate form of native code: one kind of operation, loops of operations, and a few routines on whole arrays.

Every number lies at a place of a buffer. An operation reads and writes through ``Ref``s, torch's own way to describe a
view (buffer, offset, strides), so that views, broadcasts, slices and transposes are no operations at all. A sum is an
operation that adds (``+=``) to places that several of its elements share; a product of matrices is ``mul`` with ``+=``;
a stack is a ``copy`` for each part; ``x[index]`` is a ``copy`` through a table of places, and its adjoint a ``copy``
that adds through the same table. A value carried from one step of a loop to the next is a read one slot earlier.

The form is single assignment by place: a place is written once by ``=``, or only ever added to (by ``+=``, from zero)
or raised (by ``max=``, from minus infinity), and not read before its last write. Truth values and integers are numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class NotNative(Exception):
    """A program, or an operation, that has no machine code; says which and why."""


class Table(NamedTuple):
    """Places looked up: adds ``data[buffer][offset + strides . i + steps . t]``, a constant, to a place."""

    buffer: int
    offset: int
    strides: tuple[int, ...]
    steps: tuple[int, ...] = ()


class Ref(NamedTuple):
    """Where an operation reads or writes.

    Element ``i`` of the operation's shape, at steps ``t`` of the loops around it (the outermost first), lies at
    ``offset + strides . i + steps . t``, plus what ``table`` holds for it, of the buffer.
    """

    buffer: int
    offset: int
    strides: tuple[int, ...]
    steps: tuple[int, ...] = ()
    table: Table | None = None


class Op(NamedTuple):
    """For every ``i`` in ``shape``: ``out[i] = fn(args[i])``, or ``+=`` or ``max=``; ``fn`` is a key of FUNCTIONS."""

    fn: str
    shape: tuple[int, ...]
    out: Ref
    args: tuple[Ref, ...]
    how: str = "="


class Loop(NamedTuple):
    """``body`` for ``t = 0, ..., trips - 1``, or from ``trips - 1`` down where ``reverse``."""

    trips: int
    body: tuple[Item, ...]
    reverse: bool = False


class Call(NamedTuple):
    """A routine on whole arrays: ``fn`` is a key of ROUTINES, ``sizes`` are its dimensions; it writes ``out``."""

    fn: str
    sizes: tuple[int, ...]
    out: Ref
    args: tuple[Ref, ...]


Item = Op | Loop | Call

IDENTITY = {"+=": 0.0, "max=": -math.inf}  # what a place holds before the first write of a kind


@dataclass
class Program:
    """Buffers and what is done to them, in order.

    Args:
        sizes: of each buffer, in numbers.
        data: the contents of the buffers that are constant; the others begin as IDENTITY says.
        items: what is done.
        inputs: name -> the buffer that the caller fills.
        outputs: name -> where the result lies, and its shape (``strides`` go with it).
        exchangeable: constant buffers whose contents the caller may exchange between calls of the code.
    """

    sizes: list[int] = field(default_factory=list)
    data: dict[int, Array] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, tuple[Ref, tuple[int, ...]]] = field(default_factory=dict)
    exchangeable: set[int] = field(default_factory=set)

    def copy(self) -> Program:
        """The same program, to be changed without changing this one."""
        return Program(
            list(self.sizes),
            dict(self.data),
            list(self.items),
            dict(self.inputs),
            dict(self.outputs),
            set(self.exchangeable),
        )

    def new(self, size: int, data: Array | None = None) -> int:
        """A new buffer; a constant where ``data`` are given."""
        self.sizes.append(int(size))
        if data is not None:
            self.data[len(self.sizes) - 1] = data
        return len(self.sizes) - 1

    def constant(self, value: float) -> int:
        """The buffer of one constant number."""
        return self.new(1, np.array([float(value)]))


@lru_cache(maxsize=4096)
def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of an array whose elements lie one after another."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


@lru_cache(maxsize=4096)
def extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Numbers from the first to the last place, both included."""
    return 1 + sum((size - 1) * abs(stride) for size, stride in zip(shape, strides, strict=True))


@lru_cache(maxsize=4096)
def offsets(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """``strides . i`` for every ``i`` in ``shape``, the last axis fastest."""
    found = np.zeros(shape, np.int64)
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        found += (np.arange(size) * stride).reshape((size,) + (1,) * (len(shape) - axis - 1))
    return tuple(found.ravel().tolist())


def places(program: Program, ref: Ref, shape: tuple[int, ...], steps: Sequence[int] = ()) -> Array:
    """The places of a buffer that a ``Ref`` names at given steps of the loops around it, one for each element."""
    moved = ref.offset + sum(step * t for step, t in zip(ref.steps, steps, strict=True))
    found = np.asarray(offsets(shape, ref.strides), np.int64) + moved
    if ref.table is not None:
        found = found + looked_up(program, ref.table, shape, steps)
    return found


def span(program: Program, ref: Ref, shape: tuple[int, ...], trips: Sequence[int]) -> tuple[int, int]:
    """The lowest and the highest place of a reference over all steps of the loops around it."""
    if ref.table is not None:
        return 0, program.sizes[ref.buffer] - 1
    low = high = ref.offset
    for size, stride in (*zip(shape, ref.strides, strict=True), *zip(trips, ref.steps, strict=True)):
        low, high = low + min(0, (size - 1) * stride), high + max(0, (size - 1) * stride)
    return low, high


def looked_up(program: Program, table: Table, shape: tuple[int, ...], steps: Sequence[int] = ()) -> Array:
    """What a table adds to each element's place."""
    at = table.offset + sum(step * t for step, t in zip(table.steps, steps, strict=True))
    found: Array = program.data[table.buffer][np.asarray(offsets(shape, table.strides), np.int64) + at].astype(np.int64)
    return found


def walk(items: Sequence[Item]) -> Iterator[Op | Call]:
    """Every operation and routine, those within loops too, in the order in which they stand."""
    for item in items:
        if isinstance(item, Loop):
            yield from walk(item.body)
        else:
            yield item


def show(program: Program) -> str:
    """The program as text, for people."""
    return "\n".join(_lines(program.items, ""))


def _lines(items: Sequence[Item], indent: str) -> Iterator[str]:
    for item in items:
        if isinstance(item, Loop):
            yield f"{indent}for {item.trips} steps{' backwards' if item.reverse else ''}:"
            yield from _lines(item.body, indent + "    ")
            continue
        shape = item.shape if isinstance(item, Op) else item.sizes
        how = item.how if isinstance(item, Op) else "="
        yield f"{indent}{_place(item.out)} {how} {item.fn}{list(shape)}({', '.join(map(_place, item.args))})"


def _place(ref: Ref) -> str:
    steps = "".join(f" + {step}t{level}" for level, step in enumerate(ref.steps) if step)
    table = "" if ref.table is None else f" + table {ref.table.buffer}"
    return f"b{ref.buffer}[{ref.offset}{steps}{table}; {','.join(map(str, ref.strides))}]"
