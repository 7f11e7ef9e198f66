r"""The terms of the ELBO of a program and a guide: one pure function of parameters, noise and a minibatch.

``Learning(bound, structure, guide)`` finds the parameters of both (``pyro.param`` and ``pyro.module``), puts them on
the unconstrained scale (``initial``), and traces, once for each size of a batch, the function

    parameters by name, index [B] (rows of the plate), u [R] (latents that the guide lacks)  ->  terms by name

whose randomness is lifted out as noise, so that it can be batched over particles, differentiated, joined with an
optimiser and compiled (``fused_steps``). Terms are ``[B]``, one a row, for sites within the plate, which count N / B
times, and scalars for the others:

    x/<site>      log p of an observed site or factor
    p/<site>      log p of a latent;  x/marginal for both where discrete latents were summed out
    q/<site>      log q of a site of the guide
    kl/<site>     KL[q, p] of a site in closed form, in the place of its two terms
    score/<site>  log q of a site whose draws carry no gradient
    j/<site>      log |d z / d u| of a latent that the guide lacks
    value/<site>  the value of a latent, where asked for

Discrete latents that the guide lacks are summed out, plate by plate; over those of its own that it enumerates, every
term is an expectation (``expected``), which counts as a closed form. Nothing of ``pyro.infer`` is involved.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch.distributions import constraints, kl_divergence, transform_to

from phlogiston.engine.program import guide_enumeration, handlers
from phlogiston.engine.program.guide_enumeration import Weights
from phlogiston.engine.program.interpreter import Slot, layout
from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.program.missing import missing_of
from phlogiston.engine.program.plates import Rows, axis_of, in_plate, rows_of
from phlogiston.engine.program.reading import Reading, Values, read
from phlogiston.engine.program.sites import Bound, Plate, Rebound, Structure, cast_inputs, run, score
from phlogiston.engine.trace.graph import Graph, trace_single
from phlogiston.errors import ModelError, UnsupportedModel, did_you_mean, problem

PARAM = "param/"


def _refuse_tied_modules(program: Mapping[str, Any], guided: Mapping[str, Any]) -> None:
    """Refuse modules of program and guide whose parameters share a name: by name they would be one parameter."""
    both = [name for name in program if name in guided and _is_of_module(program[name]) and _is_of_module(guided[name])]
    if tied := [name for name in both if program[name]["args"][1] is not guided[name]["args"][1]]:
        raise ModelError(
            problem(
                f"guide: parameter {tied[0]!r}",
                found=f"another module of the program with {len(tied)} parameters of the same names "
                f"({', '.join(tied)}), which would be one parameter each",
                expected="names that differ, or the same module in both",
                fix="self.guide_net = ... in the guide, where the program has self.net",
            )
        )


def _guide_of(bound: Bound, guide: Callable[..., Any], dtype: torch.dtype) -> Bound:
    """The guide on the program's inputs, or on none if it takes none, with nothing observed."""
    takes_none = not inspect.signature(guide).parameters
    args, kwargs = ((), {}) if takes_none else (bound.args, bound.kwargs)
    if isinstance(guide, torch.nn.Module):
        with isolated(seed=0, dtype=dtype), handlers.WholePlates():
            guide(*args, **kwargs)  # autoguides look at their program when they are first called
    return Rebound(guide, args, kwargs, {}, {}, bound.parameters)


class Learning:
    """See the module.

    Args:
        bound: the program with its inputs and data.
        structure: what it consists of.
        guide: a Pyro guide, a callable on the program's inputs or on none; None for a guide without sites.
        plate: the plate that minibatches are taken from; None for all data at every step.
        dtype: precision of the evaluation.
        analytic: whether KL divergences between a latent's guide and prior are taken in closed form where there is one,
            and discrete latents of the guide summed over where it says so.
        hold: whether the program's own parameters stay as they are.

    Raises:
        ModelError: sites of program and guide do not match; names the site.
        UnsupportedModel: a discrete latent outside of the plate cannot be summed out batch by batch.
    """

    def __init__(
        self,
        bound: Bound,
        structure: Structure,
        guide: Callable[..., Any] | None,
        *,
        plate: Plate | None = None,
        dtype: torch.dtype = torch.float32,
        analytic: bool = True,
        hold: bool = False,
    ) -> None:
        # now, and not row by row at every step
        structure = replace(structure, observations=cast_inputs(structure.observations, dtype))
        nothing = replace(structure, sites=(), observations={})
        self._structure, self._plate, self._analytic, self.dtype = structure, plate, analytic, dtype
        self._program = Rows(bound, structure) if plate is None else rows_of(bound, structure, plate, dtype)
        self._guide: Rows | None = None
        if guide is not None:
            own = _guide_of(bound, guide, dtype)
            self._guide = Rows(own, nothing) if plate is None else rows_of(own, nothing, plate, dtype)
        with isolated(seed=0, dtype=dtype), torch.no_grad():
            program, guided = self._first_run(self._program), self._first_run(self._guide)
            self._find_parameters(program, guided, hold)
        self._find_latents(guided)
        self._refuse_shared()

    def _first_run(self, of: Rows | None) -> dict[str, dict[str, Any]]:
        if of is None:
            return {}
        parameters = {name: value.to(self.dtype) for name, value in of.bound.parameters.items()}
        nodes = run(of.bound, parameters=parameters).nodes
        return {name: cast(dict[str, Any], msg) for name, msg in nodes.items()}

    def _find_parameters(self, program: Mapping[str, Any], guided: Mapping[str, Any], hold: bool) -> None:
        _refuse_tied_modules(program, guided)
        self.of_program = tuple(_parameters(program))
        params = _parameters({**program, **guided})
        fixed = self.of_program if hold else ()
        learned = {name: msg for name, msg in params.items() if name not in fixed}
        self._held = {name: params[name]["value"].detach().to(self.dtype) for name in fixed}
        self.constraints = {name: _constraint(msg) for name, msg in learned.items()}
        self.initial = {
            name: transform_to(self.constraints[name]).inv(msg["value"].detach().to(self.dtype)).clone()
            for name, msg in learned.items()
        }
        self.modules = {name: msg["args"][1] for name, msg in guided.items() if _is_of_module(msg)}

    def _find_latents(self, guided: Mapping[str, dict[str, Any]]) -> None:
        self.guided = self._match(guided)
        rest = tuple(site for site in self._structure.continuous if site.name not in self.guided)
        self.slots: tuple[Slot, ...] = layout(replace(self._structure, sites=rest))
        self.enumerated = tuple(n for n in self.guided if self._analytic and guide_enumeration.is_enumerated(guided[n]))
        drawn = [name for name in self.guided if name not in self.enumerated]
        self.score_sites = tuple(name for name in drawn if not guided[name]["fn"].has_rsample)
        self.summed = tuple(site.name for site in self._structure.discrete if site.name not in self.guided)

    def _match(self, guided: Mapping[str, dict[str, Any]]) -> tuple[str, ...]:
        known = {site.name: site for site in self._structure.of("latent")}
        names = []
        for name, msg in guided.items():
            if msg["type"] != "sample" or not handlers.is_data(msg) or msg["infer"].get("is_auxiliary"):
                continue
            if name not in known:
                raise ModelError(f"guide: site {name!r} is no latent of the program; {did_you_mean(name, known)}")
            shape = tuple(torch.as_tensor(msg["value"]).shape)
            if shape != known[name].shape:
                raise ModelError(
                    problem(f"guide, site {name!r}", found=f"shape {shape}", expected=f"{known[name].shape}")
                )
            names.append(name)
        return tuple(names)

    def _refuse_shared(self) -> None:
        for name in self.summed:
            if self.enumerated:
                raise UnsupportedModel(
                    problem(
                        f"site {name!r}",
                        found=f"a discrete latent that the guide lacks, beside enumerated {self.enumerated[0]!r}",
                        expected="all discrete latents in the guide, or none",
                    )
                )
            site = self._structure[name]
            if self._plate is not None and not in_plate(site, self._plate.name):
                raise UnsupportedModel(
                    problem(
                        f"site {name!r}",
                        found=f"a discrete latent that all rows of plate {self._plate.name!r} share",
                        expected="minibatches only where discrete latents belong to rows, or are in the guide",
                        fix="batch_size=None",
                    )
                )

    @property
    def width(self) -> int:
        """Numbers in ``u``, the latents that the guide lacks, unconstrained."""
        return self.slots[-1].stop if self.slots else 0

    def constrained(self, params: Mapping[str, torch.Tensor]) -> Values:
        """Unconstrained parameters -> the values that ``pyro.param`` gives."""
        return {name: transform_to(self.constraints[name])(value) for name, value in params.items()}

    def example(self, rows: int) -> Values:
        """Inputs of ``terms`` by name."""
        params = {PARAM + name: value for name, value in self.initial.items()}
        index = {"index": torch.arange(rows)} if self._plate is not None else {}
        return {**params, **index, **({"u": torch.zeros(self.width, dtype=self.dtype)} if self.width else {})}

    def traced(self, rows: int, *, values: bool = False) -> Graph:
        """The graph of ``terms`` for a batch of so many rows.

        Raises:
            UntraceableProgram: program or guide branch on a value, or leave torch.
        """
        with isolated(seed=0, dtype=self.dtype), torch.no_grad():
            return trace_single(lambda inputs: self.terms(inputs, values=values), self.example(rows))

    def terms(self, inputs: Values, *, values: bool = False) -> Values:
        """One draw: see the module."""
        params = {**self._held, **self.constrained({name: inputs[PARAM + name] for name in self.initial})}
        index = inputs.get("index")
        guided, weights = self._run_guide(params, index)
        messengers: list[Any] = [
            handlers.Substitute({name: cast(torch.Tensor, guided.nodes[name]["value"]) for name in self.guided})
        ]
        if self.width:
            own = {slot.site.name: self._part(slot, inputs["u"], index) for slot in self.slots}
            messengers.append(handlers.Unconstrained(own))
        structure = replace(self._program.structure_at(self._structure, index), parameters=params)
        reading = read(self._program.at(index), structure, *messengers, sum_out=bool(self.summed))
        terms = self._summed_out(reading) if reading.summed else self._program_terms(reading, weights)
        terms = self._with_guide(terms, guided, reading, weights)
        terms |= {f"j/{name}": self._rows(name, value, weights) for name, value in reading.log_jacobian.items()}
        if values:
            names = (*self.guided, *(slot.site.name for slot in self.slots))
            terms |= {f"value/{name}": value for name, value in reading.values(*names).items()}
        return terms

    def _part(self, slot: Slot, u: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
        """A latent's unconstrained value, at the rows of the batch where it belongs to rows."""
        value = u[slot.start : slot.stop].reshape(slot.shape)
        if index is None or self._plate is None or not in_plate(slot.site, self._plate.name):
            return value
        return value.index_select(axis_of(slot.site, self._plate), index)

    def _run_guide(self, params: Values, index: torch.Tensor | None) -> tuple[poutine.Trace, Weights | None]:
        if self._guide is None:
            return poutine.Trace(), None
        bound, nesting = self._guide.at(index), self._structure.plate_nesting
        if not self.enumerated:
            return score(prune_subsample_sites(run(bound, parameters=params))), None
        trace = score(prune_subsample_sites(guide_enumeration.in_parallel(bound, nesting, params)))
        return trace, Weights.of([cast(dict[str, Any], trace.nodes[name]) for name in self.enumerated], nesting)

    def _rows(self, name: str, log_prob: torch.Tensor, weights: Weights | None) -> torch.Tensor:
        """A site's terms summed to one a row of the plate, or to a scalar outside of it."""
        site = self._structure[name]
        if weights is not None:
            log_prob = weights.expect(name, log_prob)
        if self._plate is None or not in_plate(site, self._plate.name):
            return log_prob.sum()
        others = [dim for dim in range(-log_prob.ndim, 0) if dim != self._plate.dim]
        return log_prob.sum(others) if others else log_prob

    def _program_terms(self, reading: Reading, weights: Weights | None) -> Values:
        kinds = {"p": reading.latent, "x": reading.observed}
        return {
            f"{kind}/{name}": self._rows(name, term, weights)
            for name in reading.terms
            for kind, terms in kinds.items()
            if (term := terms.get(name)) is not None
        }

    def _summed_out(self, reading: Reading) -> Values:
        rows, shared = reading.rows(self._plate)
        return {"x/marginal": shared, **({"x/marginal (rows)": rows} if rows.ndim else {})}

    def _closed_form(self, guided: dict[str, Any], reading: Reading) -> torch.Tensor | None:
        """KL[q, p] of one site, element by element, with the site's scale; None where it has no formula."""
        return _closed_form(guided, reading.message(guided["name"])) if self._analytic else None

    def _able_in_closed_form(self, guided: poutine.Trace) -> set[str]:
        """The latents whose divergence may have a closed form: the guide draws all in the order of the program."""
        ordered = [site.name for site in self._structure.of("latent") if site.name in self.guided]
        in_order = ordered == [name for name in guided.nodes if name in self.guided]
        return set(self.guided) - set(self.enumerated) if in_order else set()

    def _with_guide(self, terms: Values, guided: poutine.Trace, reading: Reading, weights: Weights | None) -> Values:
        able = set() if reading.summed else self._able_in_closed_form(guided)
        for name, msg in _drawn(guided):
            log_q = torch.as_tensor(msg["log_prob"])
            if name not in self.guided:  # an auxiliary draw of the guide, from which its sites are computed
                terms[f"q/{name}"] = (log_q if weights is None else weights.expect(name, log_q)).sum()
                continue
            if name in self.score_sites:
                self._refuse_mixed(name, log_q)
                terms[f"score/{name}"] = self._rows(name, log_q, None)
            elif name in able and (kl := self._closed_form(msg, reading)) is not None:
                terms[f"kl/{name}"] = self._rows(name, kl, weights)
                terms.pop(f"p/{name}")
                continue
            terms[f"q/{name}"] = self._rows(name, log_q, weights)
        return terms

    def _refuse_mixed(self, name: str, log_q: torch.Tensor) -> None:
        if log_q.ndim > self._structure.plate_nesting:
            raise UnsupportedModel(
                problem(
                    f"guide, site {name!r}",
                    found=f"draws without gradient that depend on {self.enumerated[0]!r}, which is enumerated",
                    expected="both enumerated, or neither",
                    fix=f'pyro.sample({name!r}, ..., infer={{"enumerate": "parallel"}})',
                )
            )


def _is_of_module(msg: Mapping[str, Any]) -> bool:
    return msg["type"] == "param" and len(msg["args"]) > 1 and isinstance(msg["args"][1], torch.nn.Parameter)


def _constraint(msg: Mapping[str, Any]) -> Any:
    """A parameter's constraint, which a ``PyroModule`` notes in the parameter store only."""
    given = msg["kwargs"].get("constraint")
    noted = pyro.get_param_store()._constraints.get(msg["name"], constraints.real)
    return noted if given is None or given is constraints.real else given


def _closed_form(guided: Mapping[str, Any], msg: Mapping[str, Any]) -> torch.Tensor | None:
    plain = msg["mask"] is None and guided["mask"] is None and missing_of(dict(msg)) is None
    if not plain or handlers.is_point_mass(dict(guided)):  # a point computed from an auxiliary draw, with its Jacobian
        return None
    try:
        kl = kl_divergence(guided["fn"], msg["fn"])
    except NotImplementedError:
        return None
    shape = torch.broadcast_shapes(kl.shape, guided["fn"].batch_shape)  # type: ignore[no-untyped-call]
    return torch.as_tensor(kl.expand(shape) * msg["scale"])


def _parameters(messages: Mapping[str, Any]) -> dict[str, Any]:
    """The messages of ``pyro.param`` by name."""
    return {name: msg for name, msg in messages.items() if msg["type"] == "param"}


def _drawn(guided: poutine.Trace) -> Iterator[tuple[str, dict[str, Any]]]:
    """The messages of a guide's own draws by name, subsampling left out."""
    for name, node in guided.nodes.items():
        msg = cast(dict[str, Any], node)
        if msg["type"] == "sample" and handlers.is_data(msg):
            yield name, msg
