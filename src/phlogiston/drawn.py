"""What pictures and groups both read of a posterior, so that neither needs to import it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from phlogiston.model import Model

Draws = Mapping[str, torch.Tensor]


class Drawn(Protocol):
    """Draws with where they came from (a ``Posterior``)."""

    @property
    def draws(self) -> Draws:
        """Site -> draws."""

    @property
    def model(self) -> Model | None:
        """The model, if there is one."""

    @property
    def method(self) -> str:
        """The method's name."""

    @property
    def seed(self) -> int | None:
        """Of the run."""

    @property
    def is_chain(self) -> bool:
        """Whether the draws form chains."""

    @property
    def log_weights(self) -> torch.Tensor | None:
        """Of the draws, unnormalised."""

    @property
    def stats(self) -> Draws:
        """Numbers by draw, in ArviZ's names."""

    @property
    def marginals(self) -> Draws:
        """Exact probabilities of discrete sites."""

    @property
    def predictions(self) -> Mapping[str, Draws]:
        """Predictive draws by group."""
