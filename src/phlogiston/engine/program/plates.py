"""Plates: the one that holds the data, and a program at some of a plate's elements.

The elements are the minibatch of an optimiser, or the one datum that a bound is of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites

from phlogiston.engine.program import handlers
from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.program.missing import Missing
from phlogiston.engine.program.sites import (
    Bound,
    Plate,
    Rebound,
    Site,
    Structure,
    cast_inputs,
    run,
    score,
)
from phlogiston.engine.program.supports import mask_of
from phlogiston.errors import ModelError, ProgramError, problem


def axis_of(site: Site, plate: Plate) -> int:
    """The dimension, from the left, of a site's value (or of its unconstrained one) that runs along a plate."""
    return len(site.batch_shape) + plate.dim


def in_plate(site: Site, name: str) -> bool:
    """Whether a site is drawn, or observed, once for each element of a plate."""
    return any(plate.name == name for plate in site.plates)


def data_plate(sites: Iterable[Site], name: str | None = None) -> Plate | None:
    """The plate whose elements are the data, of those around some sites; None if there is none.

    It is the one that is named; else one that the program itself subsamples; else the largest.
    """
    plates = [plate for site in sites for plate in site.plates if name in (None, plate.name)]
    return max(plates, key=lambda plate: (plate.batch is not None, plate.size), default=None)


def masks(bound: Bound, structure: Structure, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Which elements of observed sites count, ``[*batch shape]``, for those of the sites where some do not."""
    with isolated(seed=0, dtype=torch.float64), torch.no_grad():
        nodes = run(bound, parameters=structure.parameters).nodes
    masked: dict[str, torch.Tensor] = {}
    for name in names:
        if structure[name].masked:
            msg = cast(dict[str, Any], nodes[name])
            masked[name] = mask_of(msg).expand(structure[name].batch_shape).clone()
    return masked


class _AtIndex(Messenger):
    """A plate yields these indices, and each element counts once, not N / B times as in a subsampled plate."""

    def __init__(self, plate: Plate, index: torch.Tensor) -> None:
        super().__init__()
        self._plate, self._index = plate, index

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if handlers.is_plate_index(msg):
            if msg["name"] == self._plate.name:
                msg["value"] = self._index
            return
        for frame in msg["cond_indep_stack"]:
            if frame.name == self._plate.name and frame.full_size:
                msg["scale"] = msg["scale"] * (frame.size / frame.full_size)


@dataclass(frozen=True)
class Rows:
    """How a bound program is run at some elements of a plate.

    Args:
        bound: the program with its data.
        structure: what it consists of.
        plate: of the elements; None for a program that always runs as a whole.
        by_input: whether the program takes rows of its inputs for the elements (``X @ beta``), and not the indices
            that its plate yields (``X[index] @ beta``).
    """

    bound: Bound
    structure: Structure
    plate: Plate | None = None
    by_input: bool = False

    def at(self, index: torch.Tensor | None) -> Bound:
        """The program with its data at ``index [B]``; at all elements without one."""
        if index is None or self.plate is None:
            return self.bound
        plate, whole = self.plate, self.bound.program
        yielded = torch.arange(len(index)) if self.by_input else index

        def program(*args: Any, **kwargs: Any) -> Any:
            with _AtIndex(plate, yielded):
                return whole(*args, **kwargs)

        def of_site(name: str, value: torch.Tensor) -> torch.Tensor:
            site = self.structure[name]
            return value.index_select(axis_of(site, plate), index) if in_plate(site, plate.name) else value

        args, kwargs = self.bound.args, self.bound.kwargs
        if self.by_input:
            args, kwargs = (_rows_of_inputs(value, plate.size, index) for value in (args, kwargs))
        data = {site.name: self.structure.observations[site.name] for site in self.structure.observable}
        observed = {name: of_site(name, value) for name, value in data.items()}
        missing = {n: Missing(of_site(n, e.mask), of_site(n, e.values)) for n, e in self.bound.missing.items()}
        return Rebound(program, args, kwargs, observed, missing, self.bound.parameters)

    def structure_at(self, part: Structure, index: torch.Tensor | None) -> Structure:
        """The structure of a run at some elements, with the entries that are missing there."""
        missing = self.at(index).missing
        sites = tuple(replace(s, missing=missing[s.name]) if s.name in missing else s for s in part.sites)
        return replace(part, sites=sites)


def _rows_of_inputs(value: Any, size: int, index: torch.Tensor) -> Any:
    """Inputs with the rows ``index`` of every tensor among them that has ``size`` rows."""
    if isinstance(value, torch.Tensor):
        return value.index_select(0, index) if value.ndim and len(value) == size else value
    if isinstance(value, Mapping):
        return {key: _rows_of_inputs(item, size, index) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_rows_of_inputs(item, size, index) for item in value)
    return value


def rows_of(bound: Bound, structure: Structure, plate: Plate, dtype: torch.dtype) -> Rows:
    """Find out how a program is run at some elements of a plate: by the plate's indices, or by rows of its inputs.

    Rows of inputs are taken where the program does not run otherwise, and only if each element then has the log
    probability that it has among all.

    Raises:
        ModelError: it runs in neither way.
    """
    rows, by_input = Rows(bound, structure, plate), Rows(bound, structure, plate, by_input=True)
    index = torch.arange(plate.size)[-min(2, max(1, plate.size - 1)) :]
    with isolated(seed=0, dtype=dtype), torch.no_grad():
        try:
            _terms(rows, plate, index, {})
            return rows
        except ProgramError as error:
            reason = error
        try:
            drawn = run(bound, parameters=cast_inputs(bound.parameters))
            whole = {name: msg["log_prob"] for name, msg in score(drawn).nodes.items() if "log_prob" in msg}
            taken = _terms(by_input, plate, index, _values_at(drawn, plate, index))
        except ProgramError:
            taken = {}
        alike = all(
            torch.allclose(value, _taken(whole[name], plate.dim, index).expand(value.shape), rtol=1e-4, atol=1e-5)
            for name, value in taken.items()
        )
    if taken and alike:
        return by_input
    if plate.size <= 2:  # a batch of one element is too small for some networks, which may run at both
        return rows
    raise ModelError(
        problem(
            f"plate {plate.name!r}",
            found=f"a program or guide that does not run at some of its rows ({reason})",
            expected="data of its own for each row that is asked for",
            fix=f"with pyro.plate({plate.name!r}, n) as rows: ... x[rows]",
        )
    ) from reason


def _values_at(drawn: poutine.Trace, plate: Plate, index: torch.Tensor) -> dict[str, torch.Tensor]:
    """The values that a run drew, at some elements of a plate."""
    messages: dict[str, Any] = {name: msg for name, msg in drawn.nodes.items() if msg["type"] == "sample"}
    latents = {name: msg for name, msg in messages.items() if handlers.is_data(msg) and not msg["is_observed"]}
    return {
        name: _taken(msg["value"], plate.dim - msg["fn"].event_dim, index) if _holds(plate, msg) else msg["value"]
        for name, msg in latents.items()
    }


def _terms(
    rows: Rows, plate: Plate, index: torch.Tensor, values: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Log probabilities of the plate's sites at some elements.

    Raises:
        ProgramError: the program does not run there, or its sites have other numbers of elements.
    """
    bound = rows.at(index)
    drawn = run(bound, handlers.Substitute(values), parameters=cast_inputs(bound.parameters))
    trace = prune_subsample_sites(drawn)
    try:
        score(trace)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ProgramError(str(error)) from error
    nodes: dict[str, Any] = {name: msg for name, msg in trace.nodes.items() if "log_prob" in msg}
    inside = {name: msg["log_prob"] for name, msg in nodes.items() if _holds(plate, msg)}
    for name, value in inside.items():
        if value.ndim < -plate.dim or value.shape[plate.dim] != len(index):
            raise ProgramError(f"site {name!r} has a batch of shape {tuple(value.shape)} at {len(index)} rows")
    return inside


def _holds(plate: Plate, msg: Any) -> bool:
    return any(frame.name == plate.name for frame in msg["cond_indep_stack"])


def _taken(value: Any, dim: int, index: torch.Tensor) -> torch.Tensor:
    tensor = torch.as_tensor(value)
    return tensor.index_select(dim, index) if tensor.ndim >= -dim and tensor.shape[dim] > 1 else tensor
