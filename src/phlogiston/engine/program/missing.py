"""Sites that are observed in part: which entries are missing, and how values of these entries are laid out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

MISSING = "_phlogiston_missing"


@dataclass(frozen=True, eq=False)
class Missing:
    """Which entries of an observed value are missing, and the others.

    Args:
        mask: True where one is missing, of the site's shape.
        values: the observed entries; anything finite where one is missing.
    """

    mask: torch.Tensor
    values: torch.Tensor

    @staticmethod
    def entries_of(value: torch.Tensor) -> Missing | None:
        """Those that are NaN; None if there are none."""
        mask = torch.isnan(value)
        return Missing(mask, torch.where(mask, 0.0, value)) if bool(mask.any()) else None

    @cached_property
    def count(self) -> int:
        """Of missing entries."""
        return int(self.mask.sum())

    @cached_property
    def _places(self) -> torch.Tensor:
        return self.mask.reshape(-1).nonzero().squeeze(-1)

    @cached_property
    def _sources(self) -> torch.Tensor:
        """For each entry its number among the missing ones; one past the last where it is observed."""
        number = torch.full((self.mask.numel(),), self.count)
        number[self._places] = torch.arange(self.count)
        return number

    def spread(self, entries: torch.Tensor) -> torch.Tensor:
        """``entries [count]`` at their places in the site's shape, zeros elsewhere."""
        padded = torch.cat([entries, torch.zeros_like(entries[:1])])
        return padded[self._sources].reshape(self.mask.shape)

    def picked(self, value: torch.Tensor) -> torch.Tensor:
        """The inverse of ``spread``; the value may have any dimensions in front."""
        front = value.shape[: value.ndim - self.mask.ndim]
        return value.reshape(*front, -1)[..., self._places]

    def filled(self, value: torch.Tensor) -> torch.Tensor:
        """A value with the observed entries put in; it may have enumerated dimensions in front."""
        return torch.where(self.mask, value, self.values.to(value.dtype))

    def events(self, event_dim: int) -> torch.Tensor:
        """Which elements of the batch have a missing entry."""
        return self.mask.flatten(-event_dim).any(-1) if event_dim else self.mask


def missing_of(msg: Mapping[str, Any]) -> Missing | None:
    """The site's missing entries, if it is observed in part."""
    found: Missing | None = msg["infer"].get(MISSING)
    return found
