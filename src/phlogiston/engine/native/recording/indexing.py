"""Pieces of arrays: stacks, indices, scatters and triangles, by the names of torch's own operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phlogiston.engine.native.ir import Array, NotNative, Ref

if TYPE_CHECKING:
    from phlogiston.engine.native.recording.analyse import Analysis

Rule = Callable[..., None]


def _pieces(new: bool) -> Rule:
    """``stack`` and ``cat``: a copy for each part, so that a stack of the steps of a loop is itself a loop."""

    def rule(a: Analysis, out: torch.Tensor, parts: Sequence[torch.Tensor], dim: int = 0) -> None:
        axis, place, at = dim % out.dim(), a.place(out), 0
        for part in parts:
            if part.dim() == 1 and not part.numel() and not new:
                continue  # torch lets an empty vector stand for nothing
            ref, shape = a.ref(part, part.shape), tuple(part.shape)
            if new:
                shape = (*shape[:axis], 1, *shape[axis:])
                ref = ref._replace(strides=(*ref.strides[:axis], 0, *ref.strides[axis:]))
            a.write("copy", shape, place._replace(offset=place.offset + at * place.strides[axis]), ref)
            at += shape[axis]

    return rule


def _numbers(shape: Sequence[int]) -> Array:
    """The place of each element in an array that lies in order."""
    return np.arange(math.prod(shape)).reshape(tuple(shape))


def _picked(a: Analysis, out: torch.Tensor, x: torch.Tensor, which: Array) -> None:
    """Elements of ``x`` by their numbers, ``[*out shape]``."""
    _copied(a, a.place(out), tuple(out.shape), x, which)


def _places_of(x: torch.Tensor, which: Array) -> Array:
    """Where elements with these numbers lie in the storage of ``x``."""
    index = np.unravel_index(which, tuple(x.shape)) if x.dim() else ()
    found = np.full(np.shape(which), x.storage_offset(), np.int64)
    for part, stride in zip(index, x.stride(), strict=True):
        found = found + np.asarray(part) * stride
    return found


def _copied(a: Analysis, out: Ref, shape: tuple[int, ...], x: torch.Tensor, which: Array) -> None:
    ref = a.ref(x, x.shape)
    if a.program.sizes[ref.buffer] == 1:
        a.write("copy", shape, out, Ref(ref.buffer, 0, (0,) * len(shape)))
        return
    table = a.table(_places_of(x, which).reshape(shape))
    a.write("copy", shape, out, Ref(ref.buffer, 0, (0,) * len(shape), (), table))


def _indexed(a: Analysis, x: torch.Tensor, indices: Sequence[Any]) -> Array:
    """The numbers of the elements that advanced indexing picks."""
    index = [slice(None) if part is None else _index(a, part) for part in indices]
    return np.asarray(torch.from_numpy(_numbers(x.shape))[tuple(index)].numpy())


def _index(a: Analysis, part: torch.Tensor) -> torch.Tensor:
    if part.dtype == torch.bool:
        return torch.from_numpy(a.integers(part) != 0)
    return torch.from_numpy(a.integers(part))


def _taken(a: Analysis, out: torch.Tensor, x: torch.Tensor, indices: Sequence[Any]) -> None:
    _picked(a, out, x, _indexed(a, x, indices))


def _index_select(a: Analysis, out: torch.Tensor, x: torch.Tensor, dim: int, index: torch.Tensor) -> None:
    _picked(a, out, x, np.take(_numbers(x.shape), a.integers(index).reshape(-1), dim).reshape(out.shape))


def _gathered(a: Analysis, out: torch.Tensor, x: torch.Tensor, dim: int, index: torch.Tensor, **_: Any) -> None:
    at = torch.from_numpy(_numbers(x.shape))
    _picked(a, out, x, torch.gather(at, dim, torch.from_numpy(a.integers(index))).numpy())


def _flip(a: Analysis, out: torch.Tensor, x: torch.Tensor, dims: Sequence[int]) -> None:
    _picked(a, out, x, np.flip(_numbers(x.shape), tuple(dims)))


def _roll(a: Analysis, out: torch.Tensor, x: torch.Tensor, shifts: Any, dims: Any = ()) -> None:
    by = torch.roll(torch.from_numpy(_numbers(x.shape)), shifts, dims or ())
    _picked(a, out, x, by.numpy())


def _repeat(a: Analysis, out: torch.Tensor, x: torch.Tensor, repeats: Sequence[int]) -> None:
    _picked(a, out, x, torch.from_numpy(_numbers(x.shape)).repeat(*repeats).numpy())


def _triangle(lower: bool) -> Rule:
    def rule(a: Analysis, out: torch.Tensor, x: torch.Tensor, diagonal: int = 0) -> None:
        ones = torch.ones(x.shape, dtype=torch.float64)
        mask = torch.tril(ones, diagonal) if lower else torch.triu(ones, diagonal)
        a.keep(mask)
        a.map("where", out, mask, x, 0.0)

    return rule


def _written(a: Analysis, out: torch.Tensor, x: torch.Tensor, which: Array, values: Any, accumulate: bool) -> None:
    """``x`` with the elements of these numbers replaced by ``values``, or with these added."""
    base = np.setdiff1d(_numbers(x.shape), which) if not accumulate else _numbers(x.shape).ravel()
    place, how = a.place(out), "+=" if accumulate else "="
    into = _places_of(out, base)
    if base.size:
        table, source = a.table(into), a.ref(x, x.shape)
        single = a.program.sizes[source.buffer] == 1
        old = None if single else a.table(_places_of(x, base))
        ref = Ref(source.buffer, 0, (0,), (), old)
        a.write("copy", (base.size,), Ref(place.buffer, 0, (0,), (), table), ref, how=how)
    shape = tuple(np.shape(which))
    target = Ref(place.buffer, 0, (0,) * len(shape), (), a.table(_places_of(out, which)))
    if not accumulate and np.unique(which).size != np.size(which):
        raise NotNative("writing to the same element twice")
    a.write("copy", shape, target, a.ref(values, shape), how=how)


def _index_put(
    a: Analysis, out: torch.Tensor, x: torch.Tensor, indices: Any, values: Any, accumulate: bool = False, *_: Any
) -> None:
    if len(indices) == 1 and indices[0].dtype == torch.bool and a.is_stored(indices[0]) and values.numel() == 1:
        mask = indices[0].reshape(*indices[0].shape, *(1,) * (x.dim() - indices[0].dim()))
        a.map("where", out, mask, values.reshape(()), x)
        return
    _written(a, out, x, _indexed(a, x, indices), values, accumulate)


def _scatter(accumulate: bool) -> Rule:
    def rule(
        a: Analysis, out: torch.Tensor, x: torch.Tensor, dim: int, index: torch.Tensor, src: Any, **kwargs: Any
    ) -> None:
        if kwargs:
            raise NotNative(f"scatter with {kwargs}")
        at = torch.from_numpy(_numbers(x.shape))
        which = torch.gather(at, dim, torch.from_numpy(a.integers(index))).numpy()
        part = src[tuple(slice(0, size) for size in index.shape)] if isinstance(src, torch.Tensor) else src
        _written(a, out, x, which, part, accumulate)

    return rule


def _index_written(accumulate: bool) -> Rule:
    def rule(
        a: Analysis, out: torch.Tensor, x: torch.Tensor, dim: int, index: torch.Tensor, source: Any, *, alpha: float = 1
    ) -> None:
        if alpha != 1:
            raise NotNative("index_add with a factor")
        _written(a, out, x, np.take(_numbers(x.shape), a.integers(index).reshape(-1), dim), source, accumulate)

    return rule


def _padded(a: Analysis, out: torch.Tensor, x: torch.Tensor, pad: Sequence[int], value: float = 0.0) -> None:
    inside = torch.nn.functional.pad(torch.from_numpy(_numbers(x.shape)), list(pad), value=-1).numpy()
    place = a.place(out)
    for chosen, source in ((inside >= 0, None), (inside < 0, value)):
        into = _places_of(out, np.flatnonzero(chosen))
        if not into.size:
            continue
        target = Ref(place.buffer, 0, (0,), (), a.table(into))
        if source is None:
            _copied(a, target, into.shape, x, inside[chosen])
        else:
            a.write("copy", into.shape, target, a.ref(source, into.shape))


def _diagonal_embedded(
    a: Analysis, out: torch.Tensor, x: torch.Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1
) -> None:
    which = torch.diag_embed(torch.from_numpy(_numbers(x.shape)) + 1, offset, dim1, dim2).numpy() - 1
    place = a.place(out)
    inside, outside = np.flatnonzero(which >= 0), np.flatnonzero(which < 0)
    if outside.size:
        target = Ref(place.buffer, 0, (0,), (), a.table(_places_of(out, outside)))
        a.write("copy", (outside.size,), target, a.ref(0.0, (outside.size,)))
    target = Ref(place.buffer, 0, (0,), (), a.table(_places_of(out, inside)))
    _copied(a, target, (inside.size,), x, which.ravel()[inside])


def _diagonal(a: Analysis, out: torch.Tensor, x: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> None:
    _picked(a, out, x, torch.diagonal(torch.from_numpy(_numbers(x.shape)), offset, dim1, dim2).numpy())


INDEXING: dict[str, Rule] = {
    "stack": _pieces(True),
    "cat": _pieces(False),
    "index": _taken,
    "index_select": _index_select,
    "gather": _gathered,
    "diag_embed": _diagonal_embedded,
    "diagonal_copy": _diagonal,
    "flip": _flip,
    "roll": _roll,
    "repeat": _repeat,
    "tril": _triangle(True),
    "triu": _triangle(False),
    "index_put": _index_put,
    "_index_put_impl": _index_put,
    "scatter": _scatter(False),
    "scatter_add": _scatter(True),
    "index_add": _index_written(True),
    "index_copy": _index_written(False),
    "constant_pad_nd": _padded,
}
