"""Discrete latents that are summed out: their probabilities, their draws, and the size of the sums."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.infer.discrete import _sample_posterior_from_trace
from pyro.poutine import runtime
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from phlogiston.engine.program.isolate import silence_loggers
from phlogiston.engine.program.reading import Reading, Values, read
from phlogiston.engine.program.sites import Bound, Site, Structure


def highest_likelihood(reading: Reading) -> torch.Tensor:
    """An upper bound of the log likelihood over every assignment of the enumerated latents.

    Each element of each observed site takes its own best assignment; the bound is attained where these agree.
    """
    total = torch.zeros(())
    for log_prob in reading.observed.values():
        plates = min(reading.structure.plate_nesting, log_prob.ndim)
        total = total + log_prob.reshape((-1, *log_prob.shape[log_prob.ndim - plates :])).amax(0).sum()
    return total


def _bias_shape(reading: Reading, site: Site) -> tuple[int, ...]:
    """The shape of a site's own enumeration dimension, broadcast over its plates and nothing else."""
    shape = [site.states or 1, *[1] * (-reading.message(site.name)["infer"]["_enumerate_dim"] - 1)]
    for plate in site.plates:
        shape[plate.dim] = plate.size
    return tuple(shape)


def posterior(bound: Bound, structure: Structure, *messengers: Any) -> tuple[torch.Tensor, Values]:
    """Log evidence, and for each discrete latent the probabilities of its states, ``[*batch shape, states]``."""
    with torch.enable_grad():
        reading = read(bound, structure, *messengers, sum_out=True)
        # The derivative of the log evidence by a bias on a state's log probability is the state's probability.
        bias = {s.name: torch.zeros(_bias_shape(reading, s), requires_grad=True) for s in structure.discrete}
        total = reading.total({name: term + bias.get(name, 0.0) for name, term in reading.terms.items()})
        grads = torch.autograd.grad(total, list(bias.values()))
    probabilities = {}
    for site, grad in zip(structure.discrete, grads, strict=True):
        states_last = grad.reshape(-1, *site.batch_shape).movedim(0, -1)
        if site.missing is not None:
            fn = reading.message(site.name)["fn"]
            states = fn.enumerate_support(expand=False).reshape(-1).to(site.missing.values)
            known = (site.missing.values.unsqueeze(-1) == states).to(states_last)
            states_last = torch.where(site.missing.mask.unsqueeze(-1), states_last, known)
        probabilities[site.name] = states_last
    return total.detach(), probabilities


class _LargestTable(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the largest tensor that any operation makes."""

    largest = 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.numel())
        return result


def table_size(bound: Bound, structure: Structure) -> int:
    """The largest intermediate table of the exact sum, in numbers, found without making any table.

    Runs the sum on tensors that have shapes but no contents. A program whose tables cannot even be laid out
    (more than 64 dimensions) counts as the product of all its states.
    """
    recorder = _LargestTable()  # type: ignore[no-untyped-call]
    try:
        with (
            silence_loggers("torch._subclasses.fake_tensor", "torch.fx"),
            FakeTensorMode(allow_non_fake_inputs=True),
            recorder,
            torch.no_grad(),
        ):
            _ = read(bound, structure, sum_out=True).joint
    except (RuntimeError, ValueError) as error:
        if "dim" not in str(error):  # the program asks for a value, which a shape does not have
            return recorder.largest
        return math.prod(site.states or 1 for site in structure.discrete)
    return recorder.largest


def draw(bound: Bound, structure: Structure, *messengers: Any) -> Values:
    """One joint posterior draw of all discrete latents: forward filtering, backward sampling over the same sums."""
    reading = read(bound, structure, *messengers, sum_out=True)
    trace = reading.trace
    for site in structure.of("deterministic"):
        if site.name not in reading.terms:
            trace.remove_node(site.name)
    for name, term in reading.terms.items():  # scales and masks count as part of the probabilities
        trace.nodes[name]["log_prob"] = trace.nodes[name]["unscaled_log_prob"] = term.to(torch.get_default_dtype())
    trace.pack_tensors()
    vectors = {site.name: _numbered(trace.nodes[site.name]) for site in structure.discrete if site.event_dim}
    # Pyro replays the program under a handler that holds the values drawn; the handler's trace is all that is wanted.
    drawn = _sample_posterior_from_trace(lambda: getattr(runtime._PYRO_STACK[-1], "trace"), trace, 1, False)  # noqa: B009
    values = {site.name: drawn.nodes[site.name]["value"] for site in structure.discrete}
    values |= {name: states[values[name]] for name, states in vectors.items()}
    return {site.name: values[site.name].reshape(site.shape) for site in structure.discrete}


def _numbered(msg: Any) -> torch.Tensor:
    """Put the numbers of a site's states in place of the states; the states, which are vectors: Pyro draws scalars."""
    fn, dim = msg["fn"], msg["infer"]["_enumerate_dim"]
    states: torch.Tensor = fn.enumerate_support(expand=False)
    states = states.reshape(len(states), *fn.event_shape)
    msg["value"] = torch.arange(len(states)).reshape(-1, *[1] * (-dim - 1))
    return states
