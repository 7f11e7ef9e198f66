"""The only file that knows ArviZ: 0.22 to 0.23 (``InferenceData``) and 1.x (``DataTree``) behind one face.

Statistics come from its part ``arviz-stats``, which serves both.

Everything goes in and comes out as NumPy arrays and xarray Datasets.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

Array = NDArray[Any]
Variables = Mapping[str, tuple[Sequence[str], Array]]


@lru_cache(maxsize=1)
def _arviz() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 0.23 announces 1.0 on import
        import arviz
    return arviz


def has_inference_data() -> bool:
    """Whether the installed ArviZ is a 0.x, whose container is ``InferenceData``."""
    return str(_arviz().__version__).startswith("0.")


def dataset(variables: Variables, coords: Mapping[str, Sequence[Any]], attrs: Mapping[str, Any]) -> xr.Dataset:
    """An xarray Dataset; labels are kept for the dimensions that it has and whose length they fit."""
    sizes = {dim: n for dims, values in variables.values() for dim, n in zip(dims, values.shape, strict=True)}
    kept = {dim: list(coords[dim]) if len(coords.get(dim, ())) == n else range(n) for dim, n in sizes.items()}
    return xr.Dataset({name: (tuple(dims), values) for name, (dims, values) in variables.items()}, kept, dict(attrs))


def container(groups: Mapping[str, xr.Dataset]) -> Any:
    """``InferenceData`` on ArviZ 0.x, ``xarray.DataTree`` on 1.x."""
    if has_inference_data():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # groups outside the schema (weighted_posterior) are announced
            return _arviz().InferenceData(**groups)
    return xr.DataTree.from_dict({f"/{name}": group for name, group in groups.items()})


def _statistic(function: str, values: Array, **options: Any) -> Array:
    """A chain statistic of an array ``[chain, draw, ...]``, for each of its components."""
    from arviz_stats.base.array import array_stats  # alone, without the second that ArviZ's plots take to load

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # constant components give NaN, which is the answer
        result = getattr(array_stats, function)(np.asarray(values, dtype=float), chain_axis=0, draw_axis=1, **options)
    return np.asarray(result, dtype=float)


def ess(values: Array, method: str = "bulk") -> Array:
    """Effective sample size; ``method`` is "bulk", "tail" or "mean" (Vehtari et al., 2021)."""
    return _statistic("ess", values, method=method, prob=(0.05, 0.95) if method == "tail" else None)


def rhat(values: Array) -> Array:
    """Rank-normalised split R-hat (Vehtari et al., 2021)."""
    return _statistic("rhat", values)


def bfmi(energy: Array) -> Array:
    """Energy Bayesian fraction of missing information, per chain (Betancourt, 2016)."""
    energy = np.asarray(energy, dtype=float)
    return np.asarray(np.square(np.diff(energy, axis=1)).mean(axis=1) / energy.var(axis=1))


def to_netcdf(groups: Mapping[str, xr.Dataset], attrs: Mapping[str, str]) -> bytes:
    """One netCDF file as bytes, a group each, as ArviZ writes it (through h5netcdf).

    It is made in memory: where a disk is full while HDF5 writes to it, HDF5 ends the process when it later closes the
    file.

    Args:
        groups: name -> variables.
        attrs: attributes of the file.
    """
    import h5netcdf

    buffer = io.BytesIO()
    with h5netcdf.File(buffer, "w") as file:
        file.attrs.update(attrs)
        for name, group in groups.items():
            encoding = {v: {"zlib": True} for v in group.data_vars if group[v].dtype.kind in "fiu" and group[v].ndim}
            group.dump_to_store(xr.backends.H5NetCDFStore(file, group=name, mode="a"), encoding=encoding)
    return buffer.getvalue()


def from_netcdf(content: bytes) -> dict[str, xr.Dataset]:
    """The groups of a file that ``to_netcdf`` or ArviZ made, in memory."""
    import h5netcdf

    with h5netcdf.File(io.BytesIO(content), "r") as file:
        names = list(file.groups)
    with warnings.catch_warnings():  # reading registers a warning filter of xarray's own
        return {name: xr.load_dataset(io.BytesIO(content), group=name, engine="h5netcdf") for name in names}


def stacking(log_likelihoods: Mapping[str, Array]) -> dict[str, float]:
    """Weights of the mixture of models that predicts left-out observations best (Yao et al., 2018).

    Args:
        log_likelihoods: model -> pointwise log likelihood of draws that count the same, ``[chain, draw, observation]``.
    """
    az, scores = _arviz(), {}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # k-hat is judged and reported elsewhere
        for name, values in log_likelihoods.items():
            size = float(np.min(ess(np.exp(values), "mean"))) if values.shape[0] > 1 else np.nan
            efficiency = min(size / (values.shape[0] * values.shape[1]), 1.0) if np.isfinite(size) else 1.0
            group = dataset({"y": (("chain", "draw", "observation"), values)}, {}, {})
            scores[name] = az.loo(container({"log_likelihood": group}), pointwise=True, reff=efficiency)
        table = az.compare(scores, method="stacking")
    return {name: float(table.loc[name, "weight"]) for name in log_likelihoods}
