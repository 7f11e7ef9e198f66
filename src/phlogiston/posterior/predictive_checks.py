"""Data against what the model predicts: statistics of replicated data, and leave-one-out calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.errors import ModelError, UnknownName, did_you_mean, problem
from phlogiston.stats.estimate import Estimate
from phlogiston.stats.weights import pareto_smooth

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Statistic = str | Callable[[torch.Tensor], Any]

_EXTREME = 0.025


def _sd(data: torch.Tensor) -> torch.Tensor:
    return data.double().std(unbiased=data.numel() > 1)


STATISTICS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda data: data.double().mean(),
    "sd": _sd,
    "min": lambda data: data.double().min(),
    "max": lambda data: data.double().max(),
    "median": lambda data: data.double().median(),
    "zeros": lambda data: (data == 0).double().mean(),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictiveCheck:
    r"""A statistic of the data among those of data that the model predicts.

    The p-value is :math:`P(T(x^\mathrm{rep}) > T(x)) + \tfrac12 P(T(x^\mathrm{rep}) = T(x))`: near 0 or 1 where the
    model does not produce data like these in this respect.

    Args:
        statistic: its name.
        site: the observed site.
        observed: of the data, a number or an array of several.
        replicated: of each predicted data set, ``[draw, ...]``.
        source: "posterior predictive" or "prior predictive".
    """

    statistic: str
    site: str
    observed: Array
    replicated: Array
    source: str

    @property
    def p_value(self) -> Estimate:
        """The p-value with its Monte Carlo standard error, in the shape of the statistic."""
        above = (self.replicated > self.observed) + 0.5 * (self.replicated == self.observed)
        value = above.mean(0)
        return Estimate(value, np.sqrt(value * (1.0 - value) / len(above)))

    @property
    def extreme(self) -> bool:
        """Whether any p-value is below 0.025 or above 0.975."""
        value = np.asarray(self.p_value.value)
        return bool((np.minimum(value, 1.0 - value) < _EXTREME).any())

    def plot(self) -> Figure:
        """Histograms of the replicated statistics, with the observed ones as lines; at most twelve panels."""
        flat = self.observed.reshape(-1)
        name = f"{self.statistic} of {self.site}"
        names = [name] if flat.size == 1 else [f"{name} [{i}]" for i in range(flat.size)]
        values = self.replicated.reshape(len(self.replicated), -1)
        p_values = np.asarray(self.p_value.value, dtype=float).reshape(-1)
        from phlogiston.report.plots import checks

        return checks.replicated(f"{self.source.capitalize()} check", names, flat, values, p_values)

    def __str__(self) -> str:
        value = np.asarray(self.p_value.value)
        if value.ndim:
            count = int((np.minimum(value, 1.0 - value) < _EXTREME).sum())
            return f"{self.source} check of {self.statistic} of {self.site}: {count} of {value.size} p-values extreme"
        low, high = np.quantile(self.replicated, (0.05, 0.95))
        return (
            f"{self.source} check of {self.statistic} of {self.site}: observed {float(self.observed):.4g}, predicted "
            f"{self.replicated.mean():.4g} [{low:.4g}, {high:.4g}], p = {value:.3f}"
        )


def compare(
    statistic: Statistic, site: str, observed: torch.Tensor, predicted: torch.Tensor, source: str
) -> PredictiveCheck:
    """A statistic of the observed data and of each predicted data set ``[draw, *site shape]``.

    Raises:
        UnknownName: no statistic has that name.
        ModelError: the statistic is not finite for the data or the predictions.
    """
    if isinstance(statistic, str):
        if statistic not in STATISTICS:
            raise UnknownName(
                f"predictive_check: found no statistic {statistic!r}; {did_you_mean(statistic, STATISTICS)}"
            )
        name, function = statistic, STATISTICS[statistic]
    else:
        name, function = getattr(statistic, "__name__", type(statistic).__name__), statistic
    rows = [np.asarray(torch.as_tensor(function(row)).detach(), dtype=float) for row in predicted]
    seen = np.asarray(torch.as_tensor(function(observed.expand(predicted.shape[1:]))).detach(), dtype=float)
    values = np.stack(rows)
    if bad := int((~np.isfinite(values)).sum() + (~np.isfinite(seen)).sum()):
        raise ModelError(
            problem(
                f"predictive_check, statistic {name!r}",
                found=f"{bad} values that are not finite",
                expected="finite numbers",
            )
        )
    return PredictiveCheck(statistic=name, site=site, observed=seen, replicated=values, source=source)


@dataclass(frozen=True, eq=False)
class LooPit:
    r"""Where each observation falls in its own leave-one-out predictive distribution, :math:`P(x_i^\mathrm{rep} \le x_i
    \mid x_{-i})`: uniform on [0, 1] where the predictions are calibrated.

    Args:
        site: the observed site.
        values: of each observation, ``[n]``; randomised between both sides of a discrete value.

    References:
        Gelfand, Dey and Chang (1992), Bayesian Statistics 4; Gabry et al. (2019), https://arxiv.org/abs/1709.01449
    """

    site: str
    values: Array

    @property
    def statistic(self) -> float:
        """Kolmogorov and Smirnov's largest distance from the uniform."""
        ordered, count = np.sort(self.values), self.values.size
        steps = np.arange(1, count + 1) / count
        return float(max((steps - ordered).max(), (ordered - steps + 1.0 / count).max()))

    @property
    def p_value(self) -> float:
        """The p-value of that distance (Kolmogorov's series with Stephens' correction)."""
        root = math.sqrt(self.values.size)
        x = (root + 0.12 + 0.11 / root) * self.statistic
        series = sum((-1) ** (k - 1) * math.exp(-2.0 * (k * x) ** 2) for k in range(1, 101))
        return float(min(max(2.0 * series, 0.0), 1.0)) if x > 0.2 else 1.0

    def plot(self) -> Figure:
        """The distribution of the values less the uniform's, with a simultaneous band."""
        from phlogiston.report.plots import checks

        return checks.pit(f"Calibration of the predictions of {self.site}", self.values, self.p_value)

    def __str__(self) -> str:
        return f"LOO-PIT of {self.site}: {self.values.size} observations, Kolmogorov-Smirnov p = {self.p_value:.3f}"


def loo_pit(
    site: str,
    observed: Array,
    predicted: Array,
    log_likelihood: Array,
    log_weights: Array | None,
    rng: np.random.Generator,
) -> LooPit:
    """Leave-one-out transforms by Pareto-smoothed importance sampling.

    Args:
        site: the observed site.
        observed: ``[n]``.
        predicted: one data set per draw, ``[draw, n]``.
        log_likelihood: pointwise at the same draws, ``[draw, n]``.
        log_weights: of the draws, ``[draw]``, or None.
        rng: breaks ties of discrete data.
    """
    base = np.zeros(len(predicted)) if log_weights is None else log_weights
    values = np.empty(observed.size)
    for i in range(observed.size):
        weights = np.exp(pareto_smooth(base - log_likelihood[:, i])[0])
        below = weights @ (predicted[:, i] < observed[i])
        level = weights @ (predicted[:, i] == observed[i])
        values[i] = below + rng.random() * level
    return LooPit(site, np.clip(values, 0.0, 1.0))
