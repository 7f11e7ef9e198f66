r"""Guides by name: families of densities on the flat unconstrained vector, as pure functions of their parameters.

A guide turns noise into points, :math:`u = f_\phi(\epsilon)` with standard normal :math:`\epsilon`, knows the log
density of its points, and its entropy where that has a closed form. Points are columns, ``u [D, S]``, as everywhere
in the engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Params = Mapping[str, torch.Tensor]
_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Guide:
    """One family of densities.

    Args:
        name: of the family.
        initial: parameters to start from, by name.
        width: numbers of noise a point.
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
        name: of the family.
        loc: ``[D]``, in the order of the unconstrained vector.
        factor: lower triangular, of the ordered coordinates.
        order: which coordinate stands where.
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
    seeded = torch.Generator().manual_seed(0)  # columns of W have to differ, or they would stay the same
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
