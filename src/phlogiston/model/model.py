"""``Model``: a Pyro program bound to its inputs and observations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.dependencies import parents_of
from phlogiston.engine.program.isolate import PROGRAM_LOCK, name_of, seed_sequence, signature_of
from phlogiston.engine.program.missing import Missing
from phlogiston.engine.program.repeatable import require_repeatable
from phlogiston.engine.program.sites import Site, Structure, discover
from phlogiston.engine.trace.batched import Tier
from phlogiston.engine.trace.cache import Family
from phlogiston.errors import ModelError, SettingError, ShapeWarning, positive_int, problem, warn
from phlogiston.model.binding import Binding, Coords
from phlogiston.model.inputs import as_input, bind, replaced
from phlogiston.model.preflight import Problem, problems_of, problems_of_labels, require_memory


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
        inputs = tuple(as_input(value) for value in args), {name: as_input(value) for name, value in kwargs.items()}
        bind(program, *inputs)
        self.__setstate__(Binding(program, *inputs, coords=dict(coords or {})))

    def __getstate__(self) -> Binding:
        return self._bound

    def __setstate__(self, bound: Binding) -> None:
        self._bound = bound
        # What is derived from the binding is computed when it is first needed, and is not pickled: graphs and machine
        # code belong to the process that made them.
        self._structure: Structure | None = None
        self._family: Family | None = None
        self._targets: dict[tuple[str, torch.dtype], Target] = {}
        self._is_repeatable = False

    def _of(self, bound: Binding) -> Model:
        new = object.__new__(Model)
        new.__setstate__(bound)
        return new

    @property
    def program(self) -> Callable[..., Any]:
        """The Pyro program."""
        return self._bound.program

    @property
    def args(self) -> tuple[Any, ...]:
        """Its positional inputs."""
        return self._bound.args

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """Its inputs by keyword."""
        return MappingProxyType(self._bound.kwargs)

    @property
    def observed(self) -> Mapping[str, torch.Tensor]:
        """The values given to ``observe``, by site."""
        return MappingProxyType(self._bound.observed)

    @property
    def missing(self) -> Mapping[str, Missing]:
        """The missing entries of sites that are observed in part, by site."""
        return MappingProxyType(self._bound.missing)

    @property
    def entries_observed(self) -> Mapping[str, NDArray[np.bool_]]:
        """Of sites that are observed in part: which entries are data."""
        return {name: ~missing.mask.numpy() for name, missing in self._bound.missing.items()}

    @property
    def parameters(self) -> Mapping[str, torch.Tensor]:
        """The values given to ``with_parameters``, by ``pyro.param`` name."""
        return MappingProxyType(self._bound.parameters)

    @property
    def coords(self) -> Coords:
        """Labels by dimension."""
        return MappingProxyType(self._bound.coords)

    @property
    def name(self) -> str:
        """The program's name."""
        return name_of(self.program)

    @property
    def inputs(self) -> dict[str, Any]:
        """Every input by the name of the program's parameter."""
        return dict(bind(self.program, self.args, self.kwargs).arguments)

    def labels(self, name: str, shape: Sequence[int]) -> list[Sequence[Any]]:
        """The labels of the positions along each dimension of a site: coords where they fit, otherwise numbers."""
        site = self.sites.get(name)
        dims = site.dims if site is not None and len(site.dims) == len(shape) else ("",) * len(shape)
        known = [self.coords.get(dim, ()) for dim in dims]
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
        new = self._of(self._bound.with_data(self.structure, values, may_miss=missing == "latent"))
        if self._family is not None and set(values) <= set(self._family.sites):
            new._family = self._family
        return new._checked()

    def for_many_data(self, *sites: str) -> Model:
        """The same model; those that ``observe`` makes of it with other values of these sites are traced once for all.

        Values of the same shapes are inputs of what is traced. It pays for many small data sets.
        """
        new = self._of(self._bound)
        new._family = Family(new, new.structure, sites)
        return new

    def with_inputs(self, *args: Any, **kwargs: Any) -> Model:
        """The same program and observations with the inputs given here replaced, the others kept.

        Labels of dimensions that have another length now are dropped.
        """
        before, after = bind(self.program, self.args, self.kwargs), bind(self.program, args, kwargs, partial=True)
        merged = replaced(before, after)
        fresh = Model(self.program, *merged.args, **merged.kwargs)
        sizes = fresh.structure.sizes
        coords = {dim: labels for dim, labels in self.coords.items() if len(labels) == sizes.get(dim, len(labels))}
        return self._of(replace(self._bound, args=fresh.args, kwargs=dict(fresh.kwargs), coords=coords))

    def with_coords(self, coords: Coords) -> Model:
        """The same model with these labels of dimensions; other dimensions keep theirs.

        Raises:
            ModelError: there is no such dimension, or it has another length.
        """
        for found in problems_of_labels(self.structure.sizes, coords):
            raise ModelError(str(found))
        return self._of(replace(self._bound, coords={**self._bound.coords, **coords}))

    def with_program(self, program: Callable[..., Any]) -> Model:
        """Another program on the same inputs, or on none if it takes none; nothing is observed."""
        takes_none = not signature_of(program).parameters
        return Model(program) if takes_none else Model(program, *self.args, coords=self.coords, **self.kwargs)

    def rewritten(self, program: Callable[..., Any]) -> Model:
        """The same model by another program of the same sites and inputs."""
        return self._of(replace(self._bound, program=program))

    def with_parameters(self, values: Mapping[str, torch.Tensor]) -> Model:
        """The same program with ``pyro.param`` statements (those of its modules too) held at values, by name.

        Raises:
            UnknownName: the program has no such parameter.
            ModelError: a value has another shape than the parameter.
        """
        return self._of(self._bound.with_parameters(self.structure, values))

    def unobserved(self, *names: str) -> Model:
        """The same program and inputs without the values given to ``observe``, or without those of some sites."""
        return self._of(self._bound.without_data(names or tuple(self.observed)))

    @property
    def implicit(self) -> tuple[str, ...]:
        """The sites without a density that were given a value: what a generator's output is compared with."""
        return tuple(site.name for site in self.structure.of("deterministic") if site.name in self.observed)

    @property
    def sites(self) -> dict[str, Site]:
        """Every site by name: role, support, shape, event_dim, plates, enumerable."""
        return {site.name: site for site in self.structure.sites}

    @property
    def structure(self) -> Structure:
        """The sites in program order, with parameters and observations."""
        with PROGRAM_LOCK:
            if self._structure is None:
                self._structure = discover(self)
            return self._structure

    def require_repeatable(self) -> None:
        """Refuse a program that draws outside of its sites or sets seeds; the program is run three times, once for all.

        Raises:
            ModelError: the density at the same values is another one in each run; names the line.
        """
        with PROGRAM_LOCK:
            if not self._is_repeatable:
                require_repeatable(self, self.structure)
                self._is_repeatable = True

    def check(self) -> list[Problem]:
        """Preflight: every problem with its site, what was found, what was expected, and the line to write.

        Returns an empty list for a model without problems. Costs one run of the program.
        """
        structure = self.structure
        doubtful = any(site.impossible for site in structure.observable)
        return problems_of(structure, self.inputs, self.observed, self.coords, parents_of(self) if doubtful else None)

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
                known = self.structure if dtype == torch.float64 and not self.structure.parameters else None
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
        require_memory(checked.structure, num_samples)
        return checked.target(engine).simulate({}, num_samples, seed_sequence(seed))

    def __repr__(self) -> str:
        shown = ", ".join(sorted(self.observed)) or "nothing"
        return f"Model({self.name}, observed: {shown})"
