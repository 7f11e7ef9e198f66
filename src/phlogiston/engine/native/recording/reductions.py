"""Sums and their kin over axes of an array, by the names of torch's own operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from phlogiston.engine.native.ir import Loop, NotNative, Op, Ref, contiguous

if TYPE_CHECKING:
    from phlogiston.engine.native.recording.analyse import Analysis

Rule = Callable[..., None]


def _axes(x: torch.Tensor, dim: Any) -> set[int]:
    """The axes that a reduction over ``dim`` takes together."""
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return set(range(x.dim()))
    dims = [dim] if isinstance(dim, int) else dim
    return {axis % max(1, x.dim()) for axis in dims} if x.dim() else set()


def _reduced(x: torch.Tensor, axes: set[int]) -> tuple[int, ...]:
    """Strides by which an operation over ``x``'s shape writes into what is left, in order."""
    left = contiguous(tuple(1 if axis in axes else size for axis, size in enumerate(x.shape)))
    return tuple(0 if axis in axes else stride for axis, stride in enumerate(left))


def _total(a: Analysis, x: torch.Tensor, ref: Ref, axes: set[int], how: str = "+=") -> Ref:
    """Sums (or maxima) over some axes, as seen from the shape of ``x``."""
    count = math.prod(size for axis, size in enumerate(x.shape) if axis not in axes)
    out = Ref(a.program.new(count), 0, _reduced(x, axes))
    a.write("copy", x.shape, out, ref, how=how)
    return out


def _in_order(ref: Ref, shape: Sequence[int]) -> Ref:
    """The same array from its own shape."""
    return ref._replace(strides=contiguous(tuple(shape)))


def _sum(
    a: Analysis, out: torch.Tensor, x: torch.Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> None:
    axes = _axes(x, dim)
    if not x.numel():
        a.map("copy", out, 0.0)
        return
    a.is_result(out, _in_order(_total(a, x, a.ref(x, x.shape), axes), out.shape))


def _mean(
    a: Analysis, out: torch.Tensor, x: torch.Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> None:
    axes = _axes(x, dim)
    count = math.prod(x.shape[axis] for axis in axes)
    total = _total(a, x, a.ref(x, x.shape), axes)
    a.map("div", out, _in_order(total, out.shape), float(count))


def _variance(root: bool, with_mean: bool = False) -> Rule:
    def rule(
        a: Analysis, out: Any, x: torch.Tensor, dim: Any = None, *args: Any, correction: Any = None, **kwargs: Any
    ) -> None:
        if isinstance(dim, bool):  # var(x, unbiased)
            dim, correction = None, float(dim)
        elif args and isinstance(args[0], bool):
            correction = float(args[0])
        axes, shape = _axes(x, dim), x.shape
        count = math.prod(shape[axis] for axis in axes)
        ref = a.ref(x, shape)
        mean = a.op("div", shape, _total(a, x, ref, axes), a.ref(float(count), shape))
        rest = a.op("sub", shape, ref, mean)
        result = out[0] if with_mean else out
        squares = _in_order(_total(a, x, a.op("mul", shape, rest, rest), axes), result.shape)
        degrees = float(count) - (1.0 if correction is None else float(correction))
        if root:
            a.map("sqrt", result, a.op("div", result.shape, squares, a.ref(degrees, result.shape)))
        else:
            a.map("div", result, squares, degrees)
        if with_mean:
            a.map("div", out[1], _in_order(_total(a, x, ref, axes), out[1].shape), float(count))

    return rule


def _extreme(sign: float) -> Rule:
    """``amax`` and ``amin``: the mean of what is largest, which gives equal elements equal parts of the derivative."""

    def rule(a: Analysis, out: Any, x: torch.Tensor, dim: Any = None, keepdim: bool = False) -> None:
        result = out[0] if isinstance(out, (tuple, list)) else out
        axes, shape = _axes(x, dim), x.shape
        ref = a.ref(x, shape)
        signed = ref if sign > 0 else a.op("neg", shape, ref)
        top = _total(a, x, signed, axes, "max=")
        is_top = a.op("eq", shape, signed, top)
        count = _total(a, x, is_top, axes)
        chosen = a.op("where", shape, is_top, ref, a.ref(0.0, shape))
        total = _total(a, x, chosen, axes)
        a.map("div", result, _in_order(total, result.shape), _in_order(count, result.shape))

    return rule


def _any(a: Analysis, out: torch.Tensor, x: torch.Tensor, dim: Any = None, keepdim: bool = False) -> None:
    axes = _axes(x, dim)
    a.map(
        "gt",
        out,
        _in_order(_total(a, x, a.op("ne", x.shape, a.ref(x, x.shape), a.ref(0.0, x.shape)), axes), out.shape),
        0.0,
    )


def _all(a: Analysis, out: torch.Tensor, x: torch.Tensor, dim: Any = None, keepdim: bool = False) -> None:
    axes = _axes(x, dim)
    false = a.op("eq", x.shape, a.ref(x, x.shape), a.ref(0.0, x.shape))
    a.map("eq", out, _in_order(_total(a, x, false, axes), out.shape), 0.0)


def _finite_top(a: Analysis, x: torch.Tensor, ref: Ref, axes: set[int]) -> Ref:
    """The largest elements, or zero where they are infinite: a shift under which exponentials are safe."""
    top = _total(a, x, ref, axes, "max=")
    size = a.op("abs", x.shape, top)
    infinite = a.op("eq", x.shape, size, a.ref(math.inf, x.shape))
    return a.op("where", x.shape, infinite, a.ref(0.0, x.shape), top)


def _logsumexp(a: Analysis, out: torch.Tensor, x: torch.Tensor, dim: Any, keepdim: bool = False) -> None:
    axes, shape = _axes(x, dim), x.shape
    ref = a.ref(x, shape)
    top = _total(a, x, ref, axes, "max=")
    left = tuple(out.shape)
    size = a.op("abs", left, _in_order(top, left))
    shift = a.op("where", left, a.op("eq", left, size, a.ref(math.inf, left)), a.ref(0.0, left), _in_order(top, left))
    seen = shift._replace(strides=_reduced(x, axes))
    each = a.op("exp", shape, a.op("sub", shape, ref, seen))
    total = _in_order(_total(a, x, each, axes), left)
    a.map("add", out, a.op("log_of_sum", left, total), shift)


def _softmax(of_logs: bool) -> Rule:
    def rule(a: Analysis, out: torch.Tensor, x: torch.Tensor, dim: int, *_: Any, **__: Any) -> None:
        axes, shape = _axes(x, dim), x.shape
        ref = a.ref(x, shape)
        shifted = a.op("sub", shape, ref, _total(a, x, ref, axes, "max="))
        each = a.op("exp", shape, shifted)
        total = _total(a, x, each, axes)
        if of_logs:
            a.map("sub", out, shifted, a.op("log", shape, total))
        else:
            a.map("div", out, each, total)

    return rule


def _norm(a: Analysis, out: torch.Tensor, x: torch.Tensor, p: Any = 2, dim: Any = None, *_: Any, **__: Any) -> None:
    axes, ref = _axes(x, dim), a.ref(x, x.shape)
    if p == 2 or p is None:
        a.map("sqrt", out, _in_order(_total(a, x, a.op("mul", x.shape, ref, ref), axes), out.shape))
    elif p == 1:
        a.map("copy", out, _in_order(_total(a, x, a.op("abs", x.shape, ref), axes), out.shape))
    else:
        raise NotNative(f"a norm of order {p}")


def _running(fn: str, first: float) -> Rule:
    """``cumsum`` and ``cumprod``: each element is joined to the one before."""

    def rule(a: Analysis, out: torch.Tensor, x: torch.Tensor, dim: int, *_: Any, **__: Any) -> None:
        if not x.dim():
            a.map("copy", out, x)
            return
        axis = dim % x.dim()
        place, ref = a.place(out), a.ref(x, x.shape)
        rest = tuple(size for k, size in enumerate(x.shape) if k != axis)

        def without(r: Ref, steps: tuple[int, ...] = ()) -> Ref:
            return r._replace(strides=r.strides[:axis] + r.strides[axis + 1 :], steps=steps)

        a.write("copy", rest, without(place), without(ref))
        if x.shape[axis] > 1:
            step, moved = place.strides[axis], ref.strides[axis]
            before = without(place, (step,))
            now = before._replace(offset=before.offset + step)
            new = without(ref, (moved,))
            body = Op(fn, rest, now, (before, new._replace(offset=new.offset + moved)))
            a.program.items.append(Loop(x.shape[axis] - 1, (body,)))

    return rule


def _product(
    a: Analysis, out: torch.Tensor, x: torch.Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> None:
    if dim is None:
        x, dim = x.reshape(-1), 0
    axis = dim % max(1, x.dim())
    running = torch.empty(x.shape, dtype=torch.float64)
    a.keep(running)
    _running("mul", 1.0)(a, running, x, axis)
    last = running.select(axis, x.shape[axis] - 1)
    a.map("copy", out, a.ref(last, last.shape)._replace() if not keepdim else a.ref(last.unsqueeze(axis), out.shape))


REDUCTIONS: dict[str, Rule] = {
    "sum": _sum,
    "mean": _mean,
    "var": _variance(False),
    "std": _variance(True),
    "var_mean": _variance(False, True),
    "std_mean": _variance(True, True),
    "amax": _extreme(1.0),
    "amin": _extreme(-1.0),
    "max": _extreme(1.0),
    "min": _extreme(-1.0),
    "any": _any,
    "all": _all,
    "_is_all_true": _all,
    "_is_any_true": _any,
    "logsumexp": _logsumexp,
    "_softmax": _softmax(False),
    "_log_softmax": _softmax(True),
    "linalg_vector_norm": _norm,
    "norm": _norm,
    "cumsum": _running("add", 0.0),
    "cumprod": _running("mul", 1.0),
    "logcumsumexp": _running("logaddexp", -math.inf),
    "prod": _product,
}
