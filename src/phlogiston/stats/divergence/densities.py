"""Divergences between distributions whose densities are known: in closed form where one is, else by Monte Carlo."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.distributions import Distribution, constraints, kl_divergence

from phlogiston.engine.program.isolate import as_int, isolated, seed_sequence
from phlogiston.errors import SettingError, problem
from phlogiston.stats.estimate import Estimate, Kind

_LARGEST_SUPPORT = 100_000


def kl(p: Distribution, q: Distribution, *, num_samples: int = 10_000, seed: int | None = None) -> Estimate:
    r"""Kullback-Leibler divergence :math:`\mathrm{KL}[p, q] = E_p[\log p(x) - \log q(x)]`, in nats.

    In closed form where torch or Pyro has one registered, by summing where the support is finite, else the mean over
    draws of p. It is infinite where p has mass that q has not.

    Args:
        p: any torch or Pyro distribution; its draws have shape ``[*batch shape, *event shape]``.
        q: another over the same events; batch shapes broadcast.
        num_samples: draws, where they are needed.
        seed: of these draws.

    Returns:
        a number, or an array of the batch shape, with its standard error (zero where it is exact).

    Raises:
        TypeError: one of them is no distribution.
        ValueError: their events differ in shape, or one is discrete and the other is not.

    References:
        Kullback and Leibler (1951), https://doi.org/10.1214/aoms/1177729694

    Example:
        >>> print(kl(dist.Normal(0.0, 1.0), dist.Normal(1.0, 2.0)))
        0.4431 (exact)
    """
    _comparable("kl", p, q)
    _at_least_two(num_samples)
    try:
        return _estimate(kl_divergence(p, q), kind="exact")
    except NotImplementedError:
        pass
    with isolated(as_int(seed_sequence(seed))), torch.no_grad():
        values = _enumerated(p)
        if values is not None:
            return _estimate(_expected(p, values, log_prob(p, values) - log_prob(q, values)), kind="exact")
        draws = p.sample(torch.Size([num_samples]))
        return _mean(log_prob(p, draws).double() - log_prob(q, draws).double())


def entropy(p: Distribution, *, num_samples: int = 10_000, seed: int | None = None) -> Estimate:
    r"""Entropy :math:`H[p] = -E_p[\log p(x)]`, in nats: differential where p is continuous.

    Args:
        p: any torch or Pyro distribution.
        num_samples: draws, where there is no closed form and the support is not finite.
        seed: of these draws.

    Returns:
        a number, or an array of the batch shape, with its standard error (zero where it is exact).

    Raises:
        TypeError: p is no distribution.

    Example:
        >>> print(entropy(dist.Normal(0.0, 1.0)))
        1.4189 (exact)
    """
    _comparable("entropy", p, p)
    _at_least_two(num_samples)
    try:
        return _estimate(p.entropy(), kind="exact")
    except NotImplementedError:
        pass
    with isolated(as_int(seed_sequence(seed))), torch.no_grad():
        values = _enumerated(p)
        if values is not None:
            return _estimate(_expected(p, values, -log_prob(p, values)), kind="exact")
        return _mean(-log_prob(p, p.sample(torch.Size([num_samples]))).double())


def js(p: Distribution, q: Distribution, *, num_samples: int = 10_000, seed: int | None = None) -> Estimate:
    r"""Jensen-Shannon divergence, :math:`\frac12 \mathrm{KL}[p, m] + \frac12 \mathrm{KL}[q, m]`, m = (p + q) / 2.

    Between 0 and log 2 nats. The best possible critic of a fair mix of both has the loss ``log 2 - js``.

    Args:
        p: any torch or Pyro distribution.
        q: another over the same events; batch shapes broadcast.
        num_samples: draws of each, where the supports are not finite.
        seed: of these draws.

    Returns:
        a number, or an array of the batch shape, with its standard error (zero where it is exact).

    Raises:
        TypeError: one of them is no distribution.
        ValueError: their events differ in shape, or one is discrete and the other is not.

    References:
        Lin (1991), Divergence measures based on the Shannon entropy, https://doi.org/10.1109/18.61115

    Example:
        >>> found = js(dist.Normal(0.0, 1.0), dist.Normal(1.0, 1.0), seed=0)
        >>> bool(abs(found.value - 0.111421) < 4 * found.se)
        True
    """
    _comparable("js", p, q)
    _at_least_two(num_samples)
    with isolated(as_int(seed_sequence(seed))), torch.no_grad():
        of_p, of_q = _enumerated(p), _enumerated(q)
        if of_p is not None and of_q is not None:
            halves = _expected(p, of_p, _to_middle(p, q, of_p)) + _expected(q, of_q, _to_middle(q, p, of_q))
            return _estimate(0.5 * halves, kind="exact")
        size = torch.Size([num_samples])
        left, right = _to_middle(p, q, p.sample(size)), _to_middle(q, p, q.sample(size))
    first, second = _mean(left.double()), _mean(right.double())
    return Estimate(0.5 * (first.value + second.value), 0.5 * np.hypot(first.se, second.se))


def log_prob(p: Distribution, values: torch.Tensor) -> torch.Tensor:
    """The log density of each value, -inf outside the support, where some distributions would raise an error."""
    support: Any = p.support
    if support is None:
        return p.log_prob(values)
    inside: torch.Tensor = support.check(values)
    if bool(inside.all()):
        return p.log_prob(values)
    shape = values.shape[: values.ndim - len(p.event_shape)] if inside.ndim == 0 else inside.shape
    inside = inside.expand(shape)
    harmless = p.sample(torch.Size([values.shape[0]])).expand(*shape, *p.event_shape)
    mask = inside.reshape(*shape, *(1,) * len(p.event_shape))
    density = p.log_prob(torch.where(mask, values, harmless))
    return torch.where(inside, density, torch.full((), -math.inf, dtype=density.dtype))


def _to_middle(p: Distribution, q: Distribution, values: torch.Tensor) -> torch.Tensor:
    """log p - log m."""
    ours = log_prob(p, values)
    return ours - torch.logaddexp(ours, log_prob(q, values)) + math.log(2.0)


def _enumerated(p: Distribution) -> torch.Tensor | None:
    """All events ``[n, *batch, *event]`` of a finite support; None where it is not finite or too large."""
    if not p.has_enumerate_support:
        return None
    try:
        values: torch.Tensor = p.enumerate_support()
    except NotImplementedError:
        return None
    return values if values.shape[0] <= _LARGEST_SUPPORT else None


def _expected(p: Distribution, values: torch.Tensor, terms: torch.Tensor) -> torch.Tensor:
    weights = log_prob(p, values).exp()
    return torch.where(weights > 0.0, weights * terms, torch.zeros(())).sum(0)


def _mean(terms: torch.Tensor) -> Estimate:
    """The mean over the first dimension with its error; infinite terms make it infinite, without doubt."""
    infinite = torch.isinf(terms).any(0)
    error = terms.std(0) / math.sqrt(terms.shape[0])
    return _estimate(terms.mean(0), torch.where(infinite, torch.zeros_like(error), error))


def _estimate(value: torch.Tensor, se: torch.Tensor | None = None, kind: Kind = "estimate") -> Estimate:
    number = value.detach().double().numpy()
    error = np.zeros(number.shape) if se is None else se.detach().double().numpy()
    return Estimate(float(number), float(error), kind) if number.ndim == 0 else Estimate(number, error, kind)


def _at_least_two(num_samples: Any) -> None:
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 2:
        raise SettingError(problem("num_samples", found=repr(num_samples), expected="an integer of at least two"))


def _comparable(verb: str, p: Any, q: Any) -> None:
    for name, given in (("p", p), ("q", q)):
        if not isinstance(given, Distribution):
            found = type(given).__name__
            text = problem(
                f"{verb}({name})",
                found=found,
                expected="a torch or Pyro distribution",
                fix="divergence.mmd(x, y) or divergence.c2st(x, y) for samples",
            )
            raise TypeError(text)
    if p.event_shape != q.event_shape:
        found = f"events of shape {tuple(p.event_shape)} and {tuple(q.event_shape)}"
        raise ValueError(problem(verb, found=found, expected="one shape", fix=".to_event(1) on the one that lacks it"))
    kinds = [_is_discrete(p), _is_discrete(q)]
    if None not in kinds and kinds[0] != kinds[1]:
        found = "a discrete distribution beside a continuous one"
        raise ValueError(problem(verb, found=found, expected="two of one kind, as their densities count other things"))


def _is_discrete(p: Distribution) -> bool | None:
    support: Any = p.support
    return None if support is None or not isinstance(support, constraints.Constraint) else bool(support.is_discrete)
