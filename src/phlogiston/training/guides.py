r"""Guides on the flat unconstrained vector: families of densities as pure functions of their parameters, by name.

A guide turns noise into points, :math:`u = f_\phi(\epsilon)` with standard normal :math:`\epsilon`, and knows the log
density of its points, and its entropy where that has a closed form. Points are columns, ``u [D, S]``, as everywhere
in the engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
import torch

from phlogiston.engine.program.interpreter import Slot
from phlogiston.engine.program.sites import Site
from phlogiston.errors import SettingError, problem
from phlogiston.model.registry import Registry

Params = Mapping[str, torch.Tensor]
_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)
_FIRST_SCALE = 0.1


@dataclass(frozen=True)
class Guide:
    """A density with parameters, on the flat unconstrained vector.

    Args:
        name: name of the family.
        initial: parameters to start from, by name.
        width: numbers of noise for a point.
        draw: parameters and noise ``[W, S]`` -> points ``[D, S]``.
        log_prob: parameters and points ``[D, S]`` -> ``[S]``; None where it is only known at the guide's own draws.
        entropy: parameters -> a scalar; None where it has no closed form.
        both: parameters and noise -> points and their log density, where that is cheaper than one after the other.
    """

    name: str
    initial: dict[str, torch.Tensor]
    width: int
    draw: Callable[[Params, torch.Tensor], torch.Tensor]
    log_prob: Callable[[Params, torch.Tensor], torch.Tensor] | None
    entropy: Callable[[Params], torch.Tensor] | None = None
    both: Callable[[Params, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None

    def drawn(self, params: Params, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Points ``[D, S]`` and their log density ``[S]``."""
        if self.both is not None:
            return self.both(params, noise)
        assert self.log_prob is not None
        u = self.draw(params, noise)
        return u, self.log_prob(params, u)


@dataclass(frozen=True)
class GuideStart:
    """What a family of guides is given to make a guide for one model.

    Args:
        loc: the point to start around, ``[D]``.
        slots: which latent each part of the vector belongs to, in order.
        rank: number of directions, for a family that has a rank.
    """

    loc: torch.Tensor
    slots: Sequence[Slot] = ()
    rank: int = 5

    @property
    def scale(self) -> torch.Tensor:
        """A small standard deviation for each coordinate, ``[D]``."""
        return torch.full_like(self.loc, _FIRST_SCALE)


@runtime_checkable
class FlatFamily(Protocol):
    """A family of densities on the flat unconstrained vector, which ``ph.SVI(guide=...)`` takes as it takes a name.

    Example:
        >>> class Wide:
        ...     def around(self, start):
        ...         def draw(params, noise):
        ...             return params["loc"][:, None] + params["log_scale"].exp() * noise
        ...         def log_prob(params, u):
        ...             return dist.Normal(params["loc"][:, None], params["log_scale"].exp()).log_prob(u).sum(0)
        ...         initial = {"loc": start.loc, "log_scale": torch.zeros((), dtype=start.loc.dtype)}
        ...         return ph.Guide("wide", initial, len(start.loc), draw, log_prob)
        >>> ph.register("guide", "wide", Wide)
        >>> def program():
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0))
        >>> model = ph.Model(program).observe(y=1.0)
        >>> post = ph.infer(model, ph.SVI(guide="wide", engine="graph"), seed=0, progress=False)
        >>> bool(abs(post.moments("mu").mean - 0.8) < 0.1)
        True
        >>> GUIDES.unregister("wide")
    """

    def around(self, start: GuideStart) -> Guide:
        """A guide that starts around a point."""


def normal(loc: torch.Tensor, scale: torch.Tensor) -> Guide:
    """Independent normals: mean field on the unconstrained scale."""

    def draw(params: Params, noise: torch.Tensor) -> torch.Tensor:
        return params["loc"][:, None] + params["log_scale"].exp()[:, None] * noise

    def log_prob(params: Params, u: torch.Tensor) -> torch.Tensor:
        z = (u - params["loc"][:, None]) * (-params["log_scale"]).exp()[:, None]
        return -0.5 * z.square().sum(0) - params["log_scale"].sum() - u.shape[0] * _HALF_LOG_TAU

    def entropy(params: Params) -> torch.Tensor:
        return params["log_scale"].sum() + loc.shape[0] * (_HALF_LOG_TAU + 0.5)

    return Guide("normal", {"loc": loc, "log_scale": scale.log()}, loc.shape[0], draw, log_prob, entropy)


def triangular(name: str, loc: torch.Tensor, factor: torch.Tensor, order: torch.Tensor, free: torch.Tensor) -> Guide:
    """A normal whose covariance has the Cholesky factor ``L [D, D]``, after its coordinates were put in an order.

    Args:
        name: name of the family.
        loc: the mean ``[D]``, in the order of the unconstrained vector.
        factor: the Cholesky factor to start from, of the ordered coordinates.
        order: the coordinates in their new order.
        free: which entries below the diagonal are learned, ``[D, D]``; the others stay zero.
    """
    dim = loc.shape[0]
    rows, columns = torch.nonzero(free.tril(-1), as_tuple=True)
    back = torch.argsort(order)
    place = rows * dim + columns

    def root(params: Params) -> torch.Tensor:
        flat = torch.zeros(dim * dim, dtype=loc.dtype).index_put((place,), params["below"])
        return flat.reshape(dim, dim) + torch.diag(params["log_diagonal"].exp())

    def draw(params: Params, noise: torch.Tensor) -> torch.Tensor:
        return params["loc"][:, None] + (root(params) @ noise)[back]

    def log_prob(params: Params, u: torch.Tensor) -> torch.Tensor:
        centred = (u - params["loc"][:, None])[order]
        z = torch.linalg.solve_triangular(root(params), centred, upper=False)
        squares: torch.Tensor = z.square().sum(0)
        return -0.5 * squares - params["log_diagonal"].sum() - dim * _HALF_LOG_TAU

    def entropy(params: Params) -> torch.Tensor:
        return params["log_diagonal"].sum() + dim * (_HALF_LOG_TAU + 0.5)

    initial = {"loc": loc, "log_diagonal": factor.diagonal().log(), "below": factor[rows, columns]}
    return Guide(name, initial, dim, draw, log_prob, entropy)


def multivariate_normal(loc: torch.Tensor, factor: torch.Tensor) -> Guide:
    """A normal with any covariance; ``factor [D, D]`` is the Cholesky factor to start from."""
    dim = loc.shape[0]
    everything = torch.ones(dim, dim, dtype=torch.bool)
    return triangular("multivariate_normal", loc, factor, torch.arange(dim), everything)


def low_rank(loc: torch.Tensor, scale: torch.Tensor, rank: int) -> Guide:
    r"""A normal with covariance :math:`\mathrm{diag}(s^2) + W W^\top`, ``W [D, rank]``."""
    dim = loc.shape[0]
    rank = min(rank, dim)
    seeded = torch.Generator().manual_seed(0)  # equal columns of W would get equal gradients and stay equal
    start = 0.1 * scale[:, None] * torch.randn(dim, rank, generator=seeded, dtype=loc.dtype)

    def parts(params: Params) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """W over s, the Cholesky factor of I + (W/s)'(W/s), and half the log determinant of the covariance."""
        scaled = params["factor"] * (-params["log_scale"]).exp()[:, None]
        inner = torch.eye(rank, dtype=loc.dtype) + scaled.mT @ scaled
        root, _ = torch.linalg.cholesky_ex(inner)
        return scaled, root, params["log_scale"].sum() + root.diagonal().log().sum()

    def draw(params: Params, noise: torch.Tensor) -> torch.Tensor:
        own = params["log_scale"].exp()[:, None] * noise[:dim]
        return params["loc"][:, None] + own + params["factor"] @ noise[dim:]

    def log_prob(params: Params, u: torch.Tensor) -> torch.Tensor:
        scaled, root, half_log_det = parts(params)
        z = (u - params["loc"][:, None]) * (-params["log_scale"]).exp()[:, None]
        shared = torch.linalg.solve_triangular(root, scaled.mT @ z, upper=False)
        squares: torch.Tensor = z.square().sum(0) - shared.square().sum(0)
        return -0.5 * squares - half_log_det - dim * _HALF_LOG_TAU

    def entropy(params: Params) -> torch.Tensor:
        return parts(params)[2] + dim * (_HALF_LOG_TAU + 0.5)

    initial = {"loc": loc, "log_scale": scale.log(), "factor": start}
    return Guide("low_rank", initial, dim + rank, draw, log_prob, entropy)


def delta(loc: torch.Tensor) -> Guide:
    """All mass at one point; its log density counts as zero."""

    def draw(params: Params, noise: torch.Tensor) -> torch.Tensor:
        return params["loc"][:, None] + 0.0 * noise

    def log_prob(params: Params, u: torch.Tensor) -> torch.Tensor:
        return torch.zeros(u.shape[1], dtype=u.dtype)

    return Guide("delta", {"loc": loc}, loc.shape[0], draw, log_prob, lambda params: 0.0 * params["loc"].sum())


def structured(start: GuideStart) -> Guide:
    """A normal in which elements of a plate do not depend on each other, but on everything outside of the plate."""
    order, free = structure_of(start.slots)
    return triangular("structured", start.loc, torch.diag(start.scale), order, free)


def structure_of(slots: Sequence[Slot]) -> tuple[torch.Tensor, torch.Tensor]:
    """Which coordinates may depend on which: elements of a plate not on each other, all on what is outside it.

    Returns:
        the order, coordinates in fewer plates first ``[D]``, and a mask of the ordered coordinates ``[D, D]``.
    """
    labels = [label for slot in slots for label in _elements(slot.site, slot.shape)]
    order = sorted(range(len(labels)), key=lambda i: (len(labels[i]), i))
    ordered = [labels[i] for i in order]
    free = [[all(own.get(name, at) == at for name, at in other.items()) for other in ordered] for own in ordered]
    return torch.tensor(order), torch.tensor(free)


def _elements(site: Site, shape: tuple[int, ...]) -> list[dict[str, int]]:
    """For each number of a site: the name of a plate -> the index in it."""
    if site.missing is not None:
        return [{f"missing {site.name}": i} for i in range(site.missing.count)]
    event = len(shape) - len(site.batch_shape)
    labels = []
    for index in np.ndindex(*shape):
        batch = index[: len(shape) - event]
        labels.append({plate.name: batch[plate.dim] for plate in site.plates if -plate.dim <= len(batch)})
    return labels


def _flow(start: GuideStart) -> Guide:
    from phlogiston.training.flows import flow  # it imports this file

    return flow(start.loc, torch.ones_like(start.loc), 0)


def _laplace(start: GuideStart) -> Guide:
    """Laplace's approximation is found from curvature, not by steps, so that it has no guide to train."""
    raise SettingError(
        problem("guide", found="'laplace' with minibatches or in training", expected="'multivariate_normal' there")
    )


@dataclass(frozen=True)
class _Family:
    around: Callable[[GuideStart], Guide]
    can_correlate: bool = True


GUIDES = Registry(
    "guide",
    {
        "delta": _Family(lambda start: delta(start.loc)),
        "normal": _Family(lambda start: normal(start.loc, start.scale), can_correlate=False),
        "multivariate_normal": _Family(lambda start: multivariate_normal(start.loc, torch.diag(start.scale))),
        "low_rank": _Family(lambda start: low_rank(start.loc, start.scale, start.rank)),
        "structured": _Family(structured, can_correlate=False),
        "laplace": _Family(_laplace),
        "flow": _Family(_flow),
    },
    accepts=lambda item: callable(getattr(item, "around", None)),
    expected="a class or object with around(start) -> ph.Guide, as in ph.FlatFamily",
)


def can_correlate(guide: Any) -> bool:
    """Whether a guide can express any correlation of latents; True for families that do not say ``can_correlate``."""
    item = GUIDES[guide] if isinstance(guide, str) and guide in GUIDES else guide
    return bool(getattr(item, "can_correlate", True))


def is_flat(guide: Any) -> TypeGuard[str | FlatFamily]:
    """Whether a setting is a guide on the flat vector, by name or as a family."""
    return isinstance(guide, (str, FlatFamily)) and not isinstance(guide, type)


def guide_for(family: str | FlatFamily, start: GuideStart) -> Guide:
    """The guide of a family, or of the family with a name, around a point.

    Raises:
        SettingError: the family does not make a guide.
    """
    item: Any = GUIDES[family] if isinstance(family, str) else family
    made: Any = (item() if isinstance(item, type) else item).around(start)
    if not isinstance(made, Guide):
        raise SettingError(problem("guide", found=f"{type(made).__name__} from {family!r}", expected="a ph.Guide"))
    return made
