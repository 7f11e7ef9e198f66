"""Functions of numbers that LLVM has no instruction for, on vectors of one number a lane.

Those of which densities are mostly made are computed on whole vectors; the rare ones call the scalar routines of the C
library and of SciPy, one lane after another. Source of the scalar routines' accuracy: their libraries.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

_LIBM = {
    **{name: name for name in ("exp", "log", "expm1", "log1p", "log2", "log10", "sin", "cos", "tan", "asin", "acos")},
    **{name: name for name in ("atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc")},
}
_LIBM_OF_TWO = ("pow", "atan2")
_SCIPY = {"lgamma": "gammaln", "digamma": "psi", "erfinv": "erfinv", "ndtr": "ndtr", "log_ndtr": "log_ndtr"}
_SCIPY |= {"ndtri": "ndtri", "i0e": "i0e", "i1e": "i1e", "sigmoid": "expit", "log_sigmoid": "log_expit"}
_SCIPY_OF_TWO = {"xlogy": "xlogy", "zeta": "zeta"}


@functools.lru_cache(maxsize=1)
def _libm() -> Any:
    return ctypes.CDLL(ctypes.util.find_library("m"))


def _address(fn: str) -> int:
    if fn in _LIBM or fn in _LIBM_OF_TWO:
        return int(ctypes.cast(getattr(_libm(), fn), ctypes.c_void_p).value or 0)
    from numba.extending import get_cython_function_address
    from scipy.special import cython_special

    name = (_SCIPY | _SCIPY_OF_TWO)[fn]
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
            texts.append(_by_lane(fn, width, 2 if fn in _LIBM_OF_TWO or fn in _SCIPY_OF_TWO else 1))
    return "\n".join(texts), declarations


def _softplus(b: Any, x: str) -> str:
    f = b.function
    return str(f("where", [f("gt", [x, b.splat(20.0)]), x, f("log1p", [f("exp", [x])])]))


def _logaddexp(b: Any, x: str, y: str) -> str:
    f = b.function
    top = f("maximum", [x, y])
    gap = f("neg", [f("abs", [f("sub", [x, y])])])
    apart = f("add", [top, f("log1p", [f("exp", [gap])])])
    return str(f("where", [f("eq", [x, y]), f("add", [x, b.splat(math.log(2.0))]), apart]))


def _trigamma(b: Any, x: str) -> str:
    """Hurwitz's zeta(2, x), by reflection where x is not positive."""
    f = b.function
    low = f("le", [x, b.splat(0.0)])
    at = f("where", [low, f("sub", [b.splat(1.0), x]), x])
    value = f("zeta", [b.splat(2.0), at])
    sine = f("sin", [f("mul", [x, b.splat(math.pi)])])
    mirrored = f("sub", [f("div", [b.splat(math.pi**2), f("mul", [sine, sine])]), value])
    return str(f("where", [low, mirrored, value]))


_COMPOSED: dict[str, tuple[int, Callable[..., str]]] = {
    "softplus": (1, _softplus),
    "logaddexp": (2, _logaddexp),
    "trigamma": (1, _trigamma),
}
