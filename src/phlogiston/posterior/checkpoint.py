"""Training on disk: one file of tensors, numbers and text, no code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phlogiston.errors import DataFileError, writing

_FORMAT = "phlogiston training"
_VERSION = 1


def write(content: Mapping[str, Any], path: Path) -> Path:
    """Write nested mappings and sequences of tensors, arrays, numbers and text; folders are made.

    The file appears whole or not at all: a run that is killed while it writes leaves the one before.
    """
    unfinished = path.with_name(path.name + ".part")
    with writing(path):
        with unfinished.open("wb") as file:
            torch.save({"format": _FORMAT, "version": _VERSION, "content": _plain(content)}, file)
        os.replace(unfinished, path)
    return path


def read(path: Path) -> dict[str, Any]:
    """What ``write`` wrote, with arrays as arrays; nothing in the file is executed, tensors arrive on the CPU.

    Raises:
        DataFileError: there is no such file, or it is something else.
    """
    if not path.exists():
        raise DataFileError(f"{path}: found no such file; expected one written by fitted.save")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        if stored["format"] != _FORMAT:
            raise KeyError(_FORMAT)
        content: dict[str, Any] = _restored(stored["content"])
    except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        first = str(error).partition("\n")[0]
        raise DataFileError(f"{path}: found no phlogiston training ({first}); expected fitted.save's file") from error
    return content


def is_training(path: Path) -> bool:
    """Whether a file is one that ``write`` could have written (torch's zip archive), by its first bytes."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _plain(value: Any) -> Any:
    """Tensors, numbers and text in plain containers; an array is marked, to come back as one."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, np.ndarray):
        return {"__array__": torch.from_numpy(np.ascontiguousarray(value))}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_plain(item) for item in value)
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    return repr(value)


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"__array__"}:
            return value["__array__"].numpy()
        return {key: _restored(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_restored(item) for item in value)
    return value
