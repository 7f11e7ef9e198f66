"""Loops over the same steps become one, where what one needs of the other is there in time.

A chain of elementwise operations over a large array, and the adjoint of a sum of them, are loops that each read what
the one before has left. As one loop their numbers stay in registers, and what nothing else reads is never stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from phlogiston.engine.native.ir import Call, Item, Loop, Op, Program, Ref, span
from phlogiston.engine.native.routines import ROUTINES

LONGEST_BODY = 400  # operations
FARTHEST = 80  # items that a loop is moved over at the most


def fuse(program: Program) -> Program:
    """The program with loops joined that run over the same steps; the order of sums may change, nothing else."""
    full = program.copy()
    full.items = _fused(program, list(program.items), ())
    return full


def _fused(program: Program, items: Sequence[Item], around: tuple[int, ...]) -> list[Item]:
    done: list[_Known] = []
    for item in items:
        known = _Known(item, tuple(_accesses(program, item, around)))
        at = _partner(program, done, known, around)
        if at is None:
            done.insert(_earliest(done, known), known)
        else:
            first = done[at].item
            assert isinstance(first, Loop)
            assert isinstance(item, Loop)
            joined = first._replace(body=(*first.body, *item.body))
            done[at] = _Known(joined, (*done[at].accesses, *known.accesses))
    return [_inside(program, known.item, around) for known in done]


def _inside(program: Program, item: Item, around: tuple[int, ...]) -> Item:
    if not isinstance(item, Loop) or all(isinstance(part, Op) for part in item.body):
        return item
    return item._replace(body=tuple(_fused(program, item.body, (*around, item.trips))))


class _Access(NamedTuple):
    """The places of a buffer that an item reads or writes, over all steps of the loops inside of it."""

    buffer: int
    low: int
    high: int
    how: str  # "" where it reads


@dataclass(frozen=True)
class _Known:
    item: Item
    accesses: tuple[_Access, ...]


def _accesses(program: Program, item: Item, around: tuple[int, ...]) -> Iterator[_Access]:
    if isinstance(item, Loop):
        for part in item.body:
            yield from _accesses(program, part, (*around, item.trips))
        return
    if isinstance(item, Op):
        shapes: Sequence[tuple[int, ...]] = [item.shape] * (1 + len(item.args))
    else:
        shapes = ROUTINES[item.fn].shapes(item.sizes)
    for k, (ref, shape) in enumerate(zip((item.out, *item.args), shapes, strict=True)):
        if ref.buffer not in program.data:
            how = "" if k else item.how if isinstance(item, Op) else "="
            yield _Access(ref.buffer, *span(program, ref, shape, around), how)


def _conflict(first: Sequence[_Access], second: Sequence[_Access]) -> bool:
    """Whether two items must stay in order."""
    written = {access.buffer for access in (*first, *second) if access.how}
    for a in first:
        if a.buffer not in written:
            continue
        for b in second:
            if b.buffer == a.buffer and a.low <= b.high and b.low <= a.high:
                both_add = a.how == b.how and a.how in ("+=", "max=")
                if (a.how or b.how) and not both_add:
                    return True
    return False


def _earliest(done: list[_Known], known: _Known) -> int:
    """Where an item goes: a single operation before the loops that it does not need, so as not to keep them apart."""
    place = at = len(done)
    while isinstance(known.item, Op) and at > 0 and len(done) - at < FARTHEST:
        at -= 1
        if _conflict(done[at].accesses, known.accesses):
            break
        place = at if isinstance(done[at].item, Loop) else place
    return place


def _partner(program: Program, done: list[_Known], known: _Known, around: tuple[int, ...]) -> int | None:
    """The loop before that an item can join, with nothing between that it depends on."""
    if not isinstance(known.item, Loop):
        return None
    for at in range(len(done) - 1, max(-1, len(done) - 1 - FARTHEST), -1):
        other = done[at].item
        if isinstance(other, Loop) and _may_join(program, other, known.item, around):
            return at
        if _conflict(done[at].accesses, known.accesses):
            return None
    return None


def _may_join(program: Program, first: Loop, second: Loop, around: tuple[int, ...]) -> bool:
    alike = first.trips == second.trips and (first.reverse == second.reverse)
    if not alike or len(first.body) + len(second.body) > LONGEST_BODY:
        return False
    trips = (*around, first.trips)
    level, forward = len(around), -1 if first.reverse else 1
    before = list(_uses(program, first.body, trips, len(trips)))
    after = list(_uses(program, second.body, trips, len(trips)))
    written = {use.access.buffer for use in (*before, *after) if use.access.how}
    for a in before:
        if a.access.buffer not in written:
            continue
        for b in after:
            if b.access.buffer == a.access.buffer and not _in_time(a, b, level, forward, first.trips):
                return False
    return True


class _Use(NamedTuple):
    access: _Access  # over all steps
    ref: Ref
    reach: int  # places from the first to the last at one step of the loop in question
    start: int  # the first of them at step zero


def _uses(program: Program, body: Sequence[Item], trips: tuple[int, ...], level: int) -> Iterator[_Use]:
    for item in body:
        if isinstance(item, Loop):
            yield from _uses(program, item.body, (*trips, item.trips), level)
        else:
            yield from _uses_of(program, item, trips, level)


def _uses_of(program: Program, item: Op | Call, trips: tuple[int, ...], level: int) -> Iterator[_Use]:
    shapes = [item.shape] * (1 + len(item.args)) if isinstance(item, Op) else ROUTINES[item.fn].shapes(item.sizes)
    for k, (ref, shape) in enumerate(zip((item.out, *item.args), shapes, strict=True)):
        if ref.buffer in program.data:
            continue
        how = "" if k else item.how if isinstance(item, Op) else "="
        whole = _Access(ref.buffer, *span(program, ref, shape, trips), how)
        within = ref._replace(steps=(*(0,) * level, *ref.steps[level:]))
        low, high = span(program, within, shape, trips)
        yield _Use(whole, ref, high - low, low)


def _in_time(a: _Use, b: _Use, level: int, forward: int, trips: int) -> bool:
    """Whether ``b``, of the later loop, may run at each step right after ``a`` has run at the same step."""
    first, second = a.access, b.access
    if not (first.how or second.how) or first.low > second.high or second.low > first.high:
        return True
    if first.how == second.how and first.how in ("+=", "max="):
        return True
    if a.ref.table is not None or b.ref.table is not None:
        return False
    step = a.ref.steps[level]
    same = a.ref.steps[: level + 1] == b.ref.steps[: level + 1]
    if not same or step == 0:
        return False
    # The two meet at steps t of b and t' of a with  b.start + i + step t = a.start + j + step t'. That is in time
    # unless t' comes after t: then b would read what is not there yet, or write what a still needs.
    move = step * forward
    lowest, highest = b.start - a.start - a.reach, b.start - a.start + b.reach
    ahead = (lowest, highest) if move > 0 else (-highest, -lowest)
    return ahead[1] < abs(move) or _never(a, b, move, trips)


def _never(a: _Use, b: _Use, move: int, trips: int) -> bool:
    """Whether the later steps at which the two would meet are more than there are."""
    lowest = (b.start - a.start - a.reach) if move > 0 else -(b.start - a.start + b.reach)
    return lowest > abs(move) * (trips - 1)
