"""The density of a case by Pyro alone: its own trace, its own enumeration, or a sum over every assignment."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.poutine.messenger import Messenger
from torch.distributions import biject_to
from torch.distributions.constraints import MixtureSameFamilyConstraint

from programs.case import Case

Values = Mapping[str, torch.Tensor]


@contextmanager
def in_float64() -> Iterator[None]:
    """Run Pyro in double precision, without validation, with an empty parameter store; put everything back."""
    before = torch.get_default_dtype()
    with pyro.validation_enabled(False), pyro.get_param_store().scope(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


class Given(Messenger):
    """Observe latents at values: those in ``u`` through the bijection of their support, ``values`` as they are.

    ``jacobian`` holds log |d value / d u| of the latest run, by site.
    """

    def __init__(self, u: Values, values: Values, supports: Mapping[str, Any], data: Values) -> None:
        super().__init__()
        self._u, self._values, self._supports, self._data = u, values, supports, data
        self.jacobian: dict[str, torch.Tensor] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        name = msg["name"]
        if msg["is_observed"] or type(msg["fn"]).__name__ == "_Subsample":
            return
        if getattr(msg["fn"].support, "is_discrete", False):
            _unmask(msg)
        if name in self._values:
            msg["value"], msg["is_observed"] = self._values[name], True
        elif name in self._u:
            msg["value"], msg["is_observed"] = self._constrained(msg), True

    def _constrained(self, msg: dict[str, Any]) -> torch.Tensor:
        name, u = msg["name"], self._u[msg["name"]]
        support = self._supports.get(name, msg["fn"].support)
        if isinstance(support, MixtureSameFamilyConstraint):
            support = support.base_constraint
        bijection = biject_to(support)
        missing = torch.isnan(self._data[name]) if name in self._data else None
        if missing is None:
            value = bijection(u)
            self.jacobian[name] = bijection.log_abs_det_jacobian(u, value).sum()
            return value
        full = torch.zeros(missing.shape).masked_scatter(missing, u)  # elementwise supports alone
        value = bijection(full)
        self.jacobian[name] = (bijection.log_abs_det_jacobian(full, value) * missing).sum()
        return torch.where(missing, value, self._data[name])


def _unmask(msg: dict[str, Any]) -> None:
    """A masked discrete latent keeps its own distribution and so sums to one; Pyro would count its states."""
    msg["mask"] = None
    if type(msg["fn"]).__name__ == "MaskedDistribution":
        msg["fn"] = msg["fn"].base_dist


class Density:
    """The log density of a case as Pyro has it.

    Args:
        case: the program with its data.
        slots: site -> where it lives in ``u``, and its shape there.
    """

    def __init__(self, case: Case, slots: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
        self.log_jacobian: Any = 0.0  # of the latest point
        self._case, self._slots = case, slots
        given = {name: torch.as_tensor(value) for name, value in case.observed.items()}
        given = {name: value.double() if value.is_floating_point() else value for name, value in given.items()}
        partial = {name: value for name, value in given.items() if value.is_floating_point() and value.isnan().any()}
        self._partial = partial
        program = case.reference or case.program
        self._program = poutine.condition(program, data={k: v for k, v in given.items() if k not in partial})
        self._args = tuple(
            arg.double() if isinstance(arg, torch.Tensor) and arg.is_floating_point() else arg for arg in case.args
        )

    def value_and_grad(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``u [D]`` -> log density with the Jacobian, discrete latents summed out, and its gradient."""
        u = u.clone().requires_grad_()
        split = {
            name: u[start : start + math.prod(shape)].reshape(shape) for name, (start, shape) in self._slots.items()
        }
        given = Given(split, {}, self._case.supports, self._partial)
        with in_float64():
            total = {"trace": self._trace_sum, "enum": self._enumerated, "brute": self._brute}[self._case.oracle](given)
            self.log_jacobian = sum(value.detach() for value in given.jacobian.values())
        if not (isinstance(total, torch.Tensor) and total.requires_grad):
            return torch.as_tensor(total, dtype=torch.float64), torch.zeros_like(u)
        (grad,) = torch.autograd.grad(total, u, allow_unused=True)
        return total.detach(), torch.zeros_like(u) if grad is None else grad

    def draw(self, names: list[str], seed: int) -> dict[str, torch.Tensor]:
        """A prior draw of these sites."""
        with in_float64(), torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            with _Doubles():
                nodes = poutine.trace(self._case.program).get_trace(*self._args).nodes
            return {name: torch.as_tensor(nodes[name]["value"]) for name in names}

    def score(self, values: Values) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Every latent's value -> log p(values, observed), and the log probability of each observed site."""
        filled = {
            name: torch.where(self._partial[name].isnan(), value, self._partial[name])
            if name in self._partial
            else value
            for name, value in values.items()
        }
        given = Given({}, filled, {}, {})
        with in_float64(), torch.no_grad():
            trace = self._trace(given)
            trace.compute_log_prob(lambda name, msg: not msg["infer"].get("_deterministic"))
            terms = {name: msg["log_prob"] for name, msg in trace.nodes.items() if "log_prob" in msg}
        return sum(term.sum() for term in terms.values()), terms

    def _trace(self, given: Messenger) -> poutine.Trace:
        with given:
            return poutine.trace(self._program).get_trace(*self._args)

    def _trace_sum(self, given: Given) -> torch.Tensor:
        return self._trace(given).log_prob_sum() + sum(given.jacobian.values())

    def _enumerated(self, given: Given) -> torch.Tensor:
        nesting = self._case.nesting
        if nesting is None:
            nodes = poutine.trace(self._program).get_trace(*self._args).nodes.values()
            laws = [msg["fn"] for msg in nodes if msg["type"] == "sample" and type(msg["fn"]).__name__ != "_Subsample"]
            nesting = max((len(law.batch_shape) for law in laws), default=0)

        def program(*args: Any) -> None:
            with given:
                self._program(*args)

        elbo = TraceEnum_ELBO(max_plate_nesting=nesting)
        enumerating = config_enumerate(program, "parallel")
        try:
            loss = elbo.differentiable_loss(enumerating, lambda *args: None, *self._args)
        except ValueError as error:  # nothing in the program depends on its continuous latents
            if "differentiated" not in str(error):
                raise
            loss = elbo.loss(enumerating, lambda *args: None, *self._args)
        return -torch.as_tensor(loss) + sum(given.jacobian.values())

    def _brute(self, given: Given) -> torch.Tensor:
        """Sum over every assignment of the discrete latents."""
        choices = _choices(self._trace(given))
        totals = []
        for picked in itertools.product(*(range(len(states)) for _, _, states in choices)):
            values: dict[str, torch.Tensor] = {}
            for (name, entry, states), state in zip(choices, picked, strict=True):
                value = values.setdefault(name, states[0].expand(entry.shape).clone())
                values[name] = torch.where(entry, states[state], value)
            totals.append(self._trace_sum(_Both(given, values)))  # the Jacobian may depend on the assignment
        return torch.logsumexp(torch.stack(totals), 0)


class _Doubles(Messenger):
    """Draw in double precision what a prior made elsewhere draws in single."""

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if isinstance(msg["value"], torch.Tensor) and msg["value"].is_floating_point():
            msg["value"] = msg["value"].double()


class _Both(Given):
    """``given`` with discrete values beside it."""

    def __init__(self, given: Given, values: Values) -> None:
        super().__init__(given._u, values, given._supports, given._data)
        self.jacobian = given.jacobian


def _choices(trace: poutine.Trace) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """For each entry of each discrete latent: its site, where it lies, and its states."""
    found = []
    for name, msg in trace.nodes.items():
        fn: Any = msg.get("fn")
        if msg["type"] != "sample" or msg["is_observed"] or not getattr(fn, "has_enumerate_support", False):
            continue
        states = fn.enumerate_support(expand=False).reshape(-1)
        for place in range(math.prod(fn.batch_shape)):
            entry = torch.arange(math.prod(fn.batch_shape)) == place
            found.append((name, entry.reshape(fn.batch_shape), states))
    return found
