r"""Full conditionals in closed form, read off the density itself.

A conditional that is, in the one latent that moves, :math:`\exp(\eta \cdot \phi(x))` with known :math:`\phi` is found
from its log density at a few points: these determine :math:`\eta` by linear equations. No list of conjugate pairs is
needed, only the forms that they lead to, and whether the density has the form is checked at further points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import biject_to, constraints

from phlogiston.inference.mcmc.random_variates import fill_log_gammas, fill_truncated
from phlogiston.inference.rng import Words, fill_normals

Array = NDArray[Any]
LARGEST_NORMAL = 16
# eta [n, E, K], centre [E, d], width [E, d], random words [n, 4] -> draws on the unconstrained scale [n, E, d].
Draw = Callable[[Array, Array, Array, Words], Array]


@dataclass(frozen=True)
class Family:
    """Densities :math:`\\exp(\\eta \\cdot \\phi(x))` on one support.

    Args:
        name: in messages.
        nodes: ``[N, d]``: the points that determine eta, in units of the width around the centre, unconstrained.
        phi: unconstrained ``[..., d]``, centre and width -> ``[..., K]``.
        draw: a draw for each eta; NaN where eta is no density.
    """

    name: str
    nodes: Array
    phi: Callable[[Array, Array, Array], Array]
    draw: Draw


def families_of(support: Any, width: int) -> list[Family]:
    """The forms to try for a latent (an element of its batch) with this support, ``width`` numbers unconstrained."""
    base = _scalar(support)
    if type(base) is type(constraints.real) and width <= LARGEST_NORMAL:
        return [normal(width)]
    if type(base) is type(constraints.simplex):
        return [dirichlet(width)]
    if width != 1 or base is None:
        return []
    low, high = _bound(base, "lower_bound", -np.inf), _bound(base, "upper_bound", np.inf)
    if isinstance(base, (constraints.greater_than, constraints.greater_than_eq)) and low is not None:
        gammas = [gamma(), inverse_gamma()] if low == 0.0 else []
        return [*gammas, truncated_normal(low, np.inf)]
    if isinstance(base, (constraints.interval, constraints.half_open_interval)):
        return [beta()] if low is None or high is None else [beta(), truncated_normal(low, high)]
    return []


def _bound(support: Any, name: str, default: float) -> float | None:
    """A bound that is the same for all elements; None where it is not."""
    bound = torch.as_tensor(getattr(support, name, default))
    return float(bound.max()) if bool((bound == bound.max()).all()) else None


def is_elementwise(support: Any) -> bool:
    """Whether an event of this support is so many free numbers."""
    base = _scalar(support)
    return base is not None and type(base) is not type(constraints.simplex)


def is_real(support: Any) -> bool:
    """Whether an event of this support is any vector of real numbers."""
    return type(_scalar(support)) is type(constraints.real)


def _scalar(support: Any) -> Any:
    """The support of a number in it; None where it is not a product of such."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    known = (
        constraints.greater_than,
        constraints.greater_than_eq,
        constraints.interval,
        constraints.half_open_interval,
        type(constraints.real),
        type(constraints.simplex),
    )
    return support if isinstance(support, known) else None


def normal(dim: int) -> Family:
    """A normal density of any dimension: quadratic in the standardised point."""
    eye = np.eye(dim)
    pairs = [(i, j) for i in range(dim) for j in range(i)]
    nodes = np.concatenate([np.zeros((1, dim)), eye, -eye, *[(eye[i] + eye[j])[None] for i, j in pairs]])

    def phi(u: Array, centre: Array, width: Array) -> Array:
        v = (u - centre) / width
        products = [v[..., i, None] * v[..., j, None] for i, j in pairs]
        return np.concatenate([v, 0.5 * v**2, *products], -1)

    def draw(eta: Array, centre: Array, width: Array, words: Words) -> Array:
        precision = np.zeros((*eta.shape[:2], dim, dim))
        precision[..., range(dim), range(dim)] = -eta[..., dim : 2 * dim]
        for k, (i, j) in enumerate(pairs):
            precision[..., i, j] = precision[..., j, i] = -eta[..., 2 * dim + k]
        noise = np.empty((eta.shape[0], eta.shape[1] * dim))
        fill_normals(words, noise)
        root, failed = torch.linalg.cholesky_ex(torch.from_numpy(np.nan_to_num(precision)))
        whitened = torch.linalg.solve_triangular(root, torch.from_numpy(eta[..., :dim, None]), upper=False)
        moved = whitened + torch.from_numpy(noise.reshape(*eta.shape[:2], dim, 1))
        v = torch.linalg.solve_triangular(root.mT, moved, upper=True)[..., 0]
        v[(failed != 0) | ~torch.isfinite(v).all(-1)] = torch.nan
        return np.asarray(centre + width * v.numpy())

    return Family("normal", nodes, phi, draw)


def gamma() -> Family:
    """Gamma densities, on the positive numbers."""

    def phi(u: Array, centre: Array, width: Array) -> Array:
        return np.concatenate([u - centre, np.exp(u - centre)], -1)

    def draw(eta: Array, centre: Array, width: Array, words: Words) -> Array:
        logs = _log_gammas(eta[..., :1] + 1.0, words)
        return centre + logs - _log_or_nan(-eta[..., 1:])

    return Family("gamma", np.array([[0.0], [1.0], [-1.0]]), phi, draw)


def inverse_gamma() -> Family:
    """Inverse-gamma densities, on the positive numbers."""

    def phi(u: Array, centre: Array, width: Array) -> Array:
        return np.concatenate([u - centre, np.exp(centre - u)], -1)

    def draw(eta: Array, centre: Array, width: Array, words: Words) -> Array:
        logs = _log_gammas(-eta[..., :1] - 1.0, words)
        return centre + _log_or_nan(-eta[..., 1:]) - logs

    return Family("inverse gamma", np.array([[0.0], [1.0], [-1.0]]), phi, draw)


def beta() -> Family:
    """Beta densities, stretched to an interval."""

    def phi(u: Array, centre: Array, width: Array) -> Array:
        return np.concatenate([-np.logaddexp(0.0, -u), -np.logaddexp(0.0, u)], -1)

    def draw(eta: Array, centre: Array, width: Array, words: Words) -> Array:
        logs = _log_gammas(eta + 1.0, words)
        return logs[..., :1] - logs[..., 1:]

    return Family("beta", np.array([[0.0], [1.0], [-1.0]]), phi, draw)


def truncated_normal(low: float, high: float) -> Family:
    """Normal densities between two bounds, of which the upper may be infinite."""
    bounded = np.isfinite(high)

    def inside(u: Array) -> Array:
        return low + (high - low) / (1.0 + np.exp(-u)) if bounded else low + np.exp(u)

    def phi(u: Array, centre: Array, width: Array) -> Array:
        x, middle = inside(u), inside(centre)
        return np.concatenate([x - middle, (x - middle) ** 2], -1)

    def draw(eta: Array, centre: Array, width: Array, words: Words) -> Array:
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            precision = np.where(eta[..., 1:] < 0.0, -2.0 * eta[..., 1:], np.nan)
            sd, mean = precision**-0.5, inside(centre) + eta[..., :1] / precision
            z = np.empty(mean.shape[:2])
            fill_truncated(words, ((low - mean) / sd)[..., 0], ((high - mean) / sd)[..., 0], z)
            x = mean + sd * z[..., None]
            return np.log(x - low) - (np.log(high - x) if bounded else 0.0)

    return Family("truncated normal", np.array([[0.0], [1.0], [-1.0]]), phi, draw)


def dirichlet(dim: int) -> Family:
    """Dirichlet densities on the simplex of ``dim + 1`` probabilities."""
    bijection = biject_to(constraints.simplex)
    eye = np.eye(dim)

    def phi(u: Array, centre: Array, width: Array) -> Array:
        return np.asarray(bijection(torch.from_numpy(np.ascontiguousarray(u))).log())

    def draw(eta: Array, centre: Array, width: Array, words: Words) -> Array:
        logs = torch.from_numpy(_log_gammas(eta + 1.0, words))
        return np.asarray(bijection.inv(torch.softmax(logs, -1)))

    return Family("Dirichlet", np.concatenate([np.zeros((1, dim)), eye, -eye]), phi, draw)


def _log_gammas(shapes: Array, words: Words) -> Array:
    flat = np.ascontiguousarray(shapes.reshape(shapes.shape[0], -1))
    out = np.empty_like(flat)
    fill_log_gammas(words, flat, out)
    return out.reshape(shapes.shape)


def _log_or_nan(values: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(values > 0.0, np.log(np.where(values > 0.0, values, 1.0)), np.nan)


def solved(family: Family, local: Array, centre: Array, width: Array) -> Array:
    """Eta ``[n, E, K]`` from the log density ``local [n, N, E]`` at the nodes around ``centre [E, d]``."""
    at = family.phi(centre + width * family.nodes[:, None], centre, width)  # [N, E, K]
    inverse = np.linalg.pinv(np.moveaxis(at[1:] - at[:1], 0, 1))  # [E, K, N - 1]
    return np.asarray(np.einsum("ekm,nme->nek", inverse, local[:, 1:] - local[:, :1]))
