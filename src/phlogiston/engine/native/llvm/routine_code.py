"""The machine code of routines on whole arrays: loops over rows and columns, every number a vector of chains."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from phlogiston.engine.native.ir import Call
from phlogiston.engine.native.llvm.assembly import Assembly
from phlogiston.engine.native.llvm.compile import compile_text
from phlogiston.engine.native.routines import ROUTINES


def routine_call(call: Call, pointers: list[str], width: int) -> str:
    """The line that calls a routine on arrays that begin at ``pointers``; the result's comes first."""
    address = _compiled(call.fn, width).get_function_address(f"ph_{call.fn}")
    sizes = [f"i64 {size}" for size in call.sizes]
    arrays = [
        f"ptr {pointer}, i64 {ref.strides[0]}, i64 {ref.strides[1]}"
        for pointer, ref in zip(pointers, (call.out, *call.args), strict=True)
    ]
    return f"call void inttoptr (i64 {address} to ptr)({', '.join([*sizes, *arrays])})"


@functools.lru_cache(maxsize=32)
def _compiled(name: str, width: int) -> Any:
    """A routine's machine code, which serves every program of the process."""
    routine = _Routine(width, name)
    text = routine.text()
    return compile_text("\n".join([*sorted(routine.asm.intrinsics), text]))


# LLVM would make calls of libc's memset and memcpy out of loops, which machine code in memory may not find.
ALONE = '"no-builtins"'

FILL = f"""define internal void @ph_fill(ptr %p, i64 %count, double %value) {ALONE} {{
entry:
  br label %again
again:
  %i = phi i64 [ 0, %entry ], [ %next, %again ]
  %at = getelementptr inbounds double, ptr %p, i64 %i
  store double %value, ptr %at, align 8
  %next = add nsw i64 %i, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %again, label %done
done:
  ret void
}}
"""


class _Matrix:
    """An array of vectors in memory, by row and column."""

    def __init__(self, asm: Assembly, name: str) -> None:
        self.asm, self.name = asm, name

    def pointer(self, row: str, column: str) -> str:
        asm = self.asm
        down = asm.let(f"mul nsw i64 {row}, %{self.name}r")
        along = asm.let(f"mul nsw i64 {column}, %{self.name}c")
        return asm.let(
            f"getelementptr inbounds {asm.vector}, ptr %{self.name}, i64 {asm.let(f'add nsw i64 {down}, {along}')}"
        )

    def __getitem__(self, at: tuple[str, str]) -> str:
        return self.asm.load(self.pointer(*at))

    def __setitem__(self, at: tuple[str, str], value: str) -> None:
        self.asm.store(value, self.pointer(*at))


class _Routine:
    """Writes one function."""

    def __init__(self, width: int, name: str) -> None:
        self.name = name
        self.asm = Assembly(width)
        self.block = "entry"

    def text(self) -> str:
        sizes = {"solve_lower": ("n", "m"), "solve_lower_transposed": ("n", "m")}.get(self.name, ("n",))
        arrays = "oab"[: len(ROUTINES[self.name].shapes((1,) * len(sizes)))]
        arguments = [f"i64 %{size}" for size in sizes]
        arguments += [f"ptr noalias %{array}, i64 %{array}r, i64 %{array}c" for array in arrays]
        getattr(self, f"_{self.name}")(*(_Matrix(self.asm, array) for array in arrays))
        lines = "\n".join(self.asm.lines)
        return f"define void @ph_{self.name}({', '.join(arguments)}) {ALONE} {{\nentry:\n{lines}\n  ret void\n}}\n"

    def loop(self, first: str, end: str, body: Callable[[str], None], *, down: bool = False) -> None:
        """``body`` for ``first <= i < end``, or from ``end - 1`` down to ``first``."""
        asm, before = self.asm, self.block
        head, inside, after = (asm.name("L")[1:] for _ in range(3))
        index, following, test = asm.name("i"), asm.name("n"), asm.name("c")
        start = asm.let(f"sub nsw i64 {end}, 1") if down else first
        asm.say(f"br label %{head}")
        asm.lines.append(f"{head}:")
        phi = len(asm.lines)
        asm.lines.append("")
        stop = f"icmp sge i64 {index}, {first}" if down else f"icmp slt i64 {index}, {end}"
        asm.say(f"{test} = {stop}")
        asm.say(f"br i1 {test}, label %{inside}, label %{after}")
        asm.lines.append(f"{inside}:")
        self.block = inside
        body(index)
        asm.say(f"{following} = add nsw i64 {index}, {-1 if down else 1}")
        asm.say(f"br label %{head}")
        asm.lines[phi] = f"  {index} = phi i64 [ {start}, %{before} ], [ {following}, %{self.block} ]"
        asm.lines.append(f"{after}:")
        self.block = after

    def reduced(self, start: str, first: str, end: str, term: Callable[[str], tuple[str, str]]) -> str:
        """``start`` less the sum of products that ``term`` gives for each index."""
        asm = self.asm
        slot = asm.let(f"alloca {asm.vector}, align {8 * asm.width}")  # LLVM makes a register of it
        asm.store(start, slot)

        def body(index: str) -> None:
            product = asm.function("mul", list(term(index)))
            asm.store(asm.function("sub", [asm.load(slot), product]), slot)

        self.loop(first, end, body)
        return asm.load(slot)

    def after(self, index: str) -> str:
        return self.asm.let(f"add nsw i64 {index}, 1")

    def _cholesky(self, o: _Matrix, a: _Matrix) -> None:
        asm, zero = self.asm, self.asm.splat(0.0)

        def column(j: str) -> None:
            rest = self.reduced(a[j, j], "0", j, lambda k: (o[j, k], o[j, k]))
            positive = asm.function("gt", [rest, zero])
            pivot = asm.function("where", [positive, asm.function("sqrt", [rest]), asm.splat(math.nan)])
            o[j, j] = pivot
            inverse = asm.function("reciprocal", [pivot])

            def below(i: str) -> None:
                o[i, j] = asm.function("mul", [self.reduced(a[i, j], "0", j, lambda k: (o[i, k], o[j, k])), inverse])

            def above(i: str) -> None:
                o[i, j] = zero

            self.loop("0", j, above)
            self.loop(self.after(j), "%n", below)

        self.loop("0", "%n", column)

    def _cholesky_adjoint(self, o: _Matrix, a: _Matrix, b: _Matrix) -> None:
        """Smith (1995) as Murray (2016, arXiv:1602.07527) writes it; ``a`` is the factor, ``b`` its adjoint."""
        asm, half = self.asm, self.asm.splat(0.5)

        def copied(i: str) -> None:
            self.loop("0", self.after(i), lambda j: o.__setitem__((i, j), b[i, j]))

        def symmetric(i: str) -> None:
            def each(j: str) -> None:
                value = asm.function("mul", [o[i, j], half])
                o[i, j] = value
                o[j, i] = value

            self.loop("0", i, each)

        self.loop("0", "%n", copied)
        self.loop("0", "%n", lambda k: self._adjoint_of_column(o, a, k), down=True)
        self.loop("0", "%n", symmetric)

    def _adjoint_of_column(self, o: _Matrix, a: _Matrix, k: str) -> None:
        """Undo what the factorisation did to column ``k``."""
        asm, following = self.asm, self.after(k)
        inverse = asm.function("reciprocal", [a[k, k]])

        def scaled(i: str) -> None:
            o[i, k] = asm.function("mul", [o[i, k], inverse])

        def row(j: str) -> None:
            o[k, j] = self.reduced(o[k, j], k, "%n", lambda i: (o[i, k], a[i, j]))

        def below(i: str) -> None:
            def each(j: str) -> None:
                o[i, j] = asm.function("sub", [o[i, j], asm.function("mul", [o[i, k], a[k, j]])])

            self.loop("0", k, each)

        pivot = self.reduced(o[k, k], following, "%n", lambda i: (asm.function("mul", [a[i, k], inverse]), o[i, k]))
        o[k, k] = pivot
        self.loop(k, "%n", scaled)
        self.loop("0", k, row)
        self.loop(following, "%n", below)
        o[k, k] = asm.function("mul", [o[k, k], asm.splat(0.5)])

    def _solve_lower(self, o: _Matrix, a: _Matrix, b: _Matrix) -> None:
        def column(c: str) -> None:
            def row(i: str) -> None:
                rest = self.reduced(b[i, c], "0", i, lambda k: (a[i, k], o[k, c]))
                o[i, c] = self.asm.function("div", [rest, a[i, i]])

            self.loop("0", "%n", row)

        self.loop("0", "%m", column)

    def _solve_lower_transposed(self, o: _Matrix, a: _Matrix, b: _Matrix) -> None:
        def column(c: str) -> None:
            def row(i: str) -> None:
                rest = self.reduced(b[i, c], self.after(i), "%n", lambda k: (a[k, i], o[k, c]))
                o[i, c] = self.asm.function("div", [rest, a[i, i]])

            self.loop("0", "%n", row, down=True)

        self.loop("0", "%m", column)
