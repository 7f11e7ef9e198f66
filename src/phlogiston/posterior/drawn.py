"""What pictures, groups, checks and pages read of a run, so that none needs to import what it made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from phlogiston.model.model import Model

Draws = Mapping[str, torch.Tensor]


class Run(Protocol):
    """What is known of any run, whatever it made (a ``Posterior``, a ``Fitted``)."""

    @property
    def model(self) -> Model | None:
        """Of what, if it is known."""

    @property
    def method(self) -> str:
        """The method's, or the trainer's, name."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of the method."""

    @property
    def figures(self) -> Mapping[str, float]:
        """Numbers about the run."""

    @property
    def stop_reason(self) -> str:
        """Why it ended."""

    @property
    def seed(self) -> int | None:
        """Of every random number."""

    @property
    def seconds(self) -> float:
        """That it took."""

    @property
    def engine(self) -> str:
        """The tier that ran."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was warned of."""


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
