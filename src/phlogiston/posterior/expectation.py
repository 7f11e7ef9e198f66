"""The values of a function at every draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.errors import ConvergenceWarning, warn
from phlogiston.posterior.arviz_groups import unknown_site
from phlogiston.stats.tails import mean_limit, tail_shape
from phlogiston.stats.weights import khat_threshold, pareto_smooth

_MOST_CHECKED = 16  # components of a function's values whose tails are looked at


def values_of(
    f: str | Callable[[dict[str, torch.Tensor]], torch.Tensor], draws: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """A site, or a function of one draw at all of them, ``[chain, draw, ...]``."""
    if isinstance(f, str):
        return draws[f]
    chains, rows = next(iter(draws.values())).shape[:2]
    flat = {name: value.flatten(0, 1) for name, value in draws.items()}
    try:
        values = torch.vmap(lambda draw: torch.as_tensor(f(_Draw(draw))))(flat)
    except (RuntimeError, ValueError):  # f branches on a value or leaves torch: one draw at a time
        each = ({name: value[i] for name, value in flat.items()} for i in range(chains * rows))
        values = torch.stack([torch.as_tensor(f(_Draw(draw))) for draw in each])
    return values.reshape(chains, rows, *values.shape[1:])


def warn_of_no_mean(values: NDArray[np.float64], weights: NDArray[np.float64] | None) -> None:
    """Warn where values ``[chain, draw, ...]`` of a function have so heavy a tail that their mean may not exist."""
    if weights is not None:
        with np.errstate(divide="ignore"):
            khat = pareto_smooth(np.log(weights.reshape(-1)))[1]
        if khat > khat_threshold(weights.size):  # the tail of the weights would be taken for that of the values
            return
    if np.isin(values, (0.0, 1.0)).all():  # a probability
        return
    size = values.shape[0] * values.shape[1]
    flat, row = values.reshape(size, -1)[:, :_MOST_CHECKED], None if weights is None else weights.reshape(-1)
    shape = max((tail_shape(flat[:, i], row) for i in range(flat.shape[1])), default=-np.inf)
    limit = mean_limit(size)
    if shape > limit:
        warn(
            f"expect: the values of the function have a tail of Pareto shape {shape:.2f} (limit {limit:.2f}): "
            "their mean has no finite error, and may not exist; report a quantile or a probability instead",
            ConvergenceWarning,
        )


class _Draw(dict[str, torch.Tensor]):
    """One draw, whose error for an unknown site names the nearest one."""

    def __missing__(self, name: str) -> torch.Tensor:
        raise unknown_site("expect", name, self)
