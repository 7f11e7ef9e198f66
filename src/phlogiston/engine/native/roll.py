"""Repeated operations as loops: what a program's own loop left, step after step, when it was recorded.

A run is the same operations again and again. Every operation of a run gets one array, with a slot for each step, in
place of its buffers. Seen from there an argument is the same at all steps, of the same step, of a step before, or a
moving slice of anything, exactly if the place that it begins at moves by a constant: that is the whole test. Steps that
fail it, the first ones usually, stay as they are. Constants that differ from step to step become an array of them.
Loops inside of loops are found by rolling once more what the first pass has left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from phlogiston.engine.native.ir import Array, Item, Loop, Op, Program, Ref, Table, contiguous, offsets, walk
from phlogiston.engine.native.routines import ROUTINES

FEWEST = 8  # steps that make a loop worth its while
# Items of one step at most, pass by pass: loops within loops are found before those around them. With more at once, the
# outer loop of a nest would become one giant body.
LONGEST = (32, 128, 512)
WINDOW = 4  # items whose repetition suggests a period
CANDIDATES = 6  # periods tried at a position
FACTORS = 4  # multiples of a period tried


def roll(program: Program) -> Program:
    """The program with its runs as loops; the operations are the same, in the same order."""
    rolled = program
    for longest in LONGEST:
        rolled = _Roller(rolled, longest).rolled()
    return compact(rolled)


class _Slot(NamedTuple):
    """A reference within an item, with its shape; tables have slots of their own."""

    ref: Ref
    shape: tuple[int, ...]
    writes: bool


def _slots(item: Item) -> Iterator[_Slot]:
    if isinstance(item, Loop):
        for part in item.body:
            yield from _slots(part)
        return
    if isinstance(item, Op):
        yield _Slot(item.out, item.shape, True)
        for ref in item.args:
            yield _Slot(ref, item.shape, False)
        return
    shapes = ROUTINES[item.fn].shapes(item.sizes)
    yield _Slot(item.out, shapes[0], True)
    for ref, shape in zip(item.args, shapes[1:], strict=True):
        yield _Slot(ref, shape, False)


def _with(item: Item, refs: Iterator[Ref]) -> Item:
    """An item with other references, in the order of its slots."""
    if isinstance(item, Loop):
        return Loop(item.trips, tuple(_with(part, refs) for part in item.body), item.reverse)
    return item._replace(out=next(refs), args=tuple(next(refs) for _ in item.args))


def _signature(program: Program, item: Item) -> tuple[object, ...]:
    """What two items must share to be steps of one loop."""
    if isinstance(item, Loop):
        return (item.trips, item.reverse, *(_signature(program, part) for part in item.body))
    refs = tuple(
        (ref.strides, ref.steps, ref.buffer in program.data, ref.table is None) for ref in (item.out, *item.args)
    )
    if isinstance(item, Op):
        return (item.fn, item.how, item.shape, refs)
    return (item.fn, item.sizes, refs)


class _Run(NamedTuple):
    start: int
    period: int
    steps: int


def _runs(ids: Array, longest: int) -> Iterator[_Run]:
    """Stretches in which the same ``period`` items come ``steps`` times, from left to right."""
    following = _next_same_window(ids)
    at = 0
    while at < len(ids) - 1:
        run = _run_at(ids, following, at, longest)
        if run is None:
            at += 1
        else:
            yield run
            at += run.period * run.steps


def _run_at(ids: Array, following: Array, at: int, longest: int) -> _Run | None:
    """The run that begins at a position, tried with the periods that the next equal windows suggest."""
    ahead = at
    for _ in range(CANDIDATES):
        ahead = int(following[ahead])
        if not 0 < ahead - at <= longest:
            return None
        steps = _equal_length(ids, at, ahead - at) // (ahead - at) + 1
        if steps >= FEWEST:
            return _Run(at, ahead - at, steps)
    return None


def _equal_length(ids: Array, at: int, period: int) -> int:
    """For how many items those from ``at`` on are the same as those a period later; looks no farther than it must."""
    total, chunk = len(ids) - period - at, 2 * period * FEWEST
    done = 0
    while done < total:
        size = min(chunk, total - done)
        equal = ids[at + done : at + done + size] == ids[at + done + period : at + done + period + size]
        if not equal.all():
            return done + int(np.argmin(equal))
        done, chunk = done + size, 4 * chunk
    return total


def _next_same_window(ids: Array) -> Array:
    """For each position, the next one at which the same few items begin; 0 where there is none."""
    total = len(ids)
    keys = ids.astype(np.int64).copy()
    for k in range(1, WINDOW):
        shifted = np.concatenate([ids[k:], -np.arange(1, min(k, total) + 1)])[:total]
        keys = keys * 1_000_003 + shifted
    order = np.argsort(keys, kind="stable")
    found = np.zeros(total, np.int64)
    same = keys[order[:-1]] == keys[order[1:]]
    found[order[:-1][same]] = order[1:][same]
    return found


class _Column(NamedTuple):
    """One slot over all steps of a run: where it begins at each."""

    buffers: Array
    offsets: Array
    slots: list[_Slot]


class _Roller:
    def __init__(self, program: Program, longest: int) -> None:
        self.program, self.most = program.copy(), longest
        self.items: list[Item] = list(program.items)
        self.home = {buffer: (buffer, 0) for buffer in range(len(program.sizes))}
        self.fixed = set(program.inputs.values()) | set(program.data)
        self.done: list[Item] = []
        self.first: dict[int, int] = {}  # buffer -> the item that writes it first
        for k, item in enumerate(self.items):
            for slot in _slots(item):
                if slot.writes:
                    self.first.setdefault(slot.ref.buffer, k)

    def rolled(self) -> Program:
        names: dict[tuple[object, ...], int] = {}
        ids = np.array([names.setdefault(_signature(self.program, item), len(names)) for item in self.items], np.int64)
        at = 0
        for run in list(_runs(ids, self.most)) if len(ids) > FEWEST else []:
            self.single(at, run.start)
            at = self.take(run)
        self.single(at, len(self.items))
        self.program.items = self.done
        self.program.outputs = {name: (self.moved(ref), shape) for name, (ref, shape) in self.program.outputs.items()}
        return self.program

    def moved(self, ref: Ref) -> Ref:
        """A reference to where its buffer's contents are now."""
        buffer, shift = self.home.get(ref.buffer, (ref.buffer, 0))
        return ref._replace(buffer=buffer, offset=ref.offset + shift)

    def single(self, start: int, stop: int) -> None:
        """Items that stay as they are."""
        for item in self.items[start:stop]:
            self.done.append(_with(item, (self.moved(slot.ref) for slot in _slots(item))))

    def take(self, run: _Run) -> int:
        """A run as loops and single items; returns where it ends."""
        start, end = run.start, run.start + run.period * run.steps
        for column in self.columns(run):
            self.rehouse(column, run.start, run.steps)
        while True:
            found = self.best(start, end, run.period)
            if found is None:
                self.single(start, end)
                return end
            self.single(start, found.start)
            self.done.append(self.loop(found))
            start = found.start + found.period * found.steps

    def best(self, start: int, end: int, period: int) -> _Run | None:
        """The loop that covers most of a stretch; data may repeat only with a multiple of the operations' period."""
        best: _Run | None = None
        for factor in range(1, FACTORS + 1):
            length = period * factor
            steps = (end - start) // length
            if steps < FEWEST or length > FACTORS * self.most:
                break
            first, count = self.longest(self.columns(_Run(start, length, steps)), steps)
            if count >= FEWEST and (best is None or count * length > best.steps * best.period):
                best = _Run(start + first * length, length, count)
            if count == steps:
                break
        return best

    def columns(self, run: _Run) -> list[_Column]:
        """Every slot of every item of a run's body, over its steps."""
        found = []
        for k in range(run.period):
            stop = run.start + run.period * run.steps
            steps = [list(_slots(item)) for item in self.items[run.start + k : stop : run.period]]
            for slots in zip(*steps, strict=True):
                homes = [self.home.get(slot.ref.buffer, (slot.ref.buffer, 0)) for slot in slots]
                buffers = np.array([home for home, _ in homes])
                starts = np.array([slot.ref.offset + shift for slot, (_, shift) in zip(slots, homes, strict=True)])
                found.append(_Column(buffers, starts, list(slots)))
        return found

    def rehouse(self, column: _Column, start: int, count: int) -> None:
        """One array for what an operation writes at each step, if that is a buffer of its own at each."""
        buffers = column.buffers
        if not column.slots[0].writes or len(set(buffers.tolist())) < count:
            return  # pieces of one array, or written by an item before this one
        if any(self.home.get(slot.ref.buffer, (-1, 0))[0] != slot.ref.buffer for slot in column.slots):
            return  # it has a new home already
        size = self.program.sizes[int(buffers[0])]
        if any(self.program.sizes[b] != size or b in self.fixed or self.first[b] < start for b in buffers.tolist()):
            return
        array = self.program.new(count * size)
        self.home[array] = (array, 0)
        for t, buffer in enumerate(buffers.tolist()):
            self.home[buffer] = (array, t * size)

    def longest(self, columns: list[_Column], count: int) -> tuple[int, int]:
        """The longest stretch of steps over which every place moves by a constant: its first step and its length."""
        broken, turned = np.zeros(count, bool), np.zeros(count, bool)  # between a step and the one before it
        for column in columns:
            first = column.slots[0].ref
            if first.table is not None and any(first.table.steps):
                broken[1:] |= [slot.ref.table != first.table for slot in column.slots[1:]]
            if int(column.buffers[0]) in self.program.data and not any(first.steps):
                continue
            move = np.diff(column.offsets)
            broken[1:] |= column.buffers[1:] != column.buffers[:-1]
            turned[2:] |= move[1:] != move[:-1]
        best, start = (0, 0), 0
        for t in range(1, count + 1):
            if t == count or broken[t] or (t - start >= 2 and turned[t]):
                best = max(best, (t - start, -start))
                start = t if t == count or broken[t] else t - 1
        return -best[1], best[0]

    def loop(self, run: _Run) -> Loop:
        """A stretch of steps as one loop."""
        refs = iter([self.settled(column) for column in self.columns(run)])
        body = self.items[run.start : run.start + run.period]
        return Loop(run.steps, tuple(_with(item, refs) for item in body))

    def settled(self, column: _Column) -> Ref:
        """One reference for all steps of a loop, which moves by a constant."""
        first = column.slots[0].ref
        table = None if first.table is None else self.settled_table(column)
        move = np.diff(column.offsets)
        if (column.buffers == column.buffers[0]).all() and (move == move[0]).all():
            steps = (int(move[0]), *first.steps)
            return Ref(int(column.buffers[0]), int(column.offsets[0]), first.strides, steps, table)
        values, strides, step = self.gathered(column, [slot.ref for slot in column.slots])
        return Ref(self.program.new(values.size, values), 0, strides, (step, *(0 for _ in first.steps)), table)

    def settled_table(self, column: _Column) -> Table:
        """The same for the tables of references."""
        tables = [slot.ref.table for slot in column.slots]
        given = [Ref(t.buffer, t.offset, t.strides, t.steps) for t in tables if t is not None]
        buffers, starts = np.array([ref.buffer for ref in given]), np.array([ref.offset for ref in given])
        move = np.diff(starts)
        if (buffers == buffers[0]).all() and (move == move[0]).all():
            return Table(int(buffers[0]), int(starts[0]), given[0].strides, (int(move[0]), *given[0].steps))
        values, strides, step = self.gathered(column, given)
        return Table(self.program.new(values.size, values), 0, strides, (step, *(0 for _ in given[0].steps)))

    def gathered(self, column: _Column, refs: Sequence[Ref]) -> tuple[Array, tuple[int, ...], int]:
        """Constants that are others at each step, as one array; its strides, and how it moves."""
        shape, like = column.slots[0].shape, refs[0]
        kept = tuple(1 if stride == 0 else size for size, stride in zip(shape, like.strides, strict=True))
        places = np.asarray(offsets(kept, like.strides), np.int64)
        values = np.stack([self.program.data[ref.buffer][ref.offset + places] for ref in refs])
        strides = tuple(0 if old == 0 else new for old, new in zip(like.strides, contiguous(kept), strict=True))
        if (values == values[0]).all():
            return values[0], strides, 0
        return values.ravel(), strides, math.prod(kept)


def compact(program: Program) -> Program:
    """The program without buffers that nothing uses."""
    used = set(program.inputs.values()) | {ref.buffer for ref, _ in program.outputs.values()}
    for item in walk(program.items):
        for ref in (item.out, *item.args):
            used.add(ref.buffer)
            if ref.table is not None:
                used.add(ref.table.buffer)
    new = {buffer: k for k, buffer in enumerate(sorted(used | program.exchangeable))}

    def renumbered(ref: Ref) -> Ref:
        table = None if ref.table is None else ref.table._replace(buffer=new[ref.table.buffer])
        return ref._replace(buffer=new[ref.buffer], table=table)

    small = Program([program.sizes[buffer] for buffer in new])
    small.data = {new[buffer]: data for buffer, data in program.data.items() if buffer in new}
    small.items = [_with(item, (renumbered(slot.ref) for slot in _slots(item))) for item in program.items]
    small.inputs = {name: new[buffer] for name, buffer in program.inputs.items()}
    small.outputs = {name: (renumbered(ref), shape) for name, (ref, shape) in program.outputs.items()}
    small.exchangeable = {new[buffer] for buffer in program.exchangeable}
    return small
