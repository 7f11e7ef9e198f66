"""Where numbers lie in memory: work space, the caller's arrays, constants and tables of places."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from phlogiston.engine.native.ir import Array, Op, Program, Ref, offsets
from phlogiston.engine.native.llvm.assembly import Assembly, bits

if TYPE_CHECKING:
    from phlogiston.engine.native.llvm.access import Census
    from phlogiston.engine.native.llvm.emit import Scope


class Layout:
    """Gives buffers their places as they are first asked for, and writes loads and stores."""

    def __init__(self, program: Program, asm: Assembly, external: dict[int, str]) -> None:
        self.program, self.asm, self.external = program, asm, external
        self.words = 0
        self.starts: dict[int, int] = {}
        self.loaded: set[int] = set()  # buffers that are read from memory somewhere
        self.constant_starts: dict[int, int] = {}
        self.table_starts: dict[int, int] = {}
        self._constant_words = self._table_words = 0

    def start(self, buffer: int) -> int:
        """The first vector of a buffer in the work space."""
        if buffer not in self.starts:
            self.starts[buffer] = self.words
            self.words += self.program.sizes[buffer]
        return self.starts[buffer]

    def moved(self, scope: Scope, steps: tuple[int, ...]) -> str:
        """The sum of steps times loop variables."""
        if not any(steps):
            return "0"
        if steps not in scope.moved:
            total = ""
            for step, variable in zip(steps, scope.variables, strict=True):
                if step:
                    part = variable if step == 1 else self.asm.let(f"mul nsw i64 {variable}, {step}")
                    total = part if not total else self.asm.let(f"add nsw i64 {total}, {part}")
            scope.moved[steps] = total
        return scope.moved[steps]

    def pointer(self, scope: Scope, buffer: int, steps: tuple[int, ...], spot: int) -> str:
        """A pointer to a number."""
        moved = self.moved(scope, steps)
        if buffer in self.external:
            index = spot if moved == "0" else self.asm.let(f"add nsw i64 {moved}, {spot}")
            return self.pointer_at(buffer, str(index))
        vector, name = self.asm.vector, "%work"
        if moved != "0":
            name = self.asm.let(f"getelementptr inbounds {vector}, ptr {name}, i64 {moved}")
        return self.asm.let(f"getelementptr inbounds {vector}, ptr {name}, i64 {self.start(buffer) + spot}")

    def pointer_at(self, buffer: int, index: str) -> str:
        """A pointer to the number at an index that the code computes."""
        if buffer in self.external:
            row = self.asm.let(f"mul nsw i64 {index}, %stride")
            return self.asm.let(f"getelementptr inbounds double, ptr {self.external[buffer]}, i64 {row}")
        self.loaded.add(buffer)
        name = self.asm.let(f"getelementptr inbounds {self.asm.vector}, ptr %work, i64 {index}")
        return self.asm.let(f"getelementptr inbounds {self.asm.vector}, ptr {name}, i64 {self.start(buffer)}")

    def load(self, scope: Scope, buffer: int, steps: tuple[int, ...], spot: int) -> str:
        """A number from memory."""
        self.loaded.add(buffer)
        return self.fetch(buffer, self.pointer(scope, buffer, steps, spot))

    def fetch(self, buffer: int, pointer: str) -> str:
        """The number at a pointer into a buffer: only the work space is aligned."""
        if buffer in self.external:
            return self.asm.let(f"load {self.asm.vector}, ptr {pointer}, align 8")
        return self.asm.load(pointer)

    def store(self, scope: Scope, buffer: int, steps: tuple[int, ...], spot: int, value: str) -> None:
        """A number to memory."""
        self.put(buffer, self.pointer(scope, buffer, steps, spot), value)

    def put(self, buffer: int, pointer: str, value: str) -> None:
        """A number to a pointer into a buffer."""
        if buffer in self.external:
            self.asm.say(f"store {self.asm.vector} {value}, ptr {pointer}, align 8")
        else:
            self.asm.store(value, pointer)

    def constant(self, scope: Scope, buffer: int, steps: tuple[int, ...], spot: int) -> str:
        """A constant for every chain: part of the code where its place is known and it cannot be exchanged."""
        if not any(steps) and buffer not in self.program.exchangeable:
            return self.asm.splat(float(self.program.data[buffer][spot]))
        key = (buffer, steps, spot)
        if key not in scope.known:
            scope.known[key] = self.constant_at(buffer, self.moved(scope, steps), spot)
        return scope.known[key]

    def constant_at(self, buffer: int, index: str, spot: int = 0) -> str:
        """A constant for every chain, at a place that the code computes."""
        if buffer not in self.constant_starts:
            self.constant_starts[buffer] = self._constant_words
            self._constant_words += self.program.sizes[buffer]
        name = self.asm.let(f"getelementptr inbounds double, ptr %constants, i64 {index}")
        at = self.constant_starts[buffer] + spot
        name = self.asm.let(f"getelementptr inbounds double, ptr {name}, i64 {at}")
        return self.asm.broadcast(self.asm.let(f"load double, ptr {name}, align 8"))

    def looked_up(self, scope: Scope, op: Op, ref: Ref) -> list[int | str]:
        """The place of every element that a table moves: a number where no loop moves it, a register otherwise."""
        table = ref.table
        assert table is not None
        fixed = not any(table.steps) and not any(ref.steps)
        found: list[int | str] = []
        at = zip(offsets(op.shape, ref.strides), offsets(op.shape, table.strides), strict=True)
        for own, row in at:
            if fixed:
                found.append(ref.offset + own + int(self.program.data[table.buffer][table.offset + row]))
                continue
            index = self.index(scope, table.buffer, table.steps, table.offset + row)
            moved = self.moved(scope, ref.steps)
            index = index if moved == "0" else self.asm.let(f"add nsw i64 {index}, {moved}")
            found.append(self.asm.let(f"add nsw i64 {index}, {ref.offset + own}"))
        return found

    def index(self, scope: Scope, buffer: int, steps: tuple[int, ...], spot: int) -> str:
        """An entry of a table."""
        if buffer not in self.table_starts:
            self.table_starts[buffer] = self._table_words
            self._table_words += self.program.sizes[buffer]
        name = self.asm.let(f"getelementptr inbounds i64, ptr %tables, i64 {self.moved(scope, steps)}")
        name = self.asm.let(f"getelementptr inbounds i64, ptr {name}, i64 {self.table_starts[buffer] + spot}")
        return self.asm.let(f"load i64, ptr {name}, align 8")

    def clearing(self, census: Census) -> list[str]:
        """Lines that give buffers that are added to, or raised, what they begin with."""
        lines = []
        for buffer in sorted(self.loaded & set(self.starts)):
            hows = census.hows.get(buffer, {"="})
            if "=" in hows:
                continue
            start, count = self.starts[buffer], self.program.sizes[buffer] * self.asm.width
            pointer = self.asm.name("z")
            lines.append(f"  {pointer} = getelementptr inbounds {self.asm.vector}, ptr %work, i64 {start}")
            value = -math.inf if "max=" in hows else 0.0
            lines.append(f"  call void @ph_fill(ptr {pointer}, i64 {count}, double {bits(value)})")
        return lines

    def constants(self) -> Array:
        """The doubles that the code reads."""
        found = np.zeros(self._constant_words + 1)
        for buffer, start in self.constant_starts.items():
            found[start : start + self.program.sizes[buffer]] = self.program.data[buffer]
        return found

    def tables(self) -> Array:
        """The places that the code reads."""
        found = np.zeros(self._table_words + 1, np.int64)
        for buffer, start in self.table_starts.items():
            found[start : start + self.program.sizes[buffer]] = self.program.data[buffer]
        return found
