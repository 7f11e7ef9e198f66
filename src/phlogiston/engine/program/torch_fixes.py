"""Let programs written for one precision and for concrete numbers be traced as they are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from phlogiston.engine.program.handlers import ParameterOverrides


class Adapt(TorchFunctionMode):
    """Repair single torch operations while a program runs or is scored.

    - An operation on float32 and float64 tensors computes in float64, as in NumPy: latents are float64 and tensors that
      a program captured are often float32.
    - ``table[z]`` with a scalar latent ``z``, and ``one_hot``, do not ask for the latent's value. A trace has none.
    - The Cholesky factor of a matrix that has none is NaN instead of an error, so that a sampler rejects the point.
    - ``xlogy`` has a derivative of zero at 0 log 0.
    - ``torch.set_grad_enabled(False)`` as a statement is ignored.
    - Parameters of modules that are held at values are replaced by these.
    """

    def __init__(self, overrides: ParameterOverrides | None = None) -> None:
        super().__init__()
        self._overrides = overrides

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._overrides:
            args, kwargs = self._overrides(args), self._overrides(kwargs)
        if func is torch._C._set_grad_enabled and _switches_for_good():
            return None
        if func in _REPLACEMENTS:
            return _REPLACEMENTS[func](*args, **kwargs)
        if func is torch.Tensor.__getitem__ and any(_is_scalar_index(item) for item in _as_tuple(args[1])):
            return func(*_selected(args[0], _as_tuple(args[1])))
        if torch.get_default_dtype() == torch.float64 and not _is_in_place(func) and _mixes_precisions(args, kwargs):
            args, kwargs = _double(args), _double(kwargs)
        return func(*args, **kwargs)


def _is_in_place(func: Any) -> bool:
    """Whether an operation writes into its first argument, whose precision it must therefore keep."""
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _switches_for_good() -> bool:
    """Whether the program calls ``torch.set_grad_enabled`` as a statement, and not as a context that ends.

    The former would take the program's own operations out of the gradient of its density, which would then be zero
    without a word. A context (``torch.no_grad``) calls from torch's own files; the constructor is called by either.
    """
    setter = sys._getframe(2)
    caller = setter.f_back
    return setter.f_code is torch.set_grad_enabled.__init__.__code__ and (
        caller is None or caller.f_code.co_filename != setter.f_code.co_filename
    )


def _as_tuple(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _is_scalar_index(item: Any) -> bool:
    return isinstance(item, torch.Tensor) and item.ndim == 0 and item.dtype in (torch.int64, torch.int32, torch.uint8)


def _selected(tensor: torch.Tensor, index: tuple[Any, ...]) -> tuple[torch.Tensor, tuple[Any, ...]]:
    """The tensor narrowed at each scalar index, and the index with a plain 0 in its place."""
    consumed = [_consumes(item) for item in index]
    rest = tensor.ndim - sum(consumed)
    dim, plain = 0, []
    for item, size in zip(index, consumed, strict=True):
        if _is_scalar_index(item):
            tensor = tensor[(slice(None),) * dim + (item.reshape(1),)]
            item = 0
        plain.append(item)
        dim += rest if item is Ellipsis else size
    return tensor, tuple(plain)


def _consumes(item: Any) -> int:
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    return item.ndim if isinstance(item, torch.Tensor) and item.dtype == torch.bool else 1


def _cholesky(input: torch.Tensor, upper: bool = False, **kwargs: Any) -> torch.Tensor:
    factor, info = torch.linalg.cholesky_ex(input, upper=upper, **kwargs)
    return torch.where((info == 0)[..., None, None], factor, torch.nan)


def _xlogy(input: Any, other: Any, **kwargs: Any) -> torch.Tensor:
    """Compute x log y with a derivative of zero at 0 log 0, where torch's own derivative, x / y, is NaN."""
    # The derivative at y = 1 is finite, and x = 0 times it is zero, so that an argument of 1 stands for the 0 there.
    nothing = (torch.as_tensor(input) == 0.0) & (torch.as_tensor(other) == 0.0)
    return torch.xlogy(input, torch.where(nothing, 1.0, other), **kwargs)


def _one_hot(tensor: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
    if num_classes < 0:
        num_classes = int(tensor.max()) + 1
    return (tensor.unsqueeze(-1) == torch.arange(num_classes)).long()


_REPLACEMENTS: dict[Any, Callable[..., torch.Tensor]] = {
    torch.nn.functional.one_hot: _one_hot,
    **dict.fromkeys((torch.linalg.cholesky, torch.cholesky), _cholesky),
    **dict.fromkeys((torch.xlogy, torch.Tensor.xlogy, torch.special.xlogy), _xlogy),
}


def _mixes_precisions(args: Any, kwargs: Any) -> bool:
    """Whether float32 and float64 tensors meet. It runs for every operation of a program, so it makes no generators."""
    single = double = False
    waiting = [*args, *kwargs.values()]
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            single, double = single or value.dtype is torch.float32, double or value.dtype is torch.float64
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
    return single and double


def _double(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.double() if value.dtype == torch.float32 else value
    if isinstance(value, dict):
        return {key: _double(item) for key, item in value.items()}
    if isinstance(value, list) or type(value) is tuple:
        return type(value)(_double(item) for item in value)
    return value
