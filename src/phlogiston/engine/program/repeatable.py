"""Refuse programs whose density is another one in each run, or that set seeds: what they draw besides their sites."""

from __future__ import annotations

import linecache
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

import numpy as np
import pyro
import torch
from pyro import poutine

from phlogiston.engine.program import handlers
from phlogiston.engine.program.isolate import is_users_file, isolated, name_of
from phlogiston.engine.program.sites import Bound, Structure, run, score
from phlogiston.errors import ModelError, problem

_STATES: dict[str, Callable[[], Any]] = {
    "torch's global generator": lambda: torch.get_rng_state().numpy().tobytes(),
    "NumPy's global generator": lambda: repr(np.random.get_state(legacy=False)),
    "Python's global generator": random.getstate,
}


def require_repeatable(bound: Bound, structure: Structure, dtype: torch.dtype = torch.float64) -> None:
    """Run the program twice with the same values at its sites and other seeds, and insist on the same density.

    Raises:
        ModelError: some site has another density, as the program draws random numbers outside of its sites or keeps a
            state of its own; or the program sets the seed of a generator. The message names the line where it is found.
    """
    with isolated(dtype=dtype), torch.no_grad():
        first, values = _scored(bound, structure, 1, {})
        second, _ = _scored(bound, structure, 2, values)
        seeded = _sets_seed(bound, structure, values)
        changed = [name for name in first if name in second and not _same(first[name], second[name])]
        if not changed and not seeded:
            return
        where, generator = _first_change(bound, structure, values)
    if changed:
        found = f"{generator or 'something outside of its sites'} at work, so that the density of site {changed[0]!r} "
        found += "at the same values is another one in each run"
        expected = "every random number from a pyro.sample statement, and no state that changes from run to run"
        fix = 'pyro.sample("noise", dist.Normal(0.0, 1.0)), or module.eval() before a network with dropout'
    else:
        found = "a seed that the program sets for torch's global generator, so that all prior draws are the same"
        expected, fix = "no seeds within the program", "ph.infer(..., seed=0)"
    raise ModelError(problem(f"program {name_of(bound.program)!r}{where}", found=found, expected=expected, fix=fix))


def _scored(
    bound: Bound, structure: Structure, seed: int, values: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The log probability of each site in a run with this seed, and the values of its latents."""
    pyro.set_rng_seed(seed)
    trace = run(bound, handlers.Substitute(values), parameters=structure.parameters)
    drawn = {}
    for name, node in trace.nodes.items():
        msg = cast(dict[str, Any], node)
        is_latent = msg["type"] == "sample" and not msg["is_observed"] and handlers.is_data(msg)
        if is_latent and not handlers.is_point_mass(msg):
            drawn[name] = msg["value"]
    return _terms(trace), drawn


def _sets_seed(bound: Bound, structure: Structure, values: dict[str, torch.Tensor]) -> bool:
    """Whether the generator ends in one state after a run that found it in another and drew nothing at the sites.

    The run before this call began with seed 2; what it left behind is compared with what is left of seed 3.
    """
    end = torch.get_rng_state()
    if torch.equal(end, torch.manual_seed(2).get_state()):  # nothing was drawn or set
        return False
    _scored(bound, structure, 3, values)
    return torch.equal(end, torch.get_rng_state())


def _terms(trace: poutine.Trace) -> dict[str, torch.Tensor]:
    nodes = {name: cast(dict[str, Any], node) for name, node in score(trace).nodes.items()}
    return {name: torch.as_tensor(node["log_prob"]) for name, node in nodes.items() if "log_prob" in node}


def _same(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-9, atol=1e-12, equal_nan=True)


def _first_change(bound: Bound, structure: Structure, values: dict[str, torch.Tensor]) -> tuple[str, str]:
    """The line of the user's code that first moved a global generator while no site drew, and which generator."""
    watch = _Watch()
    with watch.watching():
        run(bound, handlers.Substitute(values), parameters=structure.parameters)
    return watch.where, watch.generator


class _Watch:
    """Compares the states of the generators before each line of the user's code with those before the last one."""

    def __init__(self) -> None:
        self.where, self.generator = "", ""
        self._line: tuple[str, int] | None = None
        self._states = {name: state() for name, state in _STATES.items()}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the lines that run inside; a debugger's own watch is put back afterwards."""
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(before)
        self._compare()

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._at if is_users_file(frame.f_code.co_filename) and not self.where else None

    def _at(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and not self.where:
            self._compare()
            self._line = frame.f_code.co_filename, frame.f_lineno
        return self._at

    def _compare(self) -> None:
        if self._line is None or self.where:
            return
        moved = next((name for name, state in _STATES.items() if state() != self._states[name]), None)
        if moved is not None:
            file, line = self._line
            self.where, self.generator = f" at {file}:{line}: {linecache.getline(file, line).strip()[:120]}", moved
