"""``Model``: a Pyro program bound to its inputs and observations."""

from __future__ import annotations

import inspect
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.dependencies import parents_of
from phlogiston.engine.program.isolate import PROGRAM_LOCK, seed_sequence
from phlogiston.engine.program.missing import Missing
from phlogiston.engine.program.sites import Site, Structure, discover
from phlogiston.engine.trace.batched import Tier
from phlogiston.engine.trace.cache import Family
from phlogiston.errors import (
    ModelError,
    SettingError,
    ShapeWarning,
    UnknownName,
    did_you_mean,
    positive_int,
    problem,
    warn,
)
from phlogiston.model.preflight import Problem, insist_on_memory, problems_of, problems_of_labels

Coords = Mapping[str, Sequence[Any]]


class Model:
    r"""A generative model: a Pyro program with its inputs, conditioned on observations by site name.

    The program is any callable with ``pyro.sample`` statements; it defines
    :math:`p(x, z) = \prod_i p(z_i \mid \mathrm{parents}) \prod_j p(x_j \mid \mathrm{parents})`. Which sites are
    observed is not the program's business: ``.observe`` says it, so one program serves prior simulation, posterior
    and prediction. Programs that use ``obs=`` work as they are.

    Args:
        program: a callable with Pyro statements.
        *args: its inputs; NumPy arrays, pandas and xarray objects become tensors.
        coords: plate (or dimension) name -> labels.
        **kwargs: its inputs by keyword.

    Raises:
        TypeError: the program is not callable, or the inputs do not fit its signature.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def coin():
        ...     p = pyro.sample("p", dist.Beta(2.0, 3.0))
        ...     pyro.sample("heads", dist.Binomial(10, p))
        >>> model = Model(coin).observe(heads=7.0)
        >>> {name: site.role for name, site in model.sites.items()}
        {'p': 'latent', 'heads': 'observed'}
    """

    def __init__(self, program: Callable[..., Any], *args: Any, coords: Coords | None = None, **kwargs: Any) -> None:
        if not callable(program):
            raise TypeError(f"Model: found a {type(program).__name__}; expected a callable with pyro.sample statements")
        self._program = program
        self._args = tuple(as_input(value) for value in args)
        self._kwargs = MappingProxyType({name: as_input(value) for name, value in kwargs.items()})
        self._observed: Mapping[str, torch.Tensor] = MappingProxyType({})
        self._missing: Mapping[str, Missing] = MappingProxyType({})
        self._parameters: Mapping[str, torch.Tensor] = MappingProxyType({})
        self._coords: Coords = MappingProxyType(dict(coords or {}))
        self._forget()
        _bind(program, self._args, self._kwargs)

    def _forget(self) -> None:
        self._structure: Structure | None = None
        self._family: Family | None = None
        self._targets: dict[tuple[str, torch.dtype], Target] = {}

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_program", "_args", "_kwargs", "_observed", "_missing", "_parameters", "_coords")
        return {name: dict(v) if isinstance(v := getattr(self, name), MappingProxyType) else v for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, MappingProxyType(value) if isinstance(value, dict) else value)
        self._forget()

    @property
    def program(self) -> Callable[..., Any]:
        """The Pyro program."""
        return self._program

    @property
    def args(self) -> tuple[Any, ...]:
        """Its positional inputs."""
        return self._args

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """Its inputs by keyword."""
        return self._kwargs

    @property
    def observed(self) -> Mapping[str, torch.Tensor]:
        """The values given to ``observe``, by site."""
        return self._observed

    @property
    def missing(self) -> Mapping[str, Missing]:
        """The missing entries of sites that are observed in part, by site."""
        return self._missing

    @property
    def entries_observed(self) -> Mapping[str, NDArray[np.bool_]]:
        """Of sites that are observed in part: which entries are data."""
        return {name: ~missing.mask.numpy() for name, missing in self._missing.items()}

    @property
    def parameters(self) -> Mapping[str, torch.Tensor]:
        """The values given to ``with_parameters``, by ``pyro.param`` name."""
        return self._parameters

    @property
    def coords(self) -> Coords:
        """Labels by dimension."""
        return self._coords

    @property
    def name(self) -> str:
        """The program's name."""
        return getattr(self._program, "__name__", type(self._program).__name__)

    @property
    def inputs(self) -> dict[str, Any]:
        """Every input by the name of the program's parameter."""
        return dict(_bind(self._program, self._args, self._kwargs).arguments)

    def labels(self, name: str, shape: Sequence[int]) -> list[Sequence[Any]]:
        """What each position along each dimension of a site is called: coords where they fit, else numbers."""
        site = self.sites.get(name)
        dims = site.dims if site is not None and len(site.dims) == len(shape) else ("",) * len(shape)
        known = [self._coords.get(dim, ()) for dim in dims]
        return [labels if len(labels) == n else range(n) for labels, n in zip(known, shape, strict=True)]

    def observe(self, *, missing: Literal["refuse", "latent"] = "refuse", **values: Any) -> Model:
        r"""The same program, conditioned on values for some of its sites.

        Args:
            missing: what NaN means. "latent": that this entry was not observed. It becomes a latent, and only it; the
                density is :math:`p(z, x_\mathrm{mis}, x_\mathrm{obs})` and the posterior holds the site under its own
                name, observed entries as they are. "refuse": NaN is a mistake.
            **values: site name -> value of the site's shape. A ``pyro.deterministic`` site has no density: its value is
                data that ``ph.Adversarial`` compares it with, and no method of inference takes it.

        Raises:
            UnknownName: no site of that name is drawn by the program.
            ModelError: a value has the wrong shape, is not finite, or lies outside the support.
            ProgramError: the program itself raised.

        Example:
            >>> import pyro, pyro.distributions as dist
            >>> def program():
            ...     mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
            ...     with pyro.plate("i", 3):
            ...         pyro.sample("y", dist.Normal(mu, 1.0))
            >>> model = Model(program).observe(y=[1.0, float("nan"), 2.0], missing="latent")
            >>> [site.name for site in model.structure.of("latent")]
            ['mu', 'y']
        """
        if missing not in ("refuse", "latent"):
            raise SettingError(problem("missing", found=repr(missing), expected="'refuse' or 'latent'"))
        known = {site.name for site in self._sites().of("latent", "observed", "deterministic")}
        for name in values:
            if name not in known:
                raise UnknownName(self._not_observable(name, known))
        given = {name: _as_tensor(name, value) for name, value in values.items()}
        found = {name: Missing.entries_of(value) for name, value in given.items() if missing == "latent"}
        kept = {name: entries for name, entries in self._missing.items() if name not in given}
        kept |= {name: entries for name, entries in found.items() if entries is not None}
        observed = MappingProxyType({**self._observed, **given})
        implicit = {site.name for site in self._sites().of("deterministic")} & set(given)
        for name in kept:
            self._insist_on_shape(name, self._sites()[name].drawn_shape, observed[name])
        for name in implicit:
            self._insist_on_shape(name, self._sites()[name].shape, observed[name])
        new = self._with(_observed=observed, _missing=MappingProxyType(kept))
        if self._family is not None and set(values) <= set(self._family.sites):
            new._family = self._family
        return new._checked()

    def for_many_data(self, *sites: str) -> Model:
        """The same model; those that ``observe`` makes of it with other values of these sites are traced once for all.

        Values of the same shapes are inputs of what is traced. It pays for many small data sets.
        """
        new = self._with()
        new._family = Family(new, new.structure, sites)
        return new

    def _insist_on_shape(self, name: str, shape: tuple[int, ...], value: torch.Tensor) -> None:
        if tuple(value.shape) != shape:
            raise ModelError(
                problem(f"site {name!r}", found=f"an observed value of shape {tuple(value.shape)}", expected=f"{shape}")
            )

    def _not_observable(self, name: str, known: set[str]) -> str:
        role = self.sites[name].role if name in self.sites else ""
        if role:
            kind = "a parameter" if role == "parameter" else "a factor"
            hint = did_you_mean(name, known)
            return f"observe: {name!r} is {kind} in program {self.name!r}; expected a site that is drawn; {hint}"
        return f"observe: program {self.name!r} has no site {name!r}; {did_you_mean(name, known)}"

    def with_inputs(self, *args: Any, **kwargs: Any) -> Model:
        """The same program and observations with the inputs given here replaced, the others kept.

        Labels of dimensions that have another length now are dropped.
        """
        signature = _signature(self._program)
        before, after = _bind(self._program, self._args, self._kwargs), _bind(self._program, args, kwargs, partial=True)
        merged = {**before.arguments, **after.arguments}
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                merged[name] = {**before.arguments.get(name, {}), **after.arguments.get(name, {})}
        bound = inspect.BoundArguments(signature, OrderedDict(merged))
        fresh = Model(self._program, *bound.args, **bound.kwargs)
        sizes = fresh.structure.sizes
        coords = {dim: labels for dim, labels in self._coords.items() if len(labels) == sizes.get(dim, len(labels))}
        return fresh._with(
            _observed=self._observed,
            _missing=self._missing,
            _parameters=self._parameters,
            _coords=MappingProxyType(coords),
        )

    def with_coords(self, coords: Coords) -> Model:
        """The same model with these labels of dimensions; other dimensions keep theirs.

        Raises:
            ModelError: there is no such dimension, or it has another length.
        """
        for found in problems_of_labels(self.structure.sizes, coords):
            raise ModelError(str(found))
        return self._with(_coords=MappingProxyType({**self._coords, **coords}))

    def with_program(self, program: Callable[..., Any]) -> Model:
        """Another program on the same inputs, or on none if it takes none; nothing is observed."""
        takes_none = not _signature(program).parameters
        return Model(program) if takes_none else Model(program, *self._args, coords=self._coords, **self._kwargs)

    def rewritten(self, program: Callable[..., Any]) -> Model:
        """The same model by another program of the same sites and inputs."""
        return self._with(_program=program)

    def with_parameters(self, values: Mapping[str, torch.Tensor]) -> Model:
        """The same program with ``pyro.param`` statements (those of its modules too) held at values, by name.

        Raises:
            UnknownName: the program has no such parameter.
            ModelError: a value has another shape than the parameter.
        """
        known = {site.name: site for site in self._sites().of("parameter")}
        for name, value in values.items():
            if name not in known:
                raise UnknownName(
                    f"with_parameters: program {self.name!r} has no parameter {name!r}; {did_you_mean(name, known)}"
                )
            if tuple(value.shape) != known[name].shape:
                raise ModelError(
                    problem(
                        f"parameter {name!r}",
                        found=f"shape {tuple(value.shape)}",
                        expected=f"that of the program, {known[name].shape}",
                    )
                )
        frozen = {name: value.detach().clone() for name, value in values.items()}
        return self._with(_parameters=MappingProxyType({**self._parameters, **frozen}))

    def unobserved(self, *names: str) -> Model:
        """The same program and inputs without the values given to ``observe``, or without those of some sites."""
        gone = set(names or self._observed)
        kept, missing = ({k: v for k, v in of.items() if k not in gone} for of in (self._observed, self._missing))
        return self._with(_observed=MappingProxyType(kept), _missing=MappingProxyType(missing))

    @property
    def implicit(self) -> tuple[str, ...]:
        """The sites without a density that were given a value: what a generator's output is compared with."""
        return tuple(site.name for site in self._sites().of("deterministic") if site.name in self._observed)

    def _with(self, **changes: Any) -> Model:
        new = object.__new__(Model)
        new.__setstate__({**self.__getstate__(), **changes})
        return new

    @property
    def sites(self) -> dict[str, Site]:
        """Every site by name: role, support, shape, event_dim, plates, enumerable."""
        return {site.name: site for site in self._sites().sites}

    @property
    def structure(self) -> Structure:
        """The sites in program order, with parameters and observations."""
        return self._sites()

    def _sites(self) -> Structure:
        with PROGRAM_LOCK:
            if self._structure is None:
                self._structure = discover(self)
            return self._structure

    def check(self) -> list[Problem]:
        """Preflight: every problem with its site, what was found, what was expected, and the line to write.

        Returns an empty list for a model without problems. Costs one run of the program.
        """
        structure = self._sites()
        doubtful = any(site.impossible for site in structure.observable)
        return problems_of(structure, self.inputs, self._observed, self._coords, parents_of(self) if doubtful else None)

    def _checked(self) -> Model:
        for found in self.check():
            if found.severity == "error":
                raise ModelError(str(found))
        return self

    def validated(self) -> Model:
        """This model; errors raise, doubts warn once (each method calls this first)."""
        self._checked()
        for found in self.check():
            warn(str(found), ShapeWarning)
        return self

    def target(self, engine: Tier = "auto", dtype: torch.dtype = torch.float64) -> Target:
        """The log densities of this model; traced once and kept."""
        with PROGRAM_LOCK:
            if (engine, dtype) not in self._targets:
                known = self._sites() if dtype == torch.float64 and not self._sites().parameters else None
                made = Target(self, engine=engine, dtype=dtype, structure=known, family=self._family)
                self._targets[engine, dtype] = made
            return self._targets[engine, dtype]

    def simulate(
        self, num_samples: int = 1000, *, seed: int | None = None, engine: Tier = "auto"
    ) -> dict[str, torch.Tensor]:
        """Ancestral sampling: every site drawn from the program, observed ones too.

        Args:
            num_samples: draws.
            seed: of the draws.
            engine: the tier to use.

        Returns:
            site -> ``[num_samples, *site shape]``.

        Raises:
            UnsupportedModel: a latent has an improper prior.
            ModelError: the inputs or observations are wrong.
            SettingError: the draws would not fit into the machine's memory.

        Example:
            >>> import pyro, pyro.distributions as dist
            >>> draws = Model(lambda: pyro.sample("z", dist.Normal(0.0, 1.0))).simulate(5, seed=0)
            >>> draws["z"].shape
            torch.Size([5])
        """
        positive_int(num_samples=num_samples)
        checked = self._checked()
        insist_on_memory(checked.structure, num_samples)
        return checked.target(engine).simulate({}, num_samples, seed_sequence(seed))

    def __repr__(self) -> str:
        shown = ", ".join(sorted(self._observed)) or "nothing"
        return f"Model({self.name}, observed: {shown})"


def as_input(value: Any) -> Any:
    """Arrays of any library as tensors; everything else as it is."""
    if isinstance(value, torch.Tensor) or not hasattr(value, "__array__"):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        return value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of read-only arrays; a copy is made right after
        return torch.as_tensor(array).clone()


def _as_tensor(name: str, value: Any) -> torch.Tensor:
    value = as_input(value)
    try:
        tensor = value if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value)).clone()
    except (TypeError, ValueError) as error:
        raise ModelError(f"site {name!r}: found {type(value).__name__}; expected numbers ({error})") from error
    if tensor.is_complex():
        raise ModelError(problem(f"site {name!r}", found="complex numbers", expected="real ones"))
    return tensor.detach().to(torch.get_default_dtype() if tensor.dtype == torch.bool else tensor.dtype)


def _signature(program: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(program)
    except ValueError:  # a builtin without one
        return inspect.signature(lambda *args, **kwargs: None)


def _bind(
    program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, partial: bool = False
) -> inspect.BoundArguments:
    signature = _signature(program)
    try:
        return (signature.bind_partial if partial else signature.bind)(*args, **kwargs)
    except TypeError as error:
        name = getattr(program, "__name__", type(program).__name__)
        raise TypeError(f"Model: the inputs do not fit {name}{signature}: {error}") from error
