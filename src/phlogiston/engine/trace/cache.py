"""Data as inputs of what is traced, so that models that differ in nothing but their data are traced once together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from phlogiston.engine.program.interpreter import Interpreter
from phlogiston.engine.program.isolate import PROGRAM_LOCK
from phlogiston.engine.program.reading import Values
from phlogiston.engine.program.sites import Bound, Structure, rebound
from phlogiston.engine.trace.batched import Traces

_DATA = "data/"


def keyed(data: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Values:
    """Data by site as inputs of a reading, in its precision."""
    return {_DATA + name: value.to(dtype) if value.is_floating_point() else value for name, value in data.items()}


def given(interpreter: Interpreter, values: Values) -> tuple[Interpreter, Values]:
    """The interpreter with the data that are among the inputs in the place of its own, and the other inputs."""
    data = {key.removeprefix(_DATA): value for key, value in values.items() if key.startswith(_DATA)}
    if not data:
        return interpreter, values
    bound = rebound(interpreter.bound, {**interpreter.bound.observed, **data})
    return Interpreter(bound, interpreter.structure), {k: v for k, v in values.items() if not k.startswith(_DATA)}


class Family:
    """The traces of models with one program and one set of inputs, and data of their own for some sites.

    Args:
        bound: one of them.
        sites: whose values differ.
    """

    def __init__(self, bound: Bound, structure: Structure, sites: tuple[str, ...]) -> None:
        self.sites = sites
        self._program, self._likeness, self._parameters = bound.program, _likeness(structure), structure.parameters
        self._traces: dict[Any, Traces] = {}

    def shared_inputs(self, bound: Bound, structure: Structure, dtype: torch.dtype) -> Values:
        """A member's data as inputs; none of a model that is not one."""
        if bound.program is not self._program or _likeness(structure) != self._likeness:
            return {}
        if not all(torch.equal(value, structure.parameters[name]) for name, value in self._parameters.items()):
            return {}
        return keyed({name: torch.as_tensor(structure.observations[name]) for name in self.sites}, dtype)

    def traces(self, key: Any) -> Traces:
        """Those of one reading."""
        with PROGRAM_LOCK:
            return self._traces.setdefault(key, Traces())


def _likeness(structure: Structure) -> tuple[Any, ...]:
    """What models must have in common: sites, shapes, plates, and no missing entries."""
    return tuple(
        (
            s.name,
            s.role,
            s.shape,
            s.event_dim,
            s.plates,
            s.distribution,
            s.discrete,
            s.states,
            s.dtype,
            s.missing is None,
        )
        for s in structure.sites
    )
