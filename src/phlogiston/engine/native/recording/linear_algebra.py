"""Products of matrices, Cholesky factors and triangular solves, by the names of torch's own operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from phlogiston.engine.native.ir import NotNative, Ref

if TYPE_CHECKING:
    from phlogiston.engine.native.recording.analyse import Analysis

Rule = Callable[..., None]


def _multiplied(a: Analysis, x: torch.Tensor, y: torch.Tensor, out: Ref, shape: tuple[int, ...]) -> None:
    """``out += x y`` for ``x [..., n, k]`` and ``y [..., k, m]``; ``shape`` is ``(..., n, k, m)``."""
    *batch, _, _, _ = shape
    left, right = a.ref(x, (*batch, *x.shape[-2:])), a.ref(y, (*batch, *y.shape[-2:]))
    count = len(batch)
    left = left._replace(strides=(*left.strides[:count], *left.strides[count:], 0))
    right = right._replace(strides=(*right.strides[:count], 0, *right.strides[count:]))
    a.write("mul", shape, out, left, right, how="+=")


def _matrices(a: Analysis, out: torch.Tensor, x: torch.Tensor, y: torch.Tensor, **_: Any) -> None:
    place = a.place(out)
    *batch, n, m = out.shape
    into = place._replace(strides=(*place.strides[: len(batch)], place.strides[-2], 0, place.strides[-1]))
    _multiplied(a, x, y, into, (*batch, n, x.shape[-1], m))


def _matrix_vector(a: Analysis, out: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
    place = a.place(out)
    right = a.ref(y, y.shape)
    into = place._replace(strides=(place.strides[0], 0))
    a.write("mul", x.shape, into, a.ref(x, x.shape), right._replace(strides=(0, *right.strides)), how="+=")


def _dot(a: Analysis, out: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
    place = a.place(out)
    a.write("mul", x.shape, place._replace(strides=(0,)), a.ref(x, x.shape), a.ref(y, x.shape), how="+=")


def _added_product(product: Rule) -> Rule:
    def rule(
        a: Analysis,
        out: torch.Tensor,
        base: Any,
        x: torch.Tensor,
        y: torch.Tensor,
        *,
        beta: float = 1,
        alpha: float = 1,
    ) -> None:
        part = torch.empty(out.shape, dtype=torch.float64)
        a.keep(part)
        product(a, part, x, y)
        ref = a.ref(part, out.shape)
        ref = a.op("mul", out.shape, ref, a.ref(alpha, out.shape)) if alpha != 1 else ref
        start = a.ref(base, out.shape)
        start = a.op("mul", out.shape, start, a.ref(beta, out.shape)) if beta != 1 else start
        a.map("add", out, start, ref)

    return rule


def _matrix_refs(ref: Ref, shape: Sequence[int]) -> list[Ref]:
    """A reference to each matrix of a batch."""
    found = [ref._replace(strides=ref.strides[-2:])]
    for axis in range(len(shape) - 3, -1, -1):
        stride = ref.strides[axis]
        found = [one._replace(offset=one.offset + k * stride) for k in range(shape[axis]) for one in found]
    return found


def _cholesky_ex(a: Analysis, out: Any, x: torch.Tensor, upper: bool = False, **_: Any) -> None:
    factor, info = out
    place, ref, n = a.place(factor), a.ref(x, x.shape), x.shape[-1]
    if upper:
        place = place._replace(strides=(*place.strides[:-2], place.strides[-1], place.strides[-2]))
    for one, matrix in zip(_matrix_refs(place, x.shape), _matrix_refs(ref, x.shape), strict=True):
        a.call("cholesky", (n,), one, matrix)
    batch = x.shape[:-2]
    last = place._replace(
        offset=place.offset + (n - 1) * (place.strides[-1] + place.strides[-2]), strides=place.strides[:-2]
    )
    a.map("isnan", info, last) if len(batch) == info.dim() else a.map("isnan", info, last._replace(strides=()))


def _cholesky(a: Analysis, out: torch.Tensor, x: torch.Tensor, upper: bool = False) -> None:
    _cholesky_ex(a, (out, torch.empty(x.shape[:-2])), x, upper)


def _solve_triangular(
    a: Analysis,
    out: torch.Tensor,
    factor: torch.Tensor,
    right: torch.Tensor,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> None:
    if unitriangular:
        raise NotNative("a triangular solve with a diagonal of ones")
    batch = out.shape[:-2]
    place = a.place(out)
    matrix, b = a.ref(factor, (*batch, *factor.shape[-2:])), a.ref(right, (*batch, *right.shape[-2:]))
    if not left:  # X A = B is A' X' = B'
        place, matrix, b = _transposed(place), _transposed(matrix), _transposed(b)
        upper = not upper
    n, m = factor.shape[-1], out.shape[-1] if left else out.shape[-2]
    fn = "solve_lower_transposed" if upper else "solve_lower"
    matrix = _transposed(matrix) if upper else matrix
    whole = (*batch, n, m)
    for one, lower, b_of_one in zip(
        _matrix_refs(place, whole), _matrix_refs(matrix, (*batch, n, n)), _matrix_refs(b, whole), strict=True
    ):
        a.call(fn, (n, m), one, lower, b_of_one)


def _transposed(ref: Ref) -> Ref:
    return ref._replace(strides=(*ref.strides[:-2], ref.strides[-1], ref.strides[-2]))


def _cholesky_solve(
    a: Analysis, out: torch.Tensor, right: torch.Tensor, factor: torch.Tensor, upper: bool = False
) -> None:
    inner = torch.empty(out.shape, dtype=torch.float64)
    a.keep(inner)
    lower = factor.mT if upper else factor
    _solve_triangular(a, inner, lower, right, upper=False)
    _solve_triangular(a, out, lower.mT, inner, upper=True)


def _cholesky_inverse(a: Analysis, out: torch.Tensor, factor: torch.Tensor, upper: bool = False) -> None:
    identity = torch.eye(factor.shape[-1], dtype=torch.float64)
    a.keep(identity)
    _cholesky_solve(a, out, identity.expand(factor.shape).contiguous(), factor, upper)


def _triangular_solve(
    a: Analysis,
    out: Any,
    right: torch.Tensor,
    factor: torch.Tensor,
    upper: bool = True,
    transpose: bool = False,
    unitriangular: bool = False,
) -> None:
    matrix = factor.mT if transpose else factor
    _solve_triangular(a, out[0], matrix, right, upper=upper != transpose, unitriangular=unitriangular)


LINEAR_ALGEBRA: dict[str, Rule] = {
    "mm": _matrices,
    "bmm": _matrices,
    "mv": _matrix_vector,
    "dot": _dot,
    "vdot": _dot,
    "addmm": _added_product(_matrices),
    "baddbmm": _added_product(_matrices),
    "addmv": _added_product(_matrix_vector),
    "linalg_cholesky_ex": _cholesky_ex,
    "cholesky": _cholesky,
    "linalg_solve_triangular": _solve_triangular,
    "cholesky_solve": _cholesky_solve,
    "cholesky_inverse": _cholesky_inverse,
    "triangular_solve": _triangular_solve,
}
