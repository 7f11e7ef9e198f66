"""Supports of distributions that torch or Pyro declares too large, and the bijections onto them.

``TransformedDistribution`` declares the codomain of its last transform, whatever its base: an exponential that is
scaled by 2 is said to live on the whole line. What ``log_prob`` returns outside of the true support is no density, and
every method that moves through unconstrained space goes wrong without a word. The von Mises distributions declare the
line for the circle.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution, SineBivariateVonMises
from torch.distributions import (
    ComposeTransform,
    Independent,
    MixtureSameFamily,
    Transform,
    TransformedDistribution,
    VonMises,
    biject_to,
    constraints,
    transform_to,
)
from torch.distributions.constraints import MixtureSameFamilyConstraint

_LARGEST_CHECKED = 10_000  # numbers of a site: checking more would be felt, and elements of a site are alike
_REGISTRIES: tuple[Any, ...] = (biject_to, transform_to)
_INDEPENDENT: Any = constraints.independent
_DECLARED = inspect.getattr_static(TransformedDistribution, "support")


class Image(constraints.Constraint):
    """The image of a support under transforms, :math:`T_k(\\dots T_1(S))`.

    Args:
        base: the support :math:`S` of the distribution that is transformed.
        transforms: bijective transforms in the order in which they are applied, with parameters of any shape.
    """

    def __init__(self, base: Any, transforms: Sequence[Transform]) -> None:
        self.base, self.transforms = base, tuple(transforms)
        self.event_dim = ComposeTransform(list(transforms)).codomain.event_dim
        if base.event_dim > self.event_dim:
            self.event_dim = base.event_dim
        super().__init__()

    def check(self, value: torch.Tensor) -> torch.Tensor:
        """Whether each event lies in the image: it is transformed back step by step."""
        dims, found = value.ndim - self.event_dim, torch.tensor(True)
        for transform in reversed(self.transforms):
            found = found & _by_event(cast(Any, transform.codomain).check(value), dims)
            value = transform.inv(value)
        return found & _by_event(self.base.check(value), dims)

    def __repr__(self) -> str:
        names = ", then ".join(type(transform).__name__ for transform in self.transforms)
        return f"the image of {self.base} under {names}"


class Circle(constraints.Constraint):
    """Angles from -pi to pi, whose ends are one point.

    Args:
        loc: an angle from which the cut of the circle is to be as far as possible.
    """

    event_dim = 0

    def __init__(self, loc: torch.Tensor | float = 0.0) -> None:
        self.loc = loc
        super().__init__()

    def check(self, value: torch.Tensor) -> torch.Tensor:
        """Whether each angle lies between -pi and pi."""
        return (value >= -math.pi) & (value <= math.pi)

    def __repr__(self) -> str:
        return "angles from -pi to pi"


class CircleTransform(Transform):
    r"""Map the line onto the circle without the point opposite to ``loc``.

    :math:`\theta = \mathrm{wrap}(\mathrm{loc} + \pi (2 \sigma(u) - 1))`. The map has to leave a point out; where a von
    Mises prior is cut, it has its lowest density, so that a posterior is rarely cut in two.
    """

    domain = constraints.real
    bijective = True

    def __init__(self, loc: torch.Tensor | float) -> None:
        super().__init__()
        self._loc = loc
        self.codomain = Circle(loc)

    def _call(self, x: torch.Tensor) -> torch.Tensor:
        return _wrapped(self._loc + math.pi * torch.tanh(0.5 * x))

    def _inverse(self, y: torch.Tensor) -> torch.Tensor:
        turn = _wrapped(y - self._loc) / math.pi
        edge = 1.0 - torch.finfo(y.dtype).eps
        return 2.0 * torch.atanh(turn.clamp(-edge, edge))

    def log_abs_det_jacobian(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Log of 2 pi sigma(x) sigma(-x)."""
        log_sigmoid = torch.nn.functional.logsigmoid
        return math.log(2.0 * math.pi) + log_sigmoid(x) + log_sigmoid(-x)


def _onto_image(constraint: Image) -> Transform:
    return ComposeTransform([biject_to(constraint.base), *constraint.transforms])


def _onto_circle(constraint: Circle) -> Transform:
    return CircleTransform(constraint.loc)


for _registry in _REGISTRIES:
    _registry.register(Image, _onto_image)
    _registry.register(Circle, _onto_circle)


def declared_support(fn: Any) -> Any:
    """The support that a distribution declares; None for one that declares none, which can only be observed."""
    try:
        return fn.support
    except (AttributeError, NotImplementedError):
        return None


def support_of(fn: Any) -> Any:
    """The support of a distribution, computed where the declared one is too large; None where there is none."""
    if isinstance(fn, (MaskedDistribution, ExpandedDistribution)):
        return support_of(fn.base_dist)
    if isinstance(fn, Independent):
        inner, declared = support_of(fn.base_dist), fn.support
        same = inner is fn.base_dist.support
        return declared if same else _INDEPENDENT(inner, fn.reinterpreted_batch_ndims)
    if isinstance(fn, VonMises):
        return Circle(fn.loc)
    if isinstance(fn, SineBivariateVonMises):
        return _INDEPENDENT(Circle(torch.stack([fn.phi_loc, fn.psi_loc], -1)), 1)
    if isinstance(fn, MixtureSameFamily):
        return _of_mixture(fn)
    if isinstance(fn, TransformedDistribution) and inspect.getattr_static(type(fn), "support") is _DECLARED:
        return _of_transformed(fn)
    return getattr(fn, "support", None)


def is_declared_right(fn: Any) -> bool:
    """Whether a distribution's own ``support`` can be taken."""
    if isinstance(fn, (MaskedDistribution, ExpandedDistribution, Independent)):
        return is_declared_right(fn.base_dist)
    if isinstance(fn, MixtureSameFamily):
        return is_declared_right(fn.component_distribution)
    if isinstance(fn, (VonMises, SineBivariateVonMises)):
        return False
    transformed = isinstance(fn, TransformedDistribution)
    if not transformed or inspect.getattr_static(type(fn), "support") is not _DECLARED:
        return True
    return not isinstance(_scalar(_of_transformed(fn)), Image)


def contradiction(fn: Any, drawn: torch.Tensor) -> str:
    """What in a distribution contradicts the support that it declares, as a noun phrase; "" where nothing does.

    A class of the user's own may declare any support. Methods reach values only through the bijection onto it: a draw
    that the bijection does not give back is never reached, and points at which the density is undefined are.

    Args:
        fn: a distribution of continuous values.
        drawn: a draw from it.
    """
    if drawn.numel() > _LARGEST_CHECKED or not drawn.is_floating_point():
        return ""
    try:
        onto = biject_to(fn.support)
        shape = onto.inverse_shape(drawn.shape)
        again = onto(onto.inv(drawn))
        points = [onto(torch.full(shape, at, dtype=drawn.dtype)) for at in (-2.0, 0.5, 2.0)]
    except (NotImplementedError, RuntimeError):  # no bijection, or none with an inverse
        return ""
    if not torch.allclose(again, drawn, rtol=1e-2, atol=1e-4):
        return f"a draw outside of the support that it declares ({fn.support})"
    try:
        undefined = any(bool(torch.isnan(fn.log_prob(point)).any()) for point in points)
    except ValueError:  # the density's own validation refuses a point
        undefined = True
    except (RuntimeError, NotImplementedError):
        return ""
    return f"a density that is undefined within the support that it declares ({fn.support})" if undefined else ""


def _of_mixture(fn: MixtureSameFamily) -> Any:
    """The support that all components share; components that are angles share the circle cut at pi."""
    if is_declared_right(fn.component_distribution):
        return fn.support
    support, mixed = support_of(fn.component_distribution), cast(Any, MixtureSameFamilyConstraint)
    return Circle() if isinstance(support, Circle) else mixed(support)


def _of_transformed(fn: TransformedDistribution) -> Any:
    """Send the base's support through the transforms.

    A support that is all of a transform's domain becomes the codomain; any other one is kept as an image, as are the
    transforms from there on. Which of the two depends on types and constants alone, never on the value of a tensor:
    tracing has none, and must choose the same bijection as running.
    """
    support: Any = support_of(fn.base_dist)
    parts = [part for transform in fn.transforms for part in _parts(transform)]
    if not parts or not all(part.bijective for part in parts):
        return fn.support
    for i, part in enumerate(parts):
        if not _is_all_of(support, part.domain):
            inner = support
            while isinstance(inner, constraints.independent) and parts[i].domain.event_dim < inner.event_dim:
                inner = inner.base_constraint
            support = Image(inner, parts[i:])
            break
        support = part.codomain
    lacking = len(fn.event_shape) - support.event_dim
    return _INDEPENDENT(support, lacking) if lacking > 0 else support


def _parts(transform: Transform) -> list[Transform]:
    if isinstance(transform, ComposeTransform):
        return [part for inner in transform.parts for part in _parts(inner)]
    return [transform]


def _is_all_of(support: Any, domain: Any) -> bool:
    """Whether a support is known to be the whole of a transform's domain, apart from its edge."""
    support, domain = _scalar(support), _scalar(domain)
    if support is domain or (type(support) is type(domain) and not vars(support)):
        return True
    ours, theirs = _ends(support), _ends(domain)
    return ours is not None and ours == theirs


def _ends(support: Any) -> tuple[float, float] | None:
    """Both ends of an interval whose ends are plain numbers."""
    if support is constraints.real:
        return -math.inf, math.inf
    low = getattr(support, "lower_bound", -math.inf)
    high = getattr(support, "upper_bound", math.inf)
    known = not support.is_discrete and (low, high) != (-math.inf, math.inf)
    plain = isinstance(low, (int, float)) and isinstance(high, (int, float))
    return (float(low), float(high)) if known and plain else None


def _scalar(support: Any) -> Any:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _by_event(inside: torch.Tensor, dims: int) -> torch.Tensor:
    """One answer per event: all the answers in the dimensions after the first ``dims``."""
    return inside.flatten(dims).all(-1) if inside.ndim > dims else inside


def _wrapped(angle: torch.Tensor) -> torch.Tensor:
    return torch.remainder(angle + math.pi, 2.0 * math.pi) - math.pi


def unconstrained_shape(support: Any, shape: torch.Size) -> tuple[int, ...]:
    """The shape on the real line; of a support without a map from it, the site's own: it may yet be observed."""
    try:
        return tuple(biject_to(support).inverse_shape(shape))
    except NotImplementedError:
        return tuple(shape)


def in_support(fn: Any, value: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether a value lies in the support of its distribution wherever the mask counts it."""
    try:
        inside = fn.support.check(value)
    except (NotImplementedError, RuntimeError, ValueError):  # no check for this support, or shapes that do not fit
        return True
    return bool((inside | ~mask).all())


def count_states(fn: Any) -> int | None:
    """How many values a distribution lists; None where it does not list them."""
    if not getattr(fn, "has_enumerate_support", False):
        return None
    try:
        return int(fn.enumerate_support(expand=False).shape[0])
    except NotImplementedError:  # torch: a product of supports, or supports of several sizes
        return None


def mask_of(msg: dict[str, Any]) -> torch.Tensor:
    """Where the site counts: the mask of ``poutine.mask`` and that of ``.mask`` on its distribution."""
    masks = [msg["mask"], getattr(msg["fn"], "_mask", None)]
    counts = torch.as_tensor(True)
    for mask in masks:
        counts = counts & torch.as_tensor(True if mask is None else mask)
    return counts
