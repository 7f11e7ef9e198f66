"""Training on disk: one file of tensors, numbers and text, no code."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phlogiston.errors import DataFileError, problem
from phlogiston.posterior import seal

_FORMAT = "phlogiston training"


def write(content: Mapping[str, Any], path: Path) -> Path:
    """Write nested mappings and sequences of tensors, arrays, numbers and text, whole or not at all; folders are made.

    Raises:
        DataFileError: it cannot be written; a file that lies there is untouched.
    """
    archive = io.BytesIO()
    stored = {"format": _FORMAT, "version": seal.VERSION, "seal": seal.MARK, "content": _plain(content)}
    torch.save(stored, archive)
    return seal.write(path, archive.getvalue())


def read(path: Path) -> dict[str, Any]:
    """What ``write`` wrote, with arrays as arrays; nothing in the file is executed, tensors arrive on the CPU.

    Raises:
        DataFileError: there is no such file, it is damaged, of a later version, or something else.
    """
    archive = io.BytesIO(seal.read(path, "fitted.save"))
    try:
        if (damaged := zipfile.ZipFile(archive).testzip()) is not None:  # all that vouches for a file of version 1
            raise ValueError(f"its part {damaged} is damaged")
        archive.seek(0)
        stored = torch.load(archive, map_location="cpu", weights_only=True)
        if stored["format"] != _FORMAT:
            raise KeyError(_FORMAT)
        content: dict[str, Any] = _restored(stored["content"])
    except Exception as error:  # readers of archives and pickles raise errors of many kinds for bytes that are none
        found = f"no phlogiston training ({type(error).__name__}: {str(error).partition(chr(10))[0][:200]})"
        raise DataFileError(problem(str(path), found=found, expected="fitted.save's file")) from error
    return content


def is_training(path: Path) -> bool:
    """Whether a file is there and one that ``write`` could have written (torch's zip archive), by its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError:  # whoever reads it next says why it cannot be read
        return False


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
