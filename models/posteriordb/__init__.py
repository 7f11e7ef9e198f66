"""Fourteen posteriors of posteriordb as Pyro programs, a file each, with readers for their data and reference draws.

posteriordb collects models, data and draws that were made with great care by Stan, as a yardstick for inference
methods: Magnusson et al. (2024), https://arxiv.org/abs/2407.04967. Nothing of it is copied here. Everything is read,
when it is asked for, from the folder that the environment variable POSTERIORDB names:

    git clone --depth 1 https://github.com/stan-dev/posteriordb
    export POSTERIORDB=$PWD/posteriordb/posterior_database

Each file is named after the model in posteriordb and holds the program, ``posterior``, its name there, ``parameters``,
which says where each parameter of the reference draws lives in the program (``"theta[1]": ("theta", 0)`` is element 0
of the site ``theta``), and ``model()``, which binds the program to the data.
"""

import importlib
import json
import os
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

Parameters = dict[str, tuple[Any, ...]]

POSTERIORS = {  # its name in posteriordb -> the file here
    "arK-arK": "ark",
    "bball_drive_event_0-hmm_drive_0": "hmm_drive_0",
    "earnings-logearn_height": "logearn_height",
    "eight_schools-eight_schools_centered": "eight_schools_centered",
    "eight_schools-eight_schools_noncentered": "eight_schools_noncentered",
    "garch-garch11": "garch11",
    "gp_pois_regr-gp_regr": "gp_regr",
    "hmm_example-hmm_example": "hmm_example",
    "kidiq-kidscore_momiq": "kidscore_momiq",
    "low_dim_gauss_mix-low_dim_gauss_mix": "low_dim_gauss_mix",
    "mesquite-logmesquite_logva": "logmesquite_logva",
    "nes1980-nes": "nes",
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": "one_comp_mm_elim_abs",
    "sblrc-blr": "blr",
}


def posteriors() -> list[str]:
    """The names of all posteriors that are here as programs."""
    return list(POSTERIORS)


def load(name: str) -> ModuleType:
    """The file of a posterior, imported; this reads no data."""
    if name not in POSTERIORS:
        raise KeyError(f"posteriordb: found no program for {name!r}; expected one of {', '.join(POSTERIORS)}")
    return importlib.import_module(f"{__name__}.{POSTERIORS[name]}")


def data(name: str) -> dict[str, Any]:
    """The data of a posterior: numbers as they are, arrays as float64 tensors."""
    entry = _entry(name)
    found = _zipped(folder() / "data" / "data" / f"{entry['data_name']}.json.zip")
    return {key: torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v for key, v in found.items()}


def reference_draws(name: str) -> dict[str, np.ndarray]:
    """The reference draws of a posterior by posteriordb's name of the parameter, each ``[chain, draw]``."""
    entry = _entry(name)
    path = folder() / "reference_posteriors" / "draws" / "draws" / f"{entry['reference_posterior_name']}.json.zip"
    chains = _zipped(path)
    return {parameter: np.array([chain[parameter] for chain in chains]) for parameter in chains[0]}


def scalars(*sites: str) -> Parameters:
    """The entries of ``parameters`` for scalar sites that are named as in posteriordb."""
    return {site: (site,) for site in sites}


def vector(site: str, length: int) -> Parameters:
    """The entries of ``parameters`` for a site of shape [length] that is named as in posteriordb."""
    return {f"{site}[{i + 1}]": (site, i) for i in range(length)}


def folder() -> Path:
    """The ``posterior_database`` folder that POSTERIORDB names.

    Raises:
        RuntimeError: POSTERIORDB is not set, or names no such folder.
    """
    value = os.environ.get("POSTERIORDB")
    found = "POSTERIORDB is not set" if not value else f"POSTERIORDB={value} has no folder 'posteriors'"
    if not value or not (Path(value) / "posteriors").is_dir():
        raise RuntimeError(
            f"posteriordb: {found}; expected the posterior_database folder of a clone; write: "
            "git clone --depth 1 https://github.com/stan-dev/posteriordb && "
            "export POSTERIORDB=$PWD/posteriordb/posterior_database"
        )
    return Path(value)


def _entry(name: str) -> dict[str, Any]:
    return json.loads((folder() / "posteriors" / f"{name}.json").read_text(encoding="utf-8"))


def _zipped(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(archive.namelist()[0]))
