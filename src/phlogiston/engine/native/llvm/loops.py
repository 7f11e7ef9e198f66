"""The machine code of an innermost loop: what waits for a later step stays in registers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phlogiston.engine.native.ir import IDENTITY, Loop, Op, Ref
from phlogiston.engine.native.llvm.access import Uses, spots_of

if TYPE_CHECKING:
    from phlogiston.engine.native.llvm.emit import Emitter, Scope

Number = tuple[int, tuple[int, ...], int]  # buffer, steps, spot


class InnermostLoop:
    """Writes one loop whose body is operations alone."""

    def __init__(self, emitter: Emitter, scope: Scope, loop: Loop) -> None:
        self.emitter, self.outer, self.loop = emitter, scope, loop
        self.asm, self.layout = emitter.asm, emitter.layout
        self.inner = emitter.inside(scope, loop)
        self.uses = emitter.uses[id(loop)]
        self.first, self.last = (loop.trips - 1, 0) if loop.reverse else (0, loop.trips - 1)
        self.phis: list[tuple[str, str, str | Number]] = []  # name, at the first step, from then on
        self.registers: dict[Number, str] = {}
        self.totals: list[Number] = []

    def write(self) -> None:
        """Write the loop."""
        emitter, asm = self.emitter, self.asm
        label, before = asm.name("L")[1:], emitter.block
        self._begin()
        self.asm.lines = self.inner.lines
        for op in self.loop.body:
            assert isinstance(op, Op)
            self._operation(op)
        self._store_collected()
        asm.lines, emitter.block = self.outer.lines, label
        phis = [
            f"  {name} = phi {asm.vector} [ {start}, %{before} ], "
            f"[ {self.registers[then] if isinstance(then, tuple) else then}, %{label} ]"
            for name, start, then in self.phis
        ]
        emitter.close(self.loop, self.inner, label, before, phis)
        self._end()

    def _phi(self, start: str, then: str | Number) -> str:
        name = self.asm.name("p")
        self.phis.append((name, start, then))
        return name

    def _at(self, key: Number, time: int) -> tuple[int, tuple[int, ...], int]:
        """The same place as the loop around sees it, at one step of this loop."""
        buffer, steps, spot = key
        return buffer, steps[:-1], spot + time * steps[-1]

    def _before(self, key: Number, time: int) -> str:
        """What a place holds when the loop begins."""
        return self.emitter.number(self.outer, *self._at(key, time))

    def _begin(self) -> None:
        """Registers that the first step finds filled."""
        for (buffer, steps), uses in self.uses.items():
            if uses.mode == "rotate":
                for chain in uses.chains:
                    self._begin_chain(buffer, steps, uses, chain)
            elif uses.mode == "total":
                self._begin_totals(buffer, steps, uses)

    def _begin_totals(self, buffer: int, steps: tuple[int, ...], uses: Uses) -> None:
        identity = self.asm.splat(IDENTITY[next(iter(uses.hows))])
        for spot in sorted(uses.spots):
            key = (buffer, steps, spot)
            start = self._before(key, 0) if uses.is_read else identity
            self.registers[key] = self._phi(start, key)
            self.totals.append(key)

    def _begin_chain(self, buffer: int, steps: tuple[int, ...], uses: Uses, chain: list[int]) -> None:
        how = next(iter(uses.hows))
        if how != "=":
            leading = (buffer, steps, chain[0])
            identity = self.asm.splat(IDENTITY[how])
            if uses.fresh:
                self.registers[leading] = identity
            elif self._only_first_is_touched(leading):
                self.registers[leading] = self._phi(self._before(leading, self.first), identity)
            else:
                self.asm.lines = self.inner.lines
                self.registers[leading] = self.layout.load(self.inner, *leading)
                self.asm.lines = self.outer.lines
        for lag in range(1, len(chain)):
            key = (buffer, steps, chain[lag])
            start = self.asm.splat(IDENTITY[how]) if uses.fresh and how != "=" else self._before(key, self.first)
            self.registers[key] = self._phi(start, (buffer, steps, chain[lag - 1]))

    def _only_first_is_touched(self, leading: Number) -> bool:
        """Whether nothing was added to the places that the loop comes to, but for the one that it begins with."""
        buffer, steps, spot = leading
        if self.outer.depth or buffer in self.emitter.in_memory:
            return False
        step = steps[-1]
        touched = [s for b, _, s in self.outer.known if b == buffer]
        visited = {(s - spot) // step for s in touched if (s - spot) % step == 0}
        return all(t == self.first or not 0 <= t < self.loop.trips for t in visited)

    def _get(self, op: Op, ref: Ref) -> list[str]:
        """The elements of an argument."""
        if ref.table is not None:
            places = self.layout.looked_up(self.inner, op, ref)
            return [self._gathered(ref, place) for place in places]
        return [self._number((ref.buffer, ref.steps, spot)) for spot in spots_of(op, ref)]

    def _gathered(self, ref: Ref, place: int | str) -> str:
        if isinstance(place, int):
            return self._number((ref.buffer, (0,) * self.inner.depth, place))
        if ref.buffer in self.emitter.program.data:
            return self.layout.constant_at(ref.buffer, place)
        return self.layout.fetch(ref.buffer, self.layout.pointer_at(ref.buffer, place))

    def _number(self, key: Number) -> str:
        if key in self.registers:
            return self.registers[key]
        buffer, steps, _ = key
        uses = self.uses.get((buffer, steps))
        if buffer in self.emitter.program.data or uses is None or uses.mode == "invariant":
            return self.emitter.number(self.inner, *key)
        value = self.layout.load(self.inner, *key)
        if uses.mode == "load" or uses.is_alone:
            self.registers[key] = value
        return value

    def _operation(self, op: Op) -> None:
        columns = [self._get(op, ref) for ref in op.args]
        out = op.out
        places: list[int | str]
        places = list(spots_of(op, out)) if out.table is None else self.layout.looked_up(self.inner, op, out)
        for i, spot in enumerate(places):
            value = self.asm.function(op.fn, [column[i] for column in columns])
            if out.table is not None:
                self._scatter(op, spot, value)
            else:
                self._put(op, (out.buffer, out.steps, int(spot)), value)

    def _scatter(self, op: Op, place: int | str, value: str) -> None:
        if isinstance(place, int):
            pointer = self.layout.pointer(self.inner, op.out.buffer, (0,) * self.inner.depth, place)
        else:
            pointer = self.layout.pointer_at(op.out.buffer, place)
        self.layout.loaded.add(op.out.buffer)
        joined = value if op.how == "=" else self.emitter.join(op.how, self.layout.fetch(op.out.buffer, pointer), value)
        self.layout.put(op.out.buffer, pointer, joined)

    def _put(self, op: Op, key: Number, value: str) -> None:
        uses = self.uses[key[:2]]
        if uses.mode in ("total", "rotate"):
            self.registers[key] = value if op.how == "=" else self.emitter.join(op.how, self.registers[key], value)
            if op.how == "=" and uses.stored:
                self.layout.store(self.inner, *key, self.registers[key])
            return
        if op.how != "=":
            value = self.emitter.join(op.how, self._number(key), value)
        self.layout.store(self.inner, *key, value)
        if uses.is_alone:
            self.registers[key] = value

    def _store_collected(self) -> None:
        """Store what no later step adds to."""
        for (buffer, steps), uses in self.uses.items():
            if uses.mode == "rotate" and uses.hows != {"="} and uses.stored:
                for chain in uses.chains:
                    self.layout.store(self.inner, buffer, steps, chain[-1], self.registers[buffer, steps, chain[-1]])

    def _end(self) -> None:
        """Hand over to what comes after the loop."""
        emitter = self.emitter
        totals = [self._total(key) for key in self.totals if self.uses[key[:2]].stored]
        emitter.forget(self.outer, {buffer for (buffer, _), uses in self.uses.items() if uses.is_scattered})
        for (buffer, steps), uses in self.uses.items():
            if uses.mode == "rotate" and uses.hows != {"="} and uses.stored:
                for chain in uses.chains:
                    for spot in chain[:-1]:
                        key = (buffer, steps, spot)
                        self.layout.store(self.outer, *self._at(key, self.last), self.registers[key])
        for place, value in totals:
            emitter.put(self.outer, place, value)

    def _total(self, key: Number) -> tuple[Number, str]:
        """What a place that every step adds to holds in the end."""
        uses, place = self.uses[key[:2]], self._at(key, 0)
        if uses.is_read:
            return place, self.registers[key]
        before = self.emitter.number(self.outer, *place)
        return place, self.emitter.join(next(iter(uses.hows)), before, self.registers[key])
