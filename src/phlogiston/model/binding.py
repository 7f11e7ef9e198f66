"""``Binding``: a program with its inputs, data, parameters and labels, as one value that does not change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from phlogiston.engine.program.isolate import name_of
from phlogiston.engine.program.missing import Missing
from phlogiston.engine.program.sites import Structure
from phlogiston.errors import ModelError, UnknownName, did_you_mean, problem
from phlogiston.model.inputs import as_data

Coords = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, eq=False)
class Binding:
    """A program with everything that it runs on.

    Args:
        program: a callable with Pyro statements.
        args: its positional inputs.
        kwargs: its inputs by keyword.
        observed: the values given to sites, by name.
        missing: the missing entries of sites that are observed in part, by name.
        parameters: the values at which ``pyro.param`` statements are held, by name.
        coords: labels by dimension.
    """

    program: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    observed: Mapping[str, torch.Tensor] = field(default_factory=dict)
    missing: Mapping[str, Missing] = field(default_factory=dict)
    parameters: Mapping[str, torch.Tensor] = field(default_factory=dict)
    coords: Coords = field(default_factory=dict)

    def with_data(self, structure: Structure, values: Mapping[str, Any], *, may_miss: bool) -> Binding:
        """Give values to sites; where entries may be missing, NaN marks them.

        Raises:
            UnknownName: a name is not that of a site that is drawn or computed.
            ModelError: a value is no real number, or has the wrong shape where preflight would not see it.
        """
        known = {site.name for site in structure.of("latent", "observed", "deterministic")}
        for name in values:
            if name not in known:
                raise UnknownName(_not_observable(name_of(self.program), name, structure, known))
        given = {name: as_data(name, value) for name, value in values.items()}
        observed = {**self.observed, **given}
        missing = {name: entries for name, entries in self.missing.items() if name not in given}
        for name, value in given.items():
            if may_miss and (entries := Missing.entries_of(value)) is not None:
                missing[name] = entries
        for name in missing:
            _require_shape(f"site {name!r}", "an observed value of ", observed[name], structure[name].drawn_shape)
        for site in structure.of("deterministic"):
            if site.name in given:
                _require_shape(f"site {site.name!r}", "an observed value of ", given[site.name], site.shape)
        return replace(self, observed=observed, missing=missing)

    def without_data(self, names: Collection[str]) -> Binding:
        """Take back the values given to sites."""
        observed = {name: value for name, value in self.observed.items() if name not in names}
        missing = {name: entries for name, entries in self.missing.items() if name not in names}
        return replace(self, observed=observed, missing=missing)

    def with_parameters(self, structure: Structure, values: Mapping[str, torch.Tensor]) -> Binding:
        """Hold parameters at values.

        Raises:
            UnknownName: the program has no such parameter.
            ModelError: a value has another shape than the parameter.
        """
        known = {site.name: site for site in structure.of("parameter")}
        for name, value in values.items():
            if name not in known:
                program, hint = name_of(self.program), did_you_mean(name, known)
                raise UnknownName(f"with_parameters: program {program!r} has no parameter {name!r}; {hint}")
            _require_shape(f"parameter {name!r}", "", value, known[name].shape, "that of the program, ")
        frozen = {name: value.detach().clone() for name, value in values.items()}
        return replace(self, parameters={**self.parameters, **frozen})


def _require_shape(where: str, what: str, value: torch.Tensor, shape: tuple[int, ...], whose: str = "") -> None:
    if tuple(value.shape) != shape:
        found, expected = f"{what}shape {tuple(value.shape)}", f"{whose}{shape}"
        raise ModelError(problem(where, found=found, expected=expected))


def _not_observable(program: str, name: str, structure: Structure, known: Collection[str]) -> str:
    hint = did_you_mean(name, known)
    role = next((site.role for site in structure.sites if site.name == name), None)
    if role is None:
        return f"observe: program {program!r} has no site {name!r}; {hint}"
    kind = "a parameter" if role == "parameter" else "a factor"
    return f"observe: {name!r} is {kind} in program {program!r}; expected a site that is drawn; {hint}"
