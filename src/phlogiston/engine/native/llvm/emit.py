"""Machine code for a program: every number is a vector, a chain in each lane, so that any shape gives dense code.

Straight operations are unrolled into registers. In a loop without loops inside, a number that a later step still needs
waits in a register (``access``): a value read one step later never goes through memory, an adjoint collects its parts
in a register, and only what another part of the program reads is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from phlogiston.engine.native.ir import IDENTITY, Array, Call, Item, Loop, NotNative, Op, Program, Ref, walk
from phlogiston.engine.native.llvm.access import Census, Key, Uses, buffers_in_memory, is_innermost, spots_of, studied
from phlogiston.engine.native.llvm.assembly import Assembly
from phlogiston.engine.native.llvm.layout import Layout
from phlogiston.engine.native.llvm.loops import InnermostLoop
from phlogiston.engine.native.llvm.routine_code import ALONE, FILL, routine_call

NAME = "ph_columns"
LONGEST_CODE = 40_000  # lines; LLVM takes more than proportionally long for long functions


@dataclass
class Code:
    """Assembly of ``f(inputs..., outputs..., columns, work, constants, tables)``.

    Args:
        text: the module.
        width: chains in a vector; ``inputs`` and ``outputs`` are ``[numbers, columns]`` doubles, and ``columns`` is a
            multiple of the width.
        work: vectors of work space.
        constants: doubles that the code reads.
        tables: places that the code reads.
        order: names of inputs and outputs, as the function takes them.
        starts: where each constant buffer begins in ``constants``.
    """

    text: str
    width: int
    work: int
    constants: Array
    tables: Array
    order: tuple[str, ...]
    starts: dict[int, int]


@dataclass
class Scope:
    """A place in the nest of loops: the variables of the loops around, and what is known in registers."""

    depth: int
    variables: tuple[str, ...] = ()
    trips: tuple[int, ...] = ()
    known: dict[tuple[int, tuple[int, ...], int], str] = field(default_factory=dict)
    moved: dict[tuple[int, ...], str] = field(default_factory=dict)  # steps -> the sum of steps times variables
    parent: Scope | None = None
    written: frozenset[int] = frozenset()  # buffers that the loop writes
    lines: list[str] = field(default_factory=list)


def emit(program: Program, width: int) -> Code:
    """The assembly of a lowered program, for vectors of so many chains."""
    return Emitter(program, width).code()


class Emitter:
    """Writes the code of one program."""

    def __init__(self, program: Program, width: int) -> None:
        self.program, self.asm = program, Assembly(width)
        self.order = (*program.inputs, *program.outputs)
        outside = (*program.inputs.values(), *(ref.buffer for ref, _ in program.outputs.values()))
        self.external = {buffer: f"%array{k}" for k, buffer in enumerate(outside)}
        self.layout = Layout(program, self.asm, self.external)
        self.census = Census.of(program)
        self.uses: dict[int, dict[Key, Uses]] = {}
        self._study(program.items, ())
        self.resident = buffers_in_memory(program, self.uses.values()) | self._outer(program.items, 0)
        self.in_memory: set[int] = set(program.inputs.values())  # buffers that a loop or routine has written so far
        self.block = "entry"

    def _study(self, items: list[Item] | tuple[Item, ...], trips: tuple[int, ...]) -> None:
        for item in items:
            if isinstance(item, Loop):
                if is_innermost(item):
                    self.uses[id(item)] = studied(self.program, item, (*trips, item.trips), self.census)
                else:
                    self._study(item.body, (*trips, item.trips))

    def _outer(self, items: list[Item] | tuple[Item, ...], depth: int) -> set[int]:
        """Buffers of operations that stand between loops inside of a loop: they go through memory."""
        found: set[int] = set()
        for item in items:
            if isinstance(item, Loop) and not is_innermost(item):
                found |= self._outer(item.body, depth + 1)
            elif isinstance(item, Op) and depth:
                found.update(ref.buffer for ref in (item.out, *item.args))
        return found

    def code(self) -> Code:
        """The whole module."""
        entry = Scope(0, lines=self.asm.lines)
        self.items(entry, self.program.items)
        self.asm.say("ret void")
        if len(entry.lines) > LONGEST_CODE:
            raise NotNative(f"code of {len(entry.lines):,} lines, as too few of its operations repeat in loops")
        body = entry.lines
        arguments = ", ".join(f"ptr noalias {name}" for name in self.external.values())
        clear = self.layout.clearing(self.census)
        memory = ", ".join(f"ptr noalias %{name}" for name in ("work", "constants", "tables"))
        head = f"define internal void @ph_vector({arguments}, i64 %stride, {memory})"
        text = "\n".join(
            [self.asm.declarations(), FILL, f"{head} {ALONE} {{", "entry:", *clear, *body, "}", self.columns()]
        )
        layout = self.layout
        return Code(
            text,
            self.asm.width,
            layout.words,
            layout.constants(),
            layout.tables(),
            self.order,
            dict(layout.constant_starts),
        )

    def columns(self) -> str:
        """The function that computes all columns, a vector of them at a time."""
        names = list(self.external.values())
        arrays = ", ".join(f"ptr {name}" for name in names)
        moved = "\n".join(f"  {name}.at = getelementptr inbounds double, ptr {name}, i64 %c" for name in names)
        given = ", ".join(f"ptr {name}.at" for name in names)
        return f"""define void @{NAME}({arrays}, i64 %columns, ptr %work, ptr %constants, ptr %tables) {{
entry:
  br label %again
again:
  %c = phi i64 [ 0, %entry ], [ %next, %again ]
{moved}
  call void @ph_vector({given}, i64 %columns, ptr %work, ptr %constants, ptr %tables)
  %next = add nsw i64 %c, {self.asm.width}
  %more = icmp slt i64 %next, %columns
  br i1 %more, label %again, label %done
done:
  ret void
}}"""

    def items(self, scope: Scope, items: list[Item] | tuple[Item, ...]) -> None:
        """Write items, one after another."""
        for item in items:
            if isinstance(item, Op):
                self.straight(scope, item)
            elif isinstance(item, Call):
                self.routine(scope, item)
            elif is_innermost(item):
                self.innermost(scope, item)
            else:
                self.nest(scope, item)

    # What a scope knows -----------------------------------------------------------------------------------------

    def read(self, scope: Scope, op: Op, ref: Ref) -> list[str]:
        """The elements of a reference."""
        if ref.table is not None:
            return [self.place(scope, ref, at) for at in self.layout.looked_up(scope, op, ref)]
        return [self.number(scope, ref.buffer, ref.steps, spot) for spot in spots_of(op, ref)]

    def place(self, scope: Scope, ref: Ref, at: int | str) -> str:
        """One number, at a place that is known now or only when the code runs."""
        if isinstance(at, int):
            return self.number(scope, ref.buffer, (0,) * scope.depth, at)
        if ref.buffer in self.program.data:
            return self.layout.constant_at(ref.buffer, at)
        return self.layout.fetch(ref.buffer, self.layout.pointer_at(ref.buffer, at))

    def number(self, scope: Scope, buffer: int, steps: tuple[int, ...], spot: int) -> str:
        """One number: from a register if it is known, from memory otherwise."""
        if buffer in self.program.data:
            return self.layout.constant(scope, buffer, steps, spot)
        key = (buffer, steps, spot)
        if key in scope.known:
            return scope.known[key]
        if scope.parent is not None and not steps[-1] and buffer not in scope.written:
            inside, self.asm.lines = self.asm.lines, scope.parent.lines
            value = self.number(scope.parent, buffer, steps[:-1], spot)
            self.asm.lines = inside
        elif scope.depth == 0 and buffer not in self.in_memory and self.is_collected(buffer):
            return self.identity(buffer)  # nothing was added yet
        else:
            value = self.layout.load(scope, buffer, steps, spot)
        scope.known[key] = value
        return value

    def is_collected(self, buffer: int) -> bool:
        """Whether a buffer is only added to or raised."""
        return "=" not in self.census.hows.get(buffer, {"="})

    def identity(self, buffer: int) -> str:
        """What such a buffer begins with."""
        return self.asm.splat(IDENTITY[next(iter(self.census.hows[buffer]))])

    def join(self, how: str, before: str, value: str) -> str:
        """What a place holds after a write."""
        if how == "=" or before == self.asm.splat(IDENTITY[how]):
            return value
        return self.asm.function("add" if how == "+=" else "maximum", [before, value])

    # Operations outside of innermost loops ------------------------------------------------------------------------

    def straight(self, scope: Scope, op: Op) -> None:
        """Write one operation, element by element."""
        columns = [self.read(scope, op, ref) for ref in op.args]
        out = op.out
        if out.table is None:
            spots: list[int | str] = list(spots_of(op, out))
        else:
            spots = self.layout.looked_up(scope, op, out)
        steps = out.steps if out.table is None else (0,) * scope.depth
        for i, spot in enumerate(spots):
            value = self.asm.function(op.fn, [column[i] for column in columns])
            if isinstance(spot, str):
                pointer = self.layout.pointer_at(out.buffer, spot)
                before = "" if op.how == "=" else self.layout.fetch(out.buffer, pointer)
                self.layout.put(out.buffer, pointer, self.join(op.how, before, value))
                scope.known = {key: known for key, known in scope.known.items() if key[0] != out.buffer}
                continue
            before = "" if op.how == "=" else self.number(scope, out.buffer, steps, spot)
            self.put(scope, (out.buffer, steps, spot), self.join(op.how, before, value))

    def put(self, scope: Scope, key: tuple[int, tuple[int, ...], int], value: str) -> None:
        """Write one number outside of innermost loops."""
        buffer, steps, spot = key
        if scope.depth:  # other references may name the same place
            scope.known = {k: known for k, known in scope.known.items() if k[0] != buffer or k[1] == steps}
        scope.known[key] = value
        if buffer in self.resident or buffer in self.external:
            self.layout.store(scope, buffer, steps, spot, value)

    def routine(self, scope: Scope, call: Call) -> None:
        """Write a call of a routine."""
        self.layout.loaded.update(ref.buffer for ref in call.args)
        pointers = [self.layout.pointer(scope, ref.buffer, ref.steps, ref.offset) for ref in (call.out, *call.args)]
        self.asm.say(routine_call(call, pointers, self.asm.width))
        self.forget(scope, {call.out.buffer})

    def forget(self, scope: Scope, buffers: set[int] | frozenset[int]) -> None:
        """Numbers of these buffers are in memory now."""
        self.in_memory |= buffers
        for key in [key for key in scope.known if key[0] in buffers]:
            del scope.known[key]

    # Loops --------------------------------------------------------------------------------------------------------

    def inside(self, scope: Scope, loop: Loop) -> Scope:
        """The scope of a loop's body."""
        written = frozenset(item.out.buffer for item in walk(loop.body))
        variable = self.asm.name("t")
        return Scope(
            scope.depth + 1, (*scope.variables, variable), (*scope.trips, loop.trips), parent=scope, written=written
        )

    def nest(self, scope: Scope, loop: Loop) -> None:
        """A loop with loops inside."""
        inner = self.inside(scope, loop)
        label, before = self.asm.name("L")[1:], self.block
        self.block, self.asm.lines = label, inner.lines
        self.in_memory |= inner.written
        self.items(inner, loop.body)
        self.asm.lines = scope.lines
        self.close(loop, inner, label, before, [])
        self.forget(scope, inner.written)

    def close(self, loop: Loop, inner: Scope, label: str, before: str, phis: list[str]) -> None:
        """Put a loop's body between its head and its test."""
        asm, variable = self.asm, inner.variables[-1]
        first, last, move = (loop.trips - 1, 0, -1) if loop.reverse else (0, loop.trips - 1, 1)
        ahead, test = asm.name("t"), asm.name("c")
        asm.lines += [f"  br label %{label}", f"{label}:"]
        asm.lines += [f"  {variable} = phi i64 [ {first}, %{before} ], [ {ahead}, %{self.block} ]", *phis, *inner.lines]
        asm.lines += [f"  {ahead} = add nsw i64 {variable}, {move}", f"  {test} = icmp ne i64 {ahead}, {last + move}"]
        asm.lines += [f"  br i1 {test}, label %{label}, label %{label}end", f"{label}end:"]
        self.block = f"{label}end"

    def innermost(self, scope: Scope, loop: Loop) -> None:
        """A loop of operations alone."""
        InnermostLoop(self, scope, loop).write()
