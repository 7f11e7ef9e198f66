"""Tables for people: the posterior summary."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phlogiston.stats import arviz
from phlogiston.stats.moments import moments, quantiles

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]


def summary_table(
    draws: Mapping[str, Array],
    weights: Array | None,
    labels: Callable[[str, Sequence[int]], list[Sequence[Any]]],
    *,
    chains: bool,
    observed: Mapping[str, NDArray[np.bool_]] | None = None,
) -> pd.DataFrame:
    """One row per component: mean, sd, Monte Carlo errors, 5 % and 95 % quantiles; for chains ESS and R-hat.

    Args:
        draws: site -> ``[chain, draw, ...]``.
        weights: normalised, ``[chain, draw]``, or None.
        labels: site and shape -> what each position of each dimension is called.
        chains: whether the draws form chains; only then have ESS and R-hat a meaning.
        observed: site -> entries that are data and no latents, which are left out.
    """
    import pandas as pd

    columns: dict[str, list[float]] = {}
    rows: list[str] = []
    latent: list[bool] = []
    for name, values in draws.items():
        shape = values.shape[2:]
        positions = itertools.product(*labels(name, shape))
        rows += [f"{name}[{', '.join(map(str, position))}]" if position else name for position in positions]
        latent += (~(observed or {}).get(name, np.zeros(shape, bool))).reshape(-1).tolist()
        for column, array in _columns(values, weights, chains).items():
            columns.setdefault(column, []).extend(np.asarray(array).reshape(-1).tolist())
    return pd.DataFrame(columns, index=rows).loc[latent]


def _columns(values: Array, weights: Array | None, chains: bool) -> dict[str, Array]:
    summary = moments(values, weights, chains=chains)
    low, high = quantiles(values, (0.05, 0.95), weights)
    columns = {
        "mean": summary.mean,
        "sd": summary.sd,
        "q5": low,
        "q95": high,
        "mcse_mean": summary.mean_se,
        "mcse_sd": summary.sd_se,
    }
    if chains and values.shape[1] >= 4:
        columns |= {"ess_bulk": arviz.ess(values, "bulk"), "ess_tail": arviz.ess(values, "tail")}
        if values.shape[0] > 1:
            columns["r_hat"] = arviz.rhat(values)
    return columns


def render(table: pd.DataFrame, *, max_rows: int = 40) -> str:
    """The table as text of fixed width: counts as integers, everything else with four digits that matter."""
    text = formatted(table.iloc[:max_rows]).to_string()
    hidden = len(table) - max_rows
    return text if hidden <= 0 else f"{text}\n... and {hidden} more rows; ask for them with summary(sites=(...))"


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text: counts as integers, everything else with four digits that matter."""
    shown = table.copy().astype(object)
    for column in table.columns:
        style = "{:.0f}" if column.startswith("ess") else "{:.3f}" if column == "r_hat" else "{:.4g}"
        shown[column] = [style.format(value) for value in table[column]]
    return shown


def align(rows: list[list[str]]) -> str:
    """Rows of text in columns; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(itertools.chain([lines[0], "  ".join("-" * width for width in widths)], lines[1:]))
