"""``Fitted``: what every trainer returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phlogiston import checkpoint
from phlogiston.model import Model


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A program with learned parameters, and how they were learned.

    Args:
        model: the model that was trained, its parameters held at what was learned: a ``Model`` like any other.
        method: the trainer's name.
        settings: the trainer's settings.
        guide: the amortised guide that was learned beside it, where there is one.
        history: curve -> one number a record; "step" says at which step each record was made.
        converged: whether the trainer's own rule for stopping was met.
        stop_reason: why training ended, in words.
        figures: numbers about the run.
        state: all that training needs to go on bit for bit: what ``train(..., resume_from=fitted)`` starts from.
        seed: of the run.
        seconds: of the run, compilation included.
        engine: the tier that evaluated the program.
        warnings: what was warned of.
        interrupted: whether the run was stopped by hand.
    """

    model: Model
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    guide: Any | None = None
    history: Mapping[str, np.ndarray] = field(default_factory=dict)
    converged: bool = False
    stop_reason: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    seconds: float = 0.0
    engine: str = ""
    warnings: tuple[str, ...] = ()
    interrupted: bool = False

    @property
    def params(self) -> Mapping[str, torch.Tensor]:
        """The learned parameters by ``pyro.param`` name, constrained."""
        return self.model.parameters

    def simulate(self, num_samples: int = 1000, *, seed: int | None = None) -> dict[str, torch.Tensor]:
        """Draw every site of the trained program, latents from their priors: ``[num_samples, *site shape]``."""
        return self.model.simulate(num_samples, seed=seed)

    def save(self, path: str | Path) -> Path:
        """Write parameters, history and state to one file of tensors and plain data, which ``ph.load`` reads."""
        kept = ("method", "settings", "converged", "stop_reason", "figures", "state", "seed", "seconds", "engine")
        content = {name: getattr(self, name) for name in (*kept, "history", "warnings", "interrupted", "params")}
        return checkpoint.write(content, Path(path))

    def __repr__(self) -> str:
        count = sum(value.numel() for value in self.params.values())
        partial = ", interrupted" if self.interrupted else ""
        return f"Fitted({self.method}: {count} parameters of {self.model.name}, {self.stop_reason}{partial})"
