"""Handlers that stand between a program and its readings and repair what a distribution or Pyro says wrongly.

``Guard`` gives a distribution its true support and keeps entries that do not count out of every gradient. ``Computed``
tells values that a reparameterisation computed from data.
"""

from __future__ import annotations

import copy
from typing import Any

import pyro
import torch
from pyro.distributions import Delta, TorchDistribution
from pyro.poutine.messenger import Messenger
from torch.distributions import Distribution, transform_to
from torch.distributions.utils import lazy_property

from phlogiston.engine.program.handlers import Message, base, is_data, is_deterministic, is_factor
from phlogiston.engine.program.supports import is_declared_right, support_of
from phlogiston.errors import UnsupportedModel, problem

Mask = torch.Tensor | None


class GuardedDistribution(TorchDistribution):
    """A distribution with its true support, whose density is zero outside of it.

    Entries where ``counts`` is False are scored at constants. Their terms are multiplied by zero afterwards, and zero
    times an infinite derivative would be NaN in the gradient of everything that the entry depends on.

    Args:
        base_dist: the distribution as the program gives it.
        support: its true support, or None where the declared one is right.
        counts: whether an element counts, of a shape that broadcasts with the batch shape; None where all do.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (the name and its type are torch's)

    def __init__(self, base_dist: Any, support: Any, counts: Mask) -> None:
        self.base_dist: Any = base_dist
        self._support, self._counts = support, counts
        self._mask = getattr(base_dist, "_mask", None)
        self.has_rsample, self.has_enumerate_support = base_dist.has_rsample, base_dist.has_enumerate_support
        super().__init__(base_dist.batch_shape, base_dist.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """The true support."""
        return self.base_dist.support if self._support is None else self._support

    @property
    def mean(self) -> torch.Tensor:
        """The mean."""
        result: torch.Tensor = self.base_dist.mean
        return result

    @property
    def variance(self) -> torch.Tensor:
        """The variance."""
        result: torch.Tensor = self.base_dist.variance
        return result

    def enumerate_support(self, expand: bool = True) -> torch.Tensor:
        """All values."""
        result: torch.Tensor = self.base_dist.enumerate_support(expand=expand)
        return result

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        """Draws."""
        result: torch.Tensor = self.base_dist.sample(sample_shape)
        return result

    def rsample(self, sample_shape: Any = ()) -> torch.Tensor:
        """Differentiable draws."""
        result: torch.Tensor = self.base_dist.rsample(sample_shape)
        return result

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution for a larger batch."""
        wider = self.base_dist.expand(batch_shape)
        return GuardedDistribution(wider, None if self._support is None else support_of(wider), self._counts)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log density, minus infinity outside of the support."""
        fn = self.base_dist
        if self._counts is not None:
            fn = _with_constants(fn, self._counts)
            value = torch.where(_for_events(self._counts, self.event_dim), value, _harmless(fn, value))
        if self._support is None:
            return torch.as_tensor(fn.log_prob(value))
        inside = self._support.check(value)
        harmless = torch.where(_for_events(inside, self.event_dim), value, _harmless(self, value))
        return torch.where(inside, fn.log_prob(harmless), -torch.inf)


class Guard(Messenger):
    """Wrap the distributions that need it in a ``GuardedDistribution``.

    An observed angle may be given in any turn, as densities of angles are periodic; only a latent stays on the circle.
    """

    def _pyro_sample(self, msg: Message) -> None:
        if not is_data(msg) or isinstance(base(msg["fn"]), Delta):
            return
        fn, counts = msg["fn"], _counts(msg)
        periodic = "VonMises" in type(base(fn)).__name__
        wrong = not is_declared_right(fn) and not (msg["is_observed"] and periodic)
        if wrong or counts is not None:
            msg["fn"] = GuardedDistribution(fn, support_of(fn) if wrong else None, counts)


class Computed(Messenger):
    """Mark the sites that ``poutine.reparam`` computes as deterministic; Pyro marks them as observed.

    Such a site is a ``Delta`` around its own value. Where it carries a density, as under ``SplitReparam``, that density
    becomes a factor of its own; Pyro masks those that carry none. The handler has to be nearer to the program than
    those that give values to sites. A site whose auxiliary site is observed is refused: Pyro then scores the auxiliary
    value and leaves out the Jacobian, so that the density would not be that of the program.
    """

    def __init__(self) -> None:
        super().__init__()
        self._observed: list[str] = []

    def _pyro_sample(self, msg: Message) -> None:
        if is_deterministic(msg) or is_factor(msg) or not msg["is_observed"]:
            return
        point = base(msg["fn"])
        if not isinstance(point, Delta) or point.v is not msg["value"]:
            self._observed.append(msg["name"])
            return
        name = msg["name"]
        auxiliary = next((other for other in self._observed if other.startswith(f"{name}_")), None)
        if auxiliary is not None:
            raise UnsupportedModel(
                problem(
                    f"site {name!r}",
                    found=f"data under a reparameterisation, which observes {auxiliary!r} without its Jacobian",
                    expected="reparameterised latents only",
                    fix=f"config without {name!r}",
                )
            )
        msg["infer"] = {**msg["infer"], "_deterministic": True}
        if getattr(msg["fn"], "_mask", None) is not False:
            pyro.factor(f"{name}_log_density", point.log_density)


def _counts(msg: Message) -> Mask:
    """Where a site's terms are not multiplied by zero; None where none is known to be."""
    found: Mask = None
    for mask in (msg["mask"], getattr(msg["fn"], "_mask", None)):
        if isinstance(mask, torch.Tensor):
            found = mask if found is None else found & mask
    scale = msg["scale"]
    if isinstance(scale, torch.Tensor) and scale.ndim:
        found = scale != 0.0 if found is None else found & (scale != 0.0)
    return found


def _with_constants(fn: Any, counts: torch.Tensor) -> Any:
    """A copy of a distribution whose parameters are constants where an element does not count.

    A parameter may be the very thing that is degenerate there, such as a rate of zero. What cannot be exchanged, such
    as a parameter without a constraint of its own, stays as it is.
    """
    new, constraints = copy.copy(fn), fn.arg_constraints
    kept: dict[str, Any] = {}
    for name, value in vars(fn).items():
        if isinstance(value, Distribution):
            depth = len(value.batch_shape) - len(fn.batch_shape)
            fits = depth >= 0 and value.batch_shape[: len(fn.batch_shape)] == fn.batch_shape
            kept[name] = _with_constants(value, _for_events(counts, depth)) if fits else value
        elif name in constraints and isinstance(value, torch.Tensor) and value.is_floating_point():
            # Constants rise from parameter to parameter: the upper end of an interval has to lie above the lower one.
            kept[name] = _with_constant(value, constraints[name], counts, float(len(kept)))
        elif not isinstance(getattr(type(fn), name, None), lazy_property):
            kept[name] = value
    new.__dict__.clear()
    new.__dict__.update(kept)
    return new


def _with_constant(value: torch.Tensor, constraint: Any, counts: torch.Tensor, at: float) -> torch.Tensor:
    try:
        onto, depth = transform_to(constraint), constraint.event_dim
        constant = onto(torch.full(onto.inverse_shape(value.shape), at, dtype=value.dtype, device=value.device))
    except NotImplementedError:  # a constraint that depends on other parameters
        return value
    return torch.where(_for_events(counts, depth), value, constant)


def _harmless(fn: Any, value: torch.Tensor) -> torch.Tensor:
    """Some value of the support, which no gradient passes."""
    if not value.is_floating_point() or getattr(fn.support, "is_discrete", False):
        return torch.zeros_like(value)
    try:
        onto = transform_to(fn.support)
        point = onto(torch.zeros(onto.inverse_shape(value.shape), dtype=value.dtype, device=value.device))
    except NotImplementedError:  # a support without a map onto it
        return value
    return torch.as_tensor(point).detach()


def _for_events(counts: torch.Tensor, event_dim: int) -> torch.Tensor:
    return counts[(..., *(None for _ in range(event_dim)))]
