"""Elementwise operations of torch in the intermediate form, by the names of torch's own operations (aten).

To add one, add a line to OPERATIONS. A rule is given the analysis, the result, and the operation's arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from phlogiston.engine.native.ir import NotNative, Ref

if TYPE_CHECKING:
    from phlogiston.engine.native.recording.analyse import Analysis

Rule = Callable[..., None]


def _map(fn: str, count: int, *order: int) -> Rule:
    """One of FUNCTIONS, of the first ``count`` arguments, or of those in ``order``."""
    taken = order or tuple(range(count))

    def rule(a: Analysis, out: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        rest = [
            value for name, value in kwargs.items() if name not in ("input", "self", "other", "dtype", "memory_format")
        ]
        given = (*args, *(kwargs[name] for name in ("input", "self", "other") if name in kwargs))
        if len(given) != count or any(value is not None for value in rest):
            raise NotNative(f"the operation {fn} with these settings: {kwargs or args[count:]}")
        a.map(fn, out, *(given[k] for k in taken))

    return rule


def _sum_of_two(fn: str, *order: int) -> Rule:
    def rule(a: Analysis, out: torch.Tensor, x: Any, y: Any, alpha: float = 1) -> None:
        pair = [x, y]
        if alpha != 1:
            pair[1] = a.op("mul", out.shape, a.ref(y, out.shape), a.ref(alpha, out.shape))
        a.map(fn, out, *(pair[k] for k in order or (0, 1)))

    return rule


def _logical(fn: str) -> Rule:
    def rule(a: Analysis, out: torch.Tensor, *args: Any) -> None:
        if out.dtype != torch.bool:
            raise NotNative("an operation on the bits of integers")
        a.map(fn, out, *args)

    return rule


def _div(a: Analysis, out: torch.Tensor, x: Any, y: Any, rounding_mode: str | None = None) -> None:
    if rounding_mode is None:
        a.map("div", out, x, y)
    else:
        quotient = a.op("div", out.shape, a.ref(x, out.shape), a.ref(y, out.shape))
        a.map(rounding_mode, out, quotient)


def _pow(a: Analysis, out: torch.Tensor, x: Any, y: Any) -> None:
    is_known = not isinstance(y, torch.Tensor) or (not a.is_stored(y) and y.numel() == 1)
    exponent = float(y) if is_known else math.nan
    if exponent == 2:
        a.map("mul", out, x, x)
    elif exponent == 3:
        a.map("mul", out, a.op("mul", out.shape, a.ref(x, out.shape), a.ref(x, out.shape)), x)
    elif exponent in (1, 0.5, -1, -0.5):
        a.map({1: "copy", 0.5: "sqrt", -1: "reciprocal", -0.5: "rsqrt"}[exponent], out, x)
    else:
        a.map("pow", out, x, y)


def _clamp(a: Analysis, out: torch.Tensor, x: Any, min: Any = None, max: Any = None) -> None:
    ref = a.ref(x, out.shape)
    for bound, number, test in ((min, "clamp_min", "lt"), (max, "clamp_max", "gt")):
        if bound is None:
            continue
        limit = a.ref(bound, out.shape)
        if isinstance(bound, torch.Tensor):  # the bound has a derivative too, where it is what counts
            ref = a.op("where", out.shape, a.op(test, out.shape, ref, limit), limit, ref)
        else:
            ref = a.op(number, out.shape, ref, limit)
    a.map("copy", out, ref)


def _where(a: Analysis, out: torch.Tensor, *args: Any) -> None:
    if len(args) != 3:
        raise NotNative("torch.where of a condition alone, whose shape depends on a latent")
    a.map("where", out, *args)


def _masked_fill(a: Analysis, out: torch.Tensor, x: Any, mask: Any, value: Any) -> None:
    a.map("where", out, mask, value, x)


def _softplus(a: Analysis, out: torch.Tensor, x: Any, beta: float = 1.0, threshold: float = 20.0) -> None:
    if threshold != 20:
        raise NotNative("softplus with a threshold of its own")
    if beta == 1:
        a.map("softplus", out, x)
    else:
        scaled = a.op("mul", out.shape, a.ref(x, out.shape), a.ref(beta, out.shape))
        a.map("div", out, a.op("softplus", out.shape, scaled), beta)


def _log_sigmoid(a: Analysis, out: Any, x: Any) -> None:
    a.map("log_sigmoid", out[0] if isinstance(out, (tuple, list)) else out, x)


def _is_infinite(test: str) -> Rule:
    def rule(a: Analysis, out: torch.Tensor, x: Any) -> None:
        a.map(test, out, a.op("abs", out.shape, a.ref(x, out.shape)), math.inf)

    return rule


def _nan_to_num(
    a: Analysis,
    out: torch.Tensor,
    x: Any,
    nan: float | None = None,
    posinf: float | None = None,
    neginf: float | None = None,
) -> None:
    largest = torch.finfo(out.dtype).max
    ref = a.ref(x, out.shape)
    for limit, value in (
        (math.inf, largest if posinf is None else posinf),
        (-math.inf, -largest if neginf is None else neginf),
    ):
        ref = a.op(
            "where", out.shape, a.op("eq", out.shape, ref, a.ref(limit, out.shape)), a.ref(value, out.shape), ref
        )
    a.map("where", out, a.op("isnan", out.shape, ref), nan or 0.0, ref)


def _logit(a: Analysis, out: torch.Tensor, x: Any, eps: float | None = None) -> None:
    ref = a.ref(x, out.shape)
    if eps is not None:
        ref = a.op(
            "clamp_max",
            out.shape,
            a.op("clamp_min", out.shape, ref, a.ref(eps, out.shape)),
            a.ref(1.0 - eps, out.shape),
        )
    rest = a.op("sub", out.shape, a.ref(1.0, out.shape), ref)
    a.map("log", out, a.op("div", out.shape, ref, rest))


def _lerp(a: Analysis, out: torch.Tensor, start: Any, end: Any, weight: Any) -> None:
    first, last = a.ref(start, out.shape), a.ref(end, out.shape)
    step = a.op("mul", out.shape, a.ref(weight, out.shape), a.op("sub", out.shape, last, first))
    a.map("add", out, first, step)


def _added(fn: str) -> Rule:
    def rule(a: Analysis, out: torch.Tensor, x: Any, first: Any, second: Any, *, value: float = 1) -> None:
        part = a.op(fn, out.shape, a.ref(first, out.shape), a.ref(second, out.shape))
        part = a.op("mul", out.shape, part, a.ref(value, out.shape)) if value != 1 else part
        a.map("add", out, x, part)

    return rule


def _converted(a: Analysis, out: torch.Tensor, x: torch.Tensor, *_: Any, **__: Any) -> None:
    if out.dtype == torch.bool and x.dtype != torch.bool:
        a.map("ne", out, x, 0.0)
    elif x.is_floating_point() and not out.is_floating_point():
        a.map("trunc", out, x)
    elif out.dtype.is_complex or out.dtype in (torch.float16, torch.bfloat16):
        raise NotNative(f"a conversion to {out.dtype}")
    else:
        a.map("copy", out, x)


def _fmod(a: Analysis, out: torch.Tensor, x: Any, y: Any) -> None:
    first, second = a.ref(x, out.shape), a.ref(y, out.shape)
    whole = a.op("trunc", out.shape, a.op("div", out.shape, first, second))
    a.map("sub", out, first, a.op("mul", out.shape, whole, second))


def _frac(a: Analysis, out: torch.Tensor, x: Any) -> None:
    ref = a.ref(x, out.shape)
    a.map("sub", out, ref, a.op("trunc", out.shape, ref))


def _squared(a: Analysis, out: torch.Tensor, x: Any) -> None:
    ref: Ref = a.ref(x, out.shape)
    a.map("mul", out, ref, ref)


def _round(a: Analysis, out: torch.Tensor, x: Any, decimals: int = 0) -> None:
    if decimals:
        raise NotNative("rounding to decimals")
    a.map("round", out, x)


def _polygamma(a: Analysis, out: torch.Tensor, n: int, x: Any) -> None:
    if n:
        raise NotNative(f"polygamma of order {n}")
    a.map("digamma", out, x)


def _cross_entropy(
    a: Analysis, out: torch.Tensor, x: Any, target: Any, weight: Any = None, pos_weight: Any = None, reduction: int = 1
) -> None:
    """``binary_cross_entropy_with_logits``: (1 - target) x - log sigmoid(x), element by element."""
    if weight is not None or pos_weight is not None or reduction != 0:
        raise NotNative("binary_cross_entropy_with_logits with weights or a reduction")
    ref = a.ref(x, out.shape)
    rest = a.op("sub", out.shape, a.ref(1.0, out.shape), a.ref(target, out.shape))
    a.map("sub", out, a.op("mul", out.shape, rest, ref), a.op("log_sigmoid", out.shape, ref))


def _multivariate_lgamma(a: Analysis, out: torch.Tensor, x: Any, p: int) -> None:
    ref, total = a.ref(x, out.shape), a.ref(0.25 * p * (p - 1) * math.log(math.pi), out.shape)
    for k in range(p):
        part = a.op("lgamma", out.shape, a.op("sub", out.shape, ref, a.ref(0.5 * k, out.shape)))
        total = a.op("add", out.shape, total, part)
    a.map("copy", out, total)


def _batch_norm(a: Analysis, out: Any, x: Any, *settings: Any) -> None:
    """``native_batch_norm(x, weight, bias, mean, variance, training, momentum, eps)``, outside of training."""
    weight, bias, mean, variance, training, _, eps = settings
    if training:
        raise NotNative("batch normalisation while training")
    result = out[0]
    shape, rest = result.shape, (1,) * (result.dim() - 2)

    def seen(value: torch.Tensor) -> Ref:
        return a.ref(value.reshape(-1, *rest), shape)

    spread = a.op("sqrt", shape, a.op("add", shape, seen(variance), a.ref(eps, shape)))
    value = a.op("div", shape, a.op("sub", shape, a.ref(x, shape), seen(mean)), spread)
    value = value if weight is None else a.op("mul", shape, value, seen(weight))
    a.map("copy", result, value if bias is None else a.op("add", shape, value, seen(bias)))


_ONE = [
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "ceil",
    "cos",
    "cosh",
    "digamma",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "lgamma",
    "log",
    "log10",
    "log1p",
    "log2",
    "neg",
    "reciprocal",
    "rsqrt",
    "sigmoid",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "trunc",
    "isnan",
]
_TWO = ["atan2", "maximum", "minimum", "mul", "lt", "le", "gt", "ge", "eq", "ne", "logaddexp", "xlogy", "remainder"]

OPERATIONS: dict[str, Rule] = {
    **{name: _map(name, 1) for name in _ONE},
    **{name: _map(name, 2) for name in _TWO},
    **{f"special_{name}": _map(name, 1) for name in ("i0e", "ndtr", "log_ndtr", "ndtri")},
    "special_xlogy": _map("xlogy", 2),
    "sgn": _map("sign", 1),
    "add": _sum_of_two("add"),
    "sub": _sum_of_two("sub"),
    "rsub": _sum_of_two("sub", 1, 0),
    "div": _div,
    "true_divide": _div,
    "rdiv": _map("div", 2, 1, 0),
    "floor_divide": lambda a, out, x, y: _div(a, out, x, y, "floor"),
    "pow": _pow,
    "rpow": _map("pow", 2, 1, 0),
    "square": _squared,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": lambda a, out, x, min: _clamp(a, out, x, min),
    "clamp_max": lambda a, out, x, max: _clamp(a, out, x, None, max),
    "relu": lambda a, out, x: a.map("clamp_min", out, x, 0.0),
    "where": _where,
    "masked_fill": _masked_fill,
    "softplus": _softplus,
    "log_sigmoid": _log_sigmoid,
    "log_sigmoid_forward": _log_sigmoid,
    "isinf": _is_infinite("eq"),
    "isfinite": _is_infinite("lt"),
    "nan_to_num": _nan_to_num,
    "logit": _logit,
    "lerp": _lerp,
    "addcmul": _added("mul"),
    "addcdiv": _added("div"),
    "logical_and": _logical("and"),
    "logical_or": _logical("or"),
    "logical_not": _logical("not"),
    "logical_xor": _logical("ne"),
    "bitwise_and": _logical("and"),
    "bitwise_or": _logical("or"),
    "bitwise_not": _logical("not"),
    "bitwise_xor": _logical("ne"),
    "clone": _converted,
    "_to_copy": _converted,
    "contiguous": _converted,
    "alias_copy": _converted,
    "fmod": _fmod,
    "frac": _frac,
    "round": _round,
    "polygamma": _polygamma,
    "binary_cross_entropy_with_logits": _cross_entropy,
    "mvlgamma": _multivariate_lgamma,
    "special_multigammaln": _multivariate_lgamma,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": lambda a, out, x, w, b, m, v, momentum, eps: _batch_norm(
        a, out, x, w, b, m, v, False, momentum, eps
    ),
}
