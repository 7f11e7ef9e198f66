"""The functions of numbers that native code knows: each with its value in NumPy and its derivatives, in one table.

To add one, add a line to FUNCTIONS, and its machine code to ``vector_math`` unless LLVM has an instruction for it. A
derivative is written with the operators of Python and the functions of ``Rules``: it is given the adjoint ``g`` of the
result, the arguments and the result ``o``, and returns what it adds to the argument's adjoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy import special


class Number(Protocol):
    """A number in the making, within a derivative."""

    def __add__(self, other: Any) -> Any: ...
    def __radd__(self, other: Any) -> Any: ...
    def __sub__(self, other: Any) -> Any: ...
    def __rsub__(self, other: Any) -> Any: ...
    def __mul__(self, other: Any) -> Any: ...
    def __rmul__(self, other: Any) -> Any: ...
    def __truediv__(self, other: Any) -> Any: ...
    def __rtruediv__(self, other: Any) -> Any: ...
    def __neg__(self) -> Any: ...


# Applies the function of that name: ``f("exp", x)``.
Apply = Callable[..., Any]
Rule = Callable[..., Any]  # (f, g, *arguments, o) -> what it adds to one argument's adjoint


@dataclass(frozen=True)
class Function:
    """One function of numbers.

    Args:
        evaluate: the same in NumPy, on arrays.
        rules: for each argument, its derivative; None where it has none anywhere (comparisons, rounding).
    """

    evaluate: Callable[..., Any]
    rules: tuple[Rule | None, ...]

    @property
    def is_flat(self) -> bool:
        """Whether it has no derivative by any argument."""
        return all(rule is None for rule in self.rules)


def _flat(evaluate: Callable[..., Any], count: int) -> Function:
    return Function(lambda *args: np.asarray(evaluate(*args)).astype(float), (None,) * count)


def _unary(evaluate: Callable[..., Any], rule: Rule) -> Function:
    return Function(evaluate, (rule,))


def _softplus(x: Any) -> Any:
    return np.where(x > 20.0, x, np.log1p(np.exp(np.minimum(x, 20.0))))


def _remainder(x: Any, y: Any) -> Any:
    return np.mod(x, y)


def _where(c: Any, x: Any, y: Any) -> Any:
    return np.where(c != 0.0, x, y)


def _pow_by_base(f: Apply, g: Any, x: Any, y: Any, o: Any) -> Any:
    return f("where", f("eq", y, 0.0), 0.0, g * (y * f("pow", x, y - 1.0)))


def _pow_by_exponent(f: Apply, g: Any, x: Any, y: Any, o: Any) -> Any:
    nothing = f("and", f("eq", x, 0.0), f("ge", y, 0.0))
    return f("where", nothing, 0.0, g * (o * f("log", x)))


def _bound_rules(beaten: str) -> tuple[Rule, Rule]:
    """Derivatives of maximum (``beaten`` "lt") and minimum ("gt"); equal arguments share, as in torch."""

    def part(f: Apply, g: Any, mine: Any, other: Any) -> Any:
        return f("where", f(beaten, mine, other), 0.0, f("where", f("eq", mine, other), g * 0.5, g))

    return (lambda f, g, x, y, o: part(f, g, x, y), lambda f, g, x, y, o: part(f, g, y, x))


_ROOT_PI = math.sqrt(math.pi)
_LOG_ROOT_2PI = 0.5 * math.log(2.0 * math.pi)

FUNCTIONS: dict[str, Function] = {
    "copy": _unary(lambda x: x, lambda f, g, x, o: g),
    "neg": _unary(np.negative, lambda f, g, x, o: -g),
    "add": Function(np.add, (lambda f, g, x, y, o: g, lambda f, g, x, y, o: g)),
    "sub": Function(np.subtract, (lambda f, g, x, y, o: g, lambda f, g, x, y, o: -g)),
    "mul": Function(np.multiply, (lambda f, g, x, y, o: g * y, lambda f, g, x, y, o: g * x)),
    "div": Function(np.divide, (lambda f, g, x, y, o: g / y, lambda f, g, x, y, o: -(g / y) * o)),
    "maximum": Function(np.maximum, _bound_rules("lt")),
    "minimum": Function(np.minimum, _bound_rules("gt")),
    # clamp_min(x, low) and clamp_max(x, high): at the bound the derivative is whole, as in torch.
    "clamp_min": Function(np.maximum, (lambda f, g, x, y, o: f("where", f("ge", x, y), g, 0.0), None)),
    "clamp_max": Function(np.minimum, (lambda f, g, x, y, o: f("where", f("le", x, y), g, 0.0), None)),
    "abs": _unary(np.abs, lambda f, g, x, o: g * f("sign", x)),
    "sign": _flat(np.sign, 1),
    "exp": _unary(np.exp, lambda f, g, x, o: g * o),
    "exp2": _unary(np.exp2, lambda f, g, x, o: g * o * math.log(2.0)),
    "expm1": _unary(np.expm1, lambda f, g, x, o: g * (o + 1.0)),
    "log": _unary(np.log, lambda f, g, x, o: g / x),
    # The logarithm of a sum of exponentials: nothing reaches the terms of a sum that is zero.
    "log_of_sum": _unary(np.log, lambda f, g, x, o: f("where", f("eq", x, 0.0), 0.0, g / x)),
    "log1p": _unary(np.log1p, lambda f, g, x, o: g / (x + 1.0)),
    "log2": _unary(np.log2, lambda f, g, x, o: g / (x * math.log(2.0))),
    "log10": _unary(np.log10, lambda f, g, x, o: g / (x * math.log(10.0))),
    "sqrt": _unary(np.sqrt, lambda f, g, x, o: g / (2.0 * o)),
    "rsqrt": _unary(lambda x: 1.0 / np.sqrt(x), lambda f, g, x, o: -0.5 * g * (o * o * o)),
    "reciprocal": _unary(np.reciprocal, lambda f, g, x, o: -g * (o * o)),
    "sin": _unary(np.sin, lambda f, g, x, o: g * f("cos", x)),
    "cos": _unary(np.cos, lambda f, g, x, o: -g * f("sin", x)),
    "tan": _unary(np.tan, lambda f, g, x, o: g * (1.0 + o * o)),
    "asin": _unary(np.arcsin, lambda f, g, x, o: g * f("rsqrt", 1.0 - x * x)),
    "acos": _unary(np.arccos, lambda f, g, x, o: -g * f("rsqrt", 1.0 - x * x)),
    "atan": _unary(np.arctan, lambda f, g, x, o: g / (x * x + 1.0)),
    "atan2": Function(
        np.arctan2, (lambda f, g, y, x, o: g * (x / (x * x + y * y)), lambda f, g, y, x, o: g * (-y / (x * x + y * y)))
    ),
    "sinh": _unary(np.sinh, lambda f, g, x, o: g * f("cosh", x)),
    "cosh": _unary(np.cosh, lambda f, g, x, o: g * f("sinh", x)),
    "tanh": _unary(np.tanh, lambda f, g, x, o: g * (1.0 - o * o)),
    "asinh": _unary(np.arcsinh, lambda f, g, x, o: g * f("rsqrt", x * x + 1.0)),
    "acosh": _unary(np.arccosh, lambda f, g, x, o: g * f("rsqrt", x * x - 1.0)),
    "atanh": _unary(np.arctanh, lambda f, g, x, o: g / (1.0 - x * x)),
    "sigmoid": _unary(special.expit, lambda f, g, x, o: g * (o * (1.0 - o))),
    "log_sigmoid": _unary(special.log_expit, lambda f, g, x, o: g * f("sigmoid", -x)),
    "softplus": _unary(_softplus, lambda f, g, x, o: f("where", f("gt", x, 20.0), g, g * f("sigmoid", x))),
    "erf": _unary(special.erf, lambda f, g, x, o: g * (2.0 / _ROOT_PI * f("exp", -(x * x)))),
    "erfc": _unary(special.erfc, lambda f, g, x, o: -g * (2.0 / _ROOT_PI * f("exp", -(x * x)))),
    "erfinv": _unary(special.erfinv, lambda f, g, x, o: g * (0.5 * _ROOT_PI * f("exp", o * o))),
    "ndtr": _unary(special.ndtr, lambda f, g, x, o: g * f("exp", -0.5 * (x * x) - _LOG_ROOT_2PI)),
    "log_ndtr": _unary(special.log_ndtr, lambda f, g, x, o: g * f("exp", -0.5 * (x * x) - _LOG_ROOT_2PI - o)),
    "ndtri": _unary(special.ndtri, lambda f, g, x, o: g * f("exp", 0.5 * (o * o) + _LOG_ROOT_2PI)),
    "lgamma": _unary(special.gammaln, lambda f, g, x, o: g * f("digamma", x)),
    "digamma": _unary(special.digamma, lambda f, g, x, o: g * f("trigamma", x)),
    "trigamma": Function(lambda x: special.polygamma(1, x), (None,)),
    "i0e": _unary(special.i0e, lambda f, g, x, o: g * (f("i1e", x) - f("sign", x) * o)),
    "i1e": Function(special.i1e, (None,)),
    "pow": Function(np.power, (_pow_by_base, _pow_by_exponent)),
    "xlogy": Function(
        special.xlogy,
        (
            lambda f, g, x, y, o: f("where", f("and", f("eq", x, 0.0), f("le", y, 0.0)), 0.0, g * f("log", y)),
            lambda f, g, x, y, o: g * x / y,
        ),
    ),
    "logaddexp": Function(
        np.logaddexp,
        (
            lambda f, g, x, y, o: g / (1.0 + f("exp", y - x)),
            lambda f, g, x, y, o: g / (1.0 + f("exp", x - y)),
        ),
    ),
    "remainder": Function(_remainder, (lambda f, g, x, y, o: g, lambda f, g, x, y, o: -g * f("floor", x / y))),
    "floor": _flat(np.floor, 1),
    "ceil": _flat(np.ceil, 1),
    "round": _flat(np.round, 1),
    "trunc": _flat(np.trunc, 1),
    "lt": _flat(np.less, 2),
    "le": _flat(np.less_equal, 2),
    "gt": _flat(np.greater, 2),
    "ge": _flat(np.greater_equal, 2),
    "eq": _flat(np.equal, 2),
    "ne": _flat(np.not_equal, 2),
    "and": _flat(np.logical_and, 2),
    "or": _flat(np.logical_or, 2),
    "not": _flat(np.logical_not, 1),
    "isnan": _flat(np.isnan, 1),
    "where": Function(
        _where,
        (
            None,
            lambda f, g, c, x, y, o: f("where", c, g, 0.0),
            lambda f, g, c, x, y, o: f("where", c, 0.0, g),
        ),
    ),
}
