"""``Target``: the log densities of a program, for thousands of draws in one call."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from phlogiston.engine.densities.chains import ChainDensity, Scale, chain_density, native_chain_density, of_columns
from phlogiston.engine.densities.coupling import tied_elements
from phlogiston.engine.densities.explain import explain_no_start, explain_values
from phlogiston.engine.densities.joint import Columns, FullDensity, constrained_density, full_density
from phlogiston.engine.densities.native import NativeReadings
from phlogiston.engine.densities.tempered import Tempered
from phlogiston.engine.program.enumeration import posterior as enumerated_posterior
from phlogiston.engine.program.enumeration import table_size as enumerated_table_size
from phlogiston.engine.program.interpreter import LIKELIHOOD, Interpreter, Slot
from phlogiston.engine.program.isolate import PROGRAM_LOCK, isolated
from phlogiston.engine.program.reading import Values
from phlogiston.engine.program.sites import Bound, Structure, discover
from phlogiston.engine.trace.batched import LEAVES_TORCH, Batched, Tier, Verification, Work
from phlogiston.engine.trace.cache import Family, given
from phlogiston.engine.trace.graph import Function
from phlogiston.errors import UnsupportedModel, UntraceableProgram, problem

_SUMMED_OUT = (
    "density",
    "density_and_grad",
    "joint_and_grad",
    "likelihood_and_grad",
    "tempered",
    "discretes",
)  # readings without discrete latents


class Target:
    r"""The log densities of a bound program.

    On named constrained values :math:`z`: ``log_prior`` :math:`\log p(z)`, ``log_likelihood``
    :math:`\log p(x \mid z)` per observed site and pointwise, ``log_joint`` their sum. On the flat
    unconstrained vector :math:`u` of the continuous latents: ``log_density``
    :math:`\log p(T(u), x) + \log |\det T'(u)|` with enumerable discrete latents summed out, and its gradient.
    Everything takes any number of leading batch dimensions.

    Args:
        bound: a ``Model`` (or anything with ``program, args, kwargs, observed``).
        engine: the tier to use; "auto" picks, the others insist; "native" falls back where there is no native code.
        dtype: precision of latents and densities; floating inputs and data are cast to it.
        structure: what the program consists of, where that is known.
        family: models that differ in their data alone, whose traces are to be shared.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> def program():
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0))
        >>> target = Target(ph.Model(program).observe(y=1.0), engine="graph")
        >>> target.log_density(torch.zeros(3, 1)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        bound: Bound,
        *,
        engine: Tier = "auto",
        dtype: torch.dtype = torch.float64,
        structure: Structure | None = None,
        family: Family | None = None,
    ) -> None:
        self.dtype = dtype
        self._wanted: Tier = engine
        self.structure: Structure = structure or discover(bound, dtype)
        self._family = family
        self._shared_inputs = {} if family is None else family.shared_inputs(bound, self.structure, dtype)
        self._interpreter = Interpreter(bound, self.structure)
        wanted = engine in ("auto", "native") and dtype == torch.float64 and family is None
        self._native = NativeReadings(self._interpreter, wanted=wanted)
        self._functions: dict[str, Batched] = {}
        self._chains: dict[tuple[Any, ...], ChainDensity] = {}
        self._full: dict[tuple[int, int], FullDensity] = {}
        self._independent = False  # known of the elements of plated discrete latents

    @property
    def dim(self) -> int:
        """Length of the unconstrained vector."""
        return self._interpreter.dim

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Where each continuous latent lives in the unconstrained vector."""
        return self._interpreter.slots

    def log_density(self, u: torch.Tensor) -> torch.Tensor:
        """``u [..., D]`` -> ``[...]``."""
        return self._flat("density", u)["value"]

    def value_and_grad(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``u [..., D]`` -> log density ``[...]`` and its gradient ``[..., D]``."""
        result = self._flat("density_and_grad", u)
        return result["value"], result["grad"]

    def joint_and_grad(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``u [..., D]`` -> log p(latents, observed), without the Jacobian, and its gradient by u."""
        result = self._flat("joint_and_grad", u)
        return result["value"], result["grad"]

    def likelihood_and_grad(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``u [..., D]`` -> log p(observed | latents) and its gradient; each datum takes its best discrete latents."""
        result = self._flat("likelihood_and_grad", u)
        return result["value"], result["grad"]

    def constrain(self, u: torch.Tensor) -> Values:
        """``u [..., D]`` -> the continuous latents by name, and deterministics that no discrete latent feeds."""
        return self._flat("constrain", u)

    def unconstrain(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The continuous latents by name, ``[..., *site shape]`` -> ``u [..., D]``."""
        names = [site.name for site in self.structure.continuous]
        return self._named("unconstrain", {name: values[name].to(self.dtype) for name in names})["u"]

    def log_prior(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """All latents by name -> ``[...]``."""
        return self._named("score", self._latents(values))["log_prior"]

    def log_likelihood(self, values: Mapping[str, torch.Tensor]) -> Values:
        """All latents by name -> for each observed site ``[..., *batch shape]``; factors are left out."""
        scored = self._named("score", self._latents(values))
        names = [site.name for site in self.structure.observable]
        return {name: scored[LIKELIHOOD + name] for name in names}

    def log_joint(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """All latents by name -> log p(latents, observed), ``[...]``."""
        scored = self._named("score", self._latents(values))
        return scored["log_prior"] + self.total_log_likelihood(scored, scored["log_prior"].ndim)

    @staticmethod
    def total_log_likelihood(scored: Values, batch_dims: int) -> torch.Tensor:
        """The sum of all observed sites' and factors' terms in a score."""
        terms = [v.reshape(*v.shape[:batch_dims], -1).sum(-1) for k, v in scored.items() if k.startswith(LIKELIHOOD)]
        return sum(terms, torch.zeros(scored["log_prior"].shape, dtype=scored["log_prior"].dtype))

    def deterministics(self, values: Mapping[str, torch.Tensor]) -> Values:
        """All latents by name -> the ``pyro.deterministic`` sites."""
        names = [site.name for site in self.structure.of("deterministic")]
        if not names:
            return {}
        scored = self._named("score", self._latents(values))
        return {name: scored[name] for name in names}

    def propose(self, num_draws: int, seed: np.random.SeedSequence, *, expected: int | None = None) -> Iterator[Values]:
        """Prior draws in chunks: latents, deterministics, and ``log_weight``, the log likelihood of each.

        ``expected`` says how many of them are likely to be asked for, where that is fewer than all.
        """
        self._refuse_improper({})
        return self._function("propose", {}).stream(self._no_inputs(num_draws), num_draws, seed, expected)

    def complete(self, values: Values, num_draws: int, seed: np.random.SeedSequence) -> Values:
        """Draw the latents that ``values`` lacks: all values, ``log_joint``, and ``log_drawn`` of what was drawn."""
        return self._function("complete", values)(values or self._no_inputs(num_draws), num_draws, seed)

    def simulate(self, values: Values, num_draws: int, seed: np.random.SeedSequence) -> Values:
        """Every site of the program: latents as given, else drawn; observed sites always drawn."""
        self._refuse_improper(values)
        return self._function("simulate", values)(values or self._no_inputs(num_draws), num_draws, seed)

    def recover_discretes(self, values: Values, seed: np.random.SeedSequence) -> Values:
        """Continuous latents ``[n, ...]`` -> with them, a joint posterior draw of the discrete ones for each."""
        rows = next(iter(values.values())).shape[0]
        return self._function("discretes", values)(values, rows, seed)

    def tied_elements(self) -> tuple[str, str] | None:
        """A plated discrete latent whose elements depend on each other, and the site by which; None if none do."""
        return tied_elements(self._interpreter, self.dtype)

    def table_size(self) -> int:
        """The largest table that ``enumerate`` would make, in numbers; nothing of that size is made."""
        with isolated(seed=0, dtype=self.dtype):
            return enumerated_table_size(self._interpreter.bound, self.structure)

    def enumerate(self) -> tuple[torch.Tensor, Values]:
        """Exact log evidence, and the posterior probabilities ``[*batch shape, states]`` of every discrete latent."""
        self._refuse_coupled()
        with isolated(seed=0, dtype=self.dtype):
            return enumerated_posterior(self._interpreter.bound, self.structure)

    def enumerate_draws(self, num_draws: int, seed: np.random.SeedSequence) -> Values:
        """Joint posterior draws of a program whose latents are all discrete, with the deterministics."""
        return self._function("discretes", {})(self._no_inputs(num_draws), num_draws, seed)

    def engine_of(self, name: str) -> str:
        """The tier that one of the readings last ran on, with the reason where it is not the fastest."""
        if self._native.ran(name):
            return "native"
        function = self._functions.get(name)
        if function is None:
            return ""
        return f"{function.last_tier} ({function.reason})" if function.reason else function.last_tier

    def work(self) -> Work:
        """What the density with its gradient costs, counted on its graph."""
        return self._function("density_and_grad", {"u": torch.zeros(1, self.dim, dtype=self.dtype)}).work

    def chains(self, scale: Scale, chains: int, calls: int) -> ChainDensity:
        """The density of so many chains, standardised by a scale like this one, for about so many calls."""
        key = (chains, *(part.shape for part in scale))
        with PROGRAM_LOCK, isolated(seed=0, dtype=self.dtype):
            kept = self._chains.get(key)
            if kept is None:
                self._refuse_coupled()
                native = self._native.chains(tuple(tuple(part.shape) for part in scale), chains)
                if native is not None:
                    kept = self._chains[key] = native_chain_density(native)
            if kept is None or kept.engine.startswith("graph"):  # more calls may now be worth compiling for
                batched = self._function("density_and_grad", {"u": torch.zeros(1, self.dim, dtype=self.dtype)})
                kept = chain_density(batched, scale, self.dim, chains, calls, self.not_native)
                self._chains[key] = kept
            return kept

    @property
    def not_native(self) -> str:
        """Why the density has no native code; "" where it has, or none is asked for."""
        return self._native.recording().reason

    def columns(
        self, *, jacobian: bool = True
    ) -> tuple[Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None, str]:
        """``u [D, S]`` -> log density ``[S]`` and gradient ``[D, S]``, to be traced within something larger.

        Without the ``jacobian`` it is log p(latents, observed). None where the program has to be looped over, with
        the reason.
        """
        name = "density_and_grad" if jacobian else "joint_and_grad"
        batched = self._function(name, {"u": torch.zeros(1, self.dim, dtype=self.dtype)})
        graph = batched.graph
        return (None, batched.reason) if graph is None else (of_columns(graph), "")

    def full(self, rows: int, calls: int) -> FullDensity:
        """The joint density of all latents, term by term, for about so many calls of so many rows."""
        with PROGRAM_LOCK:
            if (rows, calls) not in self._full:
                self._full[rows, calls] = full_density(self._interpreter, self._made, self.dtype, rows, calls)
            return self._full[rows, calls]

    def marginal(self, rows: int, calls: int) -> Columns:
        """``log_density`` for about so many calls of so many points, without a gradient."""
        batched = self._function("density", {"u": torch.zeros(1, self.dim, dtype=self.dtype)})
        return Columns(batched, "u", self.dim, self.dtype, rows, calls)

    def tempered(self, rows: int, calls: int) -> Tempered:
        """Prior and likelihood apart, at points on the way between them, for about so many calls of so many points."""
        inputs = {"u": torch.zeros(1, self.dim, dtype=self.dtype), "beta": torch.ones(1, dtype=self.dtype)}
        return Tempered(self._function("tempered", inputs), self.dim, rows, calls)

    def constrained(self, rows: int, calls: int) -> Columns:
        """The log joint density of all latents' values, one after another, for about so many calls."""
        return constrained_density(self._interpreter, self._made, self.dtype, rows, calls)

    def _flat(self, name: str, u: torch.Tensor) -> Values:
        u = torch.as_tensor(u, dtype=self.dtype)
        if u.shape[-1] != self.dim:
            found, expected = f"u of shape {tuple(u.shape)}", f"a last dimension of {self.dim}"
            raise ValueError(problem(f"Target.{name}", found=found, expected=expected))
        if name in _SUMMED_OUT:
            self._refuse_coupled()
        with PROGRAM_LOCK:
            native = self._native.evaluate(name, u.reshape((math.prod(u.shape[:-1]), self.dim)))
        if native is not None:
            return {key: value.reshape((*u.shape[:-1], *value.shape[1:])) for key, value in native.items()}
        return self._batch(name, {"u": u}, u.shape[:-1])

    def _named(self, name: str, values: Values) -> Values:
        first = next(iter(values), None)
        if first is None:
            return {key: value[0] for key, value in self._batch(name, self._no_inputs(1), torch.Size([1])).items()}
        shape = self.structure[first].shape
        tensor = values[first]
        return self._batch(name, values, tensor.shape[: tensor.ndim - len(shape)])

    def _batch(self, name: str, inputs: Values, batch: torch.Size) -> Values:
        rows = int(np.prod(batch))
        flat = {key: value.reshape((rows, *value.shape[len(batch) :])) for key, value in inputs.items()}
        result = self._function(name, flat)(flat, rows)
        return {key: value.reshape((*batch, *value.shape[1:])) for key, value in result.items()}

    def _latents(self, values: Mapping[str, torch.Tensor]) -> Values:
        latents = {}
        for site in self.structure.of("latent"):
            if site.name not in values:
                raise ValueError(
                    problem(f"site {site.name!r}", found="no value", expected=f"a value of shape [..., {site.shape}]")
                )
            value = torch.as_tensor(values[site.name])
            latents[site.name] = value.to(self.dtype) if value.is_floating_point() else value
        return latents

    def _no_inputs(self, rows: int) -> Values:
        return {"_": torch.zeros(rows, dtype=self.dtype)}

    def _function(self, name: str, inputs: Values) -> Batched:
        given = sorted(key for key in inputs if key != "_")
        key = name if name not in ("complete", "simulate") else f"{name}:{','.join(given)}"
        with PROGRAM_LOCK:
            if key not in self._functions:
                self._functions[key] = self._build(key, name, inputs)
            return self._functions[key]

    def _made(
        self, key: str, function: Function, example: Values, verification: Verification, is_random: bool = False
    ) -> Batched:
        """Make a function of draws that shares its traces with the models of the family."""
        shared = None
        if self._family is not None and self._shared_inputs:
            shared = self._shared_inputs, self._family.traces((key, self._wanted, self.dtype))
        return Batched(
            function,
            example,
            tier=self._wanted,
            dtype=self.dtype,
            is_random=is_random,
            verification=verification,
            shared=shared,
        )

    def _build(self, key: str, name: str, inputs: Values) -> Batched:
        if name in _SUMMED_OUT:
            self._refuse_coupled()
        bare = {key: value[0] for key, value in inputs.items()} if inputs else {"_": torch.zeros((), dtype=self.dtype)}

        def function(values: Values) -> Values:
            interpreter, others = given(self._interpreter, values)
            result: Values = getattr(interpreter, name)({} if "_" in bare else others)
            return result

        is_density = name in ("density", "density_and_grad", "joint_and_grad", "likelihood_and_grad", "tempered")
        stands_alone = is_density or name == "propose"
        second = {"u": torch.linspace(-0.7, 0.9, self.dim, dtype=self.dtype)}
        if name == "tempered":
            second["beta"] = torch.tensor(0.37, dtype=self.dtype)
        values_matter = name != "discretes" or bool(self.structure.of("deterministic"))
        return self._made(
            key,
            function,
            bare,
            Verification(
                second=second if is_density else None,
                check=self._check_proposal if name == "propose" else None,
                reference=None if stands_alone or not (self.dim or values_matter) else self._reference,
            ),
            is_random=name in ("propose", "complete", "simulate", "discretes"),
        )

    def _refuse_coupled(self) -> None:
        if self.structure.discrete and not self._independent:
            if (tied := self.tied_elements()) is not None:
                raise UnsupportedModel(
                    problem(
                        f"site {tied[0]!r}",
                        found=f"elements of one plate that site {tied[1]!r} ties together",
                        expected="elements that are independent given the rest, as each is summed out on its own",
                        fix='ph.infer(model, "gibbs"), "mh" or "importance"; or one site an element, without the plate',
                    )
                )
            self._independent = True

    def _reference(self) -> Batched:
        """The reading that decides whether graphs of this program follow it: prior draws, or the density."""
        if any(site.improper for site in self.structure.of("latent")):
            return self._function("density", {"u": torch.zeros(1, self.dim, dtype=self.dtype)})
        return self._function("propose", {})

    def _check_proposal(self, draw: Values) -> None:
        """Weigh a traced prior draw by the program itself: the weights must agree."""
        weight = self._interpreter.weigh({site.name: draw[site.name] for site in self.structure.of("latent")})
        if not torch.allclose(weight, draw["log_weight"], rtol=1e-9, atol=1e-9, equal_nan=True):
            raise UntraceableProgram(LEAVES_TORCH)

    def _refuse_improper(self, given: Mapping[str, torch.Tensor]) -> None:
        for site in self.structure.of("latent"):
            if site.improper and site.name not in given:
                raise UnsupportedModel(
                    problem(
                        f"site {site.name!r}",
                        found="an improper flat prior, from which nothing can be drawn",
                        expected="a proper prior",
                        fix=f'pyro.sample("{site.name}", dist.Normal(0.0, 10.0))',
                    )
                )

    def explain_no_start(self, u: torch.Tensor) -> str:
        """Which site has no finite log probability, or gradient, at ``u [D]``, and the value that it has there."""
        return explain_no_start(self._interpreter, self.dtype, u)

    def explain(self, values: Values) -> str:
        """The values of one draw, and the first site whose log probability is not finite there, for a message."""
        return explain_values(self._interpreter, self.dtype, values)
