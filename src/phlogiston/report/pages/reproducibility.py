"""What it takes to do it again: versions, seed, settings, seconds, data, program, command."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import platform
import textwrap
from typing import Any

import numpy as np
import torch

from phlogiston import __version__
from phlogiston.model.model import Model
from phlogiston.posterior.posterior import Posterior
from phlogiston.report.pages.page import Block, Code, Section, Table
from phlogiston.training.fitted import Fitted

_PACKAGES = ("torch", "pyro-ppl", "numpy", "arviz", "xarray", "matplotlib", "numba")
_LONGEST_SOURCE = 200


def reproducibility(run: Posterior | Fitted, *, verb: str, command: str) -> Section:
    """The section that a reader needs to get the same numbers."""
    given = ", ".join(f"{name}={_short(value)}" for name, value in run.settings.items())
    call = command or f'ph.{verb}(model, "{run.method}"{", " + given if given else ""}, seed={run.seed})'
    rows = [
        ["method", run.method],
        ["seed", str(run.seed)],
        ["seconds", f"{run.seconds:.2f}"],
        ["engine", run.engine or "not recorded"],
        ["Python", platform.python_version()],
        ["phlogiston", __version__],
        *([name, version] for name in _PACKAGES if (version := _version(name))),
        ["platform", platform.platform()],
        ["threads", str(torch.get_num_threads())],
        *_fingerprints(run.model),
    ]
    settings_rows = [[name, _short(value)] for name, value in run.settings.items()]
    blocks: list[Block] = [Code(textwrap.fill(call, 100, subsequent_indent="    ", break_long_words=False))]
    blocks.append(Table(("fact", "value"), rows, numbers=False))
    if settings_rows:
        blocks.append(Table(("setting", "value"), settings_rows, numbers=False))
    if source := _source(run.model):
        blocks.append(Code(source, "The program"))
    if run.warnings:
        blocks.append(Code("\n".join(run.warnings), "Warnings of the run"))
    return Section("Reproducibility", blocks)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _fingerprints(model: Model | None) -> list[list[str]]:
    """A digest of every input and observation, by which a reader knows whether the data are the same."""
    if model is None:
        return []
    values = {f"input {name}": v for name, v in model.inputs.items() if isinstance(v, torch.Tensor)}
    values |= {f"data {name}": v for name, v in model.structure.observations.items()}
    return [[name, f"shape {list(value.shape)}, sha256 {_digest(value)}"] for name, value in values.items()]


def _digest(value: torch.Tensor) -> str:
    array = np.ascontiguousarray(value.detach().cpu().double().numpy())
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


def _source(model: Model | None) -> str:
    """The program's text, where there is one to be had."""
    if model is None:
        return ""
    program = model.program if inspect.isfunction(model.program) else type(model.program)
    try:
        lines = textwrap.dedent(inspect.getsource(program)).splitlines()
    except (OSError, TypeError):  # defined in a session that kept no source
        return ""
    return "\n".join(lines[:_LONGEST_SOURCE] + (["..."] if len(lines) > _LONGEST_SOURCE else []))
