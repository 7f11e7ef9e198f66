"""Sum discrete latents out of a program exactly, plate by plate, and draw them back.

The sums follow the program's plates and independences (tensor variable elimination: Obermeyer et al.,
2019, https://arxiv.org/abs/1902.03210), as Pyro's ``contract_tensor_tree`` carries them out.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer.discrete import _sample_posterior_from_trace
from pyro.ops.contract import contract_tensor_tree
from pyro.poutine import runtime
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.util import prune_subsample_sites
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from phlogiston.engine.program import handlers
from phlogiston.engine.program.isolate import quiet
from phlogiston.engine.program.sites import Bound, Site, Structure, of_latents, of_observed, run, score
from phlogiston.errors import ProgramError, UnsupportedModel

Values = dict[str, torch.Tensor]
_NO_BRANCHES = (
    "a discrete latent is summed out by running the program once with all its values in a tensor, which an `if` cannot "
    "ask for one; expected tables indexed by it; write: torch.tensor([if_0, if_1])[z.long()], or use 'importance'"
)


def enumerated(bound: Bound, structure: Structure, *messengers: Any) -> poutine.Trace:
    """A trace in which every enumerable latent takes all its values in parallel, each in a dimension of its own."""
    first_available = -1 - structure.plate_nesting
    try:
        trace = run(bound, EnumMessenger(first_available), _mark(), *messengers, parameters=structure.parameters)
    except ProgramError as error:
        if "Boolean value of Tensor" not in str(error):
            raise
        raise UnsupportedModel(f"{error}; {_NO_BRANCHES}") from error
    trace = score(prune_subsample_sites(trace))
    for site in structure.of("deterministic"):
        trace.remove_node(site.name)
    for site in structure.discrete:
        if site.missing is not None and site.states:  # each state of an observed entry is what was observed
            msg = trace.nodes[site.name]
            once = torch.where(site.missing.events(site.event_dim), 0.0, math.log(site.states))
            msg["log_prob"] = msg["log_prob"] - once
    for site in structure.sites:
        if site.unplated and site.role != "deterministic":  # such dimensions are events of a kind
            msg = trace.nodes[site.name]
            msg["log_prob"] = msg["log_prob"].sum(site.unplated, keepdim=True)
    return trace


def in_parallel(bound: Bound, nesting: int, params: Mapping[str, torch.Tensor]) -> poutine.Trace:
    """A trace of a guide in which the sites that ask for it take all their values, in dimensions left of its plates."""
    return run(bound, EnumMessenger(-1 - nesting), parameters=params)


def without_observations(trace: poutine.Trace, structure: Structure) -> poutine.Trace:
    """The same trace with the terms of the latents alone."""
    for site in structure.sites:
        if site.role in ("observed", "factor"):
            trace.remove_node(site.name)
        elif site.role == "latent" and site.missing is not None:
            trace.nodes[site.name]["log_prob"] = of_latents(site, trace.nodes[site.name]["log_prob"])
    return trace


def log_evidence(trace: poutine.Trace, bias: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
    """Log of the sum over every assignment of the enumerated latents, of the joint density.

    ``bias`` adds to the log probability of a site's states; the derivative with respect to it at zero is
    the posterior probability of each state.
    """
    for name, extra in (bias or {}).items():
        trace.nodes[name]["log_prob"] = trace.nodes[name]["log_prob"] + extra
    pack(trace)
    factors: OrderedDict[frozenset[str], list[torch.Tensor]] = OrderedDict()
    sum_dims: set[str] = set()
    for msg in trace.nodes.values():
        if msg["type"] != "sample":
            continue
        plates = frozenset(
            trace.plate_to_symbol[frame.name]
            for frame in msg["cond_indep_stack"]
            if frame.vectorized and frame.size > 1
        )
        factor: Any = msg["packed"]["log_prob"]
        sum_dims.update(frozenset(factor._pyro_dims) - plates)
        factors.setdefault(plates, []).append(factor)
    contracted = contract_tensor_tree(factors, sum_dims)
    return sum((term.sum() for terms in contracted.values() for term in terms), torch.zeros(()))


def _mark() -> handlers.MarkEnumerable:
    return handlers.MarkEnumerable(lambda msg: bool(msg["fn"].support.is_discrete))


def pack(trace: poutine.Trace) -> None:
    """Rename dimensions to symbols; scales and masks count as part of the probabilities."""
    for msg in trace.nodes.values():
        if "log_prob" in msg:
            msg["log_prob"] = msg["log_prob"].to(torch.get_default_dtype())  # a program's own tensors may be coarser
            msg["unscaled_log_prob"] = msg["log_prob"]
    trace.pack_tensors()


def highest_likelihood(trace: poutine.Trace, structure: Structure) -> torch.Tensor:
    """An upper bound of the log likelihood over every assignment of the enumerated latents.

    Each element of each observed site takes its own best assignment; the bound is attained where these agree.
    """
    total = torch.zeros(())
    for site in (*structure.observable, *structure.of("factor")):
        log_prob = of_observed(site, trace.nodes[site.name]["log_prob"])
        plates = min(structure.plate_nesting, log_prob.ndim)
        total = total + log_prob.reshape((-1, *log_prob.shape[log_prob.ndim - plates :])).amax(0).sum()
    return total


def bias_shape(trace: poutine.Trace, site: Site) -> tuple[int, ...]:
    """The shape of a site's own enumeration dimension, broadcast over its plates and nothing else."""
    infer: Any = trace.nodes[site.name]["infer"]
    shape = [site.states or 1, *[1] * (-infer["_enumerate_dim"] - 1)]
    for plate in site.plates:
        shape[plate.dim] = plate.size
    return tuple(shape)


def posterior(bound: Bound, structure: Structure, *messengers: Any) -> tuple[torch.Tensor, Values]:
    """Log evidence, and for each discrete latent the probabilities of its states, ``[*batch shape, states]``."""
    with torch.enable_grad():
        trace = enumerated(bound, structure, *messengers)
        bias = {site.name: torch.zeros(bias_shape(trace, site), requires_grad=True) for site in structure.discrete}
        total = log_evidence(trace, bias)
        grads = torch.autograd.grad(total, list(bias.values()))
    probabilities = {}
    for site, grad in zip(structure.discrete, grads, strict=True):
        found = grad.reshape(-1, *site.batch_shape).movedim(0, -1)
        if site.missing is not None:
            fn: Any = trace.nodes[site.name]["fn"]
            states = fn.enumerate_support(expand=False).reshape(-1).to(site.missing.values)
            known = (site.missing.values.unsqueeze(-1) == states).to(found)
            found = torch.where(site.missing.mask.unsqueeze(-1), found, known)
        probabilities[site.name] = found
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
            quiet("torch._subclasses.fake_tensor", "torch.fx"),
            FakeTensorMode(allow_non_fake_inputs=True),
            recorder,
            torch.no_grad(),
        ):
            log_evidence(enumerated(bound, structure))
    except (RuntimeError, ValueError) as error:
        if "dim" not in str(error):  # the program asks for a value, which a shape does not have
            return recorder.largest
        return math.prod(site.states or 1 for site in structure.discrete)
    return recorder.largest


def draw(bound: Bound, structure: Structure, *messengers: Any) -> Values:
    """One joint posterior draw of all discrete latents: forward filtering, backward sampling over the same sums."""
    trace = enumerated(bound, structure, *messengers)
    pack(trace)
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
