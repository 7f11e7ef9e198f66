"""Routines on whole arrays: the Cholesky factor and triangular solves, whose loops have triangular bounds.

Each has its shapes, its value in NumPy, and its adjoint written with operations and other routines. Matrices are
``[n, n]``; only the lower triangle of a factor is read. A matrix that is not positive definite has a factor of NaN,
so that a sampler rejects the point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import solve_triangular

from phlogiston.engine.native.ir import Array, Call, Ref

if TYPE_CHECKING:
    from phlogiston.engine.native.adjoint import Builder

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Routine:
    """One routine.

    Args:
        shapes: dimensions -> the shapes of the result and of each argument.
        evaluate: dimensions and arguments ``[elements, lanes]`` -> the result ``[elements, lanes]``.
        adjoint: adds the result's adjoint to those of the arguments; None where it stands in adjoints only.
    """

    shapes: Callable[[tuple[int, ...]], Shapes]
    evaluate: Callable[..., Array]
    adjoint: Callable[[Builder, Call, Ref, list[Ref | None]], None] | None


def _square(sizes: tuple[int, ...]) -> Shapes:
    (n,) = sizes
    return ((n, n), (n, n))


def _square_of_two(sizes: tuple[int, ...]) -> Shapes:
    (n,) = sizes
    return ((n, n), (n, n), (n, n))


def _solve(sizes: tuple[int, ...]) -> Shapes:
    n, m = sizes
    return ((n, m), (n, n), (n, m))


def _by_lane(function: Callable[..., Any], shapes: Callable[[tuple[int, ...]], Shapes]) -> Callable[..., Array]:
    def evaluate(sizes: tuple[int, ...], *args: Array) -> Array:
        wanted = shapes(sizes)[1:]
        lanes = args[0].shape[1]
        columns = [
            function(*(arg[:, lane].reshape(shape) for arg, shape in zip(args, wanted, strict=True)))
            for lane in range(lanes)
        ]
        return np.stack([np.asarray(column).reshape(-1) for column in columns], 1).reshape(-1, lanes)

    return evaluate


def _cholesky(matrix: Array) -> Array:
    lower = np.tril(matrix)
    try:
        return np.linalg.cholesky(lower + np.tril(matrix, -1).T)
    except np.linalg.LinAlgError:
        return np.full_like(matrix, np.nan)


def _cholesky_adjoint(factor: Array, grad: Array) -> Array:
    r"""The adjoint of the matrix: :math:`\tfrac12 L^{-\top} (P + P^\top) L^{-1}`, P the lower half of :math:`L^\top G`.

    Source: Murray (2016), https://arxiv.org/abs/1602.07527.
    """
    lower = np.tril(factor)
    half = np.tril(lower.T @ np.tril(grad))
    half[np.diag_indices_from(half)] *= 0.5
    if not np.isfinite(lower).all():
        return np.full_like(lower, np.nan)
    inner = solve_triangular(lower, half + np.tril(half, -1).T + np.diag(np.diag(half)), lower=True, trans="T")
    found: Array = 0.5 * solve_triangular(lower, inner.T, lower=True, trans="T").T
    return found


def _solve_lower(factor: Array, right: Array, transposed: bool = False) -> Array:
    if not (np.isfinite(factor).all() and np.isfinite(right).all() and (np.diag(factor) != 0).all()):
        return np.full_like(right, np.nan)
    found: Array = solve_triangular(np.tril(factor), right, lower=True, trans="T" if transposed else "N")
    return found


def _adjoint_of_cholesky(b: Builder, call: Call, g: Ref, adjoints: list[Ref | None]) -> None:
    (n,) = call.sizes
    if adjoints[0] is not None:
        part = b.call("cholesky_adjoint", (n,), (n, n), (call.out, g))
        b.add(adjoints[0], (n, n), part)


def _adjoint_of_solve(other: str, transposed: bool) -> Callable[[Builder, Call, Ref, list[Ref | None]], None]:
    def adjoint(b: Builder, call: Call, g: Ref, adjoints: list[Ref | None]) -> None:
        n, m = call.sizes
        right = b.call(other, (n, m), (n, m), (call.args[0], g))
        if adjoints[1] is not None:
            b.add(adjoints[1], (n, m), right)
        if adjoints[0] is not None:  # minus the lower triangle of (right out^T), of its transpose where transposed
            row, column = (call.out, right) if transposed else (right, call.out)
            rows = row._replace(strides=(row.strides[0], 0, row.strides[1]))
            columns = column._replace(strides=(0, column.strides[0], column.strides[1]))
            mask = b.constants(-np.tril(np.ones((n, n))), (n, 1, 0))
            product = b("mul", (n, n, m), b("mul", (n, n, m), rows, mask), columns)
            b.add(adjoints[0]._replace(strides=(*adjoints[0].strides, 0)), (n, n, m), product)

    return adjoint


ROUTINES: dict[str, Routine] = {
    "cholesky": Routine(_square, _by_lane(_cholesky, _square), _adjoint_of_cholesky),
    "cholesky_adjoint": Routine(_square_of_two, _by_lane(_cholesky_adjoint, _square_of_two), None),
    "solve_lower": Routine(_solve, _by_lane(_solve_lower, _solve), _adjoint_of_solve("solve_lower_transposed", False)),
    "solve_lower_transposed": Routine(
        _solve,
        _by_lane(lambda factor, right: _solve_lower(factor, right, True), _solve),
        _adjoint_of_solve("solve_lower", True),
    ),
}
