"""How a loop uses each buffer: which numbers stay in registers from step to step, and which go through memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from phlogiston.engine.native.ir import Call, Item, Loop, Op, Program, Ref, offsets, span, walk
from phlogiston.engine.native.routines import ROUTINES

REACH = 3  # steps that a number may wait in a register

Key = tuple[int, tuple[int, ...]]  # a buffer, and how a reference to it moves with the loops around


@dataclass
class Uses:
    """The references of one loop's operations to one buffer that move alike."""

    spots: set[int] = field(default_factory=set)
    written: set[int] = field(default_factory=set)
    hows: set[str] = field(default_factory=set)
    is_read: bool = False
    read_first: bool = False  # some step reads a number before it writes it
    has_table: bool = False
    mode: str = "memory"
    chains: list[list[int]] = field(default_factory=list)
    stored: bool = True  # another part of the program reads it
    fresh: bool = False  # nothing was added to it before
    is_alone: bool = False  # no other reference in the loop may name one of its places
    low: int = 0
    high: int = 0

    @property
    def is_scattered(self) -> bool:
        """Whether the loop leaves its results in memory."""
        return bool(self.written) and self.mode != "total"

    def meets(self, other: Uses) -> bool:
        """Whether the two may name one place."""
        return self.low <= other.high and other.low <= self.high


def spots_of(op: Op, ref: Ref) -> tuple[int, ...]:
    """The offset of every element of a reference, at step zero of all loops."""
    return tuple(ref.offset + place for place in offsets(op.shape, ref.strides))


class Access(NamedTuple):
    """That an item reads or writes some places of a buffer, from ``low`` to ``high``, at its turn in the program."""

    turn: int
    owner: int  # the id of the innermost loop, or of the item itself
    low: int
    high: int
    writes: bool


@dataclass
class Census:
    """Who reads and writes each buffer, over the whole program."""

    accesses: dict[int, list[Access]] = field(default_factory=dict)
    hows: dict[int, set[str]] = field(default_factory=dict)
    turns: dict[int, int] = field(default_factory=dict)

    @staticmethod
    def of(program: Program) -> Census:
        """Take down all items; an output is a reading at the end."""
        census = Census()
        for turn, item in enumerate(program.items):
            census._take(program, item, turn, (), id(item))
        for ref, shape in program.outputs.values():
            census._note(program, ref, shape, (), Access(len(program.items), 0, 0, 0, False))
        return census

    def _take(self, program: Program, item: Item, turn: int, trips: tuple[int, ...], owner: int) -> None:
        if isinstance(item, Loop):
            self.turns[id(item)] = turn
            for part in item.body:
                inner = id(item) if is_innermost(item) else id(part)
                self._take(program, part, turn, (*trips, item.trips), inner)
            return
        shapes = [item.shape] * (1 + len(item.args)) if isinstance(item, Op) else ROUTINES[item.fn].shapes(item.sizes)
        for k, (ref, shape) in enumerate(zip((item.out, *item.args), shapes, strict=True)):
            self._note(program, ref, shape, trips, Access(turn, owner, 0, 0, k == 0))
        self.hows.setdefault(item.out.buffer, set()).add(item.how if isinstance(item, Op) else "=")

    def _note(self, program: Program, ref: Ref, shape: tuple[int, ...], trips: tuple[int, ...], access: Access) -> None:
        low, high = span(program, ref, shape, trips)
        self.accesses.setdefault(ref.buffer, []).append(access._replace(low=low, high=high))

    def others(self, buffer: int, owner: int, low: int, high: int, *, writes: bool) -> list[Access]:
        """The accesses of other items to some places."""
        return [
            a
            for a in self.accesses.get(buffer, [])
            if a.owner != owner and a.writes == writes and a.low <= high and low <= a.high
        ]


def is_innermost(loop: Loop) -> bool:
    """Whether a loop's body is operations alone."""
    return all(isinstance(item, Op) for item in loop.body)


def studied(program: Program, loop: Loop, trips: Sequence[int], census: Census) -> dict[Key, Uses]:
    """The uses of every buffer in an innermost loop, with the mode in which each is kept.

    Args:
        program: what the loop is of.
        loop: an innermost loop.
        trips: of the loops around it and its own, the outermost first.
        census: of the whole program.
    """
    groups: dict[Key, Uses] = {}
    for op in loop.body:
        assert isinstance(op, Op)
        for ref in (*op.args, op.out):
            if ref.buffer not in program.data:
                _note(groups, op, ref)
    for (_, steps), uses in groups.items():
        uses.low, uses.high = _range(uses, steps, trips)
    for key, uses in groups.items():
        _choose_mode(groups, key, backwards=loop.reverse)
        is_exclusive = _is_exclusive(uses, key[1], trips)
        writes = census.others(key[0], id(loop), uses.low, uses.high, writes=True)
        reads = census.others(key[0], id(loop), uses.low, uses.high, writes=False)
        written_before = any(write.turn <= census.turns[id(loop)] for write in writes)
        uses.fresh = not written_before and (len(trips) == 1 or is_exclusive)
        uses.stored = bool(reads) or (len(trips) > 1 and not (is_exclusive and not uses.read_first))
    return groups


def _choose_mode(groups: dict[Key, Uses], key: Key, *, backwards: bool) -> None:
    """How the numbers of one group are kept, given all groups of the loop."""
    step, uses = key[1][-1], groups[key]
    mates = _mates(groups, key)
    uses.is_alone = len(mates) == 1 and not uses.has_table
    if not any(group.written for group in mates):
        uses.mode = "load" if step else "invariant"
    elif not uses.is_alone:
        uses.mode = "memory"
    elif step == 0:
        uses.mode = "total" if uses.hows in ({"+="}, {"max="}) else "memory"
    else:
        _chain(uses, -step if backwards else step)


def _mates(groups: dict[Key, Uses], key: Key) -> list[Uses]:
    """The groups of a buffer that may name a place of this group, itself included."""
    others = [group for (buffer, _), group in groups.items() if buffer == key[0]]
    has_table = any(group.has_table for group in others)
    return others if has_table else [group for group in others if group.meets(groups[key])]


def _note(groups: dict[Key, Uses], op: Op, ref: Ref) -> None:
    uses = groups.setdefault((ref.buffer, ref.steps), Uses())
    spots = spots_of(op, ref)
    uses.has_table |= ref.table is not None
    uses.spots.update(spots)
    if ref is op.out:
        uses.hows.add(op.how)
        uses.written.update(spots)
    else:
        uses.is_read = True
        uses.read_first |= not uses.written.issuperset(spots)


def _chain(uses: Uses, move: int) -> None:
    """Find the spots at which the loop meets the same place again, steps later; too late is a case for memory."""
    classes: dict[int, list[int]] = {}
    for spot in uses.spots:
        classes.setdefault(spot % abs(move), []).append(spot)
    for spots in classes.values():
        first = max(spots) if move > 0 else min(spots)
        last = min(spots) if move > 0 else max(spots)
        uses.chains.append([first - lag * move for lag in range(1 + (first - last) // move)])
    leading = {chain[0] for chain in uses.chains}
    once = uses.hows != {"="} or uses.written == leading
    short = max(map(len, uses.chains)) <= REACH + 1
    uses.mode = "rotate" if once and short and len(uses.hows) == 1 else "memory"


def _range(uses: Uses, steps: tuple[int, ...], trips: Sequence[int]) -> tuple[int, int]:
    """The lowest and the highest place over all steps."""
    low, high = min(uses.spots), max(uses.spots)
    for step, count in zip(steps, trips, strict=True):
        low, high = low + min(0, (count - 1) * step), high + max(0, (count - 1) * step)
    return low, high


def _is_exclusive(uses: Uses, steps: tuple[int, ...], trips: Sequence[int]) -> bool:
    """Whether no two steps, of this loop or of those around it, meet at one place."""
    reach = max(uses.spots) - min(uses.spots)
    for step, count in sorted(zip(steps, trips, strict=True), key=lambda pair: abs(pair[0])):
        if count > 1 and abs(step) <= reach:
            return False
        reach += abs(step) * (count - 1)
    return True


def buffers_in_memory(program: Program, groups: Iterable[dict[Key, Uses]]) -> set[int]:
    """The buffers that some loop or routine finds in memory, so that whoever writes them must store."""
    found: set[int] = set()
    for studied_loop in groups:
        for (buffer, steps), uses in studied_loop.items():
            alone = uses.mode in ("rotate", "total") and not uses.stored and not uses.read_first
            if uses.has_table or (not (alone and uses.fresh) and (uses.mode != "invariant" or any(steps))):
                found.add(buffer)
    for item in walk(program.items):
        if isinstance(item, Call):
            found.update(ref.buffer for ref in (item.out, *item.args))
    return found
