"""Inputs and data of a program: arrays become tensors, and arguments are matched with the program's parameters."""

from __future__ import annotations

import inspect
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from phlogiston.engine.program.isolate import name_of, signature_of
from phlogiston.errors import ModelError, problem


def as_input(value: Any) -> Any:
    """Make a tensor of an array of any library; leave everything else as it is."""
    if isinstance(value, torch.Tensor) or not hasattr(value, "__array__"):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        return value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of read-only arrays, but the copy is made at once
        return torch.as_tensor(array).clone()


def as_data(site: str, value: Any) -> torch.Tensor:
    """Make a real tensor of the data of a site.

    Raises:
        ModelError: the data are no real numbers.
    """
    value = as_input(value)
    try:
        tensor = value if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value)).clone()
    except (TypeError, ValueError) as error:
        raise ModelError(f"site {site!r}: found {type(value).__name__}; expected numbers ({error})") from error
    if tensor.is_complex():
        raise ModelError(problem(f"site {site!r}", found="complex numbers", expected="real ones"))
    return tensor.detach().to(torch.get_default_dtype() if tensor.dtype == torch.bool else tensor.dtype)


def bind(
    program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, partial: bool = False
) -> inspect.BoundArguments:
    """Match inputs with the parameters of a program.

    Raises:
        TypeError: the inputs do not fit the signature of the program.
    """
    signature = signature_of(program)
    try:
        return (signature.bind_partial if partial else signature.bind)(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"Model: the inputs do not fit {name_of(program)}{signature}: {error}") from error


def replaced(before: inspect.BoundArguments, after: inspect.BoundArguments) -> inspect.BoundArguments:
    """The inputs of ``before`` with those of ``after`` in their place, for each keyword of a ``**kwargs`` as well."""
    merged = {**before.arguments, **after.arguments}
    for name, parameter in before.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            merged[name] = {**before.arguments.get(name, {}), **after.arguments.get(name, {})}
    return inspect.BoundArguments(before.signature, OrderedDict(merged))
