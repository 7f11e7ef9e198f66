"""What a program consists of: one run of it, written down site by site."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, cast

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask

from phlogiston.engine.program import durations, handlers
from phlogiston.engine.program.guards import Computed, Guard
from phlogiston.engine.program.isolate import isolated, program_error
from phlogiston.engine.program.missing import Missing, missing_of
from phlogiston.engine.program.supports import (
    contradiction,
    count_states,
    declared_support,
    in_support,
    mask_of,
    unconstrained_shape,
)
from phlogiston.engine.program.torch_fixes import Adapt
from phlogiston.errors import UnsupportedModel

Role = Literal["latent", "observed", "deterministic", "parameter", "factor"]


class Bound(Protocol):
    """A program with everything that it runs on."""

    @property
    def program(self) -> Any:
        """The Pyro program."""

    @property
    def args(self) -> tuple[Any, ...]:
        """Its positional inputs."""

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """Its inputs by keyword."""

    @property
    def observed(self) -> Mapping[str, torch.Tensor]:
        """Values by observed site."""

    @property
    def missing(self) -> Mapping[str, Missing]:
        """Missing entries by the name of the site that is observed in part."""

    @property
    def parameters(self) -> Mapping[str, torch.Tensor]:
        """Values of ``pyro.param`` statements that are held, by name."""


@dataclass(frozen=True)
class Rebound:
    """A program with other inputs, data or parameters than its model has."""

    program: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    observed: Mapping[str, torch.Tensor]
    missing: Mapping[str, Missing]
    parameters: Mapping[str, torch.Tensor]


def rebound(bound: Bound, observed: Mapping[str, torch.Tensor]) -> Bound:
    """The same program on the same inputs before other observations."""
    return Rebound(bound.program, bound.args, bound.kwargs, observed, bound.missing, bound.parameters)


@dataclass(frozen=True)
class Plate:
    """A named batch of conditionally independent sites; ``dim`` counts batch dimensions from the right.

    ``subsampled`` says that the program runs at elements of its own choice; ``batch`` is the ``subsample_size`` of a
    plate that leaves the choice open.
    """

    name: str
    size: int
    dim: int
    subsampled: bool = False
    batch: int | None = None


@dataclass(frozen=True)
class Site:
    """One statement of a program, as it was when the program ran.

    ``shape`` is the shape of its value in a single run; its last ``event_dim`` dimensions are one event.
    ``log_prob`` is that of the run in total, 0 where ``score_error`` says that it cannot be computed.
    ``states`` counts the values of a finite discrete site (None otherwise). ``drawn_shape`` is the shape that
    its distribution gives; an observed value of another shape is a mistake, or a batch without a plate.
    ``scaled`` says that its log probability counts more or less than once (``poutine.scale``, a subsampled plate).
    ``impossible`` counts observed entries whose probability was exactly zero, where torch would say nearly zero.
    ``support_error`` says what contradicts the declared support of a continuous latent.
    ``missing`` is given where a site is observed in part: the other entries are latent.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    event_dim: int = 0
    plates: tuple[Plate, ...] = ()
    support: Any = None
    discrete: bool = False
    states: int | None = None
    improper: bool = False
    masked: bool = False
    scaled: bool = False
    distribution: str = ""
    drawn_shape: tuple[int, ...] = ()
    in_support: bool = True
    log_prob: float = 0.0
    impossible: int = 0
    score_error: str = ""
    support_error: str = ""
    unconstrained_shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None
    missing: Missing | None = None

    @property
    def enumerable(self) -> bool:
        """Whether the site has finitely many values that can be listed."""
        return self.states is not None

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape without its event dimensions."""
        return self.shape[: len(self.shape) - self.event_dim]

    @property
    def dims(self) -> tuple[str, ...]:
        """A name for every dimension: the plate's where there is one."""
        by_dim = {plate.dim: plate.name for plate in self.plates}
        batch = len(self.batch_shape)
        return tuple(
            by_dim.get(i - batch, f"{self.name}_dim_{i}") if i < batch else f"{self.name}_dim_{i}"
            for i in range(len(self.shape))
        )

    @property
    def unplated(self) -> tuple[int, ...]:
        """Batch dimensions (from the right) that are longer than one and belong to no plate."""
        by_dim = {plate.dim for plate in self.plates}
        batch = len(self.batch_shape)
        return tuple(i - batch for i, n in enumerate(self.batch_shape) if n > 1 and i - batch not in by_dim)


@dataclass(frozen=True)
class Structure:
    """All sites in program order, with the values of parameters and observations that the run met."""

    sites: tuple[Site, ...]
    parameters: Mapping[str, torch.Tensor]
    observations: Mapping[str, torch.Tensor]
    plate_nesting: int

    def of(self, *roles: Role) -> tuple[Site, ...]:
        """The sites that have one of these roles."""
        return tuple(site for site in self.sites if site.role in roles)

    @property
    def continuous(self) -> tuple[Site, ...]:
        """Latents that live on a continuum."""
        return tuple(site for site in self.of("latent") if not site.discrete)

    @property
    def discrete(self) -> tuple[Site, ...]:
        """Latents that live on a countable set."""
        return tuple(site for site in self.of("latent") if site.discrete)

    @property
    def observable(self) -> tuple[Site, ...]:
        """What was observed, in part too."""
        return tuple(site for site in self.sites if site.role == "observed" or site.missing is not None)

    @property
    def sizes(self) -> dict[str, int]:
        """The length of every named dimension."""
        return {dim: size for site in self.sites for dim, size in zip(site.dims, site.shape, strict=True)}

    def __getitem__(self, name: str) -> Site:
        return {site.name: site for site in self.sites}[name]


def run(bound: Bound, *messengers: Any, parameters: Mapping[str, torch.Tensor] | None = None) -> poutine.Trace:
    """Run the program once under handlers (the last one given is nearest to the program); its trace.

    Raises:
        ProgramError: the program raised; its own error is the cause, and the message names the line.
    """
    with ExitStack() as stack:
        stack.enter_context(handlers.Precision())
        stack.enter_context(handlers.Fallback())
        stack.enter_context(handlers.Parameters(parameters or {}, overrides := handlers.ParameterOverrides()))
        for messenger in messengers:
            stack.enter_context(messenger)
        stack.enter_context(Guard())
        stack.enter_context(handlers.ProperMasks())
        stack.enter_context(handlers.Observe(cast_inputs(bound.observed), bound.missing))
        stack.enter_context(Computed())
        stack.enter_context(Adapt(overrides))
        tracer = stack.enter_context(poutine.trace())
        plates = stack.enter_context(handlers.WholePlates())
        args, kwargs = cast_inputs(bound.args), cast_inputs(bound.kwargs)
        try:
            bound.program(*args, **kwargs)
        except UnsupportedModel:  # a handler's word about a site, not the program's
            raise
        except Exception as error:
            raise program_error(bound.program, error) from error
    for name, size in plates.sizes.items():  # what the program asked for, for ``discover``
        cast(Any, tracer.trace.nodes[name]["fn"]).subsample_size = size
    return handlers.with_sizes(tracer.trace)


def score(trace: poutine.Trace) -> poutine.Trace:
    """Compute the log probability of every site of a trace but the deterministic ones."""
    with Adapt(handlers.overrides_of(cast(Mapping[str, Any], trace.nodes))):
        trace.compute_log_prob(lambda name, msg: not handlers.is_deterministic(cast(dict[str, Any], msg)))
    return trace


def cast_inputs(value: Any, dtype: torch.dtype | None = None) -> Any:
    """Floating tensors in a precision, by default that of the moment (the default dtype); everything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype or torch.get_default_dtype()) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: cast_inputs(item, dtype) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(cast_inputs(item, dtype) for item in value)
    return value


def discover(bound: Bound, dtype: torch.dtype = torch.float64) -> Structure:
    """Run the program once, conditioned, and write down its sites.

    Raises:
        ProgramError: the program raised; its own error is the cause, and the message names the line.
    """
    nodes = _nodes(bound, dtype, seed=0)
    messages = {name: msg for name, msg in nodes.items() if msg["type"] == "sample"}
    with isolated(dtype=dtype), torch.no_grad():
        parameters = {name: msg["value"].detach().clone() for name, msg in nodes.items() if msg["type"] == "param"}
        batches = {name: _batch(msg["fn"]) for name, msg in messages.items() if handlers.is_plate_index(msg)}
        sites = [_site(msg, batches) for name, msg in messages.items() if name not in batches]
    if any(_suspect(site) for site in sites):
        sites = _seen_again(sites, bound, dtype)
    sites += [Site(name, "parameter", tuple(value.shape), value.ndim) for name, value in parameters.items()]
    return Structure(tuple(sites), parameters, _observations(bound, messages), _nesting(sites, messages))


def _observations(bound: Bound, messages: Mapping[str, dict[str, Any]]) -> dict[str, torch.Tensor]:
    """What was observed, by the program or from outside, and outputs to which something is compared."""
    by_name = [name for name in messages if name in bound.missing or handlers.is_deterministic(messages[name])]
    observed = {
        name: torch.as_tensor(msg["value"]).detach()
        for name, msg in messages.items()
        if msg["is_observed"] and handlers.is_data(msg)
    }
    return observed | {name: bound.observed[name] for name in by_name if name in bound.observed}


def _nesting(sites: list[Site], messages: Mapping[str, dict[str, Any]]) -> int:
    """The number of dimensions, from the right, that batches and plates take up."""
    drawn = {name for name, msg in messages.items() if not handlers.is_deterministic(msg)}
    batches = [len(site.batch_shape) for site in sites if site.name in drawn]
    return max([*batches, *(-plate.dim for site in sites for plate in site.plates)], default=0)


def _nodes(bound: Bound, dtype: torch.dtype, seed: int) -> dict[str, dict[str, Any]]:
    with isolated(seed=seed, dtype=dtype), torch.no_grad():
        return {
            name: cast(dict[str, Any], msg)
            for name, msg in run(bound, parameters=cast_inputs(bound.parameters)).nodes.items()
        }


def _seen_again(sites: list[Site], bound: Bound, dtype: torch.dtype) -> list[Site]:
    """Suspicions kept only where another run of the program raises them as well.

    A support or a parameter that depends on latents may fit the data at some of their values and not at others.
    """
    nodes = _nodes(bound, dtype, seed=1)
    with isolated(dtype=dtype), torch.no_grad():
        return [_still_suspect(site, nodes.get(site.name)) for site in sites]


def _suspect(site: Site) -> bool:
    return not site.in_support or not math.isfinite(site.log_prob)


def _still_suspect(site: Site, msg: dict[str, Any] | None) -> Site:
    if msg is None or not _suspect(site):
        return site
    again = _site(msg, {})
    moved = str(again.support) != str(site.support)
    return replace(
        site,
        in_support=site.in_support or again.in_support or moved,
        log_prob=site.log_prob if not math.isfinite(again.log_prob) else again.log_prob,
    )


def _batch(indices: Any) -> int | None:
    """The ``subsample_size`` of a plate, where it is smaller than the plate."""
    asked = indices.subsample_size
    return None if asked is None or asked >= indices.size else int(asked)


def _role(msg: dict[str, Any]) -> Role:
    if handlers.is_deterministic(msg):
        return "deterministic"
    if handlers.is_factor(msg):
        return "factor"
    if msg["is_observed"]:
        return "observed"
    return "deterministic" if handlers.is_point_mass(msg) else "latent"


def _plates(msg: dict[str, Any], batches: Mapping[str, int | None]) -> tuple[Plate, ...]:
    return tuple(
        Plate(
            frame.name,
            int(frame.full_size or frame.size),
            frame.dim,
            frame.full_size not in (None, frame.size),
            batches.get(frame.name),
        )
        for frame in msg["cond_indep_stack"]
        if frame.vectorized and frame.dim is not None
    )


def _site(msg: dict[str, Any], batches: Mapping[str, int | None]) -> Site:
    fn, value, role, plates = msg["fn"], torch.as_tensor(msg["value"]), _role(msg), _plates(msg, batches)
    support, missing = handlers.support_of_components(declared_support(fn)), missing_of(msg)
    discrete = handlers.is_discrete(fn)
    unconstrained = None
    if role == "latent" and not discrete:
        unconstrained = unconstrained_shape(support, value.shape) if missing is None else (missing.count,)
    log_prob, error = _scored(msg, role)
    event_dim = int(fn.event_dim)
    if role == "deterministic" and event_dim == value.ndim and _spans(plates, tuple(value.shape)):
        event_dim = 0  # pyro.deterministic takes every dimension for an event unless told; plates know better
    return Site(
        name=msg["name"],
        role=role,
        shape=tuple(value.shape),
        event_dim=event_dim,
        plates=plates,
        support=support,
        discrete=discrete,
        states=count_states(fn) if role == "latent" else None,
        improper=role == "latent" and handlers.is_improper(fn),
        masked=not bool(mask_of(msg).all()),
        scaled=not bool(torch.as_tensor(msg["scale"]).eq(1.0).all()),
        distribution=type(handlers.base(fn)).__name__,
        unconstrained_shape=unconstrained,
        dtype=value.dtype,
        drawn_shape=durations.drawn_shape(fn, handlers.base(fn), value),
        in_support=(role != "observed" and missing is None) or in_support(fn, value, mask_of(msg)),
        log_prob=log_prob,
        impossible=handlers.impossible(fn, value, mask_of(msg)) if role == "observed" else 0,
        score_error=error,
        support_error=contradiction(fn, value) if unconstrained is not None and missing is None and not error else "",
        missing=missing,
    )


def _spans(plates: tuple[Plate, ...], shape: tuple[int, ...]) -> bool:
    return bool(plates) and all(-plate.dim <= len(shape) and shape[plate.dim] == plate.size for plate in plates)


def _scored(msg: dict[str, Any], role: Role) -> tuple[float, str]:
    """The log probability, or why it cannot be computed."""
    if role not in ("observed", "latent"):
        return 0.0, ""
    try:
        with Adapt(handlers.overrides_of({"site": msg})):
            log_prob = scale_and_mask(msg["fn"].log_prob(msg["value"]), mask=mask_of(msg))
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        return 0.0, str(error).strip().partition("\n")[0] or type(error).__name__
    return float(torch.as_tensor(log_prob).sum()), ""
