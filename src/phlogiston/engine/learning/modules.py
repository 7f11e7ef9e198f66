"""Modules as pure functions of their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def call_with(module: torch.nn.Module, params: Mapping[str, torch.Tensor], *args: Any) -> Any:
    """What a module gives for these arguments with these parameters, by name, in place of its own."""
    return torch.func.functional_call(module, dict(params), args)
