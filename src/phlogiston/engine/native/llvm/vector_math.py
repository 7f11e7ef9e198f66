"""Functions of numbers that LLVM has no instruction for, on vectors of one number a lane.

Those of which densities are mostly made are computed on whole vectors; the rare ones call the scalar routines of the C
library and of SciPy, one lane after another. Source of the scalar routines' accuracy: their libraries.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_LIBM = {
    **{name: name for name in ("log2", "log10", "sin", "cos", "tan", "asin", "acos", "atan")},
    **{name: name for name in ("sinh", "cosh", "asinh", "acosh", "atanh", "erf", "erfc")},
}
_LIBM_OF_TWO = ("pow", "atan2")
_SCIPY = {"lgamma": "gammaln", "digamma": "psi", "erfinv": "erfinv", "ndtr": "ndtr", "log_ndtr": "log_ndtr"}
_SCIPY |= {"ndtri": "ndtri", "i0e": "i0e", "i1e": "i1e"}


@functools.lru_cache(maxsize=1)
def _libm() -> Any:
    return ctypes.CDLL(ctypes.util.find_library("m"))


def _address(fn: str) -> int:
    if fn in _LIBM or fn in _LIBM_OF_TWO:
        return int(ctypes.cast(getattr(_libm(), fn), ctypes.c_void_p).value or 0)
    from numba.extending import get_cython_function_address
    from scipy.special import cython_special

    name = (_SCIPY)[fn]
    functions = cython_special.__pyx_capi__
    spelled = next(
        n
        for n in (f"__pyx_fuse_1{name}", f"__pyx_fuse_0{name}", name)
        if n in functions and "double" in str(functions[n]) and "complex" not in str(functions[n])
    )
    return int(get_cython_function_address("scipy.special.cython_special", spelled))


def _by_lane(fn: str, width: int, count: int) -> str:
    vector = f"<{width} x double>"
    given = ", ".join(f"{vector} %x{i}" for i in range(count))
    lines, before = [], "poison"
    kind = f"double ({', '.join(['double'] * count)})"
    for lane in range(width):
        lines += [f"  %a{lane}_{i} = extractelement {vector} %x{i}, i32 {lane}" for i in range(count)]
        numbers = ", ".join(f"double %a{lane}_{i}" for i in range(count))
        lines.append(f"  %c{lane} = call {kind} inttoptr (i64 {_address(fn)} to ptr)({numbers})")
        lines.append(f"  %v{lane} = insertelement {vector} {before}, double %c{lane}, i32 {lane}")
        before = f"%v{lane}"
    return (
        f"define internal fastcc {vector} @ph_{fn}({given}) {{\n" + "\n".join(lines) + f"\n  ret {vector} {before}\n}}"
    )


def needed(used: Iterable[str], width: int) -> tuple[str, set[str]]:
    """Machine code's text of the functions used, and the declarations that it needs."""
    from phlogiston.engine.native.llvm.assembly import Assembly

    texts, declarations, waiting, done = [], set(), sorted(used), set()
    while waiting:
        fn = waiting.pop()
        if fn in done:
            continue
        done.add(fn)
        if fn in _COMPOSED:
            count, body = _COMPOSED[fn]
            asm = Assembly(width)
            result = body(asm, *(f"%x{i}" for i in range(count)))
            given = ", ".join(f"{asm.vector} %x{i}" for i in range(count))
            lines = "\n".join(asm.lines)
            texts.append(
                f"define internal fastcc {asm.vector} @ph_{fn}({given}) {{\n{lines}\n  ret {asm.vector} {result}\n}}"
            )
            waiting += sorted(asm.used)
            declarations |= asm.intrinsics
        else:
            texts.append(_by_lane(fn, width, 2 if fn in _LIBM_OF_TWO else 1))
    return "\n".join(texts), declarations


class _Builder:
    """Mathematics on vectors: operators of the assembly under short names; numbers stand for themselves."""

    def __init__(self, asm: Any) -> None:
        self.asm = asm
        self.integers = f"<{asm.width} x i64>"

    def given(self, value: Any) -> str:
        return value if isinstance(value, str) else str(self.asm.splat(float(value)))

    def f(self, fn: str, *args: Any) -> str:
        return str(self.asm.function(fn, [self.given(arg) for arg in args]))

    def fma(self, a: Any, b: Any, c: Any) -> str:
        """``a b + c``, rounded once."""
        return str(self.asm.intrinsic("fma", [self.given(arg) for arg in (a, b, c)]))

    def exact(self, operation: str, a: Any, b: Any) -> str:
        """An addition or subtraction that must not be contracted with another operation."""
        return str(self.asm.let(f"{operation} {self.asm.vector} {self.given(a)}, {self.given(b)}"))

    def polynomial(self, x: str, coefficients: Sequence[float]) -> str:
        """Coefficients from the lowest power, by pairs (Estrin), which wait less for each other."""
        terms = [self.given(c) for c in coefficients]
        power = x
        while len(terms) > 1:
            paired = [self.fma(terms[k + 1], power, terms[k]) for k in range(0, len(terms) - 1, 2)]
            terms = paired + terms[len(paired) * 2 :]
            power = self.f("mul", power, power) if len(terms) > 1 else power
        return terms[0]

    def bits(self, x: str) -> str:
        return str(self.asm.let(f"bitcast {self.asm.vector} {x} to {self.integers}"))

    def number(self, bits: str) -> str:
        return str(self.asm.let(f"bitcast {self.integers} {bits} to {self.asm.vector}"))

    def whole(self, operation: str, a: str, b: int) -> str:
        """An operation of integers with a constant."""
        constant = "<" + ", ".join([f"i64 {b}"] * self.asm.width) + ">"
        return str(self.asm.let(f"{operation} {self.integers} {a}, {constant}"))


# log 2 in two parts: the high one has its last bits zero, so that a small integer times it is exact.
_LOG2_HIGH, _LOG2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_MAGIC = 1.5 * 2.0**52  # added and taken away, it rounds to whole numbers, which its lowest bits then hold


def _reduced(b: _Builder, x: str) -> tuple[str, str]:
    """``x = k log 2 + r`` with ``k`` whole and ``|r| <= log(2) / 2`` (Cody and Waite, 1980)."""
    k = b.exact("fsub", b.fma(x, 1.0 / math.log(2.0), _MAGIC), _MAGIC)
    return k, b.fma(k, -_LOG2_LOW, b.fma(k, -_LOG2_HIGH, x))


def _power_of_two(b: _Builder, k: str) -> str:
    """``2^k`` for whole numbers from -1022 to 1023."""
    shifted = b.bits(b.exact("fadd", k, _MAGIC))
    return b.number(b.whole("shl", b.whole("add", shifted, 1023), 52))


def _exp_tail(b: _Builder, r: str) -> str:
    """``(exp(r) - 1 - r) / r^2`` for ``|r| <= log(2) / 2``: the first term left out is below 4e-18."""
    return b.polynomial(r, [1.0 / math.factorial(n) for n in range(2, 14)])


def _exp(asm: Any, x: str) -> str:
    b = _Builder(asm)
    within = b.f("minimum", b.f("maximum", x, -746.0), 710.0)
    k, r = _reduced(b, within)
    value = b.f("add", b.fma(b.f("mul", r, r), _exp_tail(b, r), r), 1.0)
    # In two factors, so that neither overflows and denormal results are rounded once.
    half = b.exact("fsub", b.fma(k, 0.5, _MAGIC), _MAGIC)
    rest = b.exact("fsub", k, half)
    return b.f("mul", b.f("mul", value, _power_of_two(b, half)), _power_of_two(b, rest))


def _expm1(asm: Any, x: str) -> str:
    b = _Builder(asm)
    within = b.f("minimum", b.f("maximum", x, -50.0), 50.0)
    k, r = _reduced(b, within)
    small = b.fma(b.f("mul", r, r), _exp_tail(b, r), r)
    power = _power_of_two(b, k)
    value = b.fma(power, small, b.f("sub", power, 1.0))
    large = b.f("sub", b.f("exp", x), 1.0)
    value = b.f("where", b.f("gt", x, 50.0), large, value)
    return b.f("where", b.f("eq", x, 0.0), x, value)


# fdlibm's e_log.c (Sun Microsystems, 1993): log(1 + f) by s = f / (2 + f) and a polynomial in s^2.
_LOG = [
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
]
_ROOT_HALF = 0x3FE6A09E667F3BCD  # the bits of sqrt(1/2)


def _log(asm: Any, x: str) -> str:
    b = _Builder(asm)
    tiny = b.f("lt", x, 2.0**-1022)
    scaled = b.f("where", tiny, b.f("mul", x, 2.0**54), x)
    gap = b.whole("sub", b.bits(scaled), _ROOT_HALF - (1023 << 52))
    exponent = b.number(b.whole("or", b.whole("lshr", gap, 52), 0x4330000000000000))
    lift = b.f("where", tiny, -1023.0 - 54.0, -1023.0)
    k = b.f("add", b.exact("fsub", exponent, 2.0**52), lift)
    rest = b.whole("and", b.whole("sub", b.bits(scaled), _ROOT_HALF), (1 << 52) - 1)
    f = b.exact("fsub", b.number(b.whole("add", rest, _ROOT_HALF)), 1.0)
    s = b.f("div", f, b.f("add", f, 2.0))
    z = b.f("mul", s, s)
    tail = b.f("mul", z, b.polynomial(z, _LOG))
    square = b.f("mul", b.f("mul", f, f), 0.5)
    inner = b.fma(s, b.f("add", square, tail), b.f("mul", k, _LOG2_LOW))
    value = b.fma(k, _LOG2_HIGH, b.f("sub", f, b.f("sub", square, inner)))
    value = b.f("where", b.f("eq", x, math.inf), math.inf, value)
    value = b.f("where", b.f("eq", x, 0.0), -math.inf, value)
    below = b.f("or", b.f("lt", x, 0.0), b.f("isnan", x))
    return b.f("where", below, math.nan, value)


def _log1p(asm: Any, x: str) -> str:
    """``log(w)`` with ``w = 1 + x`` as rounded, and what the rounding lost: ``(x - (w - 1)) / w``."""
    b = _Builder(asm)
    w = b.exact("fadd", x, 1.0)
    lost = b.exact("fsub", x, b.exact("fsub", w, 1.0))
    log = b.f("log", w)
    value = b.f("add", log, b.f("div", lost, w))
    whole = b.f("or", b.f("eq", w, math.inf), b.f("eq", w, 0.0))
    return b.f("where", b.f("eq", x, 0.0), x, b.f("where", whole, log, value))


def _sigmoid(asm: Any, x: str) -> str:
    b = _Builder(asm)
    small = b.f("exp", b.f("neg", b.f("abs", x)))
    whole = b.f("div", 1.0, b.f("add", small, 1.0))
    return b.f("where", b.f("lt", x, 0.0), b.f("mul", small, whole), whole)


def _log_sigmoid(asm: Any, x: str) -> str:
    b = _Builder(asm)
    return b.f("sub", b.f("minimum", x, 0.0), b.f("log1p", b.f("exp", b.f("neg", b.f("abs", x)))))


def _tanh(asm: Any, x: str) -> str:
    b = _Builder(asm)
    size = b.f("minimum", b.f("abs", x), 20.0)
    grown = b.f("expm1", b.f("mul", size, 2.0))
    value = b.f("div", grown, b.f("add", grown, 2.0))
    signed = b.f("where", b.f("lt", x, 0.0), b.f("neg", value), value)
    return b.f("where", b.f("eq", x, 0.0), x, signed)


def _softplus(asm: Any, x: str) -> str:
    b = _Builder(asm)
    return b.f("where", b.f("gt", x, 20.0), x, b.f("log1p", b.f("exp", x)))


def _xlogy(asm: Any, x: str, y: str) -> str:
    b = _Builder(asm)
    nothing = b.f("and", b.f("eq", x, 0.0), b.f("not", b.f("isnan", y)))
    return b.f("where", nothing, 0.0, b.f("mul", x, b.f("log", y)))


def _logaddexp(asm: Any, x: str, y: str) -> str:
    b = _Builder(asm)
    gap = b.f("neg", b.f("abs", b.f("sub", x, y)))
    apart = b.f("add", b.f("maximum", x, y), b.f("log1p", b.f("exp", gap)))
    return b.f("where", b.f("eq", x, y), b.f("add", x, math.log(2.0)), apart)


def _trigamma(asm: Any, x: str) -> str:
    """The derivative of digamma: up to 12 by its recurrence, from there by Stirling's series, below 0 by reflection."""
    b = _Builder(asm)
    low, total = b.f("le", x, 0.0), b.given(0.0)
    at = b.f("where", low, b.f("sub", 1.0, x), x)
    for _ in range(12):
        small = b.f("lt", at, 12.0)
        total = b.f("add", total, b.f("where", small, b.f("div", 1.0, b.f("mul", at, at)), 0.0))
        at = b.f("where", small, b.f("add", at, 1.0), at)
    inverse = b.f("div", 1.0, at)
    square = b.f("mul", inverse, inverse)
    series = b.polynomial(square, [1.0, 1.0 / 6.0, -1.0 / 30.0, 1.0 / 42.0, -1.0 / 30.0, 5.0 / 66.0, -691.0 / 2730.0])
    value = b.f("add", total, b.fma(square, 0.5, b.f("mul", inverse, series)))
    sine = b.f("sin", b.f("mul", b.f("sub", x, b.f("round", x)), math.pi))
    mirrored = b.f("sub", b.f("div", math.pi**2, b.f("mul", sine, sine)), value)
    return b.f("where", low, b.f("where", b.f("eq", x, -math.inf), math.inf, mirrored), value)


_COMPOSED: dict[str, tuple[int, Callable[..., str]]] = {
    "exp": (1, _exp),
    "expm1": (1, _expm1),
    "log": (1, _log),
    "log1p": (1, _log1p),
    "sigmoid": (1, _sigmoid),
    "log_sigmoid": (1, _log_sigmoid),
    "tanh": (1, _tanh),
    "softplus": (1, _softplus),
    "xlogy": (2, _xlogy),
    "logaddexp": (2, _logaddexp),
    "trigamma": (1, _trigamma),
}
