"""LLVM assembly as text: vectors of one number for each chain, and the functions of numbers on them."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

from phlogiston.engine.native.llvm import vector_math

_ARITHMETIC = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_COMPARISONS = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "eq": "oeq", "ne": "une"}
_INTRINSICS = {"sqrt": "sqrt", "abs": "fabs", "floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "roundeven"}


def bits(value: float) -> str:
    """A double as LLVM writes it, exactly."""
    return f"0x{struct.unpack('>Q', struct.pack('>d', value))[0]:016X}"


@dataclass
class Assembly:
    """Lines of one function's body, with names for what they compute.

    Args:
        width: chains in a vector.
        lines: where the next line goes; the emitter points this at the block it is writing.
        used: functions of vector_math and LLVM that must be declared.
    """

    width: int
    lines: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    intrinsics: set[str] = field(default_factory=set)
    _count: int = 0
    _flags: dict[str, str] = field(
        default_factory=dict
    )  # numbers that are truth values -> the bits that they stand for

    @property
    def vector(self) -> str:
        """The type of a number for each chain."""
        return f"<{self.width} x double>"

    def splat(self, value: float) -> str:
        """The same constant for every chain."""
        return "<" + ", ".join([f"double {bits(value)}"] * self.width) + ">"

    def name(self, prefix: str = "r") -> str:
        """A name that nothing has yet."""
        self._count += 1
        return f"%{prefix}{self._count}"

    def let(self, text: str) -> str:
        """A line that computes something; its name."""
        name = self.name()
        self.lines.append(f"  {name} = {text}")
        return name

    def say(self, text: str) -> None:
        """A line that computes nothing."""
        self.lines.append(f"  {text}")

    def broadcast(self, scalar: str) -> str:
        """One double for every chain."""
        one = self.let(f"insertelement {self.vector} poison, double {scalar}, i32 0")
        return self.let(
            f"shufflevector {self.vector} {one}, {self.vector} poison, <{self.width} x i32> zeroinitializer"
        )

    def load(self, pointer: str) -> str:
        """The numbers at a pointer into the work space."""
        return self.let(f"load {self.vector}, ptr {pointer}, align {8 * self.width}")

    def store(self, value: str, pointer: str) -> None:
        """Put numbers at a pointer into the work space."""
        self.say(f"store {self.vector} {value}, ptr {pointer}, align {8 * self.width}")

    def function(self, fn: str, args: list[str]) -> str:
        """One of FUNCTIONS."""
        zero, one = self.splat(0.0), self.splat(1.0)
        if fn == "copy" or (fn in ("add", "sub") and args[1] == zero) or (fn in ("mul", "div") and args[1] == one):
            return args[0]
        if (fn == "add" and args[0] == zero) or (fn == "mul" and args[0] == one):
            return args[1]
        if fn in _ARITHMETIC:
            return self.let(f"{_ARITHMETIC[fn]} contract {self.vector} {args[0]}, {args[1]}")
        if fn in _INTRINSICS:
            return self.intrinsic(_INTRINSICS[fn], args)
        if fn in _COMPARISONS:
            return self._truth(self._compare(_COMPARISONS[fn], *args))
        composed = getattr(self, f"_{fn}", None)
        if composed is not None:
            return str(composed(*args))
        self.used.add(fn)
        numbers = ", ".join(f"{self.vector} {arg}" for arg in args)
        return self.let(f"call fastcc {self.vector} @ph_{fn}({numbers})")

    def intrinsic(self, name: str, args: list[str]) -> str:
        """A function that LLVM knows."""
        kind = f"llvm.{name}.v{self.width}f64"
        numbers = ", ".join(f"{self.vector} {arg}" for arg in args)
        self.intrinsics.add(f"declare {self.vector} @{kind}({', '.join([self.vector] * len(args))})")
        return self.let(f"call {self.vector} @{kind}({numbers})")

    def _compare(self, how: str, a: str, b: str) -> str:
        return self.let(f"fcmp {how} {self.vector} {a}, {b}")

    def _choose(self, flag: str, a: str, b: str) -> str:
        return self.let(f"select <{self.width} x i1> {flag}, {self.vector} {a}, {self.vector} {b}")

    def _truth(self, flag: str) -> str:
        value = self._choose(flag, self.splat(1.0), self.splat(0.0))
        self._flags[value] = flag
        return value

    def _flag(self, value: str) -> str:
        if value not in self._flags:
            self._flags[value] = self._compare("une", value, self.splat(0.0))
        return self._flags[value]

    def _logical(self, how: str, a: str, b: str) -> str:
        first, second = self._flag(a), self._flag(b)
        return self._truth(self.let(f"{how} <{self.width} x i1> {first}, {second}"))

    def _and(self, a: str, b: str) -> str:
        return self._logical("and", a, b)

    def _or(self, a: str, b: str) -> str:
        return self._logical("or", a, b)

    def _not(self, a: str) -> str:
        return self._truth(self._compare("oeq", a, self.splat(0.0)))

    def _isnan(self, a: str) -> str:
        return self._truth(self._compare("uno", a, a))

    def _where(self, condition: str, a: str, b: str) -> str:
        return self._choose(self._flag(condition), a, b)

    def _neg(self, a: str) -> str:
        return self.let(f"fneg {self.vector} {a}")

    def _sign(self, a: str) -> str:
        zero = self.splat(0.0)
        low = self._choose(self._compare("olt", a, zero), self.splat(-1.0), a)  # zero and NaN stay as they are
        return self._choose(self._compare("ogt", a, zero), self.splat(1.0), low)

    def _bound(self, how: str, a: str, b: str) -> str:
        """The larger or smaller of two numbers; NaN where either is, as in torch."""
        first = self.let(f"or <{self.width} x i1> {self._compare(how, a, b)}, {self._compare('uno', a, a)}")
        return self._choose(first, a, b)

    def _maximum(self, a: str, b: str) -> str:
        return self._bound("ogt", a, b)

    def _minimum(self, a: str, b: str) -> str:
        return self._bound("olt", a, b)

    _clamp_min, _clamp_max = _maximum, _minimum

    def _log_of_sum(self, a: str) -> str:
        return self.function("log", [a])

    def _reciprocal(self, a: str) -> str:
        return self.function("div", [self.splat(1.0), a])

    def _rsqrt(self, a: str) -> str:
        return self.function("div", [self.splat(1.0), self.function("sqrt", [a])])

    def _remainder(self, a: str, b: str) -> str:
        whole = self.function("floor", [self.function("div", [a, b])])
        return self.function("sub", [a, self.function("mul", [whole, b])])

    def _exp2(self, a: str) -> str:
        return self.function("exp", [self.function("mul", [a, self.splat(math.log(2.0))])])

    def declarations(self) -> str:
        """What the body calls: machine code of the functions, and declarations of LLVM's own."""
        text, declared = vector_math.needed(self.used, self.width)
        return "\n".join([text, *sorted(self.intrinsics | declared)])
